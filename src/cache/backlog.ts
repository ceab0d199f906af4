/**
 * Complete chunks that are not on the disk: those on their way to it, and those that it refused.
 *
 * Both are bounded. Of the first kind, fetches are told to pause until the disk has caught up; of the second, the oldest
 * goes, and is fetched again where it is wanted.
 */

import { CHUNK_BYTES } from '../bytes/ranges.ts'

/** Complete chunks that may wait for the disk before the fetches are told to pause. */
const MAX_UNWRITTEN_BYTES = 16 * 1024 * 1024
/** Chunks kept in memory while the disk refuses them: 64 MiB. */
const MAX_REFUSED_CHUNKS = (64 * 1024 * 1024) / CHUNK_BYTES

/** Whose chunks they are. */
export interface ChunkOwner {
  readonly id: string
  dropFromMemory(chunk: number): void
}

export class Backlog {
  #unwrittenBytes = 0
  #waiters: (() => void)[] = []
  readonly #refused = new Map<string, { readonly owner: ChunkOwner; readonly chunk: number }>()

  /** More is waiting to be written, or less. */
  count(lengthBytes: number): void {
    this.#unwrittenBytes += lengthBytes
    if (this.isCongested) return
    for (const resume of this.#waiters.splice(0)) resume()
  }

  /** True while the disk is so far behind that fetches should pause. */
  get isCongested(): boolean {
    return this.#unwrittenBytes > MAX_UNWRITTEN_BYTES
  }

  /** Calls back once, when the disk has caught up. */
  whenUncongested(callback: () => void): void {
    this.#waiters.push(callback)
  }

  keepRefused(owner: ChunkOwner, chunk: number): void {
    this.#refused.set(`${owner.id} ${chunk}`, { owner, chunk })
    if (this.#refused.size <= MAX_REFUSED_CHUNKS) return
    const [id, oldest] = this.#refused.entries().next().value!
    this.#refused.delete(id)
    oldest.owner.dropFromMemory(oldest.chunk)
  }

  /** Nobody has them open any more. */
  forgetRefused(owner: ChunkOwner): void {
    for (const [id, kept] of this.#refused) if (kept.owner === owner) this.#refused.delete(id)
  }

  /** They are about to be written once more. */
  forgetAllRefused(): void {
    this.#refused.clear()
  }
}
