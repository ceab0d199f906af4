/**
 * Where a resource's bytes come from: its URL, the place that redirects led to, the headers, and what is expected of an answer.
 *
 * Redirects are followed once and remembered; when the remembered place says "expired" the first URL is asked
 * again. The user's headers go to the user's origin only: another origin behind a redirect gets no credentials.
 */

import { formatRange, isStrongEtag } from '../bytes/http-range.ts'
import { isCode, SeekCacheError } from '../errors.ts'
import { admit, field, statusError, validatorOf, type Admitted, type Expectation, type ResponseHead } from './admission.ts'
import { displayUrl, parseUrl, type ResourceSpec } from '../resource-spec.ts'
import { freshUntilMs } from './freshness.ts'
import { OriginRequest, type RequestObserver } from './request.ts'
import { meansExpired } from './retry.ts'
import type { PathEstimate } from './path-estimate.ts'
import type { Connections, Transport } from './transport.ts'
import { ifRange, isSameVersion, type Validator } from './validator.ts'

/** As fetch and curl do; a loop is found by it. */
const MAX_REDIRECTS = 10
/** Fields of the request that are ours alone to set. */
const OWN_HEADERS = new Set([
  'host', 'connection', 'range', 'if-range', 'if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since',
  'accept-encoding', 'content-length', 'transfer-encoding', 'te', 'upgrade', 'keep-alive', 'expect', 'proxy-connection',
])
/** What another origin behind a redirect is told. */
const PUBLIC_HEADERS = new Set(['user-agent', 'accept', 'accept-language'])

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
  | { readonly outcome: 'changed' }

export class Source {
  readonly url: URL
  readonly #headers: readonly (readonly [string, string])[]
  readonly #transport: Transport
  readonly #userAgent: string
  /** Where redirects led to, as long as what is there is what was wanted. */
  #place: URL
  /** False once the origin has answered If-Range with the whole of the very version that it named, as some do. */
  #heedsIfRange = true
  #onReady: (() => void) | undefined
  #unwatch: () => void = () => {}

  /** @throws ERR_SEEKCACHE_USAGE for what is no http(s) URL */
  constructor(spec: ResourceSpec, transport: Transport, userAgent: string) {
    const url = parseUrl(spec.url)
    const own = spec.headers.filter(([name]) => !OWN_HEADERS.has(name.toLowerCase()))
    this.#headers = url.username === '' ? own : [...own, ['authorization', basicAuthorization(url)]]
    url.username = url.password = url.hash = ''
    this.url = url
    this.#place = url
    this.#transport = transport
    this.#userAgent = userAgent
  }

  /** For logs. */
  get display(): string {
    return displayUrl(this.url)
  }

  get path(): PathEstimate {
    return this.#transport.path(this.#place.origin)
  }

  get connections(): Connections {
    return this.#transport.connections(this.#place.origin)
  }

  /** `onReady` is called whenever a connection becomes ready; one watcher at a time, undefined for none. */
  watchConnections(onReady: (() => void) | undefined): void {
    this.#unwatch()
    this.#onReady = onReady
    this.#unwatch = onReady === undefined ? () => {} : this.#transport.watch(this.#place.origin, onReady)
  }

  /** Connects to where the bytes come from, before they are asked for. */
  warm(): void {
    this.#transport.warm(this.#place.origin)
  }

  /** Asks for `[expected.start, expected.end)`; the answer has passed admission when `onHead` is called. */
  fetch(expected: Expectation, observer: FetchObserver): Fetch {
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
    })
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
    const fields: Record<string, string> = { range: formatRange(0, 1) }
    if (isStrongEtag(known.etag)) fields['if-none-match'] = known.etag
    const { promise, resolve, reject } = withResolvers<Revalidation>()
    const request: { current?: Fetch } = {}
    const settle = (head: ResponseHead): void => {
      if (head.status === 304 && isStrongEtag(known.etag)) {
        const { etag = known.etag } = validatorOf(head)
        return resolve(etag === known.etag ? { outcome: 'same', freshUntilMs: freshUntilMs(head, Date.now()) } : { outcome: 'changed' })
      }
      const admitted = admit(head, { start: 0, end: 1, known: undefined }, Date.now())
      const isSame = admitted.sizeBytes === sizeBytes && isSameVersion(known, admitted.validator)
      resolve(isSame ? { outcome: 'same', freshUntilMs: freshUntilMs(head, Date.now()) } : { outcome: 'changed' })
      if (head.status === 200) queueMicrotask(() => request.current?.cancel()) // its body is the whole file
    }
    request.current = this.#follow(fields, {
      onHead: settle,
      onBytes: () => {},
      onEnd: (error) => reject(error ?? brokenOff(this.#place)),
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

  /** Sends the request to where redirects led, follows further ones, and once starts over when that place has expired. */
  #follow(fields: Record<string, string>, observer: RequestObserver): Fetch {
    let redirects = 0
    let isPaused = false
    let isCancelled = false
    let current: OriginRequest
    const send = (url: URL): void => {
      let next: URL | undefined
      current = new OriginRequest(this.#transport, url, this.#requestHeaders(url, fields), {
        onHead: (head) => {
          next = redirectTarget(head, url)
          if (next !== undefined && ++redirects > MAX_REDIRECTS) {
            throw new SeekCacheError('ERR_SEEKCACHE_ORIGIN_RESPONSE', `the origin redirects more than ${MAX_REDIRECTS} times`)
          }
          if (next === undefined && url !== this.url && redirects === 0 && isExpired(head)) {
            redirects = 1 // the place is remembered until another one has answered: parallel fetches must not all ask anew
            next = this.url
          }
          if (next === undefined) {
            observer.onHead(head)
            this.#moveTo(url)
          }
        },
        onBytes: (bytes) => {
          if (next === undefined) observer.onBytes(bytes)
        },
        onEnd: (error) => {
          if (error !== undefined && this.#place === url) this.#moveTo(this.url) // the next try asks where it is now
          if (next === undefined || error !== undefined) observer.onEnd(error)
          else if (!isCancelled) send(next)
        },
      })
      if (isPaused) current.pause()
    }
    send(this.#place)
    return {
      cancel: () => {
        isCancelled = true
        current.cancel()
      },
      pause: () => {
        isPaused = true
        current.pause()
      },
      resume: () => {
        isPaused = false
        current.resume()
      },
    }
  }

  #moveTo(place: URL): void {
    const isElsewhere = place.origin !== this.#place.origin
    this.#place = place
    if (isElsewhere) this.watchConnections(this.#onReady)
  }

  #requestHeaders(url: URL, fields: Record<string, string>): Record<string, string> {
    const headers: Record<string, string> = { 'user-agent': this.#userAgent, accept: '*/*' }
    for (const [name, value] of this.#headers) {
      if (url.origin === this.url.origin || PUBLIC_HEADERS.has(name.toLowerCase())) headers[name.toLowerCase()] = value
    }
    return { ...headers, 'accept-encoding': 'identity', ...fields }
  }
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

function brokenOff(url: URL): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', `cannot fetch from ${url.host}: its answer broke off`)
}

function basicAuthorization(url: URL): string {
  const credentials = `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}`
  return `Basic ${Buffer.from(credentials).toString('base64')}`
}

interface Deferred<T> {
  readonly promise: Promise<T>
  resolve(value: T): void
  reject(reason: Error): void
}

/** Promise.withResolvers, which Node 20 does not have. */
function withResolvers<T>(): Deferred<T> {
  let resolve!: (value: T) => void
  let reject!: (reason: Error) => void
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve
    reject = onReject
  })
  return { promise, resolve, reject }
}
