/**
 * The chunks of one generation that are in memory: incomplete ones, gathered from pieces of any length, and complete ones that
 * are not in their file yet.
 *
 * State only; what becomes presence, and when something is written, is the generation's to say.
 */

import { crc32 } from 'node:zlib'

import { CHUNK_BYTES, CHUNKS_PER_EXTENT, chunkIndexAt, chunkRange, RangeSet, type Range } from '../bytes/ranges.ts'
import { partialCrc, type PartialRecord } from './records.ts'

/** Partly received chunks that are kept; 16 MiB. The oldest is dropped beyond, and fetched again if it is wanted. */
const MAX_PARTIAL_CHUNKS = 256
/** Of those, so many are kept over a restart: 4 MiB in the index. */
const MAX_SAVED_PARTIAL_CHUNKS = 64
/** One write joins at most so many chunks: 1 MiB keeps the latency of the next one low. */
const MAX_CHUNKS_PER_WRITE = 16

export interface PartialChunk {
  readonly buffer: Buffer
  readonly received: RangeSet
  /** The part that readers of other processes may find in the file. */
  readonly inFile: RangeSet
}

export interface ResidentChunk {
  readonly buffer: Buffer
  readonly crc: number
  /** The disk refused it; it stays in memory until there is no room. */
  isMemoryOnly: boolean
}

export class ChunkBuffers {
  readonly #generation: string
  readonly #sizeBytes: number
  readonly #partials = new Map<number, PartialChunk>()
  readonly #residents = new Map<number, ResidentChunk>()

  constructor(generation: string, sizeBytes: number) {
    this.#generation = generation
    this.#sizeBytes = sizeBytes
  }

  partial(index: number): PartialChunk | undefined {
    return this.#partials.get(index)
  }

  resident(index: number): ResidentChunk | undefined {
    return this.#residents.get(index)
  }

  // ---- bytes in

  /** Adds to a chunk what it has not got yet; `offset` is within it. @returns the chunk, where that made it complete */
  take(index: number, offset: number, bytes: Buffer): ResidentChunk | undefined {
    const { start, end } = chunkRange(index, this.#sizeBytes)
    const partial = this.#partials.get(index) ?? newPartial(end - start)
    this.#partials.delete(index)
    for (const hole of partial.received.missing(offset, offset + bytes.length)) {
      bytes.copy(partial.buffer, hole.start, hole.start - offset, hole.end - offset)
    }
    partial.received.add(offset, offset + bytes.length)
    if (!partial.received.covers(0, partial.buffer.length)) {
      this.#partials.set(index, partial) // as the newest
      return undefined
    }
    const resident = { buffer: partial.buffer, crc: crc32(partial.buffer), isMemoryOnly: false }
    this.#residents.set(index, resident)
    return resident
  }

  /** Drops the oldest incomplete chunk where there are too many. @returns its number */
  dropSurplusPartial(): number | undefined {
    if (this.#partials.size <= MAX_PARTIAL_CHUNKS) return undefined
    const oldest = this.#partials.keys().next().value!
    this.#partials.delete(oldest)
    return oldest
  }

  /** @returns whether it was there */
  dropResident(index: number): boolean {
    return this.#residents.delete(index)
  }

  // ---- bytes out

  /** Views of bytes that never change. */
  read(position: number, maxBytes: number): Buffer | undefined {
    const index = chunkIndexAt(position)
    const offset = position - index * CHUNK_BYTES
    const resident = this.#residents.get(index)
    if (resident !== undefined) return resident.buffer.subarray(offset, offset + maxBytes)
    const partial = this.#partials.get(index)
    const end = partial?.received.endOfRun(offset) ?? offset
    return end > offset ? partial!.buffer.subarray(offset, Math.min(end, offset + maxBytes)) : undefined
  }

  /** The next complete chunks of an extent that can be written at once. */
  nextRun(extentIndex: number): number[] {
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

  /** What the disk refused is to be written once more. @returns it, by number */
  retakeRefused(): (readonly [number, ResidentChunk])[] {
    const refused = [...this.#residents].filter(([, resident]) => resident.isMemoryOnly)
    for (const [, resident] of refused) resident.isMemoryOnly = false
    return refused
  }

  /** The complete chunks in memory that begin within a range, whole. */
  residentRanges(within: Range): Range[] {
    return [...this.#residents.keys()].map((index) => chunkRange(index, this.#sizeBytes)).filter((chunk) => isWithin(chunk, within))
  }

  /** What has arrived of the incomplete chunks that begin within a range. */
  partialRanges(within: Range): Range[] {
    return this.#partialsWithin(within).flatMap(([start, { received }]) =>
      [...received].map((part) => ({ start: start + part.start, end: start + part.end })),
    )
  }

  /** The file of these chunks is gone. */
  forgetFile(within: Range): void {
    for (const [, partial] of this.#partialsWithin(within)) partial.inFile.clear()
  }

  #partialsWithin(within: Range): [number, PartialChunk][] {
    return [...this.#partials]
      .filter(([index]) => isWithin(chunkRange(index, this.#sizeBytes), within))
      .map(([index, partial]) => [index * CHUNK_BYTES, partial])
  }

  // ---- over a restart

  /** What a restart would lose: the incomplete chunks, the newest ones. */
  partialRecords(): PartialRecord[] {
    const newest = [...this.#partials].slice(-MAX_SAVED_PARTIAL_CHUNKS)
    return newest.map(([chunk, { buffer, received }]) => {
      const bytes = Buffer.concat([...received].map(({ start, end }) => buffer.subarray(start, end)))
      const ranges = [...received].map(({ start, end }) => [start, end] as const)
      return { chunk, ranges, bytes, crc: partialCrc(this.#generation, chunk, ranges, bytes) }
    })
  }

  /** The pieces of such a record. */
  *piecesOf({ chunk, ranges, bytes }: PartialRecord): Iterable<{ readonly position: number; readonly bytes: Buffer }> {
    const buffer = Buffer.from(bytes)
    let at = 0
    for (const [start, end] of ranges) {
      yield { position: chunk * CHUNK_BYTES + start, bytes: buffer.subarray(at, at + end - start) }
      at += end - start
    }
  }
}

function newPartial(lengthBytes: number): PartialChunk {
  return { buffer: Buffer.allocUnsafeSlow(lengthBytes), received: new RangeSet(), inFile: new RangeSet() }
}

function isWithin(chunk: Range, range: Range): boolean {
  return chunk.start >= range.start && chunk.start < range.end
}
