/**
 * Notices when this process has stood still: others had the processor, or garbage was collected for long.
 *
 * A timer that is late tells it, before anything is read that came meanwhile. It runs while it is asked, and a little longer.
 */

const TICK_MS = 10
/** Later than any timer of a process that runs. */
const LATE_MS = 10
const WATCHES_MS = 2_000

export class Standstills {
  #timer: NodeJS.Timeout | undefined
  #dueMs = 0
  #askedMs = 0
  #isOverSinceTick = false

  /** Asked for the first time in a while, it begins to watch, and does not know. */
  get isJustOver(): boolean {
    this.#askedMs = performance.now()
    if (this.#timer === undefined) this.#tickLater()
    return this.#isOverSinceTick || this.#isLate
  }

  get #isLate(): boolean {
    return performance.now() > this.#dueMs + LATE_MS
  }

  #tickLater(): void {
    this.#dueMs = performance.now() + TICK_MS
    this.#timer = setTimeout(() => this.#tick(), TICK_MS).unref()
  }

  #tick(): void {
    if (this.#isLate) {
      this.#isOverSinceTick = true
      setImmediate(() => (this.#isOverSinceTick = false)) // what had come has been read then
    }
    this.#timer = undefined
    if (performance.now() - this.#askedMs < WATCHES_MS) this.#tickLater()
  }
}
