/**
 * How much a sender may have under way on a TCP connection, as its receiver can tell from what has arrived. Pure.
 *
 * A piece that fits this window arrives in one round trip; a longer one takes another one for each doubling. The window
 * begins with ten segments (RFC 6928), grows by what is acknowledged, and falls back when the connection idles for longer
 * than its retransmission timeout (RFC 5681 section 4.1), which is 200 ms and a round trip in most systems.
 */

/** Ten segments of 1448 bytes, less the head of the answer. */
export const FIRST_WINDOW_BYTES = 13 * 1024
/**
 * Beyond it a window is no reason for a longer piece: losses have kept it from growing. On a link of 60 ms and 80 Mbit/s, busy
 * with seeks, cubic had 30 to 150 KB, most often 60, and a piece that it did not hold took one or two round trips more.
 */
const MAX_WINDOW_BYTES = 64 * 1024
const IDLE_MS = 200

export class SendWindow {
  #carriedBytes = 0
  #lastMs = Number.NEGATIVE_INFINITY

  onBytes(lengthBytes: number, nowMs: number): void {
    if (this.#isIdle(nowMs)) this.#carriedBytes = 0
    this.#carriedBytes += lengthBytes
    this.#lastMs = nowMs
  }

  bytesAt(nowMs: number): number {
    return this.#isIdle(nowMs) ? FIRST_WINDOW_BYTES : Math.min(FIRST_WINDOW_BYTES + this.#carriedBytes, MAX_WINDOW_BYTES)
  }

  #isIdle(nowMs: number): boolean {
    return nowMs - this.#lastMs > IDLE_MS
  }
}
