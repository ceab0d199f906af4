/**
 * LMDB's file as the index uses it: one transaction after another, each with room on the disk and with a deadline, and a
 * new file where LMDB has given the old one up.
 *
 * LMDB and lmdb-js take a failing disk badly: a page that cannot be written overruns a buffer, a head page that cannot be
 * written makes all refuse in this process, reading too, and a transaction that cannot begin then leaves a thread that waits
 * for ever. What can be asked before is asked before; the rest ends in an error here, never in a wait.
 */

import { access, constants as fsConstants, mkdir, open as openFile, rename, rm, rmdir, statfs } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import { open, type RootDatabase } from 'lmdb'

import { freshIndexDir, indexFile, unwritable } from './layout.ts'

/** What LMDB, or the decoding of its records, says of a damaged file. */
export class IndexUnreadable extends Error {}

export interface Rooted {
  readonly root: RootDatabase
}

/** What a new file is to hold. */
export interface FreshContent<Tables> {
  readonly records: number
  readonly put: (tables: Tables) => void
}

/** More than one transaction takes: the incomplete chunks of a resource are 4 MiB at most. */
const MIN_FREE_BYTES = 8 * 1024 * 1024
/** More than a record takes in a new file. */
const RECORD_BYTES = 4096
/** Each lost file keeps three descriptors and its map for as long as the process lives. */
const MAX_LOST = 32
/** A commit takes 0.1 ms and a slow disk's some hundred; a transaction that could not begin never tells at all. */
const DEADLINE_MS = 3_000

const { errno } = constants

export class IndexFile<Tables extends Rooted> {
  readonly #dir: string
  readonly #tablesOf: (root: RootDatabase) => Tables
  #tables: Tables
  /** Ends when the transactions so far have, or have been given up. */
  #turn: Promise<void> = Promise.resolve()
  #hasFailed = false
  /** A transaction was given up; the next one must wait until it is known to have ended. */
  #isStuck = false
  #lostCount = 0
  #hasHungThread = false

  /** @throws IndexUnreadable when LMDB finds it damaged, ERR_SEEKCACHE_CACHE_UNWRITABLE when the disk says no */
  static async open<Tables extends Rooted>(dir: string, tablesOf: (root: RootDatabase) => Tables): Promise<IndexFile<Tables>> {
    let root: RootDatabase | undefined
    try {
      root = openRoot(dir)
      return new IndexFile(dir, tablesOf, tablesOf(root))
    } catch (error) {
      await root?.close()
      throw translated(dir, error)
    }
  }

  private constructor(dir: string, tablesOf: (root: RootDatabase) => Tables, tables: Tables) {
    this.#dir = dir
    this.#tablesOf = tablesOf
    this.#tables = tables
  }

  /** What a lost file does not tell is not known. */
  read<T>(read: (tables: Tables) => T): T | undefined {
    try {
      return read(this.#tables)
    } catch (error) {
      if (!isPanic(error)) throw error
      return undefined
    }
  }

  /** @param records how many it puts, where they may be more than some */
  async transact(change: (tables: Tables) => void, records = 0): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#isStuck) throw new Error('an earlier transaction has not ended')
      await this.#ensureRoom(records)
      if (this.isLost) throw new Error('LMDB has given its file up') // asked last: it may do so between two transactions
      await this.#withinDeadline(this.#tables.root.transaction(() => change(this.#tables)))
    })
  }

  async #inTurn(action: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(async () => {
      try {
        await action()
        this.#hasFailed = false
      } catch (error) {
        this.#hasFailed = true
        ;(error as { readonly commitError?: Promise<never> }).commitError?.catch(() => {}) // the same failure once more
        throw new Error(`its index takes no more: ${(error as Error).message.replace(/ \(.*/, '')}`, { cause: error })
      }
    })
    this.#turn = turn.catch(() => {})
    await turn
  }

  /** LMDB is never asked to write to a disk that cannot take it. */
  async #ensureRoom(records: number): Promise<void> {
    const neededBytes = MIN_FREE_BYTES + records * RECORD_BYTES
    const [{ bavail, bsize }] = await Promise.all([statfs(this.#dir), access(this.#dir, fsConstants.W_OK)])
    if (bavail * bsize < neededBytes) throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' })
  }

  async #withinDeadline(ending: PromiseLike<unknown>): Promise<void> {
    const settled = Promise.resolve(ending).finally(() => (this.#isStuck = false))
    settled.catch(() => {}) // told late, after it was given up
    let timer: NodeJS.Timeout | undefined
    const expiry = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        this.#isStuck = true
        reject(new Error('LMDB does not answer'))
      }, DEADLINE_MS)
    })
    await Promise.race([settled, expiry]).finally(() => clearTimeout(timer))
  }

  // ---- a file that is lost

  /** A head page could not be written: from then on LMDB refuses all in this process, until `renew`. */
  get isLost(): boolean {
    try {
      this.#tables.root.get('anything')
      return false
    } catch (error) {
      return isPanic(error)
    }
  }

  /** A transaction that LMDB could not begin has left a thread that waits for ever; `process.exit` would wait for it. */
  get hasHungThread(): boolean {
    return this.#hasHungThread || this.#isStuck
  }

  /**
   * Puts a new file in the place of a lost one. It is written beside it and renamed when it is complete, so a host that dies
   * here leaves one or the other. LMDB cannot go on with the file that it gave up, and lmdb-js cannot close it, so this is
   * done some times only; then the next host is waited for.
   */
  async renew(contentNow: () => Promise<FreshContent<Tables>>): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#lostCount >= MAX_LOST) throw new Error('LMDB has given its file up too often')
      this.#lostCount++
      const content = await contentNow() // what changes from here on is committed in a later turn
      await this.#ensureRoom(content.records)
      const fresh = freshIndexDir(this.#dir)
      await rm(fresh, { recursive: true, force: true })
      await mkdir(fresh, { mode: 0o700 })
      const tables = this.#tablesOf(openRoot(fresh))
      await this.#withinDeadline(tables.root.transaction(() => content.put(tables)))
      await this.#withinDeadline(tables.root.flushed)
      for (const name of ['lock.mdb', 'data.mdb']) await rename(join(fresh, name), join(this.#dir, name))
      await rmdir(fresh)
      this.#tables = tables
      this.#hasHungThread ||= this.#isStuck
      this.#isStuck = false
    })
  }

  // ---- its copy

  /**
   * Writes all that is in use into a new folder, page by page, and onto the disk.
   * @throws IndexUnreadable where a page cannot be read, ERR_SEEKCACHE_CACHE_UNWRITABLE when the disk says no
   */
  async copyTo(dir: string): Promise<void> {
    try {
      await rm(dir, { recursive: true, force: true })
      await mkdir(dir, { mode: 0o700 })
      await this.#tables.root.backup(dir, true)
      const copy = await openFile(indexFile(dir), 'r+')
      await copy.sync().finally(() => copy.close())
    } catch (error) {
      if ((error as Error).message.startsWith('MDB_')) throw new IndexUnreadable((error as Error).message, { cause: error })
      throw unwritable(dir, error)
    }
  }

  // ---- its end

  /** Resolves when what was committed is on the disk, or the disk has failed. */
  async flush(): Promise<void> {
    await this.#turn
    if (!this.#hasFailed) await this.#withinDeadline(this.#tables.root.flushed).catch(() => {})
  }

  /** @returns whether it could be closed: after a failure lmdb-js may wait for a flush that never comes */
  async close(): Promise<boolean> {
    await this.#turn
    if (this.#hasFailed) await this.transact(() => {}).catch(() => {})
    if (this.#hasFailed || this.#isStuck) return false
    return await this.#withinDeadline(this.#tables.root.close()).then(() => true, () => false)
  }
}

function openRoot(dir: string): RootDatabase {
  // A batch of lmdb-js has a promise that nobody can reach: a full disk would end the process by its rejection.
  return open({ path: dir, noSubdir: false, name: 'meta', maxDbs: 4, eventTurnBatching: false })
}

/** LMDB's word for it; lmdb-js gives it different numbers. */
function isPanic(error: unknown): boolean {
  return error instanceof Error && error.message.includes('MDB_PANIC')
}

/** Of the system's numbers these say that the disk, or a limit, is in the way; LMDB passes others on for what a damaged file made it ask. */
const DISK_SAYS_NO = ['EPERM', 'EIO', 'EAGAIN', 'EACCES', 'EBUSY', 'ENFILE', 'EMFILE', 'ENOSPC', 'EROFS', 'EDQUOT'] as const

function translated(dir: string, error: unknown): Error {
  const { code, message } = error as { readonly code?: unknown; readonly message: string }
  if (DISK_SAYS_NO.some((name) => code === errno[name])) return unwritable(dir, error)
  return new IndexUnreadable(message, { cause: error })
}
