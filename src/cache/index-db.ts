/**
 * The index: what the cache durably knows, in LMDB. This process alone opens it (native readers ask the host).
 *
 * One record per extent (presence bitmap and a CRC-32 per chunk, 1.2 KB), never one per chunk: 1 M chunks scan in 20 ms this
 * way, in 613 ms the other. A record whose seal does not fit it is none. Nothing here waits for a disk flush but `flush`;
 * order of data and index is the store's.
 */

import type { Database, RootDatabase } from 'lmdb'

import { IndexFile, IndexUnreadable, type Rooted } from './index-file.ts'
import {
  openExtent,
  openPartials,
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

/** All that an index holds. */
export interface IndexContent {
  readonly salt: Uint8Array | undefined
  readonly resources: readonly (readonly [string, ResourceRecord])[]
  readonly extents: readonly (readonly [ExtentKey, ExtentRecord])[]
}

const DAMAGED_RECORD = 'a record is not what was written'

export class IndexDb {
  readonly #file: IndexFile<Tables>

  /** @throws IndexUnreadable when LMDB finds it damaged, ERR_SEEKCACHE_CACHE_UNWRITABLE when the disk says no */
  static async open(dir: string): Promise<IndexDb> {
    return new IndexDb(await IndexFile.open(dir, tablesOf))
  }

  private constructor(file: IndexFile<Tables>) {
    this.#file = file
  }

  /** As it was put. */
  get salt(): Uint8Array | undefined {
    return this.#file.read((tables) => tables.root.get('salt') as Uint8Array | undefined)
  }

  async putSalt(salt: Uint8Array): Promise<void> {
    await this.#file.transact((tables) => void tables.root.put('salt', salt))
  }

  /** What was learned of origins, as it was put; its reader checks it. */
  get origins(): unknown {
    return this.#file.read((tables) => tables.root.get('origins'))
  }

  async putOrigins(records: readonly object[]): Promise<void> {
    await this.#file.transact((tables) => void tables.root.put('origins', records))
  }

  /** @throws IndexUnreadable, now or while it is iterated */
  *resources(): Generator<[string, ResourceRecord]> {
    for (const { key, value } of this.#file.read((tables) => tables.resources.getRange()) ?? []) {
      const record = openResource(key, value)
      if (record === undefined) throw new IndexUnreadable(DAMAGED_RECORD)
      yield [key, record]
    }
  }

  async putResource(key: string, record: ResourceRecord): Promise<void> {
    await this.#file.transact((tables) => void tables.resources.put(key, sealResource(key, record)))
  }

  async removeResource(key: string): Promise<void> {
    await this.#file.transact((tables) => void tables.resources.remove(key))
  }

  /** @throws the same */
  *extents(): Generator<[ExtentKey, ExtentRecord]> {
    for (const { key, value } of this.#file.read((tables) => tables.extents.getRange()) ?? []) {
      const place = { generation: key[0], index: key[1] }
      const record = openExtent(place, value)
      if (record === undefined) throw new IndexUnreadable(DAMAGED_RECORD)
      yield [place, record]
    }
  }

  /** What cannot be read of them is fetched again. */
  partials(generation: string): readonly PartialRecord[] {
    try {
      return openPartials(generation, this.#file.read((tables) => tables.partials.get(generation)))
    } catch {
      return []
    }
  }

  async putPartials(generation: string, records: readonly PartialRecord[]): Promise<void> {
    await this.#file.transact((tables) => void (records.length === 0 ? tables.partials.remove(generation) : tables.partials.put(generation, records)))
  }

  /** All changes in one transaction. */
  async commit(changes: readonly IndexChange[]): Promise<void> {
    await this.#file.transact((tables) => {
      for (const { key, record } of changes) {
        const place: [string, number] = [key.generation, key.index]
        if (record === undefined) void tables.extents.remove(place)
        else void tables.extents.put(place, sealExtent(key, record))
      }
    })
  }

  /** Resolves where the index takes something. */
  async probe(): Promise<void> {
    await this.#file.transact(() => {})
  }

  // ---- as a whole

  /** What is needed of it from the start. @throws IndexUnreadable */
  readAll(): IndexContent {
    return readable(() => ({ salt: this.salt, resources: [...this.resources()], extents: [...this.extents()] }))
  }

  /** Reads what an opening does not, and counts: a damaged page may end an iteration without a word. @throws IndexUnreadable */
  readRest(): void {
    readable(() => this.#file.read(({ resources, extents, partials }) => {
      for (const { value } of partials.getRange()) if (!Array.isArray(value)) throw new IndexUnreadable(DAMAGED_RECORD)
      for (const table of [resources, extents, partials]) {
        if (countOf(table) !== table.getKeysCount()) throw new IndexUnreadable('some of it cannot be reached')
      }
    }))
  }

  /** @throws IndexUnreadable where a page of it cannot be read, ERR_SEEKCACHE_CACHE_UNWRITABLE when the disk says no */
  async copyTo(dir: string): Promise<void> {
    await this.#file.copyTo(dir)
  }

  /** Into a new index: what was saved of a damaged one. */
  async restore(content: IndexContent, partials: Iterable<readonly [string, readonly PartialRecord[]]>): Promise<void> {
    await this.#file.transact((tables) => putAll(tables, content), countAll(content))
    for (const [generation, records] of partials) await this.putPartials(generation, records) // some MiB each
  }

  /** LMDB has given the file up: nothing more is taken, or told, until `renew`. */
  get isLost(): boolean {
    return this.#file.isLost
  }

  /** Begins anew with what is known. */
  async renew(contentNow: () => Promise<IndexContent>): Promise<void> {
    await this.#file.renew(async () => {
      const content = await contentNow()
      return { records: countAll(content), put: (tables) => putAll(tables, content) }
    })
  }

  /** Whether `process.exit` would not end. */
  get hasHungThread(): boolean {
    return this.#file.hasHungThread
  }

  /** Resolves when what was committed is on the disk, or the disk has failed. */
  async flush(): Promise<void> {
    await this.#file.flush()
  }

  /** @returns whether it could be closed */
  async close(): Promise<boolean> {
    return await this.#file.close()
  }
}

interface Tables extends Rooted {
  readonly resources: Database<Sealed<ResourceRecord>, string>
  readonly extents: Database<Sealed<ExtentRecord>, [string, number]>
  readonly partials: Database<readonly PartialRecord[], string>
}

function tablesOf(root: RootDatabase): Tables {
  return {
    root,
    resources: root.openDB({ name: 'resources' }),
    extents: root.openDB({ name: 'extents' }),
    partials: root.openDB({ name: 'partials' }),
  }
}

function countOf(table: Pick<RootDatabase, 'getStats'>): number {
  return (table.getStats() as { readonly entryCount: number }).entryCount
}

/** Whatever LMDB, or the decoding of its records, throws. */
function readable<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    throw new IndexUnreadable((cause as Error).message, { cause })
  }
}

function countAll({ resources, extents }: IndexContent): number {
  return resources.length + extents.length
}

function putAll(tables: Tables, { salt, resources, extents }: IndexContent): void {
  if (salt !== undefined) void tables.root.put('salt', salt)
  for (const [key, record] of resources) void tables.resources.put(key, sealResource(key, record))
  for (const [key, record] of extents) void tables.extents.put([key.generation, key.index], sealExtent(key, record))
}
