/**
 * An origin on a virtual clock, in the place of a `Source`: connections that are kept and warmed as the pool does, answers
 * that pass the real admission, limits that are learned by the real rules, and faults as data.
 */
import { parseRetryAfterMs } from '../../../src/bytes/http-range.ts'
import { admit, field, type Admitted, type Expectation, type ResponseHead } from '../../../src/origin/admission.ts'
import { afterOverload, limitOf, nextProbeAtMs, UNLIMITED, type Allowance } from '../../../src/origin/allowance.ts'
import { PathEstimate } from '../../../src/origin/path-estimate.ts'
import type { Connections } from '../../../src/origin/pool.ts'
import type { Fetch, FetchObserver } from '../../../src/origin/source.ts'
import type { ScheduledSource } from '../../../src/schedule/parts.ts'
import { SeekCacheError } from '../../../src/errors.ts'
import type { Timer } from '../../../src/schedule/clock.ts'
import { contentBytes } from './content.ts'
import { Connection, Link, type LinkFacts } from './link.ts'
import type { VirtualClock } from './virtual-clock.ts'

export interface OriginFacts {
  readonly sizeBytes: number
  readonly isRangeable: boolean
  /** From a request's arrival to its answer. */
  readonly answerMs: number
  /** More requests at a time are refused. */
  readonly maxRequests: number
  readonly refusal: { readonly status: number; readonly retryAfterSeconds: number | undefined }
  /** Longer ranges are answered with so much of them, which is lawful. */
  readonly maxRangeBytes: number
}

/** Sums of times that are no whole numbers come out a little less. */
const ROUNDING_MS = 1e-6

export type RequestFault =
  | { readonly kind: 'status'; readonly status: number; readonly retryAfterSeconds: number | undefined }
  /** The connection breaks, before the head with 0. */
  | { readonly kind: 'reset'; readonly afterBytes: number }
  /** No more comes: not even the head with 0. */
  | { readonly kind: 'stalled'; readonly afterBytes: number }
  | { readonly kind: 'shorter'; readonly lengthBytes: number }
  | { readonly kind: 'late'; readonly delayMs: number }
  | { readonly kind: 'changed' }

/** While it lasts every connection breaks and none is made, or nothing is answered and nothing more is sent. */
export interface Outage {
  readonly kind: 'down' | 'silent'
  readonly fromMs: number
  readonly durationMs: number
}

export interface Troubles {
  /** By the number of the request, from 0. */
  readonly faults: ReadonlyMap<number, RequestFault>
  readonly outages: readonly Outage[]
}

/** One request as the origin sees it; `[start, end)` is what is still to come. */
export interface Request {
  readonly number: number
  start: number
  end: number
  readonly askedStart: number
  readonly askedEnd: number
  hasHead: boolean
}

export interface OriginObserver {
  onPlan(): void
  onRequest(request: Request): void
  onBytes(request: Request): void
  onEnd(request: Request, outcome: 'complete' | 'cancelled' | SeekCacheError): void
  /** A fault happens to a request; `delayMs` is its own, where it has one. */
  onTrouble(kind: RequestFault['kind'], delayMs: number): void
}

const ETAG = '"film"'
export const VALIDATOR = { etag: ETAG, lastModified: undefined }

export class SimulatedOrigin implements ScheduledSource {
  readonly display = 'http://origin/film.mkv'
  readonly path = new PathEstimate()
  readonly link: Link
  /** Running from the schedule's view, in order of their start. */
  readonly running = new Set<Exchange>()
  readonly #clock: VirtualClock
  readonly #facts: OriginFacts
  readonly #troubles: Troubles
  readonly #observer: OriginObserver
  readonly #maxConnections: number
  readonly #connections = new Set<Connection>()
  #allowance: Allowance = UNLIMITED
  #probeTimer: Timer | undefined
  #onChange: (() => void) | undefined
  #count = 0
  /** Requests that the origin works on. */
  #served = 0

  constructor(
    clock: VirtualClock, link: LinkFacts, facts: OriginFacts, troubles: Troubles, maxConnections: number, observer: OriginObserver,
  ) {
    this.#clock = clock
    this.link = new Link(link, clock)
    this.#facts = facts
    this.#troubles = troubles
    this.#maxConnections = maxConnections
    this.#observer = observer
    for (const outage of troubles.outages) {
      if (outage.kind === 'down') clock.startTimer(outage.fromMs, () => this.#breakAll())
    }
    this.#warm()
  }

  get connections(): Connections {
    const nowMs = this.#clock.nowMs()
    const free = [...this.#connections].filter(({ isBusy }) => !isBusy)
    const windowsBytes = free.filter(({ isReady }) => isReady).map(({ window }) => window.bytesAt(nowMs)).sort((a, b) => b - a)
    const limit = limitOf(this.#allowance, this.#maxConnections, nowMs)
    const isPaused = nowMs < this.#allowance.pausedUntilMs
    return { windowsBytes, connectingCount: free.length - windowsBytes.length, limit, yieldCount: 0, isPaused, isMultiplexed: false }
  }

  /** It has the origin for itself; each plan begins with a claim. */
  claim(): void {
    this.#observer.onPlan()
  }

  watchConnections(onChange: (() => void) | undefined): void {
    this.#onChange = onChange
  }

  fetch(expected: Expectation, observer: FetchObserver): Fetch {
    const exchange = new Exchange(this, this.#count++, expected, observer, this.#acquire(), this.#clock.nowMs())
    this.running.add(exchange)
    this.#observer.onRequest(exchange.request)
    const { rttMs } = this.link.facts
    const sentMs = Math.max(this.#clock.nowMs(), exchange.connection.readyAtMs)
    this.#later(sentMs + rttMs / 2 - this.#clock.nowMs(), exchange, () => this.#receive(exchange, expected))
    return {
      cancel: () => this.#cancel(exchange),
      pause: () => exchange.pause(),
      resume: () => exchange.resume(),
    }
  }

  // ---- the origin's end

  #receive(exchange: Exchange, expected: Expectation): void {
    if (this.#outage('down')) return this.#fail(exchange, broken('it refuses connections'))
    const fault = this.#troubles.faults.get(exchange.request.number)
    if (fault !== undefined) this.#observer.onTrouble(fault.kind, fault.kind === 'late' ? fault.delayMs : 0)
    if (this.#served >= this.#facts.maxRequests) {
      const { status, retryAfterSeconds } = this.#facts.refusal
      return this.#answer(exchange, expected, statusHead(status, retryAfterSeconds), undefined)
    }
    this.#served++
    exchange.isServed = true
    const delayMs = this.#facts.answerMs + (fault?.kind === 'late' ? fault.delayMs : 0)
    this.#later(delayMs, exchange, () => this.#respond(exchange, expected, fault))
  }

  #respond(exchange: Exchange, expected: Expectation, fault: RequestFault | undefined): void {
    const silence = this.#outage('silent')
    if (silence !== undefined) return // what is asked in a silence is never answered
    if (fault?.kind === 'status') return this.#answer(exchange, expected, statusHead(fault.status, fault.retryAfterSeconds), undefined)
    if (fault?.kind === 'stalled' && fault.afterBytes === 0) return
    if (fault?.kind === 'reset' && fault.afterBytes === 0) return this.#fail(exchange, broken('it broke the connection'))
    const { sizeBytes, isRangeable, maxRangeBytes } = this.#facts
    const start = isRangeable ? expected.start : 0
    const limitBytes = isRangeable ? Math.min(maxRangeBytes, fault?.kind === 'shorter' ? fault.lengthBytes : maxRangeBytes) : sizeBytes
    const end = Math.min(isRangeable ? (expected.end ?? sizeBytes) : sizeBytes, start + limitBytes)
    const etag = fault?.kind === 'changed' ? '"other"' : ETAG
    this.#answer(exchange, expected, isRangeable ? partialHead(start, end, sizeBytes, etag) : wholeHead(sizeBytes, etag), fault)
  }

  #answer(exchange: Exchange, expected: Expectation, head: ResponseHead, fault: RequestFault | undefined): void {
    let admitted: Admitted
    try {
      admitted = admit(head, expected, 0)
    } catch (error) {
      return void this.#later(this.link.facts.rttMs / 2, exchange, () => {
        this.#learn(head, exchange)
        this.#fail(exchange, error as SeekCacheError)
      })
    }
    const end = admitted.end ?? this.#facts.sizeBytes
    const cutBytes = fault?.kind === 'reset' || fault?.kind === 'stalled' ? fault.afterBytes : Number.POSITIVE_INFINITY
    exchange.respond(admitted, head, Math.min(end - admitted.start, cutBytes))
    if (fault?.kind === 'reset' && cutBytes < end - admitted.start) exchange.breaksAfter = true
  }

  #learn(head: ResponseHead, { sentMs }: Exchange): void {
    const { status } = head
    if (status !== 429 && status !== 503) return
    const nowMs = this.#clock.nowMs()
    const retryAfterMs = parseRetryAfterMs(field(head, 'retry-after'), nowMs)
    this.#allowance = afterOverload(this.#allowance, { status, retryAfterMs, inFlight: this.running.size, sentMs }, nowMs)
    const pauseMs = this.#allowance.pausedUntilMs - nowMs
    if (pauseMs > 0) this.#clock.startTimer(pauseMs + 1, () => this.#onChange?.())
    this.#awaitProbe()
  }

  #awaitProbe(): void {
    this.#probeTimer?.clear()
    const nowMs = this.#clock.nowMs()
    const atMs = nextProbeAtMs(this.#allowance, this.#maxConnections, nowMs)
    if (atMs === undefined) return
    this.#probeTimer = this.#clock.startTimer(atMs - nowMs + ROUNDING_MS, () => {
      this.#onChange?.()
      this.#awaitProbe()
    })
  }

  #fail(exchange: Exchange, error: SeekCacheError): void {
    exchange.connection.stop()
    this.#drop(exchange.connection)
    this.end(exchange, error)
  }

  #breakAll(): void {
    for (const connection of [...this.#connections]) if (!connection.isBusy) this.#drop(connection)
    this.#onChange?.()
    for (const exchange of this.running) {
      this.#later(this.link.facts.rttMs / 2, exchange, () => this.#fail(exchange, broken('it broke the connection')))
    }
  }

  #outage(kind: Outage['kind']): Outage | undefined {
    const nowMs = this.#clock.nowMs()
    return this.#troubles.outages.find((outage) => outage.kind === kind && outage.fromMs <= nowMs && nowMs < outage.fromMs + outage.durationMs)
  }

  get isSilent(): boolean {
    return this.#outage('silent') !== undefined
  }

  onBytes(request: Request): void {
    this.#observer.onBytes(request)
  }

  // ---- connections, as the transport keeps them

  #acquire(): Connection {
    const free = [...this.#connections].filter((connection) => !connection.isBusy)
    const nowMs = this.#clock.nowMs()
    const byWindow = (a: Connection, b: Connection): number => b.window.bytesAt(nowMs) - a.window.bytesAt(nowMs)
    const [best] = free.sort((a, b) => Number(b.isReady) - Number(a.isReady) || byWindow(a, b) || b.lastUsedMs - a.lastUsedMs)
    const connection = best ?? this.#connect()
    connection.isBusy = true
    return connection
  }

  #drop(connection: Connection): void {
    connection.close()
    this.#connections.delete(connection)
  }

  #warm(): void {
    while (this.#connections.size < this.connections.limit) this.#connect()
  }

  #connect(): Connection {
    const connection = new Connection(this.link)
    this.#connections.add(connection)
    this.#clock.startTimer(connection.readyAtMs - this.#clock.nowMs(), () => {
      connection.isReady = true
      if (this.#connections.has(connection) && !connection.isBusy) this.#onChange?.()
    })
    return connection
  }

  #cancel(exchange: Exchange): void {
    if (!this.running.has(exchange)) return
    this.#end(exchange)
    this.#observer.onEnd(exchange.request, 'cancelled')
    this.#drop(exchange.connection)
    this.#warm()
  }

  end(exchange: Exchange, error: SeekCacheError | undefined): void {
    if (!this.running.has(exchange)) return
    this.#end(exchange)
    this.#observer.onEnd(exchange.request, error ?? 'complete')
    exchange.observer.onEnd(error)
  }

  /** Breaks a running one. */
  break(exchange: Exchange): void {
    this.#fail(exchange, broken('its answer broke off'))
  }

  #end(exchange: Exchange): void {
    this.running.delete(exchange)
    exchange.connection.isBusy = false
    if (exchange.isServed) this.#served--
    this.#onChange?.()
  }

  #later(delayMs: number, exchange: Exchange, action: () => void): void {
    this.#clock.startTimer(delayMs, () => {
      if (this.running.has(exchange)) action()
    })
  }
}

/** One request and its answer. */
class Exchange {
  readonly request: Request
  readonly observer: FetchObserver
  readonly connection: Connection
  readonly sentMs: number
  isServed = false
  breaksAfter = false
  readonly #origin: SimulatedOrigin
  #head: { readonly admitted: Admitted; readonly head: ResponseHead } | undefined
  #position = 0
  #arrivedBytes = 0
  #bodyBytes = 0
  #isPaused = false
  #heldBytes: number[] = []

  constructor(
    origin: SimulatedOrigin, number: number, expected: Expectation, observer: FetchObserver, connection: Connection, sentMs: number,
  ) {
    this.#origin = origin
    this.sentMs = sentMs
    this.observer = observer
    this.connection = connection
    const end = expected.end ?? Number.POSITIVE_INFINITY
    this.request = { number, start: expected.start, end, askedStart: expected.start, askedEnd: end, hasHead: false }
  }

  respond(admitted: Admitted, head: ResponseHead, bodyBytes: number): void {
    this.#head = { admitted, head }
    this.#position = admitted.start
    this.#bodyBytes = bodyBytes
    this.connection.send({ lengthBytes: bodyBytes, onArrival: (lengthBytes) => this.#arrive(lengthBytes) })
  }

  #arrive(lengthBytes: number): boolean {
    if (!this.#origin.running.has(this) || this.#origin.isSilent) {
      this.connection.stop()
      return false
    }
    if (this.#isPaused) {
      this.#heldBytes.push(lengthBytes)
      return false
    }
    this.#deliver(lengthBytes)
    return true
  }

  #deliver(lengthBytes: number): void {
    const { request, observer } = this
    const { admitted, head } = this.#head!
    const end = admitted.end ?? Number.POSITIVE_INFINITY
    if (!request.hasHead) {
      request.hasHead = true
      request.end = end
      observer.onHead(admitted, head)
    }
    const position = this.#position
    this.#position += lengthBytes
    this.#arrivedBytes += lengthBytes
    request.start = this.#position
    this.#origin.onBytes(request)
    observer.onBytes(position, contentBytes(position, position + lengthBytes))
    if (this.#position >= end) this.#origin.end(this, undefined)
    else if (this.#arrivedBytes >= this.#bodyBytes && this.breaksAfter) this.#origin.break(this)
  }

  pause(): void {
    this.#isPaused = true
  }

  resume(): void {
    if (!this.#isPaused) return
    this.#isPaused = false
    this.#origin.link.clock.startTimer(0, () => {
      if (this.#isPaused) return
      for (const lengthBytes of this.#heldBytes.splice(0)) {
        if (!this.#origin.running.has(this)) return
        this.#deliver(lengthBytes)
        this.connection.take(lengthBytes)
      }
    })
  }
}

function partialHead(start: number, end: number, sizeBytes: number, etag: string): ResponseHead {
  const headers = { 'content-range': `bytes ${start}-${end - 1}/${sizeBytes}`, 'content-length': `${end - start}`, etag }
  return { status: 206, headers }
}

function wholeHead(sizeBytes: number, etag: string): ResponseHead {
  return { status: 200, headers: { 'content-length': `${sizeBytes}`, etag } }
}

function statusHead(status: number, retryAfterSeconds: number | undefined): ResponseHead {
  return { status, headers: retryAfterSeconds === undefined ? {} : { 'retry-after': `${retryAfterSeconds}` } }
}

function broken(reason: string): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', `cannot fetch from the origin: ${reason}`)
}
