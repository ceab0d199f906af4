/**
 * Room for what comes: keeps the extent files within the budget and the disk's reserve free, by evicting.
 *
 * Bytes are counted before they are written, so that writers at the same time do not take the same room twice. One eviction
 * runs at a time; who waited for it looks again whether it made room enough.
 */

import { statfs } from 'node:fs/promises'

import { formatSize } from '../config.ts'
import { victims, type EvictionCandidate } from './eviction.ts'
import type { Extent } from './extent.ts'

/** The free disk is asked for again after so much was written: statfs takes 10 µs, other programs write too. */
export const RESERVE_CHECK_BYTES = 4 * 1024 * 1024

export interface RoomParts {
  readonly dir: string
  readonly maxSizeBytes: number
  /** Free space of the file system that is left alone. */
  readonly reserveFreeBytes: number
  readonly candidates: () => Iterable<EvictionCandidate & { readonly extent: Extent }>
  /** Forgets the extents and unlinks their files. Never rejects. */
  readonly remove: (extents: readonly Extent[]) => Promise<void>
}

export class Room {
  readonly #parts: RoomParts
  #usedBytes = 0
  #evictedBytes = 0
  /** Written since the free disk was last asked for; at first it was never. */
  #uncheckedBytes = RESERVE_CHECK_BYTES
  /** Being written: the disk does not tell of them yet. */
  #pendingBytes = 0
  #eviction: Promise<void> | undefined

  constructor(parts: RoomParts) {
    this.#parts = parts
  }

  get usedBytes(): number {
    return this.#usedBytes
  }

  get evictedBytes(): number {
    return this.#evictedBytes
  }

  count(lengthBytes: number): void {
    this.#usedBytes += lengthBytes
  }

  /** @returns whether the budget has, or was given, room for so many bytes more; the caller counts them in the same turn */
  async make(lengthBytes: number): Promise<boolean> {
    const lackingBytes = (): number => this.#usedBytes + lengthBytes - this.#parts.maxSizeBytes
    while (lackingBytes() > 0) {
      if (this.#eviction !== undefined) await this.#eviction
      else if (!(await this.#evict(lackingBytes()))) return false
    }
    return true
  }

  /** Writes so many bytes where the reserve can be kept. @throws ENOSPC where it cannot, and what `write` throws */
  async keepingReserve(lengthBytes: number, write: () => Promise<void>): Promise<void> {
    this.#pendingBytes += lengthBytes
    try {
      await this.#checkReserve(lengthBytes)
      await write()
    } finally {
      this.#pendingBytes -= lengthBytes
    }
  }

  async #checkReserve(lengthBytes: number): Promise<void> {
    this.#uncheckedBytes += lengthBytes
    if (this.#uncheckedBytes < RESERVE_CHECK_BYTES) return
    const { reserveFreeBytes } = this.#parts
    for (;;) {
      const freeBytes = await this.#freeBytes()
      const lackingBytes = reserveFreeBytes + RESERVE_CHECK_BYTES + this.#pendingBytes - freeBytes
      if (reserveFreeBytes === 0 || lackingBytes <= 0) break
      if (this.#eviction !== undefined) await this.#eviction
      else if (!(await this.#evict(lackingBytes))) {
        throw Object.assign(new Error(`less than the ${formatSize(reserveFreeBytes)} of --reserve are free on the disk`), { code: 'ENOSPC' })
      }
    }
    this.#uncheckedBytes = this.#pendingBytes
  }

  async #freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.#parts.dir)
    return bavail * bsize
  }

  /** @returns whether anything could go */
  async #evict(neededBytes: number): Promise<boolean> {
    const chosen = victims(this.#parts.candidates(), neededBytes).map((candidate) => candidate.extent)
    if (chosen.length === 0) return false
    this.#evictedBytes += chosen.reduce((sum, extent) => sum + extent.lengthBytes, 0)
    this.#eviction = this.#parts.remove(chosen).finally(() => (this.#eviction = undefined))
    await this.#eviction
    return true
  }

  async settle(): Promise<void> {
    await this.#eviction
  }
}
