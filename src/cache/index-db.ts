/**
 * The index: what the cache durably knows, in LMDB. This process alone opens it (native readers ask the host).
 *
 * One record per extent (presence bitmap and a CRC-32 per chunk, 1.2 KB), never one per chunk: 1 M chunks scan in 20 ms this
 * way, in 613 ms the other. A record whose seal does not fit it is none. Transactions run one after another. Nothing here
 * waits for a disk flush but `flush`; order of data and index is the store's.
 */

import { randomBytes } from 'node:crypto'
import { access, constants as fsConstants, mkdir, rename, rm, rmdir, statfs } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import { open, type Database, type RootDatabase } from 'lmdb'

import { unwritable } from './layout.ts'
import {
  openExtent,
  openResource,
  sealExtent,
  sealResource,
  type ExtentKey,
  type ExtentRecord,
  type PartialRecord,
  type ResourceRecord,
  type Sealed,
} from './records.ts'

export interface IndexChange {
  readonly key: ExtentKey
  /** undefined removes the record. */
  readonly record: ExtentRecord | undefined
}

/** What LMDB, or the decoding of its records, says of a damaged file. */
export class IndexUnreadable extends Error {}

/** All that an index holds. */
export interface IndexContent {
  readonly salt: Uint8Array | undefined
  readonly resources: readonly (readonly [string, ResourceRecord])[]
  readonly extents: readonly (readonly [ExtentKey, ExtentRecord])[]
  /** Records that were not what was written. */
  readonly damagedRecords: number
}

const SALT_BYTES = 16
const { errno } = constants

/** More than one transaction takes: the incomplete chunks of a resource are 4 MiB at most. */
const MIN_FREE_BYTES = 8 * 1024 * 1024
/** More than a record takes of a new index. */
const RECORD_BYTES = 4096
/** Each lost index keeps three descriptors and its map for as long as the process lives. */
const MAX_LOST = 32
/** A commit takes 0.1 ms and a slow disk's some hundred; after an error in the middle lmdb-js never tells at all. */
const DEADLINE_MS = 3_000

export class IndexDb {
  readonly #dir: string
  #tables: Tables
  /** Ends when the transactions so far have, or have been given up. */
  #turn: Promise<void> = Promise.resolve()
  #hasFailed = false
  /** A transaction was given up; the next one must wait until it is known to have ended. */
  #isStuck = false
  #lostCount = 0
  #hasHungThread = false
  #damagedRecords = 0

  /** @throws IndexUnreadable when LMDB finds it damaged, ERR_SEEKCACHE_CACHE_UNWRITABLE when the disk says no */
  static async open(dir: string): Promise<IndexDb> {
    let root: RootDatabase | undefined
    try {
      root = openRoot(dir)
      return new IndexDb(dir, tablesOf(root))
    } catch (error) {
      await root?.close()
      throw translated(dir, error)
    }
  }

  private constructor(dir: string, tables: Tables) {
    this.#dir = dir
    this.#tables = tables
  }

  /** Keys of resources are hashed with it, so that an index tells nothing of the credentials in them. Made where there is none. */
  ensureSalt(): Buffer {
    const known = this.knownSalt
    if (known?.length === SALT_BYTES) return Buffer.from(known)
    const salt = randomBytes(SALT_BYTES)
    this.#transact(() => void this.#tables.root.put('salt', salt)).catch(() => {}) // on a full disk: what is cached now is not known again
    return salt
  }

  /** What was learned of origins, as it was put; its reader checks it. */
  get origins(): unknown {
    return this.#read((tables) => tables.root.get('origins'))
  }

  async putOrigins(records: readonly object[]): Promise<void> {
    await this.#transact(() => void this.#tables.root.put('origins', records))
  }

  resource(key: string): ResourceRecord | undefined {
    const stored = this.#read((tables) => tables.resources.get(key))
    return stored === undefined ? undefined : openResource(key, stored)
  }

  *resources(): Generator<[string, ResourceRecord]> {
    for (const { key, value } of this.#read((tables) => tables.resources.getRange()) ?? []) {
      const record = openResource(key, value)
      if (record === undefined) this.#damagedRecords++
      else yield [key, record]
    }
  }

  async putResource(key: string, record: ResourceRecord): Promise<void> {
    await this.#transact(() => void this.#tables.resources.put(key, sealResource(key, record)))
  }

  async removeResource(key: string): Promise<void> {
    await this.#transact(() => void this.#tables.resources.remove(key))
  }

  *extents(): Generator<[ExtentKey, ExtentRecord]> {
    for (const { key, value } of this.#read((tables) => tables.extents.getRange()) ?? []) {
      const place = { generation: key[0], index: key[1] }
      const record = openExtent(place, value)
      if (record === undefined) this.#damagedRecords++
      else yield [place, record]
    }
  }

  partials(generation: string): readonly PartialRecord[] {
    return this.#read((tables) => tables.partials.get(generation)) ?? []
  }

  async putPartials(generation: string, records: readonly PartialRecord[]): Promise<void> {
    await this.#transact(() => void (records.length === 0 ? this.#tables.partials.remove(generation) : this.#tables.partials.put(generation, records)))
  }

  /** All changes in one transaction. */
  async commit(changes: readonly IndexChange[]): Promise<void> {
    await this.#transact(() => {
      for (const { key, record } of changes) {
        const place: [string, number] = [key.generation, key.index]
        if (record === undefined) void this.#tables.extents.remove(place)
        else void this.#tables.extents.put(place, sealExtent(key, record))
      }
    })
  }

  /** Resolves where the index takes something. */
  async probe(): Promise<void> {
    await this.#transact(() => {})
  }

  async #transact(change: () => void): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#isStuck) throw new Error('an earlier transaction has not ended')
      await this.#ensureRoom(MIN_FREE_BYTES)
      if (this.isLost) throw new Error('LMDB has given its file up') // asked last: it may do so between two transactions
      await this.#withinDeadline(this.#tables.root.transaction(change))
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

  /** LMDB is never asked to write to a disk that cannot take it: its message of a failed write overruns its buffer. */
  async #ensureRoom(neededBytes: number): Promise<void> {
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

  /** A head page could not be written: from then on LMDB refuses all in this process, reading too, until `renew`. */
  get isLost(): boolean {
    try {
      this.#tables.root.get('salt')
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
   * Puts a new index with what is known in the place of a lost one. It is written beside it and renamed when it is complete,
   * so a host that dies here leaves one or the other. LMDB cannot go on with the file that it gave up, and lmdb-js cannot
   * close it, so this is done some times only; then the next host is waited for.
   */
  async renew(contentNow: () => Promise<IndexContent>): Promise<void> {
    await this.#inTurn(async () => {
      if (this.#lostCount >= MAX_LOST) throw new Error('LMDB has given its file up too often')
      this.#lostCount++
      const content = await contentNow() // what changes from here on is committed in a later turn
      await this.#ensureRoom(MIN_FREE_BYTES + (content.extents.length + content.resources.length) * RECORD_BYTES)
      const fresh = `${this.#dir}.new`
      await rm(fresh, { recursive: true, force: true })
      await mkdir(fresh, { mode: 0o700 })
      const tables = tablesOf(openRoot(fresh))
      await this.#withinDeadline(tables.root.transaction(() => putAll(tables, content)))
      await this.#withinDeadline(tables.root.flushed)
      for (const name of ['lock.mdb', 'data.mdb']) await rename(join(fresh, name), join(this.#dir, name))
      await rmdir(fresh)
      this.#tables = tables
      this.#hasHungThread ||= this.#isStuck
      this.#isStuck = false
    })
  }

  /** What a lost index does not tell is not known. */
  #read<T>(read: (tables: Tables) => T): T | undefined {
    try {
      return read(this.#tables)
    } catch (error) {
      if (!isPanic(error)) throw error
      return undefined
    }
  }

  // ---- as a whole

  get knownSalt(): Uint8Array | undefined {
    return this.#read((tables) => tables.root.get('salt') as Uint8Array | undefined)
  }

  /** Records that were not what was written, met so far. */
  get damagedRecords(): number {
    return this.#damagedRecords
  }

  /** Into a new index: what was saved of a damaged one. */
  async restore(content: IndexContent): Promise<void> {
    await this.#transact(() => putAll(this.#tables, content))
  }

  /** Resolves when what was committed is on the disk, or the disk has failed. */
  async flush(): Promise<void> {
    await this.#turn
    if (!this.#hasFailed) await this.#withinDeadline(this.#tables.root.flushed).catch(() => {})
  }

  /** @returns whether it could be closed: after a failure lmdb-js may wait for a flush that never comes */
  async close(): Promise<boolean> {
    await this.#turn
    if (this.#hasFailed) await this.probe().catch(() => {})
    if (this.#hasFailed || this.#isStuck) return false
    return await this.#withinDeadline(this.#tables.root.close()).then(() => true, () => false)
  }
}

interface Tables {
  readonly root: RootDatabase
  readonly resources: Database<Sealed<ResourceRecord>, string>
  readonly extents: Database<Sealed<ExtentRecord>, [string, number]>
  readonly partials: Database<readonly PartialRecord[], string>
}

function openRoot(dir: string): RootDatabase {
  // A batch of lmdb-js has a promise that nobody can reach: a full disk would end the process by its rejection.
  return open({ path: dir, noSubdir: false, name: 'meta', maxDbs: 4, eventTurnBatching: false })
}

function tablesOf(root: RootDatabase): Tables {
  return {
    root,
    resources: root.openDB({ name: 'resources' }),
    extents: root.openDB({ name: 'extents' }),
    partials: root.openDB({ name: 'partials' }),
  }
}

function putAll(tables: Tables, { salt, resources, extents }: IndexContent): void {
  if (salt !== undefined) void tables.root.put('salt', salt)
  for (const [key, record] of resources) void tables.resources.put(key, sealResource(key, record))
  for (const [key, record] of extents) void tables.extents.put([key.generation, key.index], sealExtent(key, record))
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
