/**
 * Time as the schedule sees it: one clock to read and one kind of timer, handed down, so that the whole schedule also runs on
 * a time that a test makes.
 */

export interface Timer {
  /** Starts over, unless it was cleared. */
  refresh(): void
  clear(): void
}

export interface Clock {
  /** Monotonic. */
  nowMs(): number
  startTimer(delayMs: number, onDue: () => void): Timer
}

export const SYSTEM_CLOCK: Clock = {
  nowMs: () => performance.now(),
  startTimer: (delayMs, onDue) => {
    const timeout = setTimeout(onDue, delayMs)
    return { refresh: () => void timeout.refresh(), clear: () => clearTimeout(timeout) }
  },
}
