/**
 * What is known of the way to an origin, and what that makes of readahead: how many bytes it has under way, in which pieces.
 *
 * The round trip is the shortest time from a request to its first byte, the origin's own time included; what first bytes
 * usually take beyond it is jitter: an origin that thinks, a radio link, a busy machine. Both are measured now and then while
 * less is asked for, so that what is measured is no queue of ours. The rate is that of busy time only, all connections
 * together. Readahead asks for so much at a time as keeps the link full: more while first bytes come as fast as usual, less
 * when they come late, which says that they stand in a queue behind what was asked for (as TCP Vegas and LEDBAT judge it).
 * How many connections that takes follows from it: where an origin limits each of them, no queue shows, more is asked for,
 * and more of them carry it.
 */

/** Judged over spans of this length, or some round trips: several pieces. */
const MIN_SPAN_MS = 200
const SPAN_RTTS = 3
/**
 * A lower rate behind a queue is believed when it has lasted so long: a radio link stands still for a moment now and then. Where
 * first bytes meet no queue the link was not full (connections that idled are in slow start), and a lower rate says nothing:
 * believed, it had halved what was asked for, and so what came, within a few seeks.
 */
const RATE_HOLDS_MS = 1_500
/**
 * A round trip that was not met, give or take a tenth, and the jitter are measured anew after so long (BBR holds its round trip
 * for 10 s): a queue of ours and a jitter look alike until less is asked for. Where jitter was taken for a queue, first bytes
 * that took up to 60 ms more on a link of 60 ms and 80 Mbit/s left a sixth of its rate.
 */
const MIN_MEASURED_HOLDS_MS = 10_000
const MEASURED_HOLDS_ROUND_TRIPS = 100
const MET = 1.1
const EASED_SHARE = 0.7
const EASED_FIRST_BYTES = 12
const MAX_EASED_SPANS = 8
/** Before anything was measured: a usual home link, 80 Mbit/s and 60 ms. */
const INITIAL_RATE = 10_000
const INITIAL_RTT_MS = 60

/**
 * What was measured first, and met no long queue, is what slow start brought, not what the link holds: as in BBR's startup, more
 * is asked for. Where it met one it is the link's rate (a seek just after an opening took 30 ms more at 20 Mbit/s).
 */
const STARTUP_GAIN = 2.89
/** A queue is short below, long above these: a share of what first bytes usually take and some milliseconds of noise. */
const SHORT_QUEUE = { share: 0.1, ms: 3 }
const LONG_QUEUE = { share: 0.25, ms: 5 }
/**
 * Up to what fills any link it grows fast, and while the rate rises with it up to twice what that rate fills (BBR's window), as
 * what fills the link is not known before; so it does from the start until a queue shows or the rate stands still, also while a
 * player's first bytes are urgent: 80 Mbit/s were full 1.1 s after an opening, and 2.3 s without. Beyond, it grows by a part of
 * a round trip in each span, for its effect shows late, and only while most first bytes meet no queue: connections that seeks have
 * left in slow start come in bursts, some behind others, and asking for more makes neither faster. It only makes pieces longer.
 */
const FAST_GROWTH = 1.5
/** Less than what growing fast brings to the span after it, as one part of that came before. */
const RISING = 1.1
const RISING_ROUND_TRIPS = 2
const FAST_ROUND_TRIPS = 1.25
const SLOW_GROWTH_ROUND_TRIPS = 0.15
/**
 * A long queue is brought to between short and long, by what stands in it (Little's law), at most by so much in a span. All of
 * it at once left the link idle in two spans of three: asked for was what fills it without a queue, then too much again.
 */
const SHRINKAGE = 0.7
/** More asked for at a time brings no more: a request's own round trip is then less than a tenth of its time. */
const MAX_ROUND_TRIPS_ASKED = 16
/** Pieces of readahead: below it a request's own cost counts, above it a cancelled one costs too much. */
const MIN_PIECE_BYTES = 64 * 1024
const MIN_ASKED_BYTES = 128 * 1024
const MAX_PIECE_BYTES = 4 * 1024 * 1024
/** On shorter round trips the requests' own cost counts: pieces are as large as for this one. */
const MIN_PIECE_RTT_MS = 20
/** So many pieces make what is under way: the link is full while some of them wait for their first bytes, and none is long. */
const PIECES = 5

/** What is worth keeping for the next start. */
export interface PathFacts {
  readonly rttMs: number
  readonly bytesPerMs: number
  /** What readahead has under way, as a multiple of what a full link holds. */
  readonly roundTripsAsked: number
  /** What first bytes usually take beyond the round trip; older records do not tell. */
  readonly jitterMs?: number
}

/** How readahead runs. */
export interface Readahead {
  /** Another piece is asked for while less than that is still to come. */
  readonly askedBytes: number
  readonly pieceBytes: number
}

interface Span {
  readonly startMs: number
  bytes: number
  readonly firstBytesMs: number[]
  /** First bytes came that say nothing of the way: this process stood still. */
  wasHeldUp: boolean
  /** Whether readahead had all it may have, from the first to the last moment. */
  isFull: boolean
  /** Small pieces for a seek say nothing of what readahead could do. */
  isUrgent: boolean
}

export class PathEstimate {
  #rttMs: number | undefined
  #bytesPerMs: number | undefined
  /** Of the last spans, those in which the link was full or faster than before. */
  readonly #rates: { readonly rate: number; readonly durationMs: number }[]
  /** Undefined while it is what a full link holds. */
  #askedBytes: number | undefined
  #span: Span | undefined
  #isFull = false
  #rttMetMs: number | undefined
  /** What first bytes usually take beyond the round trip, without a queue of ours. */
  #jitterMs: number
  #jitterMeasuredMs: number | undefined
  #isEased = false
  /** While less is asked for: spans so far, and what first bytes have taken since what had stood in a queue is gone. */
  #easedSpans = 0
  readonly #easedMs: number[] = []
  /** Until first bytes have stood in a queue, or more was asked for and did not come: what is measured is slow start. */
  #isStarting: boolean

  constructor(known?: PathFacts) {
    this.#isStarting = known === undefined
    this.#rttMs = known?.rttMs
    this.#bytesPerMs = known?.bytesPerMs
    this.#jitterMs = known?.jitterMs ?? 0
    this.#rates = known === undefined ? [] : [{ rate: known.bytesPerMs, durationMs: 0 }]
    if (known !== undefined) this.#askedBytes = known.roundTripsAsked * this.bandwidthDelayBytes
  }

  /** Undefined until something was measured. */
  get facts(): PathFacts | undefined {
    if (this.#rttMs === undefined || this.#bytesPerMs === undefined) return undefined
    return { rttMs: this.#rttMs, bytesPerMs: this.#bytesPerMs, roundTripsAsked: this.#asked / this.bandwidthDelayBytes, jitterMs: this.#jitterMs }
  }

  // ---- what happens

  /**
   * A request's first body byte came so long after it was asked for.
   * @param wasReady without a handshake in between
   * @param wasHeldUp in this process, which stood still
   */
  onFirstByte(durationMs: number, wasReady: boolean, wasHeldUp = false): void {
    this.#rttMs = Math.min(this.#rttMs ?? Number.POSITIVE_INFINITY, durationMs)
    if (this.#span === undefined || !wasReady) return
    if (wasHeldUp) this.#span.wasHeldUp = true
    else this.#span.firstBytesMs.push(durationMs)
  }

  onBytes(lengthBytes: number, nowMs: number): void {
    this.#span ??= { startMs: nowMs, bytes: 0, firstBytesMs: [], wasHeldUp: false, isFull: this.#isFull, isUrgent: false }
    this.#span.bytes += lengthBytes
    const durationMs = nowMs - this.#span.startMs
    if (durationMs < Math.max(MIN_SPAN_MS, SPAN_RTTS * this.#rtt)) return
    this.#judge(this.#span, durationMs)
    this.#watchRoundTrip(this.#span, nowMs)
    this.#span = undefined
  }

  onUrgentFetch(): void {
    if (this.#span !== undefined) this.#span.isUrgent = true
  }

  /** Whether readahead has under way all that it may have, and would take more. */
  onReadahead(isFull: boolean): void {
    this.#isFull = isFull
    if (this.#span !== undefined && !isFull) this.#span.isFull = false
  }

  /** Nothing is asked for at the moment: the time from now on says nothing of the rate. */
  onIdle(): void {
    this.#span = undefined
  }

  // ---- what follows

  /** How readahead runs with at most `limit` requests at a time. */
  readahead(limit: number): Readahead {
    const pieceBytes = this.#wantedBytes / Math.max(1, Math.min(PIECES, limit - 1))
    return { askedBytes: this.askedBytes, pieceBytes: Math.min(Math.max(MIN_PIECE_BYTES, pieceBytes), MAX_PIECE_BYTES) }
  }

  /** Another piece is asked for while less than that is still to come. */
  get askedBytes(): number {
    return this.#isEased ? this.#wantedBytes * EASED_SHARE : this.#wantedBytes
  }

  get #wantedBytes(): number {
    return Math.max(this.#asked, this.#rate * MIN_PIECE_RTT_MS, MIN_ASKED_BYTES)
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
    return Math.max(this.#askedBytes ?? 0, this.#fullBytes)
  }

  /** What has to be asked for to fill the link. */
  get #fullBytes(): number {
    return this.#rate * this.#usualMs
  }

  /** What a first byte takes without a queue of ours. */
  get #usualMs(): number {
    return this.#rtt + this.#jitterMs
  }

  #judge(span: Span, durationMs: number): void {
    const rate = span.bytes / durationMs
    const isRising = rate > RISING * (this.#bytesPerMs ?? 0)
    const isTold = span.firstBytesMs.length > 0
    const isUnfilled = isTold ? this.#isQueueShort(quantile(span.firstBytesMs, 1 / 4)) : span.wasHeldUp
    const middleMs = isTold ? quantile(span.firstBytesMs, 1 / 2) : undefined
    if (!isUnfilled || rate > (this.#bytesPerMs ?? 0)) this.#learnRate(rate, durationMs)
    if (!isTold && !span.wasHeldUp) return
    const excessMs = middleMs === undefined ? 0 : middleMs - this.#usualMs - this.#long
    if (excessMs > 0) this.#isStarting = false
    if (this.#askedBytes === undefined && this.#isStarting) {
      if (isTold) this.#askedBytes = Math.min(STARTUP_GAIN * this.#fullBytes, INITIAL_RATE * INITIAL_RTT_MS)
      return
    }
    if (!span.isFull || this.#isEased) return
    this.#isStarting &&= isRising
    if (span.isUrgent && !this.#isStarting) return
    if (excessMs > 0) {
      const surplusBytes = (excessMs + (this.#long - this.#short) / 2) * rate
      this.#askedBytes = Math.max(this.#asked - surplusBytes, this.#asked * SHRINKAGE)
    } else if (middleMs !== undefined && this.#isQueueShort(middleMs)) this.#askedBytes = this.#grown(isRising)
    else if (isUnfilled) this.#askedBytes = this.#grownUpTo(FAST_ROUND_TRIPS) // a queue shows at times, or would not show
  }

  /** The highest rate of the last spans. */
  #learnRate(rate: number, durationMs: number): void {
    this.#rates.push({ rate, durationMs })
    while (this.#rates.slice(1).reduce((sum, span) => sum + span.durationMs, 0) >= RATE_HOLDS_MS) this.#rates.shift()
    this.#bytesPerMs = Math.max(...this.#rates.map((span) => span.rate))
  }

  #isQueueShort(firstByteMs: number): boolean {
    return firstByteMs - this.#usualMs < this.#short
  }

  get #short(): number {
    return queueMs(SHORT_QUEUE, this.#usualMs)
  }

  get #long(): number {
    return queueMs(LONG_QUEUE, this.#usualMs)
  }

  /** Asks for less for a few spans, when it is time to measure. */
  #watchRoundTrip({ firstBytesMs }: Span, nowMs: number): void {
    this.#rttMetMs ??= nowMs
    if (Math.min(...firstBytesMs) <= MET * this.#rtt) this.#rttMetMs = nowMs
    if (this.#isEased) return this.#measure(firstBytesMs, nowMs)
    if (this.#isStarting) return
    this.#jitterMeasuredMs ??= nowMs - this.#measuredHoldsMs + RATE_HOLDS_MS // soon
    this.#isEased = nowMs - Math.min(this.#rttMetMs, this.#jitterMeasuredMs) > this.#measuredHoldsMs
  }

  get #measuredHoldsMs(): number {
    return Math.max(MIN_MEASURED_HOLDS_MS, MEASURED_HOLDS_ROUND_TRIPS * this.#rtt)
  }

  /** While less is asked for there is no queue of ours, but in the first span. */
  #measure(firstBytesMs: readonly number[], nowMs: number): void {
    if (this.#easedSpans++ > 0) this.#easedMs.push(...firstBytesMs)
    if (this.#easedMs.length < EASED_FIRST_BYTES && this.#easedSpans < MAX_EASED_SPANS) return
    if (this.#easedMs.length > 0) this.#learnWithoutQueue(this.#easedMs.splice(0))
    this.#rttMetMs = this.#jitterMeasuredMs = nowMs
    this.#easedSpans = 0
    this.#isEased = false
  }

  #learnWithoutQueue(firstBytesMs: readonly number[]): void {
    const shortestMs = Math.min(...firstBytesMs)
    if (shortestMs > MET * this.#rtt) this.#rttMs = shortestMs
    const jitterMs = Math.max(0, quantile(firstBytesMs, 1 / 2) - this.#rtt - queueMs(SHORT_QUEUE, this.#rtt))
    this.#jitterMs = Math.max(jitterMs, (this.#jitterMs + jitterMs) / 2) // too low costs more than too high, and these are few
  }

  #grown(isRising: boolean): number {
    const fastUpTo = isRising ? RISING_ROUND_TRIPS : FAST_ROUND_TRIPS
    if (this.#asked < fastUpTo * this.#fullBytes) return this.#grownUpTo(fastUpTo)
    return Math.min(this.#asked + SLOW_GROWTH_ROUND_TRIPS * this.#fullBytes, MAX_ROUND_TRIPS_ASKED * this.#fullBytes)
  }

  #grownUpTo(roundTrips: number): number {
    return Math.max(this.#asked, Math.min(this.#asked * FAST_GROWTH, roundTrips * this.#fullBytes))
  }
}

function queueMs({ share, ms }: typeof SHORT_QUEUE, usualMs: number): number {
  return share * usualMs + ms
}

function quantile(numbers: readonly number[], share: number): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length * share)]!
}
