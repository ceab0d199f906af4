/**
 * Brings the complete chunks of one generation from memory into their extents' files, one writer an extent.
 *
 * A writer ends when nothing of its extent is left to write. What the disk refuses stays in memory, as the backlog allows.
 * Nothing here rejects: the disk's failures are the store's matter.
 */

import { CHUNKS_PER_EXTENT } from '../bytes/ranges.ts'
import type { Backlog, ChunkOwner } from './backlog.ts'
import type { ChunkBuffers, ResidentChunk } from './chunk-buffers.ts'
import type { Extent } from './extent.ts'
import type { Extents } from './extents.ts'

export class ExtentWriters {
  readonly #owner: ChunkOwner
  readonly #chunks: ChunkBuffers
  readonly #extents: Extents
  readonly #backlog: Backlog
  /** Running writers, by extent. */
  readonly #running = new Map<number, Promise<void>>()

  constructor(owner: ChunkOwner, chunks: ChunkBuffers, extents: Extents, backlog: Backlog) {
    this.#owner = owner
    this.#chunks = chunks
    this.#extents = extents
    this.#backlog = backlog
  }

  /** A chunk is complete, and to be written. */
  add(index: number, chunk: ResidentChunk): void {
    this.#backlog.count(chunk.buffer.length)
    const extentIndex = Math.floor(index / CHUNKS_PER_EXTENT)
    if (!this.#running.has(extentIndex)) this.#running.set(extentIndex, this.#write(extentIndex))
  }

  /** Resolves when what was complete in an extent is written, or refused. */
  async settleExtent(extentIndex: number): Promise<void> {
    await this.#running.get(extentIndex)
  }

  /** Resolves when nothing is on its way to the disk. */
  async settle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running.values())
  }

  async #write(extentIndex: number): Promise<void> {
    await Promise.resolve() // what arrives in the same turn joins the first write
    for (;;) {
      const run = this.#chunks.nextRun(extentIndex)
      if (run.length === 0) {
        this.#running.delete(extentIndex) // in this very turn: a chunk completed in a later one starts a new writer
        return
      }
      const chunks = run.map((index) => this.#chunks.resident(index)!)
      const lengthBytes = chunks.reduce((sum, chunk) => sum + chunk.buffer.length, 0)
      const outcome = await this.#extents.writeChunks(this.extent(extentIndex), run[0]! % CHUNKS_PER_EXTENT, chunks)
      if (outcome === 'gone') continue // the same run once more, into a new file
      this.#backlog.count(-lengthBytes)
      for (const index of run) {
        if (outcome === 'written') this.#chunks.dropResident(index)
        else this.#keep(index)
      }
    }
  }

  #keep(index: number): void {
    this.#chunks.resident(index)!.isMemoryOnly = true
    this.#backlog.keepRefused(this.#owner, index)
  }

  /** The extent to write to; made where there is none. */
  extent(extentIndex: number): Extent {
    const generation = this.#owner.id
    return this.#extents.of(generation).get(extentIndex) ?? this.#extents.create({ generation, index: extentIndex })
  }
}
