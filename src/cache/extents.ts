/**
 * The extents of a cache directory and their files: written, checked, read, forgotten.
 *
 * It owns the data's half of the order that the store promises: data is written before it is marked for the index, and an
 * evicted extent's record is gone before its file is. Which bytes go where is the generations' matter.
 */

import { unlink } from 'node:fs/promises'
import { dirname } from 'node:path'

import { CHUNK_BYTES, intersect, type Range } from '../bytes/ranges.ts'
import { CommitQueue } from './commit-queue.ts'
import type { DiskState } from './disk-state.ts'
import type { EvictionCandidate } from './eviction.ts'
import { checkFile, isUnusable } from './extent-check.ts'
import { Extent } from './extent.ts'
import type { IndexChange, IndexContent, IndexDb } from './index-db.ts'
import { extentPath, newExtentFileName, type Layout } from './layout.ts'
import { OpenFiles } from './open-files.ts'
import { claimSubdir } from './private-dir.ts'
import type { ExtentKey, ExtentRecord } from './records.ts'
import { removeOrphans } from './recovery.ts'
import { Room } from './room.ts'

/** 'refused': the disk, or the budget, has no room now. 'gone': the extent's file had vanished; it is forgotten. */
export type WriteOutcome = 'written' | 'refused' | 'gone'

/** Who has a generation open. */
export interface ExtentUser {
  /** What must not be evicted. */
  protectedRanges(): readonly Range[]
  forgetExtent(extent: Extent): void
}

export interface ExtentsParts {
  readonly layout: Layout
  readonly index: IndexDb
  readonly disk: DiskState
  readonly bootId: string
  readonly maxSizeBytes: number
  readonly reserveFreeBytes: number
  readonly checkedShare: number
  readonly syncData: boolean
  readonly userOf: (generation: string) => ExtentUser | undefined
  readonly onDamage: (message: string) => void
}

const NONE: ReadonlyMap<number, Extent> = new Map()

export class Extents {
  readonly room: Room
  readonly #parts: ExtentsParts
  readonly #extents = new Map<string, Map<number, Extent>>()
  readonly #files = new OpenFiles()
  readonly #commits: CommitQueue
  #damagedChunks = 0
  #isClosed = false

  constructor(parts: ExtentsParts) {
    const { layout, index, disk, bootId, maxSizeBytes, reserveFreeBytes, syncData } = parts
    this.#parts = parts
    this.#commits = new CommitQueue({
      index,
      files: this.#files,
      bootId,
      syncData,
      isCurrent: (extent) => this.isCurrent(extent),
      onCommitted: () => disk.succeed('index'),
      onFailure: (error) => disk.fail('index', error),
    })
    this.room = new Room({
      dir: layout.dir,
      maxSizeBytes,
      reserveFreeBytes,
      candidates: () => this.#candidates(),
      remove: (extents) => this.remove(extents),
    })
  }

  /** Chunks that were found not to be what was written. */
  get damagedChunks(): number {
    return this.#damagedChunks
  }

  // ---- which there are

  /** By their numbers. */
  of(generation: string): ReadonlyMap<number, Extent> {
    return this.#extents.get(generation) ?? NONE
  }

  #add(extent: Extent): void {
    const { generation, index } = extent.key
    const extents = this.#extents.get(generation) ?? new Map<number, Extent>()
    this.#extents.set(generation, extents.set(index, extent))
  }

  #delete({ key: { generation, index } }: Extent): void {
    const extents = this.#extents.get(generation)
    extents?.delete(index)
    if (extents?.size === 0) this.#extents.delete(generation)
  }

  isCurrent(extent: Extent): boolean {
    return this.of(extent.key.generation).get(extent.key.index) === extent
  }

  /** What an earlier host has committed. */
  load({ resources, extents }: IndexContent): void {
    const { layout, bootId } = this.#parts
    const known = new Set(resources.map(([, resource]) => resource.generation))
    const stale: IndexChange[] = []
    for (const [key, record] of extents) {
      if (!known.has(key.generation)) {
        stale.push({ key, record: undefined })
        continue
      }
      const extent = Extent.fromRecord(key, record, extentPath(layout, key.generation, record.fileName), bootId)
      this.#add(extent)
      this.room.count(extent.lengthBytes)
    }
    if (stale.length > 0) void this.#commits.commit(stale)
  }

  /** What an earlier host left half-done: files without a record go, and what files take beyond their records is counted. */
  async recover(): Promise<void> {
    const { layout, userOf } = this.#parts
    await removeOrphans(layout, {
      isNamed: (generation, fileName) => [...this.of(generation).values()].some((extent) => extent.fileName === fileName),
      isInUse: (generation) => this.of(generation).size > 0 || userOf(generation) !== undefined,
    })
    for (const extents of [...this.#extents.values()]) {
      for (const extent of [...extents.values()]) {
        if (this.#isClosed) return
        if (!extent.isFileChecked && this.isCurrent(extent)) await this.check(extent)
      }
    }
  }

  /** From now on nothing is written; `close` follows. */
  refuseWrites(): void {
    this.#isClosed = true
  }

  async close(): Promise<void> {
    await this.room.settle()
    await this.#commits.commitMarked()
    await this.#files.close()
  }

  // ---- their data

  create(key: ExtentKey): Extent {
    const { layout, bootId } = this.#parts
    const fileName = newExtentFileName(key.index)
    const extent = new Extent(key, fileName, extentPath(layout, key.generation, fileName), bootId, Date.now(), false)
    this.#add(extent)
    return extent
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
    const { disk } = this.#parts
    if (this.#isClosed || disk.isRefusing) return 'refused'
    extent.pendingWrites++
    try {
      if (extent.isFileCreated && !extent.isFileChecked && !(await this.check(extent))) return 'gone'
      const lengthBytes = chunks.filter((chunk) => !extent.isAllocated(chunk)).length * CHUNK_BYTES
      if (!(await this.room.make(lengthBytes))) return 'refused'
      this.#account(extent, () => chunks.forEach((chunk) => extent.markAllocated(chunk)))
      await this.room.keepingReserve(lengthBytes, async () => {
        if (!extent.isFileCreated) await this.#createFile(extent)
        await this.#files.write(extent.path, buffers, offset)
      })
      if (!this.isCurrent(extent)) return 'gone' // its file was found gone meanwhile: the bytes went nowhere
      this.touch(extent)
      disk.succeed('data')
      return 'written'
    } catch (error) {
      if (extent.isFileCreated && isUnusable(error)) {
        await this.#drop(extent, 'cannot be opened any more')
        return 'gone'
      }
      disk.fail('data', error as NodeJS.ErrnoException)
      return 'refused'
    } finally {
      extent.pendingWrites--
    }
  }

  #account(extent: Extent, change: () => void): void {
    const beforeBytes = extent.lengthBytes
    change()
    if (this.isCurrent(extent)) this.room.count(extent.lengthBytes - beforeBytes)
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

  /** @returns the bytes read; fewer than wanted where the file is not what was written */
  async read(extent: Extent, target: Buffer, offset: number): Promise<number> {
    try {
      return await this.#files.read(extent.path, target, offset)
    } catch (error) {
      if (isUnusable(error)) await this.#drop(extent, 'cannot be opened any more')
      return 0
    }
  }

  touch(extent: Extent): void {
    extent.lastUsedMs = Date.now()
  }

  // ---- whether they are what was written

  /**
   * Before an extent is used for the first time, and where another process could not read it: is its file still the one
   * that was written? A file that lost its end must not get zeros for it by a write further on either.
   * @returns false where it is not usable, and forgotten
   */
  async check(extent: Extent): Promise<boolean> {
    try {
      const verdict = await checkFile(extent)
      if (verdict.kind === 'unusable') {
        await this.#drop(extent, verdict.reason)
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

  /** Whether this read's chunk is one of those that are compared with their checksum anyway. */
  isCheckDue(): boolean {
    return Math.random() < this.#parts.checkedShare
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
    this.#parts.onDamage(`damaged chunk at ${range.start} in ${extent.path}: it will be fetched again`)
    this.#commits.mark(extent)
  }

  // ---- their going

  *#candidates(): Iterable<EvictionCandidate & { extent: Extent }> {
    for (const [generation, extents] of this.#extents) {
      const windows = this.#parts.userOf(generation)?.protectedRanges() ?? []
      const lastIndex = Math.max(...extents.keys())
      for (const extent of extents.values()) {
        yield {
          extent,
          lengthBytes: extent.lengthBytes,
          lastUsedMs: extent.lastUsedMs,
          isProtected: extent.pendingWrites > 0 || windows.some((window) => intersect(window, extent.range) !== undefined),
          holdsIndex: extent.key.index === 0 || extent.key.index >= lastIndex - 1,
        }
      }
    }
  }

  async #drop(extent: Extent, reason: string): Promise<void> {
    if (!this.isCurrent(extent)) return
    this.#parts.onDamage(`${extent.path} ${reason}: what it held will be fetched again`)
    await this.remove([extent])
  }

  /** Forgets, commits, and only then unlinks: no record ever names a file that is not there. */
  async remove(extents: readonly Extent[]): Promise<void> {
    if (extents.length === 0) return
    for (const extent of extents) {
      this.room.count(-extent.lengthBytes)
      this.#delete(extent)
      this.#commits.unmark(extent)
      this.#parts.userOf(extent.key.generation)?.forgetExtent(extent)
    }
    await this.#commits.commit(extents.map((extent) => ({ key: extent.key, record: undefined })))
    for (const extent of extents) {
      await this.#files.forget(extent.path)
      await unlink(extent.path).catch(() => undefined)
    }
  }

  /** What an index would say of them now. */
  async records(): Promise<[ExtentKey, ExtentRecord][]> {
    return await this.#commits.records([...this.#extents.values()].flatMap((extents) => [...extents.values()]))
  }

  /** The disk works again: what it did not take is committed now. */
  async commitRest(): Promise<void> {
    await this.#commits.commitMarked()
  }
}
