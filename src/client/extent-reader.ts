/**
 * The extent file that is being read, and what the host said of it.
 *
 * Only a plain file is read, and only one that may be an extent (host-answers.ts): a FIFO would be waited for, a link leads
 * elsewhere.
 */

import { constants, open, type FileHandle } from 'node:fs/promises'

import type { FilePlace } from '../bytes/ranges.ts'
import type { ExtentAnswer } from '../control/protocol.ts'
import { checkExtentPath } from './host-answers.ts'

export interface UnreadableFile {
  readonly path: string
  /** Not for this process, whatever stands in it. */
  readonly isRefused: boolean
}

export class ExtentReader {
  readonly #cacheDir: string | undefined
  #places: readonly FilePlace[] = []
  #handle: FileHandle | undefined
  #openPath: string | undefined
  #failure: UnreadableFile | undefined

  /** @param cacheDir the host's, where it is known */
  constructor(cacheDir: string | undefined) {
    this.#cacheDir = cacheDir
  }

  /** @throws ERR_SEEKCACHE_PROTOCOL where the host names what is no extent file */
  async useExtent(extent: ExtentAnswer): Promise<void> {
    const places = [extent, ...(extent.next ?? [])]
    for (const { path } of places) await checkExtentPath(path, this.#cacheDir)
    this.#places = places
  }

  /** The file that could not be read as told, once. */
  takeFailure(): UnreadableFile | undefined {
    const failure = this.#failure
    this.#failure = undefined
    return failure
  }

  /** Bytes at `position` as far as the host's last answer covers them; undefined where it has to be asked. */
  async read(position: number, maxBytes: number): Promise<Buffer | undefined> {
    const place = this.#places.find(({ start, end }) => start <= position && position < end)
    if (place === undefined) return undefined
    const buffer = Buffer.allocUnsafe(Math.min(maxBytes, place.end - position))
    let isRefused = false
    try {
      const handle = await this.#open(place.path)
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, place.fileOffset + position - place.start)
      if (bytesRead === buffer.length) return buffer
    } catch (error) {
      isRefused = ['EACCES', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')
    }
    this.#failure = { path: place.path, isRefused } // the host is asked, and told which file it was
    this.#places = []
    return undefined
  }

  async #open(path: string): Promise<FileHandle> {
    if (this.#handle !== undefined && this.#openPath === path) return this.#handle
    await this.close()
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    if (!(await handle.stat()).isFile()) {
      await handle.close()
      throw new Error('no plain file')
    }
    this.#handle = handle
    this.#openPath = path
    return handle
  }

  async close(): Promise<void> {
    const handle = this.#handle
    this.#handle = undefined
    await handle?.close()
  }
}
