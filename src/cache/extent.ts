/**
 * One extent as the host knows it: its file, which of its chunks are complete in that file, and their checksums.
 *
 * State only; the I/O is the store's. `presence` is what has been *written*, a moment ahead of what is committed: a reader of
 * this process or of this boot may be given either, a restart finds the committed part.
 */

import { CHUNK_BYTES, CHUNKS_PER_EXTENT, EXTENT_BYTES, type Range } from '../bytes/ranges.ts'
import type { ExtentKey, ExtentRecord } from './records.ts'

export class Extent {
  readonly key: ExtentKey
  readonly path: string
  readonly fileName: string
  /** Written chunks, a bit each. */
  readonly #presence = new Uint8Array(CHUNKS_PER_EXTENT / 8)
  readonly #crcs = new Uint32Array(CHUNKS_PER_EXTENT)
  /** Chunks that occupy disk: present ones, and those with partial bytes. */
  readonly #allocated = new Uint8Array(CHUNKS_PER_EXTENT / 8)
  /** Present chunks of an earlier boot, not compared with their checksum yet. */
  readonly #unverified = new Uint8Array(CHUNKS_PER_EXTENT / 8)
  #unverifiedCount = 0
  #bootId: string
  #allocatedCount = 0
  /** What its file takes beyond the chunks that are known: written by a host that was killed before it committed. */
  #surplusBytes = 0
  lastUsedMs: number
  isFileCreated: boolean
  /** The file as it was when last committed (`stampOf`). */
  stamp: string | undefined
  /** Whether this process has compared the file with its stamp. */
  isFileChecked = false
  /** Running writes; an extent with one is not evicted. */
  pendingWrites = 0

  constructor(key: ExtentKey, fileName: string, path: string, bootId: string, lastUsedMs: number, isFileCreated: boolean) {
    this.key = key
    this.fileName = fileName
    this.path = path
    this.#bootId = bootId
    this.lastUsedMs = lastUsedMs
    this.isFileCreated = isFileCreated
  }

  static fromRecord(key: ExtentKey, record: ExtentRecord, path: string, bootId: string): Extent {
    const extent = new Extent(key, record.fileName, path, record.bootId, record.lastUsedMs, true)
    extent.stamp = record.stamp
    extent.#presence.set(record.presence)
    extent.#allocated.set(record.presence)
    const crcs = new DataView(record.crcs.buffer, record.crcs.byteOffset, record.crcs.byteLength)
    for (let i = 0; i < CHUNKS_PER_EXTENT; i++) {
      extent.#crcs[i] = crcs.getUint32(4 * i, true)
      if (extent.has(i)) extent.#allocatedCount++
    }
    if (record.bootId !== bootId) {
      extent.#unverified.set(record.presence)
      extent.#unverifiedCount = extent.#allocatedCount
    }
    return extent
  }

  toRecord(bootId: string): ExtentRecord {
    if (this.#unverifiedCount === 0) this.#bootId = bootId
    const crcs = new Uint8Array(4 * CHUNKS_PER_EXTENT)
    const view = new DataView(crcs.buffer)
    for (let i = 0; i < CHUNKS_PER_EXTENT; i++) view.setUint32(4 * i, this.#crcs[i]!, true)
    return {
      fileName: this.fileName,
      presence: this.#presence.slice(),
      crcs,
      bootId: this.#bootId,
      stamp: this.stamp,
      lastUsedMs: this.lastUsedMs,
    }
  }

  get start(): number {
    return this.key.index * EXTENT_BYTES
  }

  get range(): Range {
    return { start: this.start, end: this.start + EXTENT_BYTES }
  }

  /** What its file takes on the disk, rounded up to chunks; never less. */
  get lengthBytes(): number {
    return Math.min(this.#allocatedCount * CHUNK_BYTES + this.#surplusBytes, EXTENT_BYTES)
  }

  /** What the file system says that it takes. */
  set diskBytes(diskBytes: number) {
    this.#surplusBytes = Math.max(0, diskBytes - this.#allocatedCount * CHUNK_BYTES)
  }

  get isEmpty(): boolean {
    return this.#presence.every((byte) => byte === 0)
  }

  has(chunk: number): boolean {
    return getBit(this.#presence, chunk)
  }

  crc(chunk: number): number {
    return this.#crcs[chunk]!
  }

  isUnverified(chunk: number): boolean {
    return getBit(this.#unverified, chunk)
  }

  get hasUnverified(): boolean {
    return this.#unverifiedCount > 0
  }

  markVerified(chunk: number): void {
    if (!getBit(this.#unverified, chunk)) return
    setBit(this.#unverified, chunk, false)
    this.#unverifiedCount--
  }

  /** Its file is not what was written: every chunk is compared with its checksum before it is used again, by later hosts too. */
  distrust(): void {
    this.#bootId = ''
    this.#unverified.set(this.#presence)
    this.#unverifiedCount = this.#presence.reduce((sum, byte) => sum + popCount(byte), 0)
  }

  isAllocated(chunk: number): boolean {
    return getBit(this.#allocated, chunk)
  }

  markAllocated(chunk: number): void {
    if (getBit(this.#allocated, chunk)) return
    setBit(this.#allocated, chunk, true)
    this.#allocatedCount++
  }

  markWritten(chunk: number, crc: number): void {
    this.markVerified(chunk)
    setBit(this.#presence, chunk, true)
    this.#crcs[chunk] = crc
  }

  /** Its bytes are gone or wrong. They may be written again, with the bytes that should have been there. */
  markLost(chunk: number): void {
    this.markVerified(chunk)
    setBit(this.#presence, chunk, false)
  }

  /** The first chunk at or after `chunk` that is not written. */
  endOfRun(chunk: number): number {
    let end = chunk
    while (end < CHUNKS_PER_EXTENT && this.has(end)) end++
    return end
  }
}

function popCount(byte: number): number {
  let count = 0
  for (let rest = byte; rest !== 0; rest &= rest - 1) count++
  return count
}

function getBit(bits: Uint8Array, index: number): boolean {
  return (bits[index >> 3]! & (1 << (index & 7))) !== 0
}

function setBit(bits: Uint8Array, index: number, value: boolean): void {
  if (value) bits[index >> 3]! |= 1 << (index & 7)
  else bits[index >> 3]! &= ~(1 << (index & 7))
}
