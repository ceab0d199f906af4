/**
 * How much a sender may have under way on a TCP connection, as its receiver can tell from what has arrived. Pure.
 *
 * A piece that fits this window arrives in one round trip; a longer one takes another one for each doubling. The window
 * begins with ten segments (RFC 6928), grows by what is acknowledged, but to no more than twice what was under way at a time
 * (RFC 2861: a window that is not used is not validated), and falls back when the connection idles for longer than its
 * retransmission timeout (RFC 5681 section 4.1), which is 200 ms and a round trip in most systems.
 */

/** Ten segments of 1448 bytes, less the head of the answer. */
export const FIRST_WINDOW_BYTES = 13 * 1024
/**
 * Delay ends slow start early (HyStart, RFC 9406): after 13 and 26 KiB the next 39 arrived in one round trip on a link of 60 ms
 * and 80 Mbit/s that eight connections shared, 52 took two. From there on the window grows slowly; cubic had 30 to 150 KB on
 * busy connections, most often 60.
 */
const SLOW_START_BYTES = 39 * 1024
/** More is not believed of any: a connection that has come so far carries readahead as any other does. */
export const MAX_WINDOW_BYTES = 64 * 1024
const CARRIED_PER_WINDOW = 4
const IDLE_MS = 200

export class SendWindow {
  #carriedBytes = 0
  /** Of the answer that comes. */
  #flightBytes = 0
  #longestFlightBytes = 0
  #lastMs = Number.NEGATIVE_INFINITY

  /** Another answer begins. */
  onHead(): void {
    this.#flightBytes = 0
  }

  onBytes(lengthBytes: number, nowMs: number): void {
    if (this.#isIdle(nowMs)) this.#carriedBytes = this.#longestFlightBytes = 0
    this.#carriedBytes += lengthBytes
    this.#flightBytes += lengthBytes
    this.#longestFlightBytes = Math.max(this.#longestFlightBytes, this.#flightBytes)
    this.#lastMs = nowMs
  }

  bytesAt(nowMs: number): number {
    if (this.#isIdle(nowMs)) return FIRST_WINDOW_BYTES
    const doubledBytes = Math.min(FIRST_WINDOW_BYTES + this.#carriedBytes, 2 * this.#longestFlightBytes, SLOW_START_BYTES)
    return Math.max(FIRST_WINDOW_BYTES, doubledBytes, Math.min(Math.floor(this.#carriedBytes / CARRIED_PER_WINDOW), MAX_WINDOW_BYTES))
  }

  #isIdle(nowMs: number): boolean {
    return nowMs - this.#lastMs > IDLE_MS
  }
}
