/**
 * What is known of the way to an origin, and what that makes of readahead: how many bytes it has under way, in which pieces.
 *
 * The round trip is the shortest time from a request to its first byte, the origin's own time included; when it was not
 * met for a while, less is asked for during one span, so that what is measured then is no queue of ours. The rate is that
 * of busy time only, all connections together. Readahead asks for so much at a time as keeps the link full: more while
 * first bytes come as fast as ever, less when they come late, which says that they stand in a queue behind what was
 * asked for (as TCP Vegas and LEDBAT judge it). How many connections that takes follows from it: where an origin limits
 * each of them, no queue shows, more is asked for, and more of them carry it.
 */

/** Judged over spans of this length, or some round trips: several pieces. */
const MIN_SPAN_MS = 200
const SPAN_RTTS = 3
/**
 * A lower rate behind a queue counts so much in each span: a path that got slower is believed after one or two seconds. Where
 * first bytes meet no queue the link was not full (connections that idled are in slow start), and a lower rate says nothing:
 * believed, it had halved what was asked for, and so what came, within a few seeks.
 */
const DECAY = 0.9
/** A round trip that was not met for so long, give or take a tenth, is measured anew (BBR holds one as long). */
const ROUND_TRIP_HOLDS_MS = 10_000
const MET = 1.1
const EASED_SHARE = 0.5
/** Before anything was measured: a usual home link, 80 Mbit/s and 60 ms. */
const INITIAL_RATE = 10_000
const INITIAL_RTT_MS = 60

/**
 * What was measured first, and met no long queue, is what slow start brought, not what the link holds: as in BBR's startup, more
 * is asked for. Where it met one it is the link's rate (a seek just after an opening took 30 ms more at 20 Mbit/s).
 */
const STARTUP_GAIN = 2.89
/** A queue is short below, long above these: a share of the round trip and some milliseconds of noise. */
const SHORT_QUEUE = { share: 0.1, ms: 3 }
const LONG_QUEUE = { share: 0.25, ms: 5 }
/**
 * Up to what fills any link it grows fast, and while the rate rises with it up to twice what that rate fills (BBR's window), as
 * what fills the link is not known before; so it does from the start until a queue shows or the rate stands still, also while a
 * player's first bytes are urgent: 80 Mbit/s were full 1.1 s after an opening, and 2.3 s without. Beyond, it grows by a part of
 * a round trip in each span, for its effect shows late.
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
  /** Whether readahead had all it may have, from the first to the last moment. */
  isFull: boolean
  /** Small pieces for a seek say nothing of what readahead could do. */
  isUrgent: boolean
}

export class PathEstimate {
  #rttMs: number | undefined
  #bytesPerMs: number | undefined
  /** Undefined while it is what a full link holds. */
  #askedBytes: number | undefined
  #span: Span | undefined
  #isFull = false
  #rttMetMs: number | undefined
  /** In this span less is asked for. */
  #isEased = false
  /** Until first bytes have stood in a queue, or more was asked for and did not come: what is measured is slow start. */
  #isStarting: boolean

  constructor(known?: PathFacts) {
    this.#isStarting = known === undefined
    this.#rttMs = known?.rttMs
    this.#bytesPerMs = known?.bytesPerMs
    if (known !== undefined) this.#askedBytes = known.roundTripsAsked * this.bandwidthDelayBytes
  }

  /** Undefined until something was measured. */
  get facts(): PathFacts | undefined {
    if (this.#rttMs === undefined || this.#bytesPerMs === undefined) return undefined
    return { rttMs: this.#rttMs, bytesPerMs: this.#bytesPerMs, roundTripsAsked: this.#asked / this.bandwidthDelayBytes }
  }

  // ---- what happens

  /** A request's first body byte came so long after it was asked for; `wasReady`: without a handshake in between. */
  onFirstByte(durationMs: number, wasReady: boolean): void {
    this.#rttMs = Math.min(this.#rttMs ?? Number.POSITIVE_INFINITY, durationMs)
    if (this.#span === undefined || !wasReady) return
    this.#span.firstBytesMs.push(durationMs)
  }

  onBytes(lengthBytes: number, nowMs: number): void {
    this.#span ??= { startMs: nowMs, bytes: 0, firstBytesMs: [], isFull: this.#isFull, isUrgent: false }
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
    return Math.max(this.#askedBytes ?? 0, this.bandwidthDelayBytes)
  }

  #judge(span: Span, durationMs: number): void {
    const rate = span.bytes / durationMs
    const isRising = rate > RISING * (this.#bytesPerMs ?? 0)
    const isUnfilled = span.firstBytesMs.length > 0 && this.#isQueueShort(lowerQuartile(span.firstBytesMs))
    this.#bytesPerMs = Math.max(rate, (this.#bytesPerMs ?? 0) * (isUnfilled ? 1 : DECAY))
    if (span.firstBytesMs.length === 0) return
    const meanMs = span.firstBytesMs.reduce((sum, ms) => sum + ms, 0) / span.firstBytesMs.length
    const excessMs = meanMs - this.#rtt - this.#long
    if (excessMs > 0) this.#isStarting = false
    if (this.#askedBytes === undefined && this.#isStarting) {
      this.#askedBytes = Math.min(STARTUP_GAIN * this.bandwidthDelayBytes, INITIAL_RATE * INITIAL_RTT_MS)
      return
    }
    if (!span.isFull || this.#isEased) return
    this.#isStarting &&= isRising
    if (span.isUrgent && !this.#isStarting) return
    if (excessMs > 0) {
      const surplusBytes = (excessMs + (this.#long - this.#short) / 2) * rate
      this.#askedBytes = Math.max(this.#asked - surplusBytes, this.#asked * SHRINKAGE)
    } else if (isUnfilled) this.#askedBytes = this.#grown(isRising)
  }

  #isQueueShort(firstByteMs: number): boolean {
    return firstByteMs - this.#rtt < this.#short
  }

  get #short(): number {
    return SHORT_QUEUE.share * this.#rtt + SHORT_QUEUE.ms
  }

  get #long(): number {
    return LONG_QUEUE.share * this.#rtt + LONG_QUEUE.ms
  }

  #watchRoundTrip({ firstBytesMs }: Span, nowMs: number): void {
    const shortestMs = Math.min(...firstBytesMs)
    this.#rttMetMs ??= nowMs
    if (shortestMs <= MET * this.#rtt) this.#rttMetMs = nowMs
    else if (this.#isEased && firstBytesMs.length > 0) {
      this.#rttMs = shortestMs
      this.#rttMetMs = nowMs
    }
    this.#isEased = nowMs - this.#rttMetMs > ROUND_TRIP_HOLDS_MS
  }

  #grown(isRising: boolean): number {
    const roundTripBytes = this.bandwidthDelayBytes
    const fastUpToBytes = (isRising ? RISING_ROUND_TRIPS : FAST_ROUND_TRIPS) * roundTripBytes
    if (this.#asked < fastUpToBytes) return Math.min(this.#asked * FAST_GROWTH, fastUpToBytes)
    return Math.min(this.#asked + SLOW_GROWTH_ROUND_TRIPS * roundTripBytes, MAX_ROUND_TRIPS_ASKED * roundTripBytes)
  }
}

/** What most have at least: an origin that takes its time now and then has no queue. */
function lowerQuartile(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 4)]!
}
