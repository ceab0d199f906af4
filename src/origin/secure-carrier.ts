/**
 * What carries requests to an https origin: one HTTP/2 session where the origin speaks it, HTTP/1.1 connections otherwise.
 *
 * Which of both is known when the first TLS handshake is done (ALPN), and one handshake is enough for HTTP/2: so the first
 * connection is made alone, unless it is known from before that the origin speaks HTTP/1.1. A session that ends is
 * replaced with the next request. An origin that says HTTP/2 and does not speak it gets HTTP/1.1 for the rest of the run,
 * unless it does not speak that at all.
 */

import type { Socket } from 'node:net'

import { connectTarget, type Connector } from './connection.ts'
import { DeferredExchange, type Carrier, type CarrierEvents, type Exchange, type ExchangeObserver, type OutgoingRequest, type Ready } from './exchange.ts'
import { Http1Carrier } from './http1-carrier.ts'
import { Http2Error, Http2Session } from './http2-session.ts'

export interface Connectors {
  /** Offers both protocols. */
  readonly either: Connector
  readonly http1: Connector
}

/** Codes that say "I do not really speak HTTP/2"; a session that fails otherwise is a network failure. */
const MISSPOKEN = new Set([
  'PROTOCOL_ERROR', 'INTERNAL_ERROR', 'FLOW_CONTROL_ERROR', 'FRAME_SIZE_ERROR', 'COMPRESSION_ERROR', 'SETTINGS_TIMEOUT',
  'INADEQUATE_SECURITY', 'ERR_HTTP2_ERROR', 'ERR_HTTP2_SESSION_ERROR', 'ERR_HTTP2_STREAM_ERROR',
])
/** One such failure may be an accident, unless the session never carried anything; so many in a row are none. */
const MAX_DOUBTS = 3
/** An origin that chose HTTP/1.1 is offered HTTP/2 again in a run after so long. */
const CHOICE_HOLDS_MS = 7 * 24 * 3600_000
/** A request that the origin has not begun with is sent again so often, without a word to whoever waits. */
const MAX_RESENDS = 3

interface Waiting {
  begin(): void
  fail(error: Error): void
}

export class SecureCarrier implements Carrier {
  readonly #url: URL
  readonly #connectors: Connectors
  readonly #events: CarrierEvents
  #http1: Http1Carrier | undefined
  #session: Http2Session | undefined
  /** All that are not closed: one that takes no new requests may still carry old ones. */
  readonly #sessions = new Set<Http2Session>()
  /** Requests that wait for the handshake; undefined while there is none. */
  #waiting: Waiting[] | undefined
  #doubts = 0
  #isHttp2Only = false
  #warmLimit = 0
  #chose1AtMs = 0
  #hasCarried = false
  #isDestroyed = false

  /** @param chose1AtMs when the origin chose HTTP/1.1 in an earlier run: then its connections are all made at once */
  constructor(url: URL, connectors: Connectors, events: CarrierEvents, chose1AtMs = 0) {
    this.#url = url
    this.#connectors = connectors
    this.#events = events
    if (chose1AtMs < Date.now() - CHOICE_HOLDS_MS) return
    this.#chose1AtMs = chose1AtMs
    this.#fallBack()
  }

  /** When it chose HTTP/1.1 where HTTP/2 was offered; 0 if it did not. */
  get chose1AtMs(): number {
    return this.#chose1AtMs
  }

  get isMultiplexed(): boolean {
    return this.#http1 === undefined && this.#session !== undefined
  }

  get maxRequests(): number {
    return this.#usable?.maxStreams ?? Number.POSITIVE_INFINITY
  }

  get openCount(): number {
    return this.#http1?.openCount ?? (this.#usable === undefined ? 0 : 1)
  }

  get #usable(): Http2Session | undefined {
    return this.#session?.isUsable === true ? this.#session : undefined
  }

  ready(limit: number): Ready {
    if (this.#http1 !== undefined) return this.#http1.ready(limit)
    const session = this.#usable // each look may find that it has gone
    if (session !== undefined) return { windowsBytes: Array<number>(limit).fill(session.windowBytes), connectingCount: 0 }
    return { windowsBytes: [], connectingCount: this.#waiting === undefined ? 0 : limit }
  }

  warm(limit: number): void {
    this.#warmLimit = limit
    if (this.#http1 !== undefined) this.#http1.warm(limit)
    else if (this.#usable === undefined) this.#dial()
  }

  trim(limit: number): void {
    this.#http1?.trim(limit)
  }

  send(request: OutgoingRequest, observer: ExchangeObserver): Exchange {
    const exchange = new DeferredExchange()
    this.#sendOn(exchange, request, observer, 0)
    return exchange
  }

  #sendOn(exchange: DeferredExchange, request: OutgoingRequest, observer: ExchangeObserver, resends: number): void {
    const session = this.#usable
    if (this.#http1 !== undefined) return this.#sendOnHttp1(this.#http1, exchange, request, observer, resends)
    if (session === undefined) {
      const begin = (): void => this.#sendOn(exchange, request, observer, resends)
      this.#dial().push({ begin, fail: (error) => exchange.isCancelled || observer.onEnd(error) })
      return
    }
    let hasHead = false
    exchange.begin(() => session.send(request, {
      onBytes: (bytes) => observer.onBytes(bytes),
      onHead: (head) => {
        this.#hasCarried = hasHead = true
        observer.onHead(head)
      },
      onEnd: (error) => {
        if (error instanceof Http2Error && error.code === 'HTTP_1_1_REQUIRED') this.#doubt(MAX_DOUBTS)
        if (!hasHead && isMisspoken(error)) this.#doubt(this.#hasCarried ? 1 : MAX_DOUBTS)
        const isWorthIt = error instanceof Http2Error && (error.isUnprocessed || this.#http1 !== undefined)
        if (error === undefined) this.#doubts = 0
        if (isWorthIt && !hasHead && resends < MAX_RESENDS && !this.#isDestroyed) this.#sendOn(exchange, request, observer, resends + 1)
        else observer.onEnd(error)
      },
    }))
  }

  #sendOnHttp1(http1: Http1Carrier, exchange: DeferredExchange, request: OutgoingRequest, observer: ExchangeObserver, resends: number): void {
    exchange.begin(() => http1.send(request, {
      onHead: (head) => observer.onHead(head),
      onBytes: (bytes) => observer.onBytes(bytes),
      onEnd: (error) => {
        if (error !== undefined && isProtocolRefused(error)) this.#sendOn(exchange, request, observer, resends + 1)
        else observer.onEnd(error)
      },
    }))
  }

  // ---- the handshake

  #dial(): Waiting[] {
    if (this.#waiting !== undefined) return this.#waiting
    const waiting: Waiting[] = (this.#waiting = [])
    this.#connectors.either(connectTarget(this.#url), (error, socket) => {
      this.#waiting = undefined
      if (this.#isDestroyed) return void socket?.destroy()
      if (error !== null) this.#events.onRefused(error)
      else this.#onConnect(socket)
      for (const { begin, fail } of waiting) error === null ? begin() : fail(error)
      if (error === null) this.#events.onReady()
    })
    return waiting
  }

  #onConnect(socket: Socket): void {
    if ((socket as Socket & { readonly alpnProtocol?: string | false | null }).alpnProtocol !== 'h2') {
      this.#chose1AtMs = Date.now()
      this.#fallBack().adopt(socket)
      this.#http1?.warm(this.#warmLimit)
      return
    }
    this.#hasCarried = false
    const session: Http2Session = new Http2Session(this.#url, socket, {
      onSettings: () => this.#events.onReady(),
      onEnd: (error) => this.#onSessionEnd(session, error),
      onClosed: () => {
        this.#sessions.delete(session)
        this.#events.onClosed()
      },
    })
    this.#session = session
    this.#sessions.add(session)
  }

  #onSessionEnd(session: Http2Session, error: Error | undefined): void {
    if (this.#session === session) this.#session = undefined
    const isSilent = error instanceof Http2Error && error.code === 'ETIMEDOUT'
    if (isMisspoken(error) || (isSilent && !this.#hasCarried)) this.#doubt(this.#hasCarried ? 1 : MAX_DOUBTS)
    else if (session.wasAsked && !this.#hasCarried) this.#doubt(1)
  }

  #doubt(weight: number): void {
    this.#doubts += weight
    if (this.#doubts >= MAX_DOUBTS && !this.#isHttp2Only) this.#fallBack()
  }

  #fallBack(): Http1Carrier {
    this.#http1 ??= new Http1Carrier(this.#url, this.#connectHttp1, this.#events)
    this.#session?.close()
    return this.#http1
  }

  readonly #connectHttp1: Connector = (options, callback) => {
    this.#connectors.http1(options, (...[error, socket]) => {
      if (error !== null && isProtocolRefused(error)) {
        this.#isHttp2Only = true
        this.#http1 = undefined
      }
      if (error === null) callback(null, socket)
      else callback(error, null)
    })
  }

  async destroy(): Promise<void> {
    this.#isDestroyed = true
    await Promise.all([this.#http1?.destroy(), ...[...this.#sessions].map((session) => session.destroy())])
  }
}

function isMisspoken(error: Error | undefined): boolean {
  return error !== undefined && MISSPOKEN.has((error as NodeJS.ErrnoException).code ?? '')
}

/** The origin speaks none of the protocols that were offered. */
function isProtocolRefused(error: Error): boolean {
  return (error as NodeJS.ErrnoException).code === 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL'
}
