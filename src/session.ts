/**
 * A session: one resource opened by one client, and its readers.
 *
 * The control protocol's clients hold their readers here, by numbers of their own choice.
 */

import type { Location } from './cache/generation.ts'
import type { SeekIntent } from './control/protocol.ts'
import { SeekCacheError } from './errors.ts'
import type { MediaLibrary } from './media.ts'
import type { CachedMedia, Media } from './opening.ts'
import { Bookmark } from './schedule/bookmark.ts'
import { fetchMissing } from './schedule/fill.ts'
import { INTENT_MS, targetOf } from './schedule/player-rules.ts'
import type { Reader } from './schedule/reader.ts'
import type { WaitOptions } from './schedule/waits.ts'

/** What is told of a fill's progress at most so often. */
const PROGRESS_STEP_BYTES = 1024 * 1024
/** More readers than any player has. */
const MAX_READERS = 64

export class Session {
  readonly media: Media
  readonly #library: MediaLibrary
  readonly #readers = new Map<number, Reader>()
  readonly #next: Bookmark | undefined

  constructor(library: MediaLibrary, media: Media) {
    this.#library = library
    this.media = media
    this.#next = media.kind === 'passthrough' ? undefined : new Bookmark(media.scheduler)
  }

  /**
   * Where the byte at `start` can be read, as soon as it can; 'end' past the end of a stream of unknown size.
   * @param access the file that could not be read as it was told, and whether the client cannot read files at all
   */
  async locate(
    readerNumber: number,
    start: number,
    maxBytes: number,
    access: { readonly unreadablePath: string | undefined; readonly wantsData: boolean },
    options: WaitOptions & { readonly signal: AbortSignal },
  ): Promise<Location | 'end'> {
    if (this.media.kind === 'passthrough') return await this.#nextOfStream(start, maxBytes, options)
    const { generation, record } = this.media
    if (start >= record.sizeBytes) throw usage(`byte ${start} is past the end (${record.sizeBytes})`)
    const reader = this.#reader(readerNumber, this.media, start)
    this.#next?.drop()
    const { unreadablePath, wantsData } = access
    if (!wantsData && unreadablePath === undefined) return await reader.locate(start, options)
    if (!wantsData && unreadablePath !== undefined && (await generation.inspect(unreadablePath, start)) === 'lost') {
      return await reader.locate(start, options)
    }
    return { kind: 'memory', start, bytes: await reader.read(start, maxBytes, options) }
  }

  async #nextOfStream(start: number, maxBytes: number, options: WaitOptions & { readonly signal: AbortSignal }): Promise<Location | 'end'> {
    if (this.media.kind !== 'passthrough') throw usage('not a stream')
    const { stream } = this.media
    if (start !== stream.position) throw usage(`the size of this resource is unknown: it is read in order, next byte ${stream.position}`)
    const bytes = await stream.next(maxBytes, options)
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
    const { generation } = this.media
    const { sizeBytes } = generation
    if (sizeBytes > this.#library.budgetBytes) throw tooLarge()
    let toldBytes = -PROGRESS_STEP_BYTES
    const tell = (): void => {
      if (generation.present.lengthBytes < toldBytes + PROGRESS_STEP_BYTES) return
      toldBytes = generation.present.lengthBytes
      onProgress(toldBytes, sizeBytes)
    }
    await fetchMissing(this.media, signal, tell)
    await generation.settle()
    if (!generation.present.covers(0, sizeBytes)) throw tooLarge()
    onProgress(sizeBytes, sizeBytes)
  }

  /** The client is about to read there. */
  announce(intent: SeekIntent): void {
    if (this.media.kind === 'passthrough') return
    this.#next?.keep(targetOf(intent, this.media.record.sizeBytes), INTENT_MS)
  }

  close(): void {
    for (const reader of this.#readers.values()) reader.close()
    this.#readers.clear()
    this.#next?.drop()
    this.#library.release(this.media)
  }
}

function tooLarge(): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_CACHE_FULL', 'the whole file does not fit into the cache: raise --max-size, or free space on its disk')
}

function usage(message: string): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_USAGE', message)
}
