/**
 * Positioned reads and writes over a bounded number of open descriptors.
 *
 * The least recently used file without a running operation is closed when more than the limit are open, so that a cache of
 * any size stays far below the process's descriptor limit.
 */

import type { BigIntStats } from 'node:fs'
import { constants, open, type FileHandle } from 'node:fs/promises'

import { readCached } from './page-cache.ts'

/** Far below the usual limit of 1024 descriptors, and enough for 16 readers on two extents each. */
const MAX_OPEN_FILES = 64

interface OpenFile {
  readonly handle: Promise<FileHandle>
  users: number
}

export class OpenFiles {
  readonly #files = new Map<string, OpenFile>()
  #isClosed = false

  /** Makes a new file that nobody has written to before; fails if the name exists. */
  async create(path: string): Promise<void> {
    await this.#use(path, () => Promise.resolve(), constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW)
  }

  async write(path: string, buffers: readonly Buffer[], position: number): Promise<void> {
    await this.#use(path, async (handle) => {
      let remaining = [...buffers]
      let at = position
      while (remaining.length > 0) {
        const { bytesWritten } = await handle.writev(remaining, at)
        at += bytesWritten
        remaining = withoutFirst(remaining, bytesWritten)
      }
    })
  }

  /** Reads into `target`; the length is short only where the file ends. */
  async read(path: string, target: Buffer, position: number): Promise<number> {
    return await this.#use(path, async (handle) => {
      let done = readCached(handle.fd, target, position)
      while (done < target.length) {
        const { bytesRead } = await handle.read(target, done, target.length - done, position + done)
        if (bytesRead === 0) break
        done += bytesRead
      }
      return done
    })
  }

  async sync(path: string): Promise<void> {
    await this.#use(path, (handle) => handle.datasync())
  }

  async stat(path: string): Promise<BigIntStats> {
    return await this.#use(path, (handle) => handle.stat({ bigint: true }))
  }

  /** Closes the file once its running operations are done; it must not be used under this path again. */
  async forget(path: string): Promise<void> {
    const file = this.#files.get(path)
    if (file === undefined) return
    this.#files.delete(path)
    if (file.users === 0) await closeQuietly(file)
  }

  /** A read that comes later still opens its file, and closes it at once. */
  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#files.keys()].map((path) => this.forget(path)))
  }

  async #use<T>(path: string, action: (handle: FileHandle) => Promise<T>, flags: number = EXISTING): Promise<T> {
    const file = this.#files.get(path) ?? { handle: this.#open(path, flags), users: 0 }
    this.#files.delete(path)
    this.#files.set(path, file)
    file.users++
    this.#closeSurplus()
    try {
      return await action(await file.handle)
    } catch (error) {
      if (this.#files.get(path) === file) this.#files.delete(path)
      throw error
    } finally {
      file.users--
      if (this.#isClosed) this.#files.delete(path)
      if (file.users === 0 && this.#files.get(path) !== file) void closeQuietly(file)
    }
  }

  /** What other files of this process leave is enough: with no descriptor left, the idle ones here make way. */
  async #open(path: string, flags: number): Promise<FileHandle> {
    try {
      return await open(path, flags, 0o600)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EROFS' && flags === EXISTING) return await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
      if (code !== 'EMFILE' && code !== 'ENFILE') throw error
      await this.#closeIdle()
      return await open(path, flags, 0o600)
    }
  }

  async #closeIdle(): Promise<void> {
    const idle = [...this.#files].filter(([, file]) => file.users === 0)
    await Promise.all(idle.map(([path]) => this.forget(path)))
  }

  #closeSurplus(): void {
    if (this.#files.size <= MAX_OPEN_FILES) return
    for (const [path, file] of this.#files) {
      if (file.users > 0) continue
      void this.forget(path)
      return
    }
  }
}

/** O_NOFOLLOW: a symbolic link planted in the directory is not ours. */
const EXISTING = constants.O_RDWR | constants.O_NOFOLLOW

async function closeQuietly(file: OpenFile): Promise<void> {
  await file.handle.then((handle) => handle.close()).catch(() => undefined)
}

function withoutFirst(buffers: Buffer[], lengthBytes: number): Buffer[] {
  let skip = lengthBytes
  const rest = buffers.slice()
  while (rest.length > 0 && skip >= rest[0]!.length) skip -= rest.shift()!.length
  if (skip > 0 && rest.length > 0) rest[0] = rest[0]!.subarray(skip)
  return rest
}
