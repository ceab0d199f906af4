/**
 * The store: a cache directory's index and extent files behind one door.
 *
 * It owns the two durable states and the order between them: data is written first, then the index is committed, in
 * groups; evicting clears the record, commits, and unlinks last. So whatever instant the process dies at, the index
 * names only bytes that are there. What a machine's crash may have taken from the disk is found by the checksums.
 *
 * Nothing here knows of readers or origins. It must never make a reader wait for a commit, and a disk that fails
 * costs the caching, not the bytes: they stay in bounded memory until the disk works again.
 */

import { unlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { CHUNK_BYTES, intersect, type Range } from '../bytes/ranges.ts'
import { currentBootId } from './boot-id.ts'
import { CommitQueue } from './commit-queue.ts'
import { lockDir, type DirLock } from './dir-lock.ts'
import { DiskState } from './disk-state.ts'
import type { EvictionCandidate } from './eviction.ts'
import { checkFile, isUnusable } from './extent-check.ts'
import { Extent } from './extent.ts'
import { Generation } from './generation.ts'
import type { IndexChange, IndexContent, IndexDb } from './index-db.ts'
import { closeIndex, openIndex } from './index-opening.ts'
import { extentPath, layoutOf, newExtentFileName, type Layout } from './layout.ts'
import { OpenFiles } from './open-files.ts'
import { claimSubdir } from './private-dir.ts'
import type { ExtentKey, ResourceRecord } from './records.ts'
import { removeOrphans } from './recovery.ts'
import { RESERVE_CHECK_BYTES, Room } from './room.ts'

/** Complete chunks that may wait for the disk before the fetches are told to pause. */
const MAX_UNWRITTEN_BYTES = 16 * 1024 * 1024
/** Chunks kept in memory while the disk refuses them. */
const MAX_MEMORY_ONLY_BYTES = 64 * 1024 * 1024
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

/** 'refused': the disk, or the budget, has no room now. 'gone': the extent's file had vanished; it is forgotten. */
export type WriteOutcome = 'written' | 'refused' | 'gone'

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
  readonly #bootId: string
  readonly #files = new OpenFiles()
  readonly #extents = new Map<string, Map<number, Extent>>()
  readonly #open = new Map<string, { generation: Generation; users: number }>()
  readonly #commits: CommitQueue
  readonly #room: Room
  readonly #disk: DiskState
  /** Records that the failing disk did not take; committed when it works again. */
  readonly #unsaved = new Map<string, ResourceRecord>()
  readonly #memoryOnly = new Map<string, { generation: Generation; index: number }>()
  #unwrittenBytes = 0
  #congestionWaiters: (() => void)[] = []
  #damagedChunks = 0
  #isClosed = false
  #recovery: Promise<void> = Promise.resolve()

  /**
   * The directory is prepared (`prepareLayout`).
   * @throws ERR_SEEKCACHE_CACHE_LOCKED, _CACHE_UNWRITABLE, _CACHE_FORMAT where a damaged index cannot even be set aside
   */
  static async open(options: StoreOptions): Promise<Store> {
    const layout = layoutOf(options.dir)
    const lock = lockDir(layout)
    try {
      const bootId = options.bootId ?? currentBootId()
      const { index, content, damage } = await openIndex(layout, bootId)
      if (damage !== undefined) options.onDamage?.(damage)
      const store = new Store(options, layout, lock, index, bootId)
      store.#load(content)
      store.#recovery = store.#recover()
      return store
    } catch (error) {
      lock.release()
      throw error
    }
  }

  private constructor(options: StoreOptions, layout: Layout, lock: DirLock, index: IndexDb, bootId: string) {
    this.#options = options
    this.#layout = layout
    this.#lock = lock
    this.#index = index
    this.#bootId = bootId
    this.salt = index.ensureSalt()
    this.#commits = new CommitQueue({
      index,
      files: this.#files,
      bootId,
      syncData: options.syncData,
      isCurrent: (extent) => this.#isCurrent(extent),
      onCommitted: () => this.#disk.succeed('index'),
      onFailure: (error) => this.#disk.fail('index', error),
    })
    this.#room = new Room({
      dir: layout.dir,
      maxSizeBytes: options.maxSizeBytes,
      reserveFreeBytes: options.reserveFreeBytes,
      candidates: () => this.#candidates(),
      remove: (extents) => this.#removeExtents(extents),
    })
    this.#disk = new DiskState({
      retryMs: options.diskRetryMs ?? DISK_RETRY_MS,
      tell: (message, isFailing) => options.onDiskState?.(message, isFailing),
      probe: () => void this.#probe(),
      onWorking: () => this.#retry(),
    })
  }

  // ---- opening and closing

  #load({ resources, extents }: IndexContent): void {
    const known = new Set(resources.map(([, resource]) => resource.generation))
    const stale: IndexChange[] = []
    for (const [key, record] of extents) {
      if (!known.has(key.generation)) {
        stale.push({ key, record: undefined })
        continue
      }
      const path = extentPath(this.#layout, key.generation, record.fileName)
      const extent = Extent.fromRecord(key, record, path, this.#bootId)
      this.#extentsOf(key.generation).set(key.index, extent)
      this.#room.count(extent.lengthBytes)
    }
    if (stale.length > 0) void this.#commits.commit(stale)
  }

  /** What an earlier host left half-done: files without a record go, and what files take beyond their records is counted. */
  async #recover(): Promise<void> {
    await removeOrphans(this.#layout, {
      isNamed: (generation, fileName) => [...this.#extentsOf(generation).values()].some((extent) => extent.fileName === fileName),
      isInUse: (generation) => this.#extentsOf(generation).size > 0 || this.#open.has(generation),
    })
    for (const extents of [...this.#extents.values()]) {
      for (const extent of [...extents.values()]) {
        if (this.#isClosed) return
        if (!extent.isFileChecked && this.#isCurrent(extent)) await this.checkExtent(extent)
      }
    }
  }

  #extentsOf(generation: string): Map<number, Extent> {
    let extents = this.#extents.get(generation)
    if (extents === undefined) this.#extents.set(generation, (extents = new Map()))
    return extents
  }

  /** Resolves when what an earlier host left half-done is cleared away; nothing else waits for it. */
  async settleRecovery(): Promise<void> {
    await this.#recovery
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    for (const { generation } of this.#open.values()) await this.#saveGeneration(generation)
    this.#isClosed = true
    await this.#recovery
    await this.#room.settle()
    await this.#commits.commitMarked()
    await this.#files.close()
    await closeIndex(this.#layout, this.#index)
    this.#disk.close()
    this.#lock.release()
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
    return {
      usedBytes: this.#room.usedBytes,
      evictedBytes: this.#room.evictedBytes,
      damagedChunks: this.#damagedChunks,
      degraded: this.#disk.failure,
    }
  }

  get maxSizeBytes(): number {
    return this.#options.maxSizeBytes
  }

  // ---- resources and generations

  resource(key: string): ResourceRecord | undefined {
    return this.#unsaved.get(key) ?? this.#index.resource(key)
  }

  /** In the order of their keys, behind the one given. */
  *resources(after = ''): Iterable<[string, ResourceRecord]> {
    const unsaved = new Map([...this.#unsaved].filter(([key]) => key > after).sort(([a], [b]) => (a < b ? -1 : 1)))
    for (const [key, record] of this.#index.resources(after)) {
      for (const [earlier, its] of unsaved) {
        if (earlier > key) break
        unsaved.delete(earlier)
        yield [earlier, its]
      }
      if (!this.#unsaved.has(key)) yield [key, record]
    }
    yield* unsaved
  }

  /**
   * Resolves when the record is committed, or the disk has failed: then it is committed when the disk works again. A new
   * generation's predecessor is forgotten once nobody has it open.
   */
  async putResource(key: string, record: ResourceRecord): Promise<void> {
    const before = this.resource(key)
    await this.#saveResource(key, record)
    if (before !== undefined && before.generation !== record.generation && !this.#open.has(before.generation)) {
      await this.#forgetGeneration(before.generation)
    }
  }

  async #saveResource(key: string, record: ResourceRecord): Promise<void> {
    this.#unsaved.set(key, record)
    const isSaved = await this.#inIndex(this.#index.putResource(key, record))
    if (isSaved && this.#unsaved.get(key) === record) this.#unsaved.delete(key)
  }

  async removeResource(key: string): Promise<number> {
    const record = this.resource(key)
    if (record === undefined) return 0
    if (!this.#open.has(record.generation)) {
      this.#unsaved.delete(key)
      await this.#inIndex(this.#index.removeResource(key))
    }
    const extents = [...this.#extentsOf(record.generation).values()].filter((extent) => extent.pendingWrites === 0)
    const freedBytes = extents.reduce((sum, extent) => sum + extent.lengthBytes, 0)
    await this.#removeExtents(extents)
    await this.#inIndex(this.#index.putPartials(record.generation, []))
    return freedBytes
  }

  async #forgetGeneration(generation: string): Promise<void> {
    await this.#removeExtents([...this.#extentsOf(generation).values()])
    await this.#inIndex(this.#index.putPartials(generation, []))
  }

  /** @returns whether the index took it */
  async #inIndex(change: Promise<void>): Promise<boolean> {
    try {
      await change
      this.#disk.succeed('index')
      return true
    } catch (error) {
      this.#disk.fail('index', error as Error)
      return false
    }
  }

  /** Bytes of a generation that are in complete chunks. */
  presentRanges(generation: string, sizeBytes: number): Iterable<Range> {
    const open = this.#open.get(generation)?.generation
    return (open ?? new Generation(this, generation, sizeBytes, this.#extentsOf(generation), [])).present
  }

  /** Opened as often as wanted; each opening is given back by `releaseGeneration`. */
  openGeneration(id: string, sizeBytes: number): Generation {
    let open = this.#open.get(id)
    if (open === undefined) {
      open = { generation: new Generation(this, id, sizeBytes, this.#extentsOf(id), this.#index.partials(id)), users: 0 }
      this.#open.set(id, open)
    }
    open.users++
    return open.generation
  }

  async releaseGeneration(generation: Generation): Promise<void> {
    await this.#saveGeneration(generation)
    const open = this.#open.get(generation.id)
    if (open === undefined || --open.users > 0) return
    this.#open.delete(generation.id)
    for (const [id, chunk] of this.#memoryOnly) if (chunk.generation === generation) this.#memoryOnly.delete(id)
    const isCurrent = [...this.resources()].some(([, record]) => record.generation === generation.id)
    if (!isCurrent) await this.#forgetGeneration(generation.id)
  }

  /** Waits for its writes, and keeps what its incomplete chunks hold: what was once played is not fetched again. */
  async #saveGeneration(generation: Generation): Promise<void> {
    await generation.settle()
    await this.#inIndex(this.#index.putPartials(generation.id, generation.partialRecords()))
  }

  // ---- back-pressure

  countUnwritten(lengthBytes: number): void {
    this.#unwrittenBytes += lengthBytes
    if (this.isCongested) return
    for (const resume of this.#congestionWaiters.splice(0)) resume()
  }

  /** True while the disk is so far behind that fetches should pause. */
  get isCongested(): boolean {
    return this.#unwrittenBytes > MAX_UNWRITTEN_BYTES
  }

  /** Calls back once, when the disk has caught up. */
  whenUncongested(callback: () => void): void {
    this.#congestionWaiters.push(callback)
  }

  // ---- extents: data

  newExtent(key: ExtentKey): Extent {
    const fileName = newExtentFileName(key.index)
    const path = extentPath(this.#layout, key.generation, fileName)
    return new Extent(key, fileName, path, this.#bootId, Date.now(), false)
  }

  /** Writes whole chunks from `first` on. */
  async writeChunks(extent: Extent, first: number, chunks: readonly { buffer: Buffer; crc: number }[]): Promise<WriteOutcome> {
    const numbers = chunks.map((_, i) => first + i)
    const outcome = await this.#write(extent, first * CHUNK_BYTES, chunks.map((chunk) => chunk.buffer), numbers)
    if (outcome !== 'written') return outcome
    numbers.forEach((chunk, i) => extent.markWritten(chunk, chunks[i]!.crc))
    this.#commits.mark(extent)
    return outcome
  }

  /** Writes a part of a chunk early, for a reader in another process. It is not presence. */
  async writePartial(extent: Extent, offset: number, bytes: Buffer): Promise<WriteOutcome> {
    return await this.#write(extent, offset, [bytes], [Math.floor(offset / CHUNK_BYTES)])
  }

  async #write(extent: Extent, offset: number, buffers: readonly Buffer[], chunks: readonly number[]): Promise<WriteOutcome> {
    if (this.#isClosed || this.#disk.isRefusing) return 'refused'
    extent.pendingWrites++
    try {
      if (extent.isFileCreated && !extent.isFileChecked && !(await this.checkExtent(extent))) return 'gone'
      const lengthBytes = chunks.filter((chunk) => !extent.isAllocated(chunk)).length * CHUNK_BYTES
      if (!(await this.#room.make(lengthBytes))) return 'refused'
      this.#account(extent, () => chunks.forEach((chunk) => extent.markAllocated(chunk)))
      await this.#room.keepingReserve(lengthBytes, async () => {
        if (!extent.isFileCreated) await this.#createFile(extent)
        await this.#files.write(extent.path, buffers, offset)
      })
      if (!this.#isCurrent(extent)) return 'gone' // its file was found gone meanwhile: the bytes went nowhere
      this.touch(extent)
      this.#disk.succeed('data')
      return 'written'
    } catch (error) {
      if (extent.isFileCreated && isUnusable(error)) {
        await this.#dropExtent(extent, 'cannot be opened any more')
        return 'gone'
      }
      this.#disk.fail('data', error as NodeJS.ErrnoException)
      return 'refused'
    } finally {
      extent.pendingWrites--
    }
  }

  #account(extent: Extent, change: () => void): void {
    const beforeBytes = extent.lengthBytes
    change()
    if (this.#isCurrent(extent)) this.#room.count(extent.lengthBytes - beforeBytes)
  }

  async #createFile(extent: Extent): Promise<void> {
    const make = async (): Promise<void> => {
      await claimSubdir(dirname(extent.path))
      await this.#files.create(extent.path)
    }
    await make().catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
      await make() // the recovery has just removed its folder as an empty one
    })
    extent.isFileCreated = extent.isFileChecked = true
  }

  /**
   * Before an extent is used for the first time, and where another process could not read it: is its file still the one
   * that was written? A file that lost its end must not get zeros for it by a write further on either.
   * @returns false where it is not usable, and forgotten
   */
  async checkExtent(extent: Extent): Promise<boolean> {
    try {
      const verdict = await checkFile(extent)
      if (verdict.kind === 'unusable') {
        await this.#dropExtent(extent, verdict.reason)
        return false
      }
      if (extent.isFileChecked) return true
      this.#account(extent, () => (extent.diskBytes = verdict.diskBytes))
      if (verdict.kind === 'changed') extent.distrust()
      extent.isFileChecked = true
    } catch {
      extent.distrust() // the disk does not tell: its reads will
    }
    return true
  }

  /** @returns the bytes read; fewer than wanted where the file is not what was written */
  async readExtent(extent: Extent, target: Buffer, offset: number): Promise<number> {
    try {
      return await this.#files.read(extent.path, target, offset)
    } catch (error) {
      if (isUnusable(error)) await this.#dropExtent(extent, 'cannot be opened any more')
      return 0
    }
  }

  touch(extent: Extent): void {
    extent.lastUsedMs = Date.now()
  }

  // ---- extents: knowledge

  isCheckDue(): boolean {
    return Math.random() < this.#options.checkedShare
  }

  markVerified(extent: Extent, chunk: number): void {
    if (!extent.isUnverified(chunk)) return
    extent.markVerified(chunk)
    this.#commits.mark(extent)
  }

  /** A chunk is not what was written. What else is in that file is not believed any more either. */
  reportLost(extent: Extent, range: Range): void {
    extent.distrust()
    this.#damagedChunks++
    this.#options.onDamage?.(`damaged chunk at ${range.start} in ${extent.path}: it will be fetched again`)
    this.#commits.mark(extent)
  }

  // ---- room

  *#candidates(): Iterable<EvictionCandidate & { extent: Extent }> {
    for (const [generation, extents] of this.#extents) {
      const open = this.#open.get(generation)?.generation
      const windows = open?.protectedRanges() ?? []
      const lastIndex = Math.max(...extents.keys())
      for (const extent of extents.values()) {
        yield {
          extent,
          lengthBytes: extent.lengthBytes,
          lastUsedMs: extent.lastUsedMs,
          isProtected: extent.pendingWrites > 0 || windows.some((window) => intersect(window, extent.range) !== undefined),
          holdsIndex: extent.key.index === 0 || extent.key.index === lastIndex,
        }
      }
    }
  }

  #isCurrent(extent: Extent): boolean {
    return this.#extentsOf(extent.key.generation).get(extent.key.index) === extent
  }

  async #dropExtent(extent: Extent, reason: string): Promise<void> {
    if (!this.#isCurrent(extent)) return
    this.#options.onDamage?.(`${extent.path} ${reason}: what it held will be fetched again`)
    await this.#removeExtents([extent])
  }

  /** Forgets, commits, and only then unlinks: no record ever names a file that is not there. */
  async #removeExtents(extents: readonly Extent[]): Promise<void> {
    if (extents.length === 0) return
    for (const extent of extents) {
      this.#room.count(-extent.lengthBytes)
      this.#extentsOf(extent.key.generation).delete(extent.key.index)
      this.#commits.unmark(extent)
      this.#open.get(extent.key.generation)?.generation.forgetExtent(extent)
    }
    await this.#commits.commit(extents.map((extent) => ({ key: extent.key, record: undefined })))
    for (const extent of extents) {
      await this.#files.forget(extent.path)
      await unlink(extent.path).catch(() => undefined)
    }
  }

  // ---- a failing disk

  async #probe(): Promise<void> {
    if (this.#isClosed) return
    await this.#inIndex(this.#index.probe())
    const path = join(this.#layout.dir, 'probe')
    try {
      await this.#room.keepingReserve(RESERVE_CHECK_BYTES, async () => await writeFile(path, Buffer.alloc(CHUNK_BYTES), { mode: 0o600 }))
      this.#disk.succeed('data')
    } catch (error) {
      this.#disk.fail('data', error as NodeJS.ErrnoException)
    } finally {
      await unlink(path).catch(() => undefined)
    }
  }

  #retry(): void {
    if (this.#isClosed) return
    for (const [key, record] of [...this.#unsaved]) void this.#saveResource(key, record)
    void this.#commits.commitMarked()
    this.#memoryOnly.clear()
    for (const { generation } of this.#open.values()) generation.retryWrites()
  }

  keepInMemory(generation: Generation, index: number, lengthBytes: number): void {
    this.#memoryOnly.set(`${generation.id} ${index}`, { generation, index })
    while (this.#memoryOnly.size * lengthBytes > MAX_MEMORY_ONLY_BYTES) {
      const [oldest, chunk] = this.#memoryOnly.entries().next().value!
      this.#memoryOnly.delete(oldest)
      chunk.generation.dropFromMemory(chunk.index)
    }
  }
}
