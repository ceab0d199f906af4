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

import { mkdir, readdir, rmdir, stat, statfs, unlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { CHUNK_BYTES, intersect, type Range } from '../bytes/ranges.ts'
import { currentBootId } from './boot-id.ts'
import { CommitQueue } from './commit-queue.ts'
import { lockDir, type DirLock } from './dir-lock.ts'
import { victims, type EvictionCandidate } from './eviction.ts'
import { Extent } from './extent.ts'
import { Generation } from './generation.ts'
import { IndexDb, type ExtentKey, type IndexChange, type ResourceRecord } from './index-db.ts'
import { extentPath, layoutOf, newExtentFileName, type Layout } from './layout.ts'
import { OpenFiles } from './open-files.ts'

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
  readonly #options: StoreOptions
  readonly #layout: Layout
  readonly #lock: DirLock
  readonly #index: IndexDb
  readonly #bootId: string
  readonly #files = new OpenFiles()
  readonly #extents = new Map<string, Map<number, Extent>>()
  readonly #open = new Map<string, { generation: Generation; users: number }>()

  #usedBytes = 0
  #unwrittenBytes = 0
  #congestionWaiters: (() => void)[] = []
  readonly #commits: CommitQueue
  #eviction: Promise<void> | undefined
  #degraded: { readonly reason: string; readonly retryAtMs: number } | undefined
  readonly #memoryOnly = new Map<string, { generation: Generation; index: number }>()
  #evictedBytes = 0
  #damagedChunks = 0
  #isClosed = false
  #recovery: Promise<void> = Promise.resolve()

  /** The directory is prepared (`prepareLayout`). @throws ERR_SEEKCACHE_CACHE_LOCKED, _CACHE_UNWRITABLE, _CACHE_FORMAT */
  static async open(options: StoreOptions): Promise<Store> {
    const layout = layoutOf(options.dir)
    const lock = lockDir(layout)
    try {
      const store = new Store(options, layout, lock, new IndexDb(layout.indexDir))
      store.#load()
      store.#recovery = store.#removeOrphans()
      return store
    } catch (error) {
      lock.release()
      throw error
    }
  }

  private constructor(options: StoreOptions, layout: Layout, lock: DirLock, index: IndexDb) {
    this.#options = options
    this.#layout = layout
    this.#lock = lock
    this.#index = index
    this.#bootId = options.bootId ?? currentBootId()
    this.#commits = new CommitQueue({
      index,
      files: this.#files,
      bootId: this.#bootId,
      syncData: options.syncData,
      isCurrent: (extent) => this.#isCurrent(extent),
      onFailure: (error) => this.#degrade(error),
    })
  }

  // ---- opening and closing

  #load(): void {
    const known = new Set([...this.#index.resources()].map(([, resource]) => resource.generation))
    const stale: IndexChange[] = []
    for (const [key, record] of this.#index.extents()) {
      if (!known.has(key.generation)) {
        stale.push({ key, record: undefined })
        continue
      }
      const path = extentPath(this.#layout, key.generation, record.fileName)
      this.#register(Extent.fromRecord(key, record, path, this.#bootId))
    }
    if (stale.length > 0) void this.#commits.commit(stale)
  }

  #register(extent: Extent): void {
    this.#extentsOf(extent.key.generation).set(extent.key.index, extent)
    this.#usedBytes += extent.lengthBytes
  }

  #extentsOf(generation: string): Map<number, Extent> {
    let extents = this.#extents.get(generation)
    if (extents === undefined) this.#extents.set(generation, (extents = new Map()))
    return extents
  }

  /** Files that no record names: written and never committed, or evicted and not yet unlinked, when a host died. */
  async #removeOrphans(): Promise<void> {
    const directories = await readdir(this.#layout.extentsDir).catch(() => [])
    for (const generation of directories) {
      const dir = join(this.#layout.extentsDir, generation)
      const fileNames = await readdir(dir).catch(() => [])
      const named = new Set([...this.#extentsOf(generation).values()].map((extent) => extent.fileName))
      const orphans = fileNames.filter((fileName) => !named.has(fileName))
      for (const orphan of orphans) await unlink(join(dir, orphan)).catch(() => undefined)
      if (named.size === 0 && !this.#open.has(generation)) await rmdir(dir).catch(() => undefined)
    }
  }

  /** Resolves when what an earlier host left half-done is cleared away; nothing else waits for it. */
  async settleRecovery(): Promise<void> {
    await this.#recovery
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    await this.#recovery
    for (const { generation } of this.#open.values()) await this.#saveGeneration(generation)
    this.#isClosed = true
    await this.#eviction
    await this.#commits.close()
    await this.#files.close()
    await this.#index.close()
    this.#lock.release()
  }

  get salt(): Buffer {
    return this.#index.salt
  }

  get stats(): StoreStats {
    return {
      usedBytes: this.#usedBytes,
      evictedBytes: this.#evictedBytes,
      damagedChunks: this.#damagedChunks,
      degraded: this.#degraded?.reason,
    }
  }

  get maxSizeBytes(): number {
    return this.#options.maxSizeBytes
  }

  // ---- resources and generations

  resource(key: string): ResourceRecord | undefined {
    return this.#index.resource(key)
  }

  resources(): Iterable<[string, ResourceRecord]> {
    return this.#index.resources()
  }

  /** Resolves when the record is committed, or the disk has failed: then it is not there after a restart. A new generation's predecessor is forgotten once nobody has it open. */
  async putResource(key: string, record: ResourceRecord): Promise<void> {
    const before = this.#index.resource(key)
    await this.#index.putResource(key, record).catch((error: unknown) => this.#degrade(error as NodeJS.ErrnoException))
    if (before !== undefined && before.generation !== record.generation && !this.#open.has(before.generation)) {
      await this.#removeExtents([...this.#extentsOf(before.generation).values()])
      await this.#index.putPartials(before.generation, [])
    }
  }

  async removeResource(key: string): Promise<number> {
    const record = this.#index.resource(key)
    if (record === undefined) return 0
    if (!this.#open.has(record.generation)) await this.#index.removeResource(key)
    const extents = [...this.#extentsOf(record.generation).values()].filter((extent) => extent.pendingWrites === 0)
    const freedBytes = extents.reduce((sum, extent) => sum + extent.lengthBytes, 0)
    await this.#removeExtents(extents)
    await this.#index.putPartials(record.generation, [])
    return freedBytes
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
    const isCurrent = [...this.#index.resources()].some(([, record]) => record.generation === generation.id)
    if (!isCurrent) await this.#removeExtents([...this.#extentsOf(generation.id).values()])
    if (!isCurrent) await this.#index.putPartials(generation.id, [])
  }

  /** Waits for its writes, and keeps what its incomplete chunks hold: what was once played is not fetched again. */
  async #saveGeneration(generation: Generation): Promise<void> {
    await generation.settle()
    await this.#index.putPartials(generation.id, generation.partialRecords()).catch((error: unknown) => {
      this.#degrade(error as NodeJS.ErrnoException)
    })
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
    if (this.#isClosed || (this.#degraded !== undefined && Date.now() < this.#degraded.retryAtMs)) return 'refused'
    extent.pendingWrites++
    try {
      if (!(await this.#makeRoom(chunks.filter((chunk) => !extent.has(chunk)).length * CHUNK_BYTES))) return 'refused'
      await this.#ensureFile(extent)
      await this.#files.write(extent.path, buffers, offset)
      for (const chunk of chunks) if (extent.markAllocated(chunk)) this.#usedBytes += CHUNK_BYTES
      this.touch(extent)
      this.#recover()
      return 'written'
    } catch (error) {
      if (extent.isFileCreated && (error as NodeJS.ErrnoException).code === 'ENOENT') {
        await this.#dropExtent(extent)
        return 'gone'
      }
      this.#degrade(error as NodeJS.ErrnoException)
      return 'refused'
    } finally {
      extent.pendingWrites--
    }
  }

  async #ensureFile(extent: Extent): Promise<void> {
    if (extent.isFileCreated) return await this.#checkLength(extent)
    await this.#keepReserve()
    await mkdir(dirname(extent.path), { recursive: true, mode: 0o700 })
    await this.#files.create(extent.path)
    extent.isFileCreated = extent.isLengthChecked = true
  }

  /** A file that lost its end must not get zeros for it by a write further on: what it holds is checked from then on. */
  async #checkLength(extent: Extent): Promise<void> {
    if (extent.isLengthChecked) return
    const { size } = await stat(extent.path)
    if (size <= extent.lengthInFile - CHUNK_BYTES) extent.distrust()
    extent.isLengthChecked = true
  }

  /** @returns the bytes read; fewer than wanted where the file is not what was written */
  async readExtent(extent: Extent, target: Buffer, offset: number): Promise<number> {
    try {
      return await this.#files.read(extent.path, target, offset)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') await this.#dropExtent(extent)
      return 0
    }
  }

  /** Another process could not read its file. @returns false where it is gone, and forgotten */
  async confirmFile(extent: Extent): Promise<boolean> {
    if (await stat(extent.path).then((found) => found.isFile(), () => false)) return true
    await this.#dropExtent(extent)
    return false
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

  /** @returns whether the budget has, or was given, room for so many bytes more */
  async #makeRoom(lengthBytes: number): Promise<boolean> {
    if (this.#usedBytes + lengthBytes <= this.#options.maxSizeBytes) return true
    await this.#evict(this.#usedBytes + lengthBytes - this.#options.maxSizeBytes)
    return this.#usedBytes + lengthBytes <= this.#options.maxSizeBytes
  }

  async #keepReserve(): Promise<void> {
    const { bavail, bsize } = await statfs(this.#layout.dir)
    const freeBytes = bavail * bsize
    const reserve = this.#options.reserveFreeBytes
    if (freeBytes >= reserve) return
    await this.#evict(reserve - freeBytes)
    const after = await statfs(this.#layout.dir)
    if (after.bavail * after.bsize < reserve) {
      throw Object.assign(new Error(`less than ${reserve} bytes are free on the disk`), { code: 'ENOSPC' })
    }
  }

  async #evict(neededBytes: number): Promise<void> {
    while (this.#eviction !== undefined) await this.#eviction
    this.#eviction = this.#evictNow(neededBytes).finally(() => (this.#eviction = undefined))
    await this.#eviction
  }

  async #evictNow(neededBytes: number): Promise<void> {
    const chosen = victims(this.#candidates(), neededBytes).map((candidate) => candidate.extent)
    this.#evictedBytes += chosen.reduce((sum, extent) => sum + extent.lengthBytes, 0)
    await this.#removeExtents(chosen)
  }

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

  async #dropExtent(extent: Extent): Promise<void> {
    if (!this.#isCurrent(extent)) return
    this.#options.onDamage?.(`${extent.path} is gone: what it held will be fetched again`)
    await this.#removeExtents([extent])
  }

  /** Forgets, commits, and only then unlinks: no record ever names a file that is not there. */
  async #removeExtents(extents: readonly Extent[]): Promise<void> {
    if (extents.length === 0) return
    for (const extent of extents) {
      this.#extentsOf(extent.key.generation).delete(extent.key.index)
      this.#commits.unmark(extent)
      this.#usedBytes -= extent.lengthBytes
      this.#open.get(extent.key.generation)?.generation.forgetExtent(extent)
    }
    await this.#commits.commit(extents.map((extent) => ({ key: extent.key, record: undefined })))
    for (const extent of extents) {
      await this.#files.forget(extent.path)
      await unlink(extent.path).catch(() => undefined)
    }
  }

  // ---- a failing disk

  #degrade(error: NodeJS.ErrnoException): void {
    const reason = error.code ?? error.message
    if (this.#degraded === undefined) {
      this.#options.onDiskState?.(`the cache directory cannot be written (${error.message}): playing on without caching`, true)
    }
    this.#degraded = { reason, retryAtMs: Date.now() + (this.#options.diskRetryMs ?? DISK_RETRY_MS) }
  }

  #recover(): void {
    if (this.#degraded === undefined) return
    this.#degraded = undefined
    this.#options.onDiskState?.('the cache directory can be written again: caching goes on', false)
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
