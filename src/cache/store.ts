/**
 * The store: a cache directory's index and extent files behind one door.
 *
 * It opens and closes the two durable states and keeps the order between them: data is written first, then the index is
 * committed, in groups; evicting clears the record, commits, and unlinks last. So whatever instant the process dies at, the
 * index names only bytes that are there. What a machine's crash may have taken from the disk is found by the checksums.
 *
 * Nothing here knows of readers or origins. It must never make a reader wait for a commit, and a disk that fails
 * costs the caching, not the bytes: they stay in bounded memory until the disk works again.
 */

import { rm, unlink, writeFile } from 'node:fs/promises'

import { CHUNK_BYTES, type Range } from '../bytes/ranges.ts'
import { Backlog } from './backlog.ts'
import { currentBootId } from './boot-id.ts'
import { lockDir, type DirLock } from './dir-lock.ts'
import { DiskState } from './disk-state.ts'
import { Extents } from './extents.ts'
import { Generation } from './generation.ts'
import type { IndexContent, IndexDb } from './index-db.ts'
import { closeIndex, openIndex, type OpenedIndex } from './index-opening.ts'
import { ensureFormat, layoutOf, probeFile, type Layout } from './layout.ts'
import type { PartialRecord, ResourceRecord } from './records.ts'
import { removeHalfDone } from './recovery.ts'
import { Resources } from './resources.ts'
import { RESERVE_CHECK_BYTES } from './room.ts'
import { ensureSalt } from './salt.ts'

/** A failed disk is tried again after so long. */
const DISK_RETRY_MS = 5_000

export interface StoreOptions {
  readonly dir: string
  readonly maxSizeBytes: number
  /** Free space of the file system that is left alone. */
  readonly reserveFreeBytes: number
  /** Share of reads whose chunk is compared with its checksum, 0 to 1. */
  readonly checkedShare: number
  /** fdatasync data before it is committed: survives a power cut without refetching, costs throughput. */
  readonly syncData: boolean
  /** One line for a person when the disk fails, and when it works again. */
  readonly onDiskState?: (message: string, isFailing: boolean) => void
  /** Something that was in the cache turned out damaged, and is forgotten. */
  readonly onDamage?: (message: string) => void
  /** Which boot of the machine this is; default: the system's. */
  readonly bootId?: string
  /** A failed disk is tried again after so long; default 5 000. */
  readonly diskRetryMs?: number
}

export interface StoreStats {
  readonly usedBytes: number
  readonly evictedBytes: number
  readonly damagedChunks: number
  readonly degraded: string | undefined
}

export class Store {
  /** Keys of resources are hashed with it. */
  readonly salt: Buffer
  readonly #options: StoreOptions
  readonly #layout: Layout
  readonly #lock: DirLock
  readonly #index: IndexDb
  readonly #disk: DiskState
  readonly #resources: Resources
  readonly #extents: Extents
  readonly #backlog = new Backlog()
  readonly #open = new Map<string, { generation: Generation; users: number }>()
  readonly #recovery: Promise<void>
  #isClosed = false

  /**
   * The directory is prepared (`prepareLayout`).
   * @throws ERR_SEEKCACHE_CACHE_LOCKED, _CACHE_UNWRITABLE, _CACHE_FORMAT
   */
  static async open(options: StoreOptions): Promise<Store> {
    const layout = layoutOf(options.dir)
    const lock = lockDir(layout)
    try {
      await ensureFormat(layout)
      await removeHalfDone(layout)
      const bootId = options.bootId ?? currentBootId()
      const opened = await openIndex(layout)
      if (opened.damage !== undefined) options.onDamage?.(opened.damage)
      const salt = await ensureSalt(layout.indexDir, opened.index)
      return new Store(options, layout, lock, opened, salt, bootId)
    } catch (error) {
      lock.release()
      throw error
    }
  }

  private constructor(options: StoreOptions, layout: Layout, lock: DirLock, { index, content }: OpenedIndex, salt: Buffer, bootId: string) {
    this.#options = options
    this.#layout = layout
    this.#lock = lock
    this.#index = index
    this.salt = salt
    this.#disk = new DiskState({
      retryMs: options.diskRetryMs ?? DISK_RETRY_MS,
      tell: (message, isFailing) => options.onDiskState?.(message, isFailing),
      probe: () => void this.#probe(),
      onWorking: () => this.#resume(),
    })
    this.#resources = new Resources(index, this.#disk, content.resources)
    this.#extents = new Extents({
      layout,
      index,
      disk: this.#disk,
      bootId,
      maxSizeBytes: options.maxSizeBytes,
      reserveFreeBytes: options.reserveFreeBytes,
      checkedShare: options.checkedShare,
      syncData: options.syncData,
      userOf: (generation) => this.#open.get(generation)?.generation,
      onDamage: (message) => options.onDamage?.(message),
    })
    this.#extents.load(content)
    this.#recovery = this.#extents.recover()
  }

  /** Resolves when what an earlier host left half-done is cleared away; nothing else waits for it. */
  async settleRecovery(): Promise<void> {
    await this.#recovery
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    if (this.#index.isLost) await this.#renewIndex() // LMDB may have given it up since the last commit, without a word
    for (const { generation } of this.#open.values()) await this.#saveGeneration(generation)
    this.#isClosed = true
    this.#extents.refuseWrites()
    await this.#recovery
    await this.#extents.close()
    await closeIndex(this.#layout, this.#index)
    this.#disk.close()
    this.#lock.release()
  }

  /** Whether the process can only be ended by force, once this is closed. */
  get hasHungThread(): boolean {
    return this.#index.hasHungThread
  }

  /** What was learned of origins: not the store's business, but to be found again. */
  get origins(): unknown {
    try {
      return this.#index.origins
    } catch {
      return undefined // a damaged record; it is learned again
    }
  }

  async putOrigins(records: readonly object[]): Promise<void> {
    await this.#index.putOrigins(records).catch(() => {}) // with a failing disk it is learned again
  }

  get stats(): StoreStats {
    const { room, damagedChunks } = this.#extents
    return { usedBytes: room.usedBytes, evictedBytes: room.evictedBytes, damagedChunks, degraded: this.#disk.failure }
  }

  /** Nothing can be written to the disk now. */
  get isDegraded(): boolean {
    return this.#disk.failure !== undefined
  }

  get maxSizeBytes(): number {
    return this.#options.maxSizeBytes
  }

  /** True while the disk is so far behind that fetches should pause. */
  get isCongested(): boolean {
    return this.#backlog.isCongested
  }

  /** Calls back once, when the disk has caught up. */
  whenUncongested(callback: () => void): void {
    this.#backlog.whenUncongested(callback)
  }

  // ---- resources

  resource(key: string): ResourceRecord | undefined {
    return this.#resources.all.get(key)
  }

  /** In the order of their keys, behind the one given. */
  resources(after = ''): Iterable<[string, ResourceRecord]> {
    return this.#resources.behind(after)
  }

  /**
   * Resolves when the record is committed, or the disk has failed: then it is committed when the disk works again. A new
   * generation's predecessor is forgotten once nobody has it open.
   */
  async putResource(key: string, record: ResourceRecord): Promise<void> {
    const before = this.resource(key)
    await this.#resources.put(key, record)
    if (before !== undefined && before.generation !== record.generation && !this.#open.has(before.generation)) {
      await this.#forgetGeneration(before.generation)
    }
  }

  /** @returns the bytes that it freed */
  async removeResource(key: string): Promise<number> {
    const record = this.resource(key)
    if (record === undefined) return 0
    if (!this.#open.has(record.generation)) await this.#resources.remove(key)
    const extents = [...this.#extents.of(record.generation).values()].filter((extent) => extent.pendingWrites === 0)
    const freedBytes = extents.reduce((sum, extent) => sum + extent.lengthBytes, 0)
    await this.#extents.remove(extents)
    await this.#savePartials(record.generation, [])
    return freedBytes
  }

  // ---- generations

  /** Bytes of a generation that are in complete chunks. */
  presentRanges(generation: string, sizeBytes: number): Iterable<Range> {
    const open = this.#open.get(generation)?.generation
    return (open ?? this.#newGeneration(generation, sizeBytes, [])).present
  }

  /** Opened as often as wanted; each opening is given back by `releaseGeneration`. */
  openGeneration(id: string, sizeBytes: number): Generation {
    let open = this.#open.get(id)
    if (open === undefined) {
      open = { generation: this.#newGeneration(id, sizeBytes, this.#index.partials(id)), users: 0 }
      this.#open.set(id, open)
    }
    open.users++
    return open.generation
  }

  #newGeneration(id: string, sizeBytes: number, partials: readonly PartialRecord[]): Generation {
    return new Generation({ extents: this.#extents, backlog: this.#backlog }, id, sizeBytes, partials)
  }

  async releaseGeneration(generation: Generation): Promise<void> {
    await this.#saveGeneration(generation)
    const open = this.#open.get(generation.id)
    if (open === undefined || --open.users > 0) return
    this.#open.delete(generation.id)
    this.#backlog.forgetRefused(generation)
    const isCurrent = [...this.#resources.all.values()].some((record) => record.generation === generation.id)
    if (!isCurrent) await this.#forgetGeneration(generation.id)
  }

  /** Waits for its writes, and keeps what its incomplete chunks hold: what was once played is not fetched again. */
  async #saveGeneration(generation: Generation): Promise<void> {
    await generation.settle()
    await this.#savePartials(generation.id, generation.partialRecords())
  }

  async #forgetGeneration(generation: string): Promise<void> {
    await this.#extents.remove([...this.#extents.of(generation).values()])
    await this.#savePartials(generation, [])
  }

  async #savePartials(generation: string, records: readonly PartialRecord[]): Promise<void> {
    if (records.length === 0 && this.#index.partials(generation).length === 0) return
    await this.#disk.tookInIndex(this.#index.putPartials(generation, records))
  }

  // ---- a failing disk

  /** Writes a little to both states: there may be nothing else to write. */
  async #probe(): Promise<void> {
    if (this.#isClosed) return
    if (this.#index.isLost) await this.#renewIndex()
    else await this.#disk.tookInIndex(this.#index.probe())
    const path = probeFile(this.#layout)
    const write = async (): Promise<void> => {
      await rm(path, { recursive: true, force: true })
      await writeFile(path, Buffer.alloc(CHUNK_BYTES), { mode: 0o600, flag: 'wx' })
    }
    try {
      await this.#extents.room.keepingReserve(RESERVE_CHECK_BYTES, write)
      this.#disk.succeed('data')
    } catch (error) {
      this.#disk.fail('data', error as NodeJS.ErrnoException)
    } finally {
      await unlink(path).catch(() => undefined)
    }
  }

  /** Incomplete chunks are not in it: those of open generations are saved when these are released, the others are fetched again. */
  async #renewIndex(): Promise<void> {
    const contentNow = async (): Promise<IndexContent> => {
      const extents = await this.#extents.records()
      return { salt: this.salt, resources: [...this.#resources.all], extents }
    }
    await this.#disk.tookInIndex(this.#index.renew(contentNow))
  }

  /** It works again: what it did not take is written now. */
  #resume(): void {
    if (this.#isClosed) return
    this.#resources.saveRest()
    void this.#extents.commitRest()
    this.#backlog.forgetAllRefused()
    for (const { generation } of this.#open.values()) generation.retryWrites()
  }
}
