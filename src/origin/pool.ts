/**
 * Everything about one origin: what was learned of it, what carries requests to it, and who may send how many.
 *
 * The schedules keep to their shares. What no schedule has planned (a probe, a revalidation, the end of a redirect)
 * waits here where the origin takes no more, and schedules make room for it.
 */

import { afterAllClosed, afterAnswer, afterOverload, afterRefusal, limitOf, nextProbeAtMs, type Allowance } from './allowance.ts'
import { field, statusError, type ResponseHead } from './admission.ts'
import { parseRetryAfterMs } from '../bytes/http-range.ts'
import type { SeekCacheError } from '../errors.ts'
import { DeferredExchange, type Carrier, type CarrierEvents, type Exchange, type ExchangeObserver, type OutgoingRequest, type Ready } from './exchange.ts'
import { allowanceOf, type OriginFacts } from './origin-memory.ts'
import { PathEstimate } from './path-estimate.ts'
import { MAX_RETRY_AFTER_MS } from './retry.ts'
import { shareOut, type Claim, type Need, type Share } from './shares.ts'
import { wasReached } from './unreachable.ts'

/** What could be asked of an origin now. */
export interface Connections extends Ready {
  /** Requests that may be in flight at the same time, those that are included. */
  readonly limit: number
  /** So many of the requests in flight are to be given up: others need them. */
  readonly yieldCount: number
  /** The origin has asked not to be asked for a while. */
  readonly isPaused: boolean
  /** One connection carries them all: a cancelled request costs none, and more requests at a time bring no more of TCP's windows. */
  readonly isMultiplexed: boolean
}

/** Who shares the origin with others: one resource. */
export class Claimant implements Claim {
  need: Need = 'none'
  inFlight = 0
  lastStartMs = 0
}

/** A request waits for its turn so long; then it is sent, and the origin says what it thinks of it. */
const MAX_QUEUED_MS = 2_000

interface Queued {
  readonly claimant: Claimant
  start(): void
  timer: NodeJS.Timeout | undefined
}

export class OriginPool {
  /** What was learned of the way to it. */
  readonly path: PathEstimate
  /** Whether its last answer to a probe was a range, and no redirect: then what is new may be asked for in several pieces at once. */
  isDirect: boolean
  readonly #carrier: Carrier
  readonly #maxRequests: number
  readonly #claimants = new Set<Claimant>()
  readonly #watchers = new Set<() => void>()
  readonly #queue: Queued[] = []
  #allowance: Allowance
  #inFlight = 0
  #isWarm = false
  #pauseTimer: NodeJS.Timeout | undefined
  #probeTimer: NodeJS.Timeout | undefined
  #isClosed = false

  /** @param known what an earlier run has learned */
  constructor(carrierWith: (events: CarrierEvents) => Carrier, maxRequests: number, known?: OriginFacts) {
    this.path = new PathEstimate(known?.path)
    this.isDirect = known?.isDirect === true
    this.#allowance = allowanceOf(known)
    this.#carrier = carrierWith(this.#events)
    this.#maxRequests = maxRequests
    this.#awaitProbe()
  }

  /** What is worth keeping for the next run. */
  get facts(): OriginFacts {
    const { learnedLimit, learnedAtMs, probeIntervalMs } = this.#allowance
    return { path: this.path.facts, learnedLimit, learnedAtMs, probeIntervalMs, chose1AtMs: this.#carrier.chose1AtMs, isDirect: this.isDirect }
  }

  // ---- who may send how many

  get #limit(): number {
    return Math.min(this.#carrier.maxRequests, limitOf(this.#allowance, this.#maxRequests, Date.now()))
  }

  get #pauseMs(): number {
    return Math.max(0, this.#allowance.pausedUntilMs - Date.now())
  }

  connections(claimant: Claimant): Connections {
    const { isMultiplexed } = this.#carrier
    const { limit, yieldCount } = this.#shareOf(claimant)
    const isPaused = this.#pauseMs > 0 && this.#pauseMs <= MAX_RETRY_AFTER_MS
    return { ...this.#carrier.ready(Math.max(0, this.#limit - this.#inFlight)), limit, yieldCount, isPaused, isMultiplexed }
  }

  #shareOf(claimant: Claimant): Share {
    const others = [...this.#claimants].filter((other) => other !== claimant)
    const mine: Claim = claimant.need === 'none' ? { ...claimant, need: 'ahead' } : claimant
    const claimed = [mine, ...others].reduce((sum, { inFlight }) => sum + inFlight, 0)
    return shareOut(this.#limit, [mine, ...others], this.#inFlight - claimed, this.#queue.filter(isUnplanned).length)[0]!
  }

  /** Says what a resource needs; the others hear of it where that changes their shares. */
  claim(claimant: Claimant, need: Need): void {
    if (claimant.need === need) return
    claimant.need = need
    this.#keep(claimant)
    if (this.#claimants.size > 1) this.#tell()
  }

  #keep(claimant: Claimant): void {
    if (claimant.need === 'none' && claimant.inFlight === 0) this.#claimants.delete(claimant)
    else this.#claimants.add(claimant)
  }

  // ---- requests

  /** Sends a request as soon as the origin takes one more; the schedules do not ask for more than their shares. */
  send(request: OutgoingRequest, claimant: Claimant, observer: ExchangeObserver): Exchange {
    const exchange = new DeferredExchange()
    const queued: Queued = {
      claimant,
      timer: undefined,
      start: () => {
        this.#unqueue(queued)
        exchange.begin(() => this.#start(request, claimant, observer))
      },
    }
    if (this.#pauseMs > 0 || this.#inFlight >= this.#limit) this.#enqueue(queued, observer)
    else queued.start()
    return {
      cancel: () => {
        this.#unqueue(queued)
        exchange.cancel()
      },
      pause: () => exchange.pause(),
      resume: () => exchange.resume(),
    }
  }

  #enqueue(queued: Queued, observer: ExchangeObserver): void {
    if (this.#pauseMs > MAX_RETRY_AFTER_MS) {
      const error = this.#pauseError()
      queueMicrotask(() => observer.onEnd(error)) // a cancelled one hears nothing
      return
    }
    this.#queue.push(queued)
    queued.timer = setTimeout(() => queued.start(), this.#pauseMs + MAX_QUEUED_MS)
    this.#tell()
  }

  #pauseError(): SeekCacheError {
    const seconds = String(Math.ceil(this.#pauseMs / 1000))
    return statusError({ status: this.#allowance.pauseStatus, headers: { 'retry-after': seconds } }, Date.now())
  }

  #unqueue(queued: Queued): void {
    clearTimeout(queued.timer)
    const index = this.#queue.indexOf(queued)
    if (index >= 0) this.#queue.splice(index, 1)
  }

  #start(request: OutgoingRequest, claimant: Claimant, observer: ExchangeObserver): Exchange {
    const sentMs = Date.now()
    claimant.inFlight++
    claimant.lastStartMs = performance.now()
    this.#inFlight++
    this.#keep(claimant)
    let isEnded = false
    const end = (): void => {
      if (isEnded) return
      isEnded = true
      claimant.inFlight--
      this.#inFlight--
      this.#keep(claimant)
      this.#carrier.trim(this.#limit)
      this.#goOn()
    }
    const exchange = this.#carrier.send(request, {
      onHead: (head) => {
        this.#onAnswer(head, sentMs)
        observer.onHead(head)
      },
      onBytes: (bytes) => observer.onBytes(bytes),
      onEnd: (error) => {
        end()
        observer.onEnd(error)
      },
    })
    return {
      cancel: () => {
        if (isEnded) return
        exchange.cancel()
        end()
        if (this.#isWarm) this.warm() // who seeks needs another connection in a moment
      },
      pause: () => exchange.pause(),
      resume: () => exchange.resume(),
    }
  }

  #onAnswer(head: ResponseHead, sentMs: number): void {
    const nowMs = Date.now()
    if (head.status === 429 || head.status === 503) {
      const retryAfterMs = parseRetryAfterMs(field(head, 'retry-after'), nowMs)
      this.#learn(afterOverload(this.#allowance, { status: head.status, retryAfterMs, inFlight: this.#inFlight, sentMs }, nowMs))
    } else {
      this.#learn(afterAnswer(this.#allowance, this.#carrier.openCount, nowMs))
    }
  }

  #learn(allowance: Allowance): void {
    if (allowance === this.#allowance) return
    this.#allowance = allowance
    this.#awaitProbe()
    this.#carrier.trim(this.#limit)
    const pauseMs = this.#pauseMs
    if (pauseMs === 0) return
    clearTimeout(this.#pauseTimer)
    this.#pauseTimer = setTimeout(() => this.#goOn(), pauseMs + 1)
    this.#pauseTimer.unref()
  }

  /** The limit rises with time alone: whoever waits for room has to be told. */
  #awaitProbe(): void {
    clearTimeout(this.#probeTimer)
    const atMs = nextProbeAtMs(this.#allowance, this.#maxRequests, Date.now())
    if (atMs === undefined) return
    this.#probeTimer = setTimeout(() => {
      this.#goOn()
      this.#awaitProbe()
    }, atMs - Date.now() + 1)
    this.#probeTimer.unref()
  }

  /** There may be room for more. */
  #goOn(): void {
    while (this.#queue.length > 0 && this.#pauseMs === 0 && this.#inFlight < this.#limit) (this.#queue.find(isUnplanned) ?? this.#queue[0]!).start()
    this.#tell()
  }

  // ---- what carries them

  /** Makes connections, up to the limit, before there are requests for them, and from now on for those that are given up. */
  warm(): void {
    this.#isWarm = true
    if (this.#pauseMs === 0 && !this.#isClosed) this.#carrier.warm(this.#limit)
  }

  readonly #events: CarrierEvents = {
    onReady: () => this.#goOn(),
    onRefused: (error) => {
      if (wasReached(error)) this.#allowance = afterRefusal(this.#allowance, this.#carrier.openCount, Date.now())
      this.#goOn() // who waits for that connection waits no more
    },
    onClosed: () => {
      if (this.#carrier.openCount === 0) this.#allowance = afterAllClosed(this.#allowance)
      this.#goOn()
    },
  }

  // ---- who wants to know

  /** `onChange` is called when a handshake is done or has failed, when a request has ended, and when shares change. @returns what ends that */
  watch(onChange: () => void): () => void {
    this.#watchers.add(onChange)
    return () => void this.#watchers.delete(onChange)
  }

  #tell(): void {
    for (const watcher of [...this.#watchers]) watcher()
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#pauseTimer)
    clearTimeout(this.#probeTimer)
    for (const queued of [...this.#queue]) this.#unqueue(queued)
    await this.#carrier.destroy()
  }
}

/** What no schedule has planned has to be made room for; what one has, waits for its own others to end. */
function isUnplanned({ claimant }: Queued): boolean {
  return claimant.need === 'none'
}
