/** A generation and a store without a disk, for the schedule alone: what has arrived, and whether it was right. */
import assert from 'node:assert/strict'

import { RangeSet, type Range } from '../../../src/bytes/ranges.ts'
import type { Location } from '../../../src/cache/generation.ts'
import type { ScheduledGeneration, ScheduledStore } from '../../../src/schedule/parts.ts'
import { contentBytes, MAX_SLICE_BYTES } from './content.ts'

export class MemoryGeneration implements ScheduledGeneration {
  readonly sizeBytes: number
  readonly arrived = new RangeSet()
  protectedRanges: () => readonly Range[] = () => []
  onLost: () => void = () => {}

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes
  }

  write(position: number, bytes: Buffer): void {
    assert.ok(position >= 0 && position + bytes.length <= this.sizeBytes, 'bytes outside of the film')
    assert.ok(bytes.equals(contentBytes(position, position + bytes.length)), `the bytes written at ${position} are not those of the film`)
    this.arrived.add(position, position + bytes.length)
  }

  async read(position: number, maxBytes: number): Promise<Buffer | undefined> {
    const end = Math.min(this.arrived.endOfRun(position), position + maxBytes, position + MAX_SLICE_BYTES)
    return end > position ? contentBytes(position, end) : undefined
  }

  async locate(position: number): Promise<Location | undefined> {
    const bytes = await this.read(position, MAX_SLICE_BYTES)
    return bytes === undefined ? undefined : { kind: 'memory', start: position, bytes }
  }

  /** Makes room as eviction does, which spares what is protected. */
  evict(range: Range): void {
    const spared = RangeSet.of(...this.protectedRanges())
    for (const { start, end } of spared.missing(range.start, range.end)) this.arrived.subtract(start, end)
    this.onLost()
  }

  /** Loses bytes anywhere, as damage does. */
  lose(range: Range): void {
    this.arrived.subtract(range.start, range.end)
    this.onLost()
  }
}

export class MemoryStore implements ScheduledStore {
  readonly maxSizeBytes: number
  readonly isDegraded = false
  #isCongested = false
  #waiters: (() => void)[] = []

  constructor(maxSizeBytes: number) {
    this.maxSizeBytes = maxSizeBytes
  }

  get isCongested(): boolean {
    return this.#isCongested
  }

  whenUncongested(callback: () => void): void {
    this.#waiters.push(callback)
  }

  congest(): void {
    this.#isCongested = true
  }

  relieve(): void {
    this.#isCongested = false
    for (const resume of this.#waiters.splice(0)) resume()
  }
}
