/**
 * Where a resource's bytes come from: its URL, the place that redirects led to, the headers, and what is expected of an answer.
 *
 * Redirects are followed once and remembered; when the remembered place says "expired" the first URL is asked
 * again. When that one says so too, a fresh URL is asked for, once for all fetches, which wait for it. The user's headers go
 * to the user's origin only: another origin behind a redirect gets no credentials.
 */

import { formatRange, isStrongEtag } from '../bytes/http-range.ts'
import { withResolvers } from '../deferred.ts'
import { isCode, SeekCacheError } from '../errors.ts'
import { admit, changed, field, statusError, validatorOf, type Admitted, type Expectation, type ResponseHead } from './admission.ts'
import { displayUrl, parseUrl, type ResourceSpec } from '../resource-spec.ts'
import { freshUntilMs } from './freshness.ts'
import { OriginRequest, type RequestObserver } from './request.ts'
import type { Renewed } from './renewals.ts'
import { meansExpired, meansUrlExpired } from './retry.ts'
import type { PathEstimate } from './path-estimate.ts'
import { Claimant, type Connections, type OriginPool } from './pool.ts'
import type { Need } from './shares.ts'
import type { Transport } from './transport.ts'
import { brokenOff } from './unreachable.ts'
import { ifRange, type Validator } from './validator.ts'

/** As fetch and curl do; a loop is found by it. */
const MAX_REDIRECTS = 10
/** Fields of the request that are ours alone to set. */
const OWN_HEADERS = new Set([
  'host', 'connection', 'range', 'if-range', 'if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since',
  'accept-encoding', 'content-length', 'transfer-encoding', 'te', 'upgrade', 'keep-alive', 'expect', 'proxy-connection',
])
/** What another origin behind a redirect is told. */
const PUBLIC_HEADERS = new Set(['user-agent', 'accept', 'accept-language'])
/** No lists: the last one counts. */
const SINGLE_HEADERS = new Set(['authorization', 'user-agent', 'referer', 'origin'])

export interface FetchObserver {
  onHead(admitted: Admitted, head: ResponseHead): void
  onBytes(position: number, bytes: Buffer): void
  /** Once, last. Without an error all that the head promised has arrived. */
  onEnd(error: SeekCacheError | undefined): void
}

/** A running request for a range; its observer hears nothing after `cancel`. */
export interface Fetch {
  cancel(): void
  pause(): void
  resume(): void
}

export type Revalidation =
  | { readonly outcome: 'same'; readonly freshUntilMs: number }
  | { readonly outcome: 'changed'; readonly error: SeekCacheError }

/** Gives a URL in place of one that the origin has answered so; `isExpired` tells which ones have been tried. */
export type Freshen = (httpStatus: number, isExpired: (url: string) => boolean) => Promise<Renewed | undefined>

async function nobody(): Promise<undefined> {}

/** A URL as its user named it, and what is sent along to its origin. */
interface Named {
  readonly url: URL
  readonly text: string
  readonly headers: readonly (readonly [string, string])[]
}

export class Source {
  /** As the resource was opened; what is asked for now may be a fresh one. */
  readonly url: URL
  readonly #transport: Transport
  readonly #userAgent: string
  readonly #freshen: Freshen
  #named: Named
  /** Where redirects led to, as long as what is there is what was wanted. */
  #place: URL
  /** False once the origin has answered If-Range with the whole of the very version that it named, as some do. */
  #heedsIfRange = true
  #renewal: Promise<boolean> | undefined
  /** How often nobody had a fresh URL: a fetch that was sent before the last time does not ask again. */
  #refusals = 0
  readonly #expired = new Set<string>()
  #onChange: (() => void) | undefined
  #wasRedirected = false
  #unwatch: () => void = () => {}
  #need: Need = 'none'
  /** One for each origin that redirects led to. */
  readonly #claimants = new Map<string, Claimant>()

  /** @throws ERR_SEEKCACHE_USAGE for what is no http(s) URL */
  constructor(spec: ResourceSpec, transport: Transport, userAgent: string, freshen: Freshen = nobody) {
    this.#named = nameOf(spec)
    this.url = this.#named.url
    this.#place = this.url
    this.#transport = transport
    this.#userAgent = userAgent
    this.#freshen = freshen
  }

  /** For logs. */
  get display(): string {
    return displayUrl(this.url)
  }

  get path(): PathEstimate {
    return this.#pool.path
  }

  /** What it may ask of its origin now; others may fetch from there too. */
  get connections(): Connections {
    return this.#pool.connections(this.#claimantAt(this.#place))
  }

  /** Says what is needed of the origin, for its share of what the origin takes. */
  claim(need: Need): void {
    this.#need = need
    this.#pool.claim(this.#claimantAt(this.#place), need)
  }

  /** `onChange` is called whenever `connections` may have changed; one watcher at a time, undefined for none. */
  watchConnections(onChange: (() => void) | undefined): void {
    this.#unwatch()
    this.#onChange = onChange
    this.#unwatch = onChange === undefined ? () => {} : this.#pool.watch(onChange)
  }

  #claimantAt({ origin }: URL): Claimant {
    let claimant = this.#claimants.get(origin)
    if (claimant === undefined) this.#claimants.set(origin, (claimant = new Claimant()))
    return claimant
  }

  get #pool(): OriginPool {
    return this.#transport.pool(this.#place.origin)
  }

  /** Whether any answer so far has led elsewhere. */
  get wasRedirected(): boolean {
    return this.#wasRedirected
  }

  /** Connects to where the bytes come from, before they are asked for. */
  warm(): void {
    this.#pool.warm()
  }

  /**
   * Asks for `[expected.start, expected.end)`; the answer has passed admission when `onHead` is called.
   * @param followsRedirects where not, a redirect is the end of it: another request follows it already
   */
  fetch(expected: Expectation, observer: FetchObserver, { followsRedirects = true } = {}): Fetch {
    const fields: Record<string, string> = { range: formatRange(expected.start, expected.end) }
    const condition = expected.known === undefined || !this.#heedsIfRange ? undefined : ifRange(expected.known.validator)
    if (condition !== undefined) fields['if-range'] = condition
    let position = expected.start
    let end: number | undefined
    return this.#follow(fields, {
      onHead: (head) => {
        const admitted = this.#admit(head, expected, condition !== undefined)
        position = admitted.start
        end = admitted.end
        observer.onHead(admitted, head)
      },
      onBytes: (bytes) => {
        if (end !== undefined && position + bytes.length > end) {
          throw new SeekCacheError('ERR_SEEKCACHE_ORIGIN_RESPONSE', 'the origin sent more bytes than it promised')
        }
        observer.onBytes(position, bytes)
        position += bytes.length
      },
      onEnd: (error) => observer.onEnd(error ?? (end !== undefined && position < end ? brokenOff(this.#place) : undefined)),
    }, followsRedirects ? MAX_REDIRECTS : 0)
  }

  #admit(head: ResponseHead, expected: Expectation, isConditional: boolean): Admitted {
    try {
      return admit(head, expected, Date.now())
    } catch (error) {
      if (isConditional && isCode(error, 'ERR_SEEKCACHE_ORIGIN_NOT_RANGEABLE')) this.#heedsIfRange = false
      throw error
    }
  }

  /**
   * A request for one byte: no body of a film is moved to learn that it is still the same. Its condition is a strong ETag or
   * none: a weak one and a date would be answered 304 by origins that compare them more loosely than we do.
   */
  async revalidate(known: Validator, sizeBytes: number, signal: AbortSignal): Promise<Revalidation> {
    signal.throwIfAborted()
    const fields: Record<string, string> = { range: formatRange(0, 1) }
    if (isStrongEtag(known.etag)) fields['if-none-match'] = known.etag
    const { promise, resolve, reject } = withResolvers<Revalidation>()
    const request: { current?: Fetch } = {}
    const settle = (head: ResponseHead): void => {
      if (head.status === 304 && isStrongEtag(known.etag)) {
        const { etag = known.etag } = validatorOf(head)
        if (etag !== known.etag) throw changed('its ETag is another one than before')
      } else {
        admit(head, { start: 0, end: 1, known: { sizeBytes, validator: known } }, Date.now())
      }
      resolve({ outcome: 'same', freshUntilMs: freshUntilMs(head, Date.now()) })
      if (head.status === 200) queueMicrotask(() => request.current?.cancel()) // its body is the whole file
    }
    request.current = this.#follow(fields, {
      onHead: settle,
      onBytes: () => {},
      onEnd: (error) => {
        if (error?.code === 'ERR_SEEKCACHE_ORIGIN_CHANGED') resolve({ outcome: 'changed', error })
        else reject(error ?? brokenOff(this.#place))
      },
    })
    const abort = (): void => {
      request.current?.cancel()
      reject(signal.reason as Error)
    }
    signal.addEventListener('abort', abort, { once: true })
    try {
      return await promise
    } finally {
      signal.removeEventListener('abort', abort)
    }
  }

  /**
   * Sends the request to where redirects led, follows further ones, and once starts over when that place has expired, and
   * once when the URL itself has.
   */
  #follow(fields: Record<string, string>, observer: RequestObserver, maxRedirects = MAX_REDIRECTS): Fetch {
    let isPaused = false
    let isCancelled = false
    let wasRenewed = false
    let current: OriginRequest | undefined
    const refusals = this.#refusals // what waits for an answer that is a refusal has heard it, and does not ask again
    const begin = (): void => {
      const named = this.#named
      let redirects = 0
      const send = (url: URL): void => {
        let next: URL | undefined
        let renewal: Promise<boolean> | undefined
        current = new OriginRequest(this.#transport.pool(url.origin), this.#claimantAt(url), url, this.#requestHeaders(url, named, fields), {
          onHead: (head) => {
            next = redirectTarget(head, url)
            this.#wasRedirected ||= next !== undefined
            if (next !== undefined && ++redirects > maxRedirects) {
              throw new SeekCacheError('ERR_SEEKCACHE_ORIGIN_RESPONSE', `the origin redirects more than ${maxRedirects} times`)
            }
            if (next === undefined && url !== named.url && redirects === 0 && isExpired(head)) {
              redirects = 1 // the place is remembered until another one has answered: parallel fetches must not all ask anew
              next = named.url
            }
            if (next !== undefined) return
            if (!wasRenewed && meansUrlExpired(head.status)) {
              wasRenewed = true
              renewal = this.#renewed(named, refusals, head.status)
              void renewal.then((isRenewed) => goOn(isRenewed, statusError(head, Date.now())))
              return
            }
            observer.onHead(head)
            if (named === this.#named) this.#moveTo(url)
          },
          onBytes: (bytes) => {
            if (next === undefined && renewal === undefined) observer.onBytes(bytes)
          },
          onEnd: (error) => {
            if (renewal !== undefined) return
            if (error !== undefined && this.#place === url) this.#moveTo(this.#named.url) // the next try asks where it is now
            if (next === undefined || error !== undefined) observer.onEnd(error)
            else if (!isCancelled) send(next)
          },
        })
        if (isPaused) current.pause()
      }
      send(this.#place)
    }
    const goOn = (isRenewed: boolean, refusal: SeekCacheError): void => {
      if (isCancelled) return
      current?.cancel() // the refusal's body, if there is more of it
      if (isRenewed) begin()
      else observer.onEnd(refusal)
    }
    if (this.#renewal === undefined) begin()
    else void this.#renewal.then(() => isCancelled || begin())
    return {
      cancel: () => {
        isCancelled = true
        current?.cancel()
      },
      pause: () => {
        isPaused = true
        current?.pause()
      },
      resume: () => {
        isPaused = false
        current?.resume()
      },
    }
  }

  /** Whether there is another URL than `used`, which has expired; one asks, all wait. */
  async #renewed(used: Named, refusals: number, httpStatus: number): Promise<boolean> {
    if (used !== this.#named) return true
    if (refusals !== this.#refusals) return false
    this.#renewal ??= this.#renew(used, httpStatus).finally(() => (this.#renewal = undefined))
    return await this.#renewal
  }

  async #renew(used: Named, httpStatus: number): Promise<boolean> {
    this.#expired.add(used.text)
    const renewed = await this.#freshen(httpStatus, (url) => this.#expired.has(url))
    if (renewed === undefined) {
      this.#refusals++
      return false
    }
    const fresh = nameOf({ url: renewed.url, headers: renewed.headers ?? [] })
    const keepsHeaders = renewed.headers === undefined && fresh.url.origin === this.#named.url.origin
    this.#named = keepsHeaders ? { ...fresh, headers: [...this.#named.headers, ...fresh.headers] } : fresh
    this.#moveTo(fresh.url)
    return true
  }

  #moveTo(place: URL): void {
    if (place.origin !== this.#place.origin) {
      this.#pool.claim(this.#claimantAt(this.#place), 'none')
      this.#place = place
      this.claim(this.#need)
      this.watchConnections(this.#onChange)
    }
    this.#place = place
  }

  #requestHeaders(url: URL, named: Named, fields: Record<string, string>): Record<string, string> {
    const given: Record<string, string> = {}
    for (const [name, value] of named.headers) {
      const key = name.toLowerCase()
      if (url.origin !== named.url.origin && !PUBLIC_HEADERS.has(key)) continue
      const before = SINGLE_HEADERS.has(key) ? undefined : given[key]
      // RFC 9110 section 5.3: fields of one name are one list; RFC 6265 has another word for cookies.
      given[key] = before === undefined ? value : `${before}${key === 'cookie' ? '; ' : ', '}${value}`
    }
    return { 'user-agent': this.#userAgent, accept: '*/*', ...given, 'accept-encoding': 'identity', ...fields }
  }
}

/** User information goes into a header, to its own origin. */
function nameOf(spec: ResourceSpec): Named {
  const url = parseUrl(spec.url)
  const own = spec.headers.filter(([name]) => !OWN_HEADERS.has(name.toLowerCase()))
  const headers: Named['headers'] = url.username === '' ? own : [...own, ['authorization', basicAuthorization(url)]]
  url.username = url.password = url.hash = ''
  return { url, text: spec.url, headers }
}

function redirectTarget(head: ResponseHead, from: URL): URL | undefined {
  if (![301, 302, 303, 307, 308].includes(head.status)) return undefined
  const location = field(head, 'location')
  if (location === undefined) throw statusError(head, Date.now())
  const target = URL.canParse(location, from.href) ? new URL(location, from) : undefined
  if (target === undefined || !['http:', 'https:'].includes(target.protocol)) {
    throw new SeekCacheError('ERR_SEEKCACHE_ORIGIN_RESPONSE', 'the origin redirects to what is no http or https URL')
  }
  target.username = target.password = target.hash = ''
  return target
}

function isExpired(head: ResponseHead): boolean {
  return meansExpired(statusError(head, 0))
}

function basicAuthorization(url: URL): string {
  return `Basic ${Buffer.from(`${unescaped(url.username)}:${unescaped(url.password)}`).toString('base64')}`
}

/** A password with a percent sign of its own is taken as it stands. */
function unescaped(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
