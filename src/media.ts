/**
 * Which resources are open. Everybody who opens the same resource shares it; it stays open a while after the last one has
 * left, and a version that its origin has replaced makes way for the new one while its readers keep it.
 */

import type { Range } from './bytes/ranges.ts'
import { cancelled, isCode, SeekCacheError } from './errors.ts'
import { fillPersistently } from './filler.ts'
import { Opener, type CachedMedia, type Media, type MediaParts } from './opening.ts'
import { cacheKey, type KeyRules } from './origin/cache-key.ts'
import { displayUrl, parseUrl, type ResourceSpec } from './resource-spec.ts'
import { SYSTEM_CLOCK } from './schedule/clock.ts'
import { orAborted, timeLimit } from './schedule/deadline.ts'
import { fetchMissing } from './schedule/fill.ts'

/** A resource stays open this long without a session, so that a player that reconnects finds its connections warm. */
const LINGER_MS = 10_000

interface Opened {
  readonly media: CachedMedia
  users: number
  linger: NodeJS.Timeout | undefined
  filler: AbortController | undefined
}

interface Opening {
  readonly result: Promise<Media>
  readonly controller: AbortController
  /** Why its last try failed; the next one is due. */
  lastError: SeekCacheError | undefined
  waiters: number
}

export interface LibraryParts extends MediaParts {
  readonly keyRules: KeyRules
  /** Whether what is open is fetched whole. */
  readonly fill: boolean
}

export class MediaLibrary {
  readonly #parts: LibraryParts
  /** The current generation of each open resource. */
  readonly #open = new Map<string, Opened>()
  /** All that somebody has open, replaced generations too. */
  readonly #opened = new Map<CachedMedia, Opened>()
  readonly #openings = new Map<string, Opening>()
  /** Under way; nobody else waits for them. */
  readonly #closings = new Set<Promise<void>>()
  readonly #opener: Opener
  /** Of specs that are asked for again and again. */
  readonly #keys = new WeakMap<ResourceSpec, string>()
  #isClosed = false

  constructor(parts: LibraryParts) {
    this.#parts = parts
    this.#opener = new Opener(parts)
  }

  keyOf(spec: ResourceSpec): string {
    let key = this.#keys.get(spec)
    if (key === undefined) this.#keys.set(spec, (key = cacheKey(spec, this.#parts.store.salt, this.#parts.keyRules)))
    return key
  }

  get all(): readonly CachedMedia[] {
    return [...this.#opened.keys()]
  }

  /**
   * Opens a resource; each opening is given back by `release`.
   * @throws ERR_SEEKCACHE_USAGE, _ORIGIN_*, _TIMEOUT, _CANCELLED
   */
  async open(spec: ResourceSpec, deadlineMs: number, signal?: AbortSignal): Promise<Media> {
    if (this.#isClosed) throw cancelled('the opening')
    const startedMs = performance.now()
    const key = this.keyOf(spec)
    const opened = this.#open.get(key)
    if (opened !== undefined) this.#parts.renewals.tell(key, spec)
    if (opened !== undefined && !opened.media.scheduler.isSuperseded) return this.#use(opened)
    const media = await this.#joinOpening(key, spec, deadlineMs, signal)
    this.#parts.telemetry.openSeconds.observe((performance.now() - startedMs) / 1000)
    if (this.#isClosed) {
      if (media.kind === 'passthrough') media.stream.close()
      throw cancelled('the opening')
    }
    if (media.kind === 'passthrough') return media
    return this.#use(this.#open.get(key) ?? this.#register(media))
  }

  /** Where it is open already; it is not opened by asking. */
  opened(spec: ResourceSpec): CachedMedia | undefined {
    return this.#open.get(this.keyOf(spec))?.media
  }

  #use(opened: Opened): CachedMedia {
    clearTimeout(opened.linger)
    if (opened.users++ === 0) this.#beginFill(opened)
    return opened.media
  }

  #register(media: CachedMedia): Opened {
    const opened: Opened = { media, users: 0, linger: undefined, filler: undefined }
    this.#open.set(media.key, opened)
    this.#opened.set(media, opened)
    this.#linger(opened)
    return opened
  }

  release(media: Media): void {
    if (media.kind === 'passthrough') return media.stream.close()
    const opened = this.#opened.get(media)
    if (opened === undefined || --opened.users > 0) return
    if (!media.abandoned.signal.aborted) media.abandoned.abort(cancelled('the opening'))
    opened.filler?.abort(cancelled('the fill'))
    this.#linger(opened)
  }

  get budgetBytes(): number {
    return this.#parts.store.maxSizeBytes
  }

  /** While somebody has it open, and only of what the cache can hold: else its end would push out its beginning. */
  #beginFill(opened: Opened): void {
    const { media } = opened
    if (!this.#parts.fill || media.record.sizeBytes > this.budgetBytes) return
    const { log } = this.#parts.telemetry
    const { signal } = (opened.filler = new AbortController())
    void fillPersistently({
      fill: async () => await fetchMissing(media, signal),
      arrivedBytes: () => media.generation.arrived.lengthBytes,
      clock: SYSTEM_CLOCK,
      signal,
      onFailure: (error, waitMs) =>
        log.info({ resource: media.record.displayUrl }, `not fetched whole yet: ${error.message}; next try in ${waitMs / 1000} s`),
    })
  }

  #linger(opened: Opened): void {
    const isCurrent = this.#open.get(opened.media.key) === opened
    opened.linger = setTimeout(() => void this.#close(opened), isCurrent ? LINGER_MS : 0)
    opened.linger.unref()
  }

  async #close(opened: Opened): Promise<void> {
    const closing = this.#end(opened).finally(() => this.#closings.delete(closing))
    this.#closings.add(closing)
    await closing
  }

  async #end(opened: Opened): Promise<void> {
    clearTimeout(opened.linger)
    opened.filler?.abort(cancelled('the fill'))
    if (this.#open.get(opened.media.key) === opened) {
      this.#open.delete(opened.media.key)
      this.#parts.renewals.forget(opened.media.key)
    }
    this.#opened.delete(opened.media)
    opened.media.scheduler.close()
    await this.#parts.store.releaseGeneration(opened.media.generation)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    const openings = [...this.#openings.values()]
    for (const opening of openings) opening.controller.abort(cancelled('the opening'))
    await Promise.allSettled(openings.map(({ result }) => result)) // one that is as good as done still becomes an open resource
    for (const opened of this.#opened.values()) void this.#close(opened)
    await Promise.all(this.#closings)
  }

  // ---- opening, once for all who ask

  async #joinOpening(key: string, spec: ResourceSpec, deadlineMs: number, signal?: AbortSignal): Promise<Media> {
    const opening = this.#openings.get(key) ?? this.#startOpening(key, spec)
    opening.waiters++
    const { signal: deadline, clear } = timeLimit(deadlineMs, signal)
    try {
      const media = await orAborted(opening.result, deadline)
      if (media.kind === 'cached' || opening.waiters === 1) return media
      return await this.#opener.open(key, spec, deadline, () => {}) // a stream of unknown size is nobody else's
    } catch (error) {
      throw isCode(error, 'ERR_SEEKCACHE_TIMEOUT') ? (opening.lastError ?? error) : error
    } finally {
      clear()
      if (--opening.waiters === 0) opening.controller.abort(cancelled('the opening'))
    }
  }

  #startOpening(key: string, spec: ResourceSpec): Opening {
    const controller = new AbortController()
    this.#replaceSuperseded(key)
    const onFailedTry = (error: SeekCacheError): void => void (opening.lastError = error)
    const result = this.#opener.open(key, spec, controller.signal, onFailedTry)
      .then((media) => {
        if (media.kind === 'cached') this.#register(media)
        return media
      })
      .finally(() => this.#openings.delete(key))
    result.catch(() => undefined) // whoever waits hears of it
    const opening: Opening = { result, controller, lastError: undefined, waiters: 0 }
    this.#openings.set(key, opening)
    return opening
  }

  /** An open generation that the origin has replaced makes way; its readers keep it until they end. */
  #replaceSuperseded(key: string): void {
    const opened = this.#open.get(key)
    this.#open.delete(key)
    if (opened?.users === 0) void this.#close(opened)
  }

  // ---- what is there

  /** What of a resource is cached, whether it is open or not. @throws ERR_SEEKCACHE_NOT_FOUND */
  map(spec: ResourceSpec): { sizeBytes: number; present: Range[] } {
    const record = this.#parts.store.resource(this.keyOf(spec))
    if (record === undefined) {
      throw new SeekCacheError('ERR_SEEKCACHE_NOT_FOUND', `nothing is cached of ${displayUrl(parseUrl(spec.url))}`)
    }
    return { sizeBytes: record.sizeBytes, present: [...this.#parts.store.presentRanges(record.generation, record.sizeBytes)] }
  }

  /** Removes a resource from the cache; who reads it at the moment reads on, from the origin. @returns the bytes freed */
  async evict(spec: ResourceSpec): Promise<number> {
    return await this.#evict(this.keyOf(spec))
  }

  async evictAll(): Promise<number> {
    let freedBytes = 0
    for (const [key] of [...this.#parts.store.resources()]) freedBytes += await this.#evict(key)
    return freedBytes
  }

  async #evict(key: string): Promise<number> {
    const opened = this.#open.get(key)
    if (opened?.users === 0) await this.#close(opened)
    return await this.#parts.store.removeResource(key)
  }
}
