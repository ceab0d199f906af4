/**
 * The bytes of one generation: what is there, what is arriving, and where it can be read.
 *
 * Bytes come in by `write`, in any order and any length, are gathered into chunks in memory, and a complete chunk gets
 * its checksum and goes to its extent's file. Readers of this process take bytes from memory or the file; readers of
 * other processes are told a place in the file, for which the arrived part of an incomplete chunk is written early.
 * Bytes are taken once: what has arrived is never overwritten by a second arrival.
 *
 * It never decides what to fetch, and `write` never waits for the disk: the store's `isCongested` tells the fetches to.
 */

import { crc32 } from 'node:zlib'

import {
  CHUNK_BYTES,
  CHUNKS_PER_EXTENT,
  chunkIndexAt,
  chunkRange,
  EXTENT_BYTES,
  extentIndexAt,
  RangeSet,
  type FilePlace,
  type Range,
} from '../bytes/ranges.ts'
import type { Backlog } from './backlog.ts'
import { ChunkBuffers } from './chunk-buffers.ts'
import { ExtentWriters } from './extent-writers.ts'
import type { Extent } from './extent.ts'
import type { Extents } from './extents.ts'
import type { PartialRecord } from './records.ts'

/** Chunks checked at once on first use after a reboot: 1 MiB, ~0.5 ms. */
const MAX_CHUNKS_PER_CHECK = 16

/**
 * Extents told of along with the one asked for, where that costs no look at the disk: half a GiB in all. A question takes 1 ms of
 * the 3 in which another process reads an extent at the speed of memory.
 */
const MAX_NEXT_EXTENTS = 31

/** Where bytes can be read; `next` are the places of those that follow, without a gap. */
export type Location =
  | (FilePlace & { readonly kind: 'file'; readonly next: readonly FilePlace[] })
  | { readonly kind: 'memory'; readonly start: number; readonly bytes: Buffer }

export interface GenerationParts {
  readonly extents: Extents
  readonly backlog: Backlog
}

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

  readonly #extents: Extents
  readonly #chunks: ChunkBuffers
  readonly #writers: ExtentWriters

  constructor(parts: GenerationParts, id: string, sizeBytes: number, partials: readonly PartialRecord[]) {
    this.id = id
    this.sizeBytes = sizeBytes
    this.#extents = parts.extents
    this.#chunks = new ChunkBuffers(id, sizeBytes)
    this.#writers = new ExtentWriters(this, this.#chunks, parts.extents, parts.backlog)
    for (const extent of parts.extents.of(id).values()) this.#addPresence(extent)
    for (const partial of partials) for (const { position, bytes } of this.#chunks.piecesOf(partial)) this.write(position, bytes)
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
    const complete = this.#chunks.take(index, position - chunk.start, bytes)
    this.arrived.add(position, position + bytes.length)
    if (complete !== undefined) {
      this.present.add(chunk.start, chunk.end)
      this.#writers.add(index, complete)
      return
    }
    const dropped = this.#chunks.dropSurplusPartial()
    if (dropped !== undefined) this.#forget(chunkRange(dropped, this.sizeBytes))
  }

  /** What a restart would lose. */
  partialRecords(): PartialRecord[] {
    return this.#chunks.partialRecords()
  }

  /** Resolves when nothing is on its way to the disk. */
  async settle(): Promise<void> {
    await this.#writers.settle()
  }

  /** The disk works again: what was kept in memory is written. */
  retryWrites(): void {
    for (const [index, chunk] of this.#chunks.retakeRefused()) this.#writers.add(index, chunk)
  }

  // ---- bytes out

  /**
   * Bytes from `position` on, at least one and at most `maxBytes`; undefined where the byte is not there (any more).
   * Bytes from memory are views that never change; bytes from the file are read into what `target` gives, where it is there:
   * who waits holds no buffer.
   */
  async read(position: number, maxBytes: number, target?: () => Buffer): Promise<Buffer | undefined> {
    for (;;) {
      const inMemory = this.#chunks.read(position, maxBytes)
      if (inMemory !== undefined) return inMemory
      const found = await this.#checkedFileRun(position, maxBytes)
      if (found === 'gone') return this.#correct(position)
      if (found === 'lost') continue
      const room = target?.()
      const wanted = Math.min(found.end - position, maxBytes, room?.length ?? maxBytes)
      const buffer = room?.subarray(0, wanted) ?? Buffer.allocUnsafeSlow(wanted)
      const readBytes = await this.#extents.read(found.extent, buffer, position - found.extent.start)
      if (readBytes === wanted) return buffer
      if (!this.#extents.isCurrent(found.extent)) continue // its file was gone
      this.#lose(found.extent, chunkIndexAt(position + readBytes) % CHUNKS_PER_EXTENT)
      if (readBytes > 0) return buffer.subarray(0, readBytes)
    }
  }

  /** Where `position` and what follows can be read by another process; undefined where the byte is not there (any more). */
  async locate(position: number): Promise<Location | undefined> {
    for (;;) {
      const index = chunkIndexAt(position)
      const resident = this.#chunks.resident(index)
      if (resident?.isMemoryOnly === true) return this.#inMemory(position)
      if (resident !== undefined) {
        await this.#writers.settleExtent(extentIndexAt(position))
        continue
      }
      if (this.#chunks.partial(index) !== undefined) return await this.#locatePartial(index, position)
      const found = await this.#checkedFileRun(position, EXTENT_BYTES)
      if (found === 'gone') return this.#correct(position)
      if (found === 'lost') continue
      return { kind: 'file', ...placeOf(found.extent, found.start, found.end), next: await this.#placesFrom(found.end) }
    }
  }

  /** The runs of the extents from the one that begins at `position` on, as far as they have been looked at before. */
  async #placesFrom(position: number): Promise<FilePlace[]> {
    const places: FilePlace[] = []
    for (let start = position; start % EXTENT_BYTES === 0 && start < this.sizeBytes && places.length < MAX_NEXT_EXTENTS; start = places.at(-1)!.end) {
      const extent = this.#extents.of(this.id).get(extentIndexAt(start))
      if (extent?.isFileChecked !== true || extent.isUnverified(0)) break
      const found = await this.#checkedFileRun(start, EXTENT_BYTES)
      if (found === 'gone' || found === 'lost') break
      places.push(placeOf(found.extent, found.start, found.end))
    }
    return places
  }

  #inMemory(position: number): Location | undefined {
    const bytes = this.#chunks.read(position, CHUNK_BYTES)
    return bytes === undefined ? undefined : { kind: 'memory', start: position, bytes }
  }

  async #locatePartial(index: number, position: number): Promise<Location | undefined> {
    const partial = this.#chunks.partial(index)!
    const chunk = chunkRange(index, this.sizeBytes)
    const offset = position - chunk.start
    const run = { start: partial.received.startOfRun(offset), end: partial.received.endOfRun(offset) }
    if (run.start === run.end) return undefined
    const extent = this.#writers.extent(extentIndexAt(position))
    for (const hole of partial.inFile.missing(run.start, run.end)) {
      const at = chunk.start + hole.start - extent.start
      if ((await this.#extents.writePartial(extent, at, partial.buffer.subarray(hole.start, hole.end))) !== 'written') {
        return { kind: 'memory', start: position, bytes: partial.buffer.subarray(offset, run.end) }
      }
      partial.inFile.add(hole.start, hole.end)
    }
    return { kind: 'file', ...placeOf(extent, chunk.start + run.start, chunk.start + run.end), next: [] }
  }

  /** The written run of one extent that holds `position`, its first chunks checked where that is due. */
  async #checkedFileRun(
    position: number,
    maxBytes: number,
  ): Promise<'gone' | 'lost' | { extent: Extent; start: number; end: number }> {
    const extent = this.#extents.of(this.id).get(extentIndexAt(position))
    const first = chunkIndexAt(position) % CHUNKS_PER_EXTENT
    if (extent === undefined || !extent.has(first)) return 'gone'
    this.#extents.touch(extent)
    if (!extent.isFileChecked && !(await this.#extents.check(extent))) return 'lost'
    if (!extent.has(first)) return 'gone'
    let last = Math.min(extent.endOfRun(first), Math.ceil((position + maxBytes - extent.start) / CHUNK_BYTES))
    for (let chunk = first; chunk < last && (chunk === first || extent.hasUnverified); chunk++) {
      if (!extent.isUnverified(chunk) && !(chunk === first && this.#extents.isCheckDue())) continue
      if (chunk >= first + MAX_CHUNKS_PER_CHECK) {
        last = chunk
        break
      }
      if (await this.#isIntact(extent, chunk)) continue
      if (!this.#extents.isCurrent(extent)) return 'lost'
      if (extent.has(chunk)) this.#lose(extent, chunk)
      if (chunk === first) return 'lost'
      last = chunk
      break
    }
    if (!this.#extents.isCurrent(extent)) return 'lost'
    const start = extent.start + first * CHUNK_BYTES
    return { extent, start, end: Math.min(extent.start + last * CHUNK_BYTES, this.sizeBytes) }
  }

  async #isIntact(extent: Extent, chunk: number): Promise<boolean> {
    const { start, end } = chunkRange(extent.key.index * CHUNKS_PER_EXTENT + chunk, this.sizeBytes)
    const buffer = Buffer.allocUnsafe(end - start)
    const readBytes = await this.#extents.read(extent, buffer, start - extent.start)
    const isIntact = readBytes === buffer.length && crc32(buffer) === extent.crc(chunk)
    if (isIntact) this.#extents.markVerified(extent, chunk)
    return isIntact
  }

  // ---- bytes gone

  /** Another process could not read what it was told of: looks, and forgets what is really gone. */
  async inspect(path: string, position: number): Promise<'intact' | 'lost'> {
    const extent = this.#extents.of(this.id).get(extentIndexAt(position))
    if (extent === undefined || extent.path !== path) return 'lost' // told of an extent that was evicted since
    if (!(await this.#extents.check(extent))) return 'lost'
    const chunk = chunkIndexAt(position) % CHUNKS_PER_EXTENT
    if (!extent.has(chunk) || (await this.#isIntact(extent, chunk))) return 'intact'
    if (this.#extents.isCurrent(extent)) this.#lose(extent, chunk)
    return 'lost'
  }

  #lose(extent: Extent, chunk: number): void {
    extent.markLost(chunk)
    const range = chunkRange(extent.key.index * CHUNKS_PER_EXTENT + chunk, this.sizeBytes)
    this.#extents.reportLost(extent, range)
    this.#forget(range)
  }

  /** A byte is not there: whatever was believed of its chunk is set right, or who reads it would be told for ever that it has arrived. */
  #correct(position: number): undefined {
    if (!this.arrived.has(position)) return
    const index = chunkIndexAt(position)
    if (this.#chunks.resident(index) === undefined) this.#forget(chunkRange(index, this.sizeBytes)) // or it came meanwhile
  }

  /** The store's memory is full: the oldest chunk that the disk refused goes. */
  dropFromMemory(index: number): void {
    if (this.#chunks.dropResident(index)) this.#forget(chunkRange(index, this.sizeBytes))
  }

  /** The extent was taken away; what is only in memory of it stays. */
  forgetExtent(extent: Extent): void {
    const range = { start: extent.start, end: Math.min(extent.range.end, this.sizeBytes) }
    this.#chunks.forgetFile(range)
    this.#forget(range)
  }

  /** The files have nothing of these chunks any more: what is there is what memory has. */
  #forget(range: Range): void {
    this.present.subtract(range.start, range.end)
    this.arrived.subtract(range.start, range.end)
    for (const { start, end } of this.#chunks.residentRanges(range)) {
      this.present.add(start, end)
      this.arrived.add(start, end)
    }
    for (const { start, end } of this.#chunks.partialRanges(range)) this.arrived.add(start, end)
    this.onLost()
  }
}

function placeOf(extent: Extent, start: number, end: number): FilePlace {
  return { path: extent.path, fileOffset: start - extent.start, start, end }
}
