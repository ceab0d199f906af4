/**
 * The bytes of one generation: what is there, what is arriving, and where it can be read.
 *
 * Bytes come in by `write`, in any order and any length, are gathered into chunks in memory, and a complete chunk gets
 * its checksum and goes to its extent's file. Readers of this process take bytes from memory or the file; readers of
 * other processes are told a place in the file, for which the arrived part of an incomplete chunk is written early.
 * Bytes are taken once: what has arrived is never overwritten by a second arrival.
 *
 * It never decides what to fetch, and `write` never waits for the disk: `store.isCongested` tells the fetches to.
 */

import { crc32 } from 'node:zlib'

import {
  CHUNK_BYTES,
  CHUNKS_PER_EXTENT,
  chunkIndexAt,
  chunkRange,
  EXTENT_BYTES,
  extentIndexAt,
  intersect,
  RangeSet,
  type Range,
} from '../bytes/ranges.ts'
import type { Extent } from './extent.ts'
import { partialCrc, type PartialRecord } from './records.ts'
import type { Store } from './store.ts'

/** Partly received chunks that are kept; 16 MiB. The oldest is dropped beyond, and fetched again if it is wanted. */
const MAX_PARTIAL_CHUNKS = 256
/** Of those, so many are kept over a restart: 4 MiB in the index. */
const MAX_SAVED_PARTIAL_CHUNKS = 64
/** One write joins at most so many chunks: 1 MiB keeps the latency of the next one low. */
const MAX_CHUNKS_PER_WRITE = 16
/** Chunks checked at once on first use after a reboot: 1 MiB, ~0.5 ms. */
const MAX_CHUNKS_PER_CHECK = 16

interface PartialChunk {
  readonly buffer: Buffer
  readonly received: RangeSet
  /** The part that readers of other processes may find in the file. */
  readonly inFile: RangeSet
}

interface ResidentChunk {
  readonly buffer: Buffer
  readonly crc: number
  /** The disk refused it; it stays in memory until there is no room. */
  isMemoryOnly: boolean
}

/** Where bytes can be read. */
export type Location =
  | { readonly kind: 'file'; readonly path: string; readonly fileOffset: number; readonly start: number; readonly end: number }
  | { readonly kind: 'memory'; readonly start: number; readonly bytes: Buffer }

export class Generation {
  readonly id: string
  readonly sizeBytes: number
  /** Complete chunks, in the file or on the way to it. */
  readonly present = new RangeSet()
  /** `present`, and the received parts of incomplete chunks. */
  readonly arrived = new RangeSet()
  /** What must not be evicted; asked when room is needed. Set by the schedule. */
  protectedRanges: () => readonly Range[] = () => []
  /** Called when bytes that were there are gone (evicted, damaged), so that readers ask for them again. */
  onLost: () => void = () => {}

  readonly #store: Store
  readonly #extents: Map<number, Extent>
  readonly #partials = new Map<number, PartialChunk>()
  readonly #residents = new Map<number, ResidentChunk>()
  /** Running writers, by extent. */
  readonly #writers = new Map<number, Promise<void>>()

  constructor(store: Store, id: string, sizeBytes: number, extents: Map<number, Extent>, partials: readonly PartialRecord[]) {
    this.#store = store
    this.id = id
    this.sizeBytes = sizeBytes
    this.#extents = extents
    for (const extent of extents.values()) this.#addPresence(extent)
    for (const partial of partials) this.#restore(partial)
  }

  #restore({ chunk, ranges, bytes, crc }: PartialRecord): void {
    const buffer = Buffer.from(bytes)
    if (partialCrc(this.id, chunk, ranges, buffer) !== crc) return
    let at = 0
    for (const [start, end] of ranges) {
      this.write(chunk * CHUNK_BYTES + start, buffer.subarray(at, at + end - start))
      at += end - start
    }
  }

  /** What a restart would lose: the incomplete chunks, the newest ones first. */
  partialRecords(): PartialRecord[] {
    const newest = [...this.#partials].slice(-MAX_SAVED_PARTIAL_CHUNKS)
    return newest.map(([chunk, { buffer, received }]) => {
      const bytes = Buffer.concat([...received].map(({ start, end }) => buffer.subarray(start, end)))
      const ranges = [...received].map(({ start, end }) => [start, end] as const)
      return { chunk, ranges, bytes, crc: partialCrc(this.id, chunk, ranges, bytes) }
    })
  }

  #addPresence(extent: Extent): void {
    for (let chunk = 0; chunk < CHUNKS_PER_EXTENT; ) {
      const end = extent.endOfRun(chunk)
      if (end > chunk) {
        const bytes = { start: extent.start + chunk * CHUNK_BYTES, end: Math.min(extent.start + end * CHUNK_BYTES, this.sizeBytes) }
        this.present.add(bytes.start, bytes.end)
        this.arrived.add(bytes.start, bytes.end)
      }
      chunk = end + 1
    }
  }

  // ---- bytes in

  /** Takes bytes that were admitted for this generation at `position`. Those that are there already are ignored. */
  write(position: number, bytes: Buffer): void {
    let at = position
    while (at < position + bytes.length) {
      const index = chunkIndexAt(at)
      const chunk = chunkRange(index, this.sizeBytes)
      const end = Math.min(chunk.end, position + bytes.length)
      if (!this.present.has(at)) this.#writeChunk(index, chunk, at, bytes.subarray(at - position, end - position))
      at = end
    }
  }

  #writeChunk(index: number, chunk: Range, position: number, bytes: Buffer): void {
    const partial = this.#partials.get(index) ?? newPartial(chunk.end - chunk.start)
    this.#partials.delete(index)
    this.#partials.set(index, partial)
    const start = position - chunk.start
    for (const hole of partial.received.missing(start, start + bytes.length)) {
      bytes.copy(partial.buffer, hole.start, hole.start - start, hole.end - start)
    }
    partial.received.add(start, start + bytes.length)
    this.arrived.add(position, position + bytes.length)
    if (partial.received.covers(0, partial.buffer.length)) this.#complete(index, chunk, partial)
    else this.#dropSurplusPartials()
  }

  #complete(index: number, chunk: Range, partial: PartialChunk): void {
    this.#partials.delete(index)
    this.#residents.set(index, { buffer: partial.buffer, crc: crc32(partial.buffer), isMemoryOnly: false })
    this.present.add(chunk.start, chunk.end)
    this.#store.countUnwritten(partial.buffer.length)
    this.#startWriter(extentIndexAt(chunk.start))
  }

  #dropSurplusPartials(): void {
    if (this.#partials.size <= MAX_PARTIAL_CHUNKS) return
    const oldest = this.#partials.keys().next().value!
    this.#partials.delete(oldest)
    const { start, end } = chunkRange(oldest, this.sizeBytes)
    this.arrived.subtract(start, end)
    this.onLost()
  }

  // ---- to the disk

  #startWriter(extentIndex: number): void {
    if (this.#writers.has(extentIndex)) return
    this.#writers.set(extentIndex, this.#writeExtent(extentIndex))
  }

  /** Writes what is complete in an extent until there is no more. Never rejects: the disk's failures are the store's matter. */
  async #writeExtent(extentIndex: number): Promise<void> {
    await Promise.resolve() // what arrives in the same turn joins the first write
    for (;;) {
      const run = this.#nextRun(extentIndex)
      if (run.length === 0) {
        this.#writers.delete(extentIndex) // in this very turn: a chunk completed in a later one starts a new writer
        return
      }
      const first = run[0]!
      const residents = run.map((index) => this.#residents.get(index)!)
      const lengthBytes = residents.reduce((sum, resident) => sum + resident.buffer.length, 0)
      const extent = this.#extentFor(extentIndex)
      const outcome = await this.#store.writeChunks(extent, first % CHUNKS_PER_EXTENT, residents)
      if (outcome === 'gone') continue // the same run once more, into a new file
      this.#store.countUnwritten(-lengthBytes)
      for (const index of run) {
        if (outcome === 'written') this.#residents.delete(index)
        else this.#keepInMemory(index)
      }
    }
  }

  #nextRun(extentIndex: number): number[] {
    const isDue = (index: number): boolean => this.#residents.get(index)?.isMemoryOnly === false
    const run: number[] = []
    for (const index of this.#residents.keys()) {
      if (Math.floor(index / CHUNKS_PER_EXTENT) !== extentIndex || !isDue(index)) continue
      const end = (extentIndex + 1) * CHUNKS_PER_EXTENT
      for (let next = index; next < end && isDue(next) && run.length < MAX_CHUNKS_PER_WRITE; next++) run.push(next)
      break
    }
    return run
  }

  #extentFor(extentIndex: number): Extent {
    let extent = this.#extents.get(extentIndex)
    if (extent === undefined) {
      extent = this.#store.newExtent({ generation: this.id, index: extentIndex })
      this.#extents.set(extentIndex, extent)
    }
    return extent
  }

  #keepInMemory(index: number): void {
    this.#residents.get(index)!.isMemoryOnly = true
    this.#store.keepInMemory(this, index, CHUNK_BYTES)
  }

  /** The store's memory is full: the oldest chunk that the disk refused goes. */
  dropFromMemory(index: number): void {
    if (!this.#residents.delete(index)) return
    const { start, end } = chunkRange(index, this.sizeBytes)
    this.present.subtract(start, end)
    this.arrived.subtract(start, end)
    this.onLost()
  }

  /** The disk works again: what was kept in memory is written. */
  retryWrites(): void {
    for (const [index, resident] of this.#residents) {
      if (!resident.isMemoryOnly) continue
      resident.isMemoryOnly = false
      this.#store.countUnwritten(resident.buffer.length)
      this.#startWriter(Math.floor(index / CHUNKS_PER_EXTENT))
    }
  }

  /** Resolves when nothing is on its way to the disk. */
  async settle(): Promise<void> {
    while (this.#writers.size > 0) await Promise.all(this.#writers.values())
  }

  // ---- bytes out

  /**
   * Bytes from `position` on, at least one and at most `maxBytes`; undefined where the byte is not there (any more).
   * Bytes from memory are views that never change; bytes from the file are read into `target` where one is given.
   */
  async read(position: number, maxBytes: number, target?: Buffer): Promise<Buffer | undefined> {
    for (;;) {
      const inMemory = this.#readMemory(position, maxBytes)
      if (inMemory !== undefined) return inMemory
      const found = await this.#checkedFileRun(position, maxBytes)
      if (found === 'gone') return this.#correct(position)
      if (found === 'lost') continue
      const wanted = Math.min(found.end - position, maxBytes, target?.length ?? maxBytes)
      const buffer = target?.subarray(0, wanted) ?? Buffer.allocUnsafeSlow(wanted)
      const readBytes = await this.#store.readExtent(found.extent, buffer, position - found.extent.start)
      if (readBytes === wanted) return buffer
      if (this.#extents.get(found.extent.key.index) !== found.extent) continue // its file was gone
      this.#lose(found.extent, chunkIndexAt(position + readBytes) % CHUNKS_PER_EXTENT)
      if (readBytes > 0) return buffer.subarray(0, readBytes)
    }
  }

  #readMemory(position: number, maxBytes: number): Buffer | undefined {
    const index = chunkIndexAt(position)
    const offset = position - index * CHUNK_BYTES
    const resident = this.#residents.get(index)
    if (resident !== undefined) return resident.buffer.subarray(offset, offset + maxBytes)
    const partial = this.#partials.get(index)
    const end = partial?.received.endOfRun(offset) ?? offset
    return end > offset ? partial!.buffer.subarray(offset, Math.min(end, offset + maxBytes)) : undefined
  }

  /** Where `position` and what follows can be read by another process; undefined where the byte is not there (any more). */
  async locate(position: number): Promise<Location | undefined> {
    for (;;) {
      const index = chunkIndexAt(position)
      const resident = this.#residents.get(index)
      if (resident?.isMemoryOnly === true) return this.#inMemory(position)
      if (resident !== undefined) {
        await this.#writers.get(extentIndexAt(position))
        continue
      }
      if (this.#partials.has(index)) return await this.#locatePartial(index, position)
      const found = await this.#checkedFileRun(position, EXTENT_BYTES)
      if (found === 'gone') return this.#correct(position)
      if (found === 'lost') continue
      return fileLocation(found.extent, found.start, found.end)
    }
  }

  #inMemory(position: number): Location | undefined {
    const bytes = this.#readMemory(position, CHUNK_BYTES)
    return bytes === undefined ? undefined : { kind: 'memory', start: position, bytes }
  }

  async #locatePartial(index: number, position: number): Promise<Location | undefined> {
    const partial = this.#partials.get(index)!
    const chunk = chunkRange(index, this.sizeBytes)
    const offset = position - chunk.start
    const run = { start: partial.received.startOfRun(offset), end: partial.received.endOfRun(offset) }
    if (run.start === run.end) return undefined
    const extent = this.#extentFor(extentIndexAt(position))
    for (const hole of partial.inFile.missing(run.start, run.end)) {
      const at = chunk.start + hole.start - extent.start
      if ((await this.#store.writePartial(extent, at, partial.buffer.subarray(hole.start, hole.end))) !== 'written') {
        return { kind: 'memory', start: position, bytes: partial.buffer.subarray(offset, run.end) }
      }
      partial.inFile.add(hole.start, hole.end)
    }
    return fileLocation(extent, chunk.start + run.start, chunk.start + run.end)
  }

  /** The written run of one extent that holds `position`, its first chunks checked where that is due. */
  async #checkedFileRun(
    position: number,
    maxBytes: number,
  ): Promise<'gone' | 'lost' | { extent: Extent; start: number; end: number }> {
    const extent = this.#extents.get(extentIndexAt(position))
    const first = chunkIndexAt(position) % CHUNKS_PER_EXTENT
    if (extent === undefined || !extent.has(first)) return 'gone'
    this.#store.touch(extent)
    if (!extent.isFileChecked && !(await this.#store.checkExtent(extent))) return 'lost'
    if (!extent.has(first)) return 'gone'
    let last = Math.min(extent.endOfRun(first), Math.ceil((position + maxBytes - extent.start) / CHUNK_BYTES))
    for (let chunk = first; chunk < last; chunk++) {
      if (!extent.isUnverified(chunk) && !(chunk === first && this.#store.isCheckDue())) continue
      if (chunk >= first + MAX_CHUNKS_PER_CHECK) {
        last = chunk
        break
      }
      if (await this.#isIntact(extent, chunk)) continue
      if (this.#extents.get(extent.key.index) !== extent) return 'lost'
      if (extent.has(chunk)) this.#lose(extent, chunk)
      if (chunk === first) return 'lost'
      last = chunk
      break
    }
    if (this.#extents.get(extent.key.index) !== extent) return 'lost'
    const start = extent.start + first * CHUNK_BYTES
    return { extent, start, end: Math.min(extent.start + last * CHUNK_BYTES, this.sizeBytes) }
  }

  async #isIntact(extent: Extent, chunk: number): Promise<boolean> {
    const { start, end } = chunkRange(extent.key.index * CHUNKS_PER_EXTENT + chunk, this.sizeBytes)
    const buffer = Buffer.allocUnsafe(end - start)
    const readBytes = await this.#store.readExtent(extent, buffer, start - extent.start)
    const isIntact = readBytes === buffer.length && crc32(buffer) === extent.crc(chunk)
    if (isIntact) this.#store.markVerified(extent, chunk)
    return isIntact
  }

  // ---- bytes gone

  /** Another process could not read what it was told of: looks, and forgets what is really gone. */
  async inspect(path: string, position: number): Promise<'intact' | 'lost'> {
    const extent = this.#extents.get(extentIndexAt(position))
    if (extent === undefined || extent.path !== path) return 'lost' // told of an extent that was evicted since
    if (!(await this.#store.checkExtent(extent))) return 'lost'
    const chunk = chunkIndexAt(position) % CHUNKS_PER_EXTENT
    if (!extent.has(chunk) || (await this.#isIntact(extent, chunk))) return 'intact'
    if (this.#extents.get(extent.key.index) === extent) this.#lose(extent, chunk)
    return 'lost'
  }

  #lose(extent: Extent, chunk: number): void {
    extent.markLost(chunk)
    const { start, end } = chunkRange(extent.key.index * CHUNKS_PER_EXTENT + chunk, this.sizeBytes)
    this.present.subtract(start, end)
    this.arrived.subtract(start, end)
    this.#store.reportLost(extent, { start, end })
    this.onLost()
  }

  /** A byte is not there: whatever was believed of its chunk is set right, or who reads it would be told for ever that it has arrived. */
  #correct(position: number): undefined {
    if (!this.arrived.has(position)) return
    const index = chunkIndexAt(position)
    const { start, end } = chunkRange(index, this.sizeBytes)
    if (this.#residents.has(index)) return // it came meanwhile
    this.present.subtract(start, end)
    this.arrived.subtract(start, end)
    for (const part of this.#partials.get(index)?.received ?? []) this.arrived.add(start + part.start, start + part.end)
    this.onLost()
  }

  /** The extent was taken away; what is only in memory of it stays. */
  forgetExtent(extent: Extent): void {
    const range = { start: extent.start, end: Math.min(extent.range.end, this.sizeBytes) }
    this.present.subtract(range.start, range.end)
    this.arrived.subtract(range.start, range.end)
    for (const index of this.#residents.keys()) {
      const chunk = chunkRange(index, this.sizeBytes)
      if (intersect(chunk, range) === undefined) continue
      this.present.add(chunk.start, chunk.end)
      this.arrived.add(chunk.start, chunk.end)
    }
    for (const [index, partial] of this.#partials) {
      const chunk = chunkRange(index, this.sizeBytes)
      if (intersect(chunk, range) === undefined) continue
      partial.inFile.clear()
      for (const part of partial.received) this.arrived.add(chunk.start + part.start, chunk.start + part.end)
    }
    this.onLost()
  }
}

function newPartial(lengthBytes: number): PartialChunk {
  return { buffer: Buffer.allocUnsafeSlow(lengthBytes), received: new RangeSet(), inFile: new RangeSet() }
}

function fileLocation(extent: Extent, start: number, end: number): Location {
  return { kind: 'file', path: extent.path, fileOffset: start - extent.start, start, end }
}
