/**
 * The resources of a cache directory: their records, as they are now, and which of them the index has yet to take.
 *
 * All of them are in memory, some hundred bytes each: what a failing disk does not take, or LMDB does not give, is known all
 * the same as long as the host runs, and is committed when the disk works again.
 */

import type { DiskState } from './disk-state.ts'
import type { IndexDb } from './index-db.ts'
import type { ResourceRecord } from './records.ts'

export class Resources {
  readonly #index: IndexDb
  readonly #disk: DiskState
  readonly #records: Map<string, ResourceRecord>
  /** Changed or removed, and not committed. */
  readonly #unsaved = new Set<string>()

  constructor(index: IndexDb, disk: DiskState, records: Iterable<readonly [string, ResourceRecord]>) {
    this.#index = index
    this.#disk = disk
    this.#records = new Map(records)
  }

  get all(): ReadonlyMap<string, ResourceRecord> {
    return this.#records
  }

  /** Those whose keys come after that one, in their order. */
  behind(after: string): [string, ResourceRecord][] {
    return [...this.#records].filter(([key]) => key > after).sort(([a], [b]) => (a < b ? -1 : 1))
  }

  /** Resolves when it is committed, or the disk has failed. */
  async put(key: string, record: ResourceRecord): Promise<void> {
    this.#records.set(key, record)
    await this.#save(key)
  }

  async remove(key: string): Promise<void> {
    this.#records.delete(key)
    await this.#save(key)
  }

  /** The disk works again: what it did not take is committed now. */
  saveRest(): void {
    for (const key of [...this.#unsaved]) void this.#save(key)
  }

  async #save(key: string): Promise<void> {
    this.#unsaved.add(key)
    const record = this.#records.get(key)
    const change = record === undefined ? this.#index.removeResource(key) : this.#index.putResource(key, record)
    const isSaved = await this.#disk.tookInIndex(change)
    if (isSaved && this.#records.get(key) === record) this.#unsaved.delete(key)
  }
}
