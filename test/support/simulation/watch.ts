/**
 * The rules of the schedule, held against it at every event of a simulation.
 *
 * It sees what anybody outside can: who reads where and waits, what was asked of the origin and what came of it. A rule
 * that is broken is remembered and thrown between two events, since some are found within the schedule's own calls.
 */
import assert from 'node:assert/strict'

import { intersect } from '../../../src/bytes/ranges.ts'
import type { SeekCacheError } from '../../../src/errors.ts'
import type { Readahead } from '../../../src/origin/path-estimate.ts'
import { isRetryable, retryDelayMs } from '../../../src/origin/retry.ts'
import { SEEK_BYTES } from '../../../src/schedule/plan.ts'
import { GATHER_MS, type Reader } from '../../../src/schedule/reader.ts'
import type { ScheduleLimits } from '../../../src/schedule/parts.ts'
import type { MemoryGeneration, MemoryStore } from './memory.ts'
import type { OriginObserver, Request, RequestFault, SimulatedOrigin } from './origin.ts'
import type { Scenario } from './scenario.ts'
import type { VirtualClock } from './virtual-clock.ts'

const KIB = 1024
/** What the schedule lets end by itself for its connection's sake: no more than that, no longer than that. */
const MAX_DRAIN_BYTES = 512 * KIB
const MAX_DRAIN_MS = 1_001
/** So long a reader may wait for a connection that is about to be free. */
const OVERDUE_MS = 501
const CHUNK_BYTES = 64 * KIB
const MAX_FIRST_BYTE_MS = 60_000

/** A reader as its player sees it. */
export interface Player {
  readonly kind: 'play' | 'fill'
  readonly reader: Reader
  /** It waits for the byte there since then; when that had arrived, where more is gathered. */
  wait: { readonly position: number; readonly sinceMs: number; arrivedMs?: number } | undefined
}

export interface Watched {
  readonly scenario: Scenario
  readonly clock: VirtualClock
  readonly generation: MemoryGeneration
  readonly store: MemoryStore
  readonly limits: ScheduleLimits
  /** Timers of the schedule that are running. */
  readonly timerCount: () => number
  readonly isPassing: (reader: Reader) => boolean
}

interface Running {
  readonly startedMs: number
  /** Since when nobody's window has any of it. */
  unwantedSinceMs: number | undefined
}

/** Why a wait may take longer. */
interface Trouble {
  readonly untilMs: number
  readonly costMs: number
}

export class Watch implements OriginObserver {
  readonly players = new Set<Player>()
  readonly counts = { requests: 0, waits: 0, events: 0, longestShareOfBound: 0 }
  origin: SimulatedOrigin | undefined
  readonly #watched: Watched
  readonly #running = new Map<Request, Running>()
  readonly #troubles: Trouble[] = []
  #broken: Error | undefined
  #requestsAtFailure = 0
  #isSuperseded = false
  #tries = 0
  #stalls = 0
  #quietUntilMs = -1
  #notBeforeMs = 0
  #needInPlan = 0
  #demandOfPlan = ''
  #maxPieceBytes = 0
  /** When a player was there the last time: filling gives way to it for as long as it takes. */
  #lastPlayMs = 0
  #isBehindKnown = false

  constructor(watched: Watched) {
    this.#watched = watched
  }

  get runningCount(): number {
    return this.#running.size
  }

  // ---- what the origin is asked

  onRequest(request: Request): void {
    const { generation, limits, scenario, clock } = this.#watched
    const range = { start: request.start, end: Math.min(request.end, scenario.sizeBytes) }
    const what = `bytes ${range.start}-${range.end}`
    this.counts.requests++
    this.#rule(!this.#isSuperseded, `${what} are asked for, though the origin has another version`)
    this.#rule(!this.#isBehindKnown, `${what} are asked for, while the disk is behind`)
    this.#rule(clock.nowMs() >= this.#notBeforeMs, `${what} are asked for, ${Math.round(this.#notBeforeMs - clock.nowMs())} ms before the origin's Retry-After`)
    this.#rule(range.start < range.end && request.end <= scenario.sizeBytes, `${what} are none of the film's`)
    if (scenario.isRangeable) {
      this.#rule(generation.arrived.within(range.start, range.end).length === 0, `${what} are asked for, and some are there`)
      for (const other of this.#running.keys()) {
        this.#rule(intersect(other, range) === undefined, `${what} are asked for, and some are under way in ${other.start}-${other.end}`)
      }
      this.#rule(this.#isWanted(range), `${what} are asked for, and nobody wants them`)
      this.#inOrder(range, what)
    }
    this.#running.set(request, { startedMs: clock.nowMs(), unwantedSinceMs: undefined })
    this.#rule(this.#running.size <= (scenario.isRangeable ? limits.maxFetches : 1), `${this.#running.size} requests at the same time`)
  }

  onPlan(): void {
    this.#needInPlan = 0
  }

  /** In one plan: what somebody waits for, then what is wanted ahead, then filling. */
  #inOrder(range: { start: number; end: number }, what: string): void {
    const players = [...this.players].filter(({ kind }) => kind === 'play')
    if (players.some(({ reader }) => this.#watched.isPassing(reader) && intersect(range, reader.window) !== undefined)) return // wanted in part
    const isAwaited = players.some(({ wait }) => wait !== undefined && range.start <= wait.position && wait.position < range.end)
    const isAhead = players.some(({ reader }) => reader.run.filling.isFilling && intersect(range, reader.window) !== undefined)
    const need = isAwaited ? 0 : isAhead ? 1 : 2
    const demand = [...this.players].map(({ reader, wait }) => `${reader.window.start} ${wait?.position}`).join()
    if (demand !== this.#demandOfPlan) this.#needInPlan = 0 // another plan, in the same turn
    this.#demandOfPlan = demand
    this.#rule(need >= this.#needInPlan, `${what} are asked for after what is needed less`)
    this.#needInPlan = Math.max(need, this.#needInPlan)
  }

  onBytes(): void {
    this.#tries = 0
    if (this.#watched.store.isCongested) this.#isBehindKnown = true
  }

  onRelief(): void {
    this.#isBehindKnown = false
  }

  onEnd(request: Request, outcome: 'complete' | 'cancelled' | SeekCacheError): void {
    const { clock, limits } = this.#watched
    const { startedMs } = this.#running.get(request)!
    this.#running.delete(request)
    const nowMs = clock.nowMs()
    if (outcome === 'complete') return
    if (outcome === 'cancelled') {
      if (!request.hasHead && nowMs - startedMs >= limits.stall.firstByteMs) this.#countTry(request)
      return
    }
    if (outcome.code === 'ERR_SEEKCACHE_ORIGIN_CHANGED') this.#isSuperseded = true
    if (!isRetryable(outcome)) return
    this.#countTry(request)
    this.#notBeforeMs = Math.max(this.#notBeforeMs, nowMs + (outcome.retryAfterMs ?? 0))
    const delayMs = Math.max(retryDelayMs(outcome, this.#tries), 0) + 1
    this.#quietUntilMs = Math.max(this.#quietUntilMs, nowMs + delayMs)
    this.#troubles.push({ untilMs: nowMs + delayMs, costMs: delayMs + this.#fetchMs() })
  }

  /** What was asked for before the last failure shares its fate: it says nothing new. */
  #countTry(request: Request): void {
    if (request.number < this.#requestsAtFailure) return
    this.#requestsAtFailure = this.counts.requests
    this.#tries++
  }

  onTrouble(kind: RequestFault['kind'], delayMs: number): void {
    const { clock } = this.#watched
    const isSilent = kind === 'stalled' || kind === 'late'
    const silenceMs = isSilent ? this.#patienceMs : 0
    if (isSilent) this.#stalls++
    const costMs = silenceMs + delayMs + this.#fetchMs()
    this.#troubles.push({ untilMs: clock.nowMs() + costMs, costMs })
  }

  get #patienceMs(): number {
    return Math.min(this.#watched.limits.stall.firstByteMs * 2 ** this.#stalls, MAX_FIRST_BYTE_MS)
  }

  /** Something that lasts and begins now. Waiting times double from try to try, so that the last one is no longer than it all. */
  onSpan(durationMs: number, kind: 'down' | 'silent' | 'behind'): void {
    const { clock, limits } = this.#watched
    const { firstByteMs } = limits.stall
    // Patience doubles at each try in a silence, also for a later one that is asked for before the first bytes after it.
    if (kind === 'silent') this.#stalls += Math.ceil(Math.log2(durationMs / firstByteMs + 1))
    const lastTryMs = Math.max(durationMs + 2 * firstByteMs, this.#patienceMs)
    const afterMs = kind === 'behind' ? 0 : kind === 'silent' ? lastTryMs : durationMs + 500
    const costMs = durationMs + afterMs + this.#fetchMs()
    this.#troubles.push({ untilMs: clock.nowMs() + costMs, costMs })
  }

  // ---- between two events

  afterEvent(): void {
    this.counts.events++
    this.#noteUnwanted()
    if ([...this.players].some(({ kind }) => kind === 'play')) this.#lastPlayMs = this.#watched.clock.nowMs()
    for (const player of this.players) this.#served(player)
    this.#maxPieceBytes = Math.max(this.#maxPieceBytes, this.#pieceBytes())
    this.#noTimerLeft()
    this.throwBroken()
  }

  /** Each fetch has a watchdog, each wait a deadline and a time from which it is overdue; there is one retry, and one seek that is expected. */
  #noTimerLeft(): void {
    const waiting = [...this.players].filter(({ wait }) => wait !== undefined).length
    const dueCount = this.#running.size + 2 * waiting + 2
    const count = this.#watched.timerCount()
    this.#rule(count <= dueCount, `${count} timers run for ${this.#running.size} fetches and ${waiting} waits`)
  }

  throwBroken(): void {
    if (this.#broken !== undefined) throw this.#broken
  }

  #noteUnwanted(): void {
    const nowMs = this.#watched.clock.nowMs()
    for (const [request, facts] of this.#running) {
      const lengthBytes = request.end - request.start
      if (this.#watched.scenario.isRangeable) {
        this.#rule(lengthBytes <= this.#pieceBytesAllowed(), `a request of ${lengthBytes} bytes`)
      }
      if (this.#isWanted(request) || (!this.#watched.scenario.isRangeable && this.players.size > 0)) {
        facts.unwantedSinceMs = undefined
        continue
      }
      facts.unwantedSinceMs ??= nowMs
      const isDraining = lengthBytes <= MAX_DRAIN_BYTES && nowMs - facts.unwantedSinceMs <= MAX_DRAIN_MS
      this.#rule(isDraining, `bytes ${request.start}-${request.end} are under way, and nobody wants them since ${nowMs - facts.unwantedSinceMs} ms`)
    }
  }

  #isWanted(range: { readonly start: number; readonly end: number }): boolean {
    return [...this.players].some(({ reader }) => intersect(range, reader.window) !== undefined)
  }

  #served({ kind, reader, wait }: Player): void {
    const { generation, clock, scenario } = this.#watched
    if (wait === undefined) return
    if (generation.arrived.has(wait.position)) {
      wait.arrivedMs ??= clock.nowMs()
      const isGathering = reader.run.demand.consumedBytes >= SEEK_BYTES && clock.nowMs() - wait.arrivedMs <= GATHER_MS
      return this.#rule(isGathering, `a ${kind} reader waits for byte ${wait.position}, which is there since ${clock.nowMs() - wait.arrivedMs} ms`)
    }
    const sinceMs = kind === 'play' ? wait.sinceMs : Math.max(wait.sinceMs, this.#lastPlayMs)
    const boundMs = this.#boundMs(sinceMs)
    const waitedMs = clock.nowMs() - sinceMs
    this.#rule(waitedMs <= boundMs, `a ${kind} reader waits for byte ${wait.position} since ${waitedMs} ms; ${Math.round(boundMs)} are due`)
    const covers = (request: Request, position: number): boolean => request.start <= position && position < request.end
    const requests = [...this.#running.keys()]
    if (!scenario.isRangeable || requests.some((request) => covers(request, wait.position))) return
    if (clock.nowMs() <= this.#quietUntilMs || this.#isBehindKnown) return
    const awaited = [...this.players].flatMap((player) => (player.kind === 'play' && player.wait !== undefined ? [player.wait.position] : []))
    const isAllUrgent = requests.length >= this.#maxFetches && requests.every((request) => awaited.some((position) => covers(request, position)))
    if (waitedMs < OVERDUE_MS && requests.some(({ start, end }) => end - start <= MAX_DRAIN_BYTES)) return // it will be free in a moment
    const plays = [...this.players].filter((player) => player.kind === 'play')
    const isAfterSeek = plays.some((play) => play.wait !== undefined || requests.some((request) => intersect(request, play.reader.window) !== undefined))
    const mayWait = kind === 'play' ? isAllUrgent : isAfterSeek || this.#isFull(requests) || this.origin!.connections.windowsBytes.length === 0
    this.#rule(mayWait, `nobody fetches byte ${wait.position}, for which a ${kind} reader waits, and ${requests.length} requests run`)
  }

  onWaitEnd({ wait }: Player): void {
    if (wait === undefined || wait.sinceMs === this.#watched.clock.nowMs()) return
    this.counts.waits++
    const share = (this.#watched.clock.nowMs() - wait.sinceMs) / this.#boundMs(wait.sinceMs)
    this.counts.longestShareOfBound = Math.max(this.counts.longestShareOfBound, share)
  }

  // ---- how long may it take

  /** One small fetch on a new connection, behind a full queue. */
  #fetchMs(): number {
    const { link, answerMs } = this.#watched.scenario
    return (link.handshakeRoundTrips + 10) * link.rttMs + answerMs + 2 * link.queueMs
  }

  #boundMs(sinceMs: number): number {
    const { scenario, limits } = this.#watched
    const { link, sizeBytes } = scenario
    const connectionBytesPerMs = Math.min(link.bytesPerMs, link.connectionBytesPerMs)
    const aheadBytes = scenario.isRangeable ? 2 * limits.maxFetches * this.#maxPieceBytes : 2 * sizeBytes
    const bytesMs = aheadBytes / link.bytesPerMs + (scenario.isRangeable ? this.#maxPieceBytes : 2 * sizeBytes) / connectionBytesPerMs
    const turns = Math.ceil(this.players.size / limits.maxFetches)
    const troubleMs = this.#troubles.reduce((sum, { untilMs, costMs }) => (untilMs >= sinceMs ? sum + costMs : sum), 0)
    return (3 * this.#fetchMs() + bytesMs) * turns + troubleMs
  }

  #pieceBytes(): number {
    return this.#readahead().pieceBytes
  }

  #isFull(requests: readonly Request[]): boolean {
    const comingBytes = requests.reduce((sum, { start, end }) => sum + end - start, 0)
    return comingBytes >= this.#readahead().askedBytes || requests.length >= this.#maxFetches
  }

  #readahead(): Readahead {
    const origin = this.origin!
    return origin.path.readahead(this.#maxFetches)
  }

  get #maxFetches(): number {
    return Math.min(this.#watched.limits.maxFetches, this.origin!.connections.limit)
  }

  /** The estimate may have fallen since a request was made. */
  #pieceBytesAllowed(): number {
    return Math.max(this.#maxPieceBytes, this.#pieceBytes()) + CHUNK_BYTES
  }

  #rule(isKept: boolean, message: string): void {
    if (isKept || this.#broken !== undefined) return
    this.#broken = new assert.AssertionError({ message: `at ${Math.round(this.#watched.clock.nowMs())} ms: ${message}` })
  }
}
