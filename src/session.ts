/**
 * A session: one resource opened by one client, and its readers.
 *
 * The control protocol's clients hold their readers here, by numbers of their own choice.
 */

import type { Location } from './cache/generation.ts'
import { SeekCacheError } from './errors.ts'
import type { MediaLibrary } from './media.ts'
import type { CachedMedia, Media } from './opening.ts'
import type { Reader } from './schedule/reader.ts'
import type { WaitOptions } from './schedule/scheduler.ts'

/** What is told of a fill's progress at most so often. */
const PROGRESS_STEP_BYTES = 1024 * 1024
/** A fill waits so long for a byte before it fails. */
const FILL_DEADLINE_MS = 120_000
/** More readers than any player has. */
const MAX_READERS = 64

export class Session {
  readonly media: Media
  readonly #library: MediaLibrary
  readonly #readers = new Map<number, Reader>()

  constructor(library: MediaLibrary, media: Media) {
    this.#library = library
    this.media = media
  }

  /** Where the byte at `start` can be read, as soon as it can; 'end' past the end of a stream of unknown size. */
  async locate(
    readerNumber: number,
    start: number,
    maxBytes: number,
    unreadablePath: string | undefined,
    options: WaitOptions & { readonly signal: AbortSignal },
  ): Promise<Location | 'end'> {
    if (this.media.kind === 'passthrough') return await this.#nextOfStream(start, maxBytes, options)
    const { generation, record } = this.media
    if (start >= record.sizeBytes) throw usage(`byte ${start} is past the end (${record.sizeBytes})`)
    const reader = this.#reader(readerNumber, this.media, start)
    if (unreadablePath === undefined) return await reader.locate(start, options)
    if ((await generation.inspect(unreadablePath, start)) === 'lost') return await reader.locate(start, options)
    return { kind: 'memory', start, bytes: await reader.read(start, maxBytes, options) }
  }

  async #nextOfStream(start: number, maxBytes: number, options: WaitOptions & { readonly signal: AbortSignal }): Promise<Location | 'end'> {
    if (this.media.kind !== 'passthrough') throw usage('not a stream')
    const { stream } = this.media
    if (start !== stream.position) throw usage(`the size of this resource is unknown: it is read in order, next byte ${stream.position}`)
    const bytes = await stream.next(maxBytes, AbortSignal.any([options.signal, AbortSignal.timeout(options.deadlineMs)]))
    return bytes === undefined ? 'end' : { kind: 'memory', start, bytes }
  }

  #reader(readerNumber: number, media: CachedMedia, position: number): Reader {
    let reader = this.#readers.get(readerNumber)
    if (reader !== undefined) return reader
    if (this.#readers.size >= MAX_READERS) throw usage(`a session has at most ${MAX_READERS} readers`)
    reader = media.scheduler.openReader('play', position)
    this.#readers.set(readerNumber, reader)
    return reader
  }

  /** A position is demand, as a question is: the first of either makes the reader. */
  move(readerNumber: number, position: number): void {
    const reader = this.#readers.get(readerNumber)
    if (reader !== undefined) return reader.moveTo(position)
    if (this.media.kind === 'passthrough' || position >= this.media.record.sizeBytes || this.#readers.size >= MAX_READERS) return
    this.#reader(readerNumber, this.media, position)
  }

  releaseReader(readerNumber: number): void {
    this.#readers.get(readerNumber)?.close()
    this.#readers.delete(readerNumber)
  }

  /**
   * Fetches all that is missing; resolves when it is in the cache.
   * @throws ERR_SEEKCACHE_CACHE_FULL where the budget cannot hold it, or what the origin did instead
   */
  async fetchAll(onProgress: (presentBytes: number, sizeBytes: number) => void, signal: AbortSignal): Promise<void> {
    if (this.media.kind === 'passthrough') throw usage('the size of this resource is unknown: it cannot be cached')
    const { generation, scheduler } = this.media
    const { sizeBytes } = generation
    const reader = scheduler.openReader('fill', 0)
    let toldBytes = -PROGRESS_STEP_BYTES
    try {
      for (let position = 0; position < sizeBytes; ) {
        position = generation.arrived.endOfRun(position)
        if (generation.present.lengthBytes >= toldBytes + PROGRESS_STEP_BYTES || position === sizeBytes) {
          toldBytes = generation.present.lengthBytes
          onProgress(toldBytes, sizeBytes)
        }
        if (position === sizeBytes) break
        reader.moveTo(position)
        await scheduler.arrival(reader, position, { deadlineMs: FILL_DEADLINE_MS, signal })
      }
      await generation.settle()
      if (generation.present.covers(0, sizeBytes)) return
      throw new SeekCacheError('ERR_SEEKCACHE_CACHE_FULL', 'the whole file does not fit into the cache: raise --max-size')
    } finally {
      reader.close()
    }
  }

  close(): void {
    for (const reader of this.#readers.values()) reader.close()
    this.#readers.clear()
    this.#library.release(this.media)
  }
}

function usage(message: string): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_USAGE', message)
}
