/**
 * What is known of the way to an origin: its round trip and its rate, learned from what arrives.
 *
 * The round trip is the shortest time from a request to its first byte, the origin's own time included. The rate is that of
 * the busy time only: bytes of all connections together over spans in which something was always asked for.
 */

/** Rates are measured over spans of this length: a few round trips, several pieces. */
const SPAN_MS = 200
/** A lower rate than known counts so much in each span: a path that got slower is believed after about a second. */
const DECAY = 0.8
/** Before anything was measured: a usual home link, 80 Mbit/s and 60 ms. */
const INITIAL_RATE = 10_000
const INITIAL_RTT_MS = 60

export class PathEstimate {
  #bytesPerMs: number | undefined
  #rttMs: number | undefined
  #spanStartMs: number | undefined
  #spanBytes = 0

  /** A request's first body byte came so long after it was sent. */
  onFirstByte(durationMs: number): void {
    this.#rttMs = Math.min(this.#rttMs ?? Number.POSITIVE_INFINITY, durationMs)
  }

  onBytes(lengthBytes: number, nowMs: number): void {
    this.#spanStartMs ??= nowMs
    this.#spanBytes += lengthBytes
    const durationMs = nowMs - this.#spanStartMs
    if (durationMs < SPAN_MS) return
    const measured = this.#spanBytes / durationMs
    this.#bytesPerMs = Math.max(measured, (this.#bytesPerMs ?? 0) * DECAY)
    this.#spanStartMs = nowMs
    this.#spanBytes = 0
  }

  /** Nothing is asked for at the moment: the time from now on says nothing of the rate. */
  onIdle(): void {
    this.#spanStartMs = undefined
    this.#spanBytes = 0
  }

  /** What is under way on a full link, at least over `minRttMs`. */
  bandwidthDelayBytes(minRttMs: number): number {
    return (this.#bytesPerMs ?? INITIAL_RATE) * Math.max(this.#rttMs ?? INITIAL_RTT_MS, minRttMs)
  }
}
