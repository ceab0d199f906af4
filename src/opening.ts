/**
 * How a resource is opened: by a probe where it is new, by a comparison with the origin where it is cached.
 *
 * The first ranged request of a new resource is itself the probe (never HEAD: Plex answers it with 500): size and validator
 * come from its head, and its body is the first fetch. A cached resource is compared with the origin by a conditional
 * request first, or beside its playback while it is fresh; without the origin it plays from what is here. An opening is
 * done when size and validator are known.
 */

import type { Generation } from './cache/generation.ts'
import type { ResourceRecord } from './cache/records.ts'
import { newGenerationId } from './cache/layout.ts'
import type { Store } from './cache/store.ts'
import { CHUNK_BYTES, type Range } from './bytes/ranges.ts'
import { isCode, SeekCacheError } from './errors.ts'
import type { Admitted, ResponseHead } from './origin/admission.ts'
import { freshUntilMs } from './origin/freshness.ts'
import type { Renewals } from './origin/renewals.ts'
import { isRetryable, retryDelayMs, saysNothingOfFile } from './origin/retry.ts'
import { Source } from './origin/source.ts'
import type { Transport } from './origin/transport.ts'
import { validatorText, type Validator } from './origin/validator.ts'
import { prefetch } from './prefetch.ts'
import { probe } from './probe.ts'
import { displayUrl, fileNameOf, type ResourceSpec } from './resource-spec.ts'
import { SYSTEM_CLOCK } from './schedule/clock.ts'
import { pause, timeLimit } from './schedule/deadline.ts'
import type { InFlight } from './schedule/in-flight.ts'
import { Passthrough } from './schedule/passthrough.ts'
import type { ScheduleLimits } from './schedule/parts.ts'
import { Scheduler } from './schedule/scheduler.ts'
import type { Telemetry } from './telemetry.ts'

/** Tries of a first request; then its failure is the answer. Mid-play, tries go on until the reader's deadline. */
const MAX_OPENING_TRIES = 4

/** An open resource of known size. */
export interface CachedMedia {
  readonly kind: 'cached'
  readonly key: string
  readonly record: ResourceRecord
  readonly generation: Generation
  readonly scheduler: Scheduler
  /** Ends what is fetched for whoever opened it, when nobody has it open any more. */
  readonly abandoned: AbortController
}

/** An open resource of unknown size: its one reader takes its bytes in order. */
export interface PassthroughMedia {
  readonly kind: 'passthrough'
  readonly key: string
  readonly fileName: string
  readonly contentType: string | undefined
  readonly stream: Passthrough
}

export type Media = CachedMedia | PassthroughMedia

export interface MediaParts {
  readonly store: Store
  readonly transport: Transport
  readonly telemetry: Telemetry
  readonly limits: ScheduleLimits
  readonly userAgent: string
  /** An origin that is silent for so long when a cached resource is opened counts as unreachable: it plays offline. */
  readonly revalidateMs: number
  readonly renewals: Renewals
}

/** A resource that is new, and who asks for it. */
interface Asked {
  readonly key: string
  readonly source: Source
  readonly pulls: boolean
}

export class Opener {
  readonly #parts: MediaParts
  /** Generations that their origin has replaced, until their record says so. */
  readonly #replaced = new Set<string>()

  constructor(parts: MediaParts) {
    this.#parts = parts
  }

  /**
   * @param onFailedTry hears of what will be tried again
   * @throws ERR_SEEKCACHE_USAGE, _ORIGIN_*, and the signal's reason
   */
  async open(key: string, spec: ResourceSpec, signal: AbortSignal, onFailedTry: (error: SeekCacheError) => void): Promise<Media> {
    const { transport, userAgent, store } = this.#parts
    const source = new Source(spec, transport, userAgent, (httpStatus, isExpired) =>
      this.#parts.renewals.renew(key, { url: spec.url, httpStatus }, isExpired))
    const record = store.resource(key)
    const known = record === undefined ? undefined : await this.#openKnown(key, record, source, signal)
    return known ?? (await this.#probeUntilAnswered({ key, source, pulls: spec.pulls === true }, signal, onFailedTry))
  }

  // ---- a resource that is cached

  async #openKnown(key: string, record: ResourceRecord, source: Source, signal: AbortSignal): Promise<CachedMedia | undefined> {
    const isFresh = record.freshUntilMs > Date.now() && !this.#replaced.has(record.generation)
    if (!isFresh) {
      const checked = await this.#check(record, source, signal)
      if (checked === undefined) return undefined
      record = checked
    }
    record = { ...record, lastUsedMs: Date.now() }
    this.#keep(key, record)
    const media = this.#begin(key, record, source)
    if (isFresh) void this.#checkBesides(media, source)
    if (record.isRangeable && media.generation.arrived.lengthBytes < record.sizeBytes) source.warm() // who plays on, or seeks, comes to what is not here
    return media
  }

  /** @returns the record if the origin still has this version or cannot be asked, undefined if it has another one */
  async #check(record: ResourceRecord, source: Source, signal: AbortSignal): Promise<ResourceRecord | undefined> {
    const limit = timeLimit(this.#parts.revalidateMs, signal)
    try {
      const told = await source.revalidate(validatorOf(record), record.sizeBytes, limit.signal)
      if (told.outcome === 'changed') return undefined
      if (validatorText(validatorOf(record)) === null && !(await this.#hasSameEnds(record, source, limit.signal))) return undefined
      return { ...record, freshUntilMs: told.freshUntilMs }
    } catch (error) {
      if (signal.aborted) throw error
      if (isCode(error, 'ERR_SEEKCACHE_ORIGIN_CHANGED')) return undefined
      if (!saysNothingOfFile(error)) throw error
      if (!(await this.#hasBytes(record))) return undefined
      this.#parts.telemetry.log.warn({ resource: source.display }, `${(error as Error).message}: playing from what is cached`)
      return record
    } finally {
      limit.clear()
    }
  }

  /** Incomplete chunks count: they can be played as well. */
  async #hasBytes(record: ResourceRecord): Promise<boolean> {
    const generation = this.#parts.store.openGeneration(record.generation, record.sizeBytes)
    try {
      return generation.arrived.lengthBytes > 0
    } finally {
      await this.#parts.store.releaseGeneration(generation)
    }
  }

  async #checkBesides(media: CachedMedia, source: Source): Promise<void> {
    const { record, scheduler } = media
    try {
      const told = await source.revalidate(validatorOf(record), record.sizeBytes, AbortSignal.timeout(this.#parts.revalidateMs))
      if (told.outcome === 'changed') scheduler.supersede(told.error)
    } catch (error) {
      this.#parts.telemetry.log.debug({ resource: source.display }, `not revalidated: ${(error as Error).message}`)
    }
  }

  /** Without a validator, the first and the last chunk that are cached speak for the whole. */
  async #hasSameEnds(record: ResourceRecord, source: Source, signal: AbortSignal): Promise<boolean> {
    const { store } = this.#parts
    const generation = store.openGeneration(record.generation, record.sizeBytes)
    try {
      const runs = [...generation.present]
      const [first, last] = [runs[0], runs.at(-1)]
      if (first === undefined || last === undefined) return false
      for (const start of new Set([first.start, Math.floor((last.end - 1) / CHUNK_BYTES) * CHUNK_BYTES])) {
        const end = Math.min(start + CHUNK_BYTES, record.sizeBytes)
        const cached = await readWhole(generation, { start, end })
        const fetched = await fetchBytes(source, { start, end }, record, signal)
        if (cached === undefined || !cached.equals(fetched)) return false
      }
      return true
    } finally {
      await store.releaseGeneration(generation)
    }
  }

  // ---- a resource that is new

  async #probeUntilAnswered(asked: Asked, signal: AbortSignal, onFailedTry: (error: SeekCacheError) => void): Promise<Media> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#probe(asked, signal)
      } catch (error) {
        if (signal.aborted || attempt === MAX_OPENING_TRIES || !isRetryable(error, attempt)) throw error
        this.#parts.telemetry.log.info({ resource: asked.source.display, attempt }, (error as Error).message)
        onFailedTry(error as SeekCacheError)
        await pause(Math.max(retryDelayMs(error, attempt), 1), signal, error as Error)
      }
    }
  }

  async #probe(asked: Asked, signal: AbortSignal): Promise<Media> {
    const answer: { opened?: { media: Media; record?: ResourceRecord } } = {}
    const { key, source } = asked
    const origin = this.#parts.transport.pool(source.url.origin)
    await probe({
      source,
      clock: SYSTEM_CLOCK,
      stallLimits: this.#parts.limits.stall,
      isAlone: !origin.isDirect,
      onAnswer: (fetch, admitted, head) => {
        const { media, record } = (answer.opened = this.#beginNew(asked, admitted, head, fetch))
        const isDirect = media.kind === 'cached' && record?.isRangeable === true && !source.wasRedirected
        origin.isDirect = isDirect
        return isDirect ? (other) => media.scheduler.adopt(other) : undefined
      },
      onSilence: () => this.#parts.telemetry.log.info({ resource: source.display }, 'the origin has not answered yet'),
    }, signal)
    const { media, record } = answer.opened!
    if (record !== undefined) this.#keep(key, record)
    return media
  }

  /** In the turn in which the head arrived: the body's first bytes may be in the same network read. */
  #beginNew({ key, source, pulls }: Asked, admitted: Admitted, head: ResponseHead, fetch: InFlight): { media: Media; record?: ResourceRecord } {
    const fileName = fileNameOf(source.url)
    if (admitted.sizeBytes === undefined) {
      const stream = new Passthrough(this.#parts.telemetry)
      stream.attach(fetch)
      return { media: { kind: 'passthrough', key, fileName, contentType: admitted.contentType, stream } }
    }
    const record: ResourceRecord = {
      displayUrl: displayUrl(source.url),
      fileName,
      generation: newGenerationId(),
      sizeBytes: admitted.sizeBytes,
      contentType: admitted.contentType,
      etag: admitted.validator.etag,
      lastModified: admitted.validator.lastModified,
      isRangeable: admitted.isRangeable,
      freshUntilMs: freshUntilMs(head, Date.now()),
      lastUsedMs: Date.now(),
    }
    const media = this.#begin(key, record, source)
    media.scheduler.adopt(fetch)
    if (record.isRangeable) void this.#prefetch(media, pulls)
    return { media, record }
  }

  #begin(key: string, record: ResourceRecord, source: Source): CachedMedia {
    const { store, telemetry, limits } = this.#parts
    const generation = store.openGeneration(record.generation, record.sizeBytes)
    const { isRangeable } = record
    const onSuperseded = (): void => this.#distrust(key, record)
    const validator = validatorOf(record)
    const scheduler = new Scheduler({
      store, generation, source, clock: SYSTEM_CLOCK, validator, isRangeable, limits, telemetry, onSuperseded,
    })
    return { kind: 'cached', key, record, generation, scheduler, abandoned: new AbortController() }
  }

  /**
   * Known at once, and committed before any of its bytes are. Nobody waits for that: where bytes come faster than the disk takes
   * them, it takes 20 ms (measured on loopback).
   */
  #keep(key: string, record: ResourceRecord): void {
    this.#parts.store.putResource(key, record).catch((error: Error) => this.#parts.telemetry.log.warn(`not kept: ${error.message}`))
  }

  /** The origin has another version: whoever opens this resource next asks it first, however fresh the record seemed. */
  #distrust(key: string, record: ResourceRecord): void {
    this.#replaced.add(record.generation)
    const current = this.#parts.store.resource(key)
    if (current?.generation === record.generation) this.#keep(key, { ...current, freshUntilMs: 0 })
  }

  async #prefetch({ record, scheduler, generation, abandoned }: CachedMedia, pulls: boolean): Promise<void> {
    try {
      await prefetch({ scheduler, generation, sizeBytes: record.sizeBytes, pulls, signal: abandoned.signal })
    } catch (error) {
      this.#parts.telemetry.log.debug(`not fetched ahead: ${(error as Error).message}`)
    }
  }
}

function validatorOf(record: ResourceRecord): Validator {
  return { etag: record.etag, lastModified: record.lastModified }
}

async function readWhole(generation: Generation, range: Range): Promise<Buffer | undefined> {
  const parts: Buffer[] = []
  for (let position = range.start; position < range.end; ) {
    const bytes = await generation.read(position, range.end - position)
    if (bytes === undefined) return undefined
    parts.push(bytes)
    position += bytes.length
  }
  return Buffer.concat(parts)
}

async function fetchBytes(source: Source, range: Range, record: ResourceRecord, signal: AbortSignal): Promise<Buffer> {
  signal.throwIfAborted() // an abort before is not told again
  return await new Promise((resolve, reject) => {
    const parts: Buffer[] = []
    const known = { sizeBytes: record.sizeBytes, validator: validatorOf(record) }
    const fetch = source.fetch({ ...range, known }, {
      onHead: () => {},
      onBytes: (_, bytes) => void parts.push(bytes),
      onEnd: (error) => (error === undefined ? resolve(Buffer.concat(parts)) : reject(error)),
    })
    signal.addEventListener('abort', () => {
      fetch.cancel()
      reject(signal.reason as Error)
    }, { once: true })
  })
}
