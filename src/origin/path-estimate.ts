/**
 * What is known of the way to an origin, and what that makes of readahead: over how many connections, in which pieces.
 *
 * The round trip is the shortest time from a request to its first byte, the origin's own time included. The rate is that
 * of busy time only, all connections together. Readahead asks for so much at a time as keeps the link full: more while
 * first bytes come as fast as ever, less when they come late, which says that they stand in a queue behind what was
 * asked for (as TCP Vegas and LEDBAT judge it). When no queue shows and asking for more brings no more, the origin limits
 * each connection: then one more is tried, and kept if the rate rises.
 */

/** Judged over spans of this length, or some round trips: several pieces. */
const MIN_SPAN_MS = 200
const SPAN_RTTS = 3
/** A lower rate than known counts so much in each span: a path that got slower is believed after one or two seconds. */
const DECAY = 0.9
/** Before anything was measured: a usual home link, 80 Mbit/s and 60 ms. */
const INITIAL_RATE = 10_000
const INITIAL_RTT_MS = 60
const INITIAL_CONNECTIONS = 3

/** A queue is short below, long above these: a share of the round trip and some milliseconds of noise. */
const SHORT_QUEUE = { share: 0.1, ms: 3 }
const LONG_QUEUE = { share: 0.25, ms: 5 }
/** Up to what fills any link it grows fast; beyond, by a part of that in each span, for its effect shows late. */
const FAST_GROWTH = 1.5
const FAST_ROUND_TRIPS = 1.5
const SLOW_GROWTH_ROUND_TRIPS = 0.15
const SHRINKAGE = 0.7
/** More asked for at a time brings no more: a request's own round trip is then less than a tenth of its time. */
const MAX_ROUND_TRIPS_ASKED = 12
/** So much asked for beyond what the path holds, without a queue: it is not the asking that limits the rate. */
const LIMITED_ELSEWHERE = 4

/** A tried connection is kept when it brings at least this part of what it would bring if each had its own limit. */
const MIN_GAIN_SHARE = 0.4
const TRIAL_SPANS = 3
/** Before a trial, the rate has been limited elsewhere for so long: pieces that end together make single spans slow. */
const LIMITED_SPANS = 4
/** After a trial that brought nothing, the next one waits. */
const TRIAL_PAUSE_SPANS = 50

/** Pieces of readahead: below it a request's own cost counts, above it a cancelled one costs too much. */
const MIN_PIECE_BYTES = 128 * 1024
const MAX_PIECE_BYTES = 4 * 1024 * 1024
/** On shorter round trips the requests' own cost counts: pieces are as large as for this one. */
const MIN_PIECE_RTT_MS = 20

/** What is worth keeping for the next start. */
export interface PathFacts {
  readonly rttMs: number
  readonly bytesPerMs: number
  /** Over so many connections readahead runs. */
  readonly connections: number
}

interface Span {
  readonly startMs: number
  bytes: number
  firstByteCount: number
  firstByteSumMs: number
  /** Whether readahead had all it may have, from the first to the last moment. */
  isFull: boolean
  /** Small pieces for a seek say nothing of what readahead could do. */
  isUrgent: boolean
}

interface Trial {
  readonly connectionsBefore: number
  readonly rateBefore: number
  spansLeft: number
  bestRate: number
}

export class PathEstimate {
  #rttMs: number | undefined
  #bytesPerMs: number | undefined
  #connections: number
  #limit = INITIAL_CONNECTIONS
  #askedBytes: number | undefined
  #span: Span | undefined
  #isFull = false
  #trial: Trial | undefined
  #spansUntilTrial = LIMITED_SPANS

  constructor(known?: PathFacts) {
    this.#rttMs = known?.rttMs
    this.#bytesPerMs = known?.bytesPerMs
    this.#connections = known?.connections ?? INITIAL_CONNECTIONS
  }

  /** Undefined until something was measured. */
  get facts(): PathFacts | undefined {
    if (this.#rttMs === undefined || this.#bytesPerMs === undefined) return undefined
    return { rttMs: this.#rttMs, bytesPerMs: this.#bytesPerMs, connections: this.#trial?.connectionsBefore ?? this.#connections }
  }

  // ---- what happens

  /** A request's first body byte came so long after it was asked for; `wasReady`: without a handshake in between. */
  onFirstByte(durationMs: number, wasReady: boolean): void {
    this.#rttMs = Math.min(this.#rttMs ?? Number.POSITIVE_INFINITY, durationMs)
    if (this.#span === undefined || !wasReady) return
    this.#span.firstByteCount++
    this.#span.firstByteSumMs += durationMs
  }

  onBytes(lengthBytes: number, nowMs: number): void {
    this.#span ??= { startMs: nowMs, bytes: 0, firstByteCount: 0, firstByteSumMs: 0, isFull: this.#isFull, isUrgent: false }
    this.#span.bytes += lengthBytes
    const durationMs = nowMs - this.#span.startMs
    if (durationMs < Math.max(MIN_SPAN_MS, SPAN_RTTS * this.#rtt)) return
    this.#judge(this.#span, durationMs)
    this.#span = undefined
  }

  onUrgentFetch(): void {
    if (this.#span !== undefined) this.#span.isUrgent = true
  }

  /** Whether readahead has all the connections that it may have, and would take more. */
  onReadahead(isFull: boolean): void {
    this.#isFull = isFull
    if (this.#span !== undefined && !isFull) this.#span.isFull = false
  }

  /** Nothing is asked for at the moment: the time from now on says nothing of the rate. */
  onIdle(): void {
    this.#span = undefined
  }

  // ---- what follows

  /** How readahead runs, with at most `limit` connections. */
  readahead(limit: number): { readonly connections: number; readonly pieceBytes: number } {
    this.#limit = limit
    const connections = Math.max(1, Math.min(this.#connections, limit))
    // One of them waits for its first byte while the others' pieces keep the link full.
    const pieceBytes = Math.max(this.#asked, this.#rate * MIN_PIECE_RTT_MS) / Math.max(1, connections - 1)
    return { connections, pieceBytes: Math.min(Math.max(MIN_PIECE_BYTES, pieceBytes), MAX_PIECE_BYTES) }
  }

  /** What is under way on a full link. */
  get bandwidthDelayBytes(): number {
    return this.#rate * this.#rtt
  }

  get #rate(): number {
    return this.#bytesPerMs ?? INITIAL_RATE
  }

  get #rtt(): number {
    return this.#rttMs ?? INITIAL_RTT_MS
  }

  get #asked(): number {
    return Math.max(this.#askedBytes ?? 0, this.bandwidthDelayBytes)
  }

  #judge(span: Span, durationMs: number): void {
    const rate = span.bytes / durationMs
    this.#bytesPerMs = Math.max(rate, (this.#bytesPerMs ?? 0) * DECAY)
    if (!span.isFull || span.isUrgent || span.firstByteCount === 0) return
    const queueMs = span.firstByteSumMs / span.firstByteCount - this.#rtt
    const isLong = queueMs > LONG_QUEUE.share * this.#rtt + LONG_QUEUE.ms
    const isShort = queueMs < SHORT_QUEUE.share * this.#rtt + SHORT_QUEUE.ms
    if (isLong) this.#askedBytes = this.#asked * SHRINKAGE
    else if (isShort) this.#askedBytes = this.#grown()
    this.#try(rate, isLong, isShort && this.#asked >= LIMITED_ELSEWHERE * this.bandwidthDelayBytes)
  }

  #grown(): number {
    const roundTripBytes = this.bandwidthDelayBytes
    if (this.#asked < FAST_ROUND_TRIPS * roundTripBytes) return Math.min(this.#asked * FAST_GROWTH, FAST_ROUND_TRIPS * roundTripBytes)
    return Math.min(this.#asked + SLOW_GROWTH_ROUND_TRIPS * roundTripBytes, MAX_ROUND_TRIPS_ASKED * roundTripBytes)
  }

  #try(rate: number, isQueueLong: boolean, isLimitedElsewhere: boolean): void {
    const trial = this.#trial
    if (trial === undefined) {
      if (!isLimitedElsewhere || this.#connections >= this.#limit) this.#spansUntilTrial = Math.max(this.#spansUntilTrial, LIMITED_SPANS)
      else if (--this.#spansUntilTrial <= 0) this.#trial = this.#begin()
      return
    }
    trial.bestRate = Math.max(trial.bestRate, rate)
    if (!isQueueLong && --trial.spansLeft > 0) return
    const gain = trial.bestRate / trial.rateBefore - 1
    const fullGain = this.#connections / trial.connectionsBefore - 1
    const isKept = gain >= MIN_GAIN_SHARE * fullGain
    if (!isKept) this.#connections = trial.connectionsBefore
    this.#spansUntilTrial = isKept ? LIMITED_SPANS : TRIAL_PAUSE_SPANS
    this.#trial = undefined
  }

  #begin(): Trial {
    const connectionsBefore = this.#connections
    this.#connections++
    return { connectionsBefore, rateBefore: this.#rate, spansLeft: TRIAL_SPANS, bestRate: 0 }
  }
}
