/**
 * Time as the schedule sees it: one clock to read and one kind of timer, handed down, so that the whole schedule also runs on
 * a time that a test makes.
 */

import { Standstills } from './standstills.ts'

export interface Timer {
  /** Starts over, unless it was cleared. */
  refresh(): void
  clear(): void
}

export interface Clock {
  /** Monotonic. */
  nowMs(): number
  startTimer(delayMs: number, onDue: () => void): Timer
  /** Calls back when all that has come by now has been told. */
  soon(onTold: () => void): void
  /** This process has not run until just now: what it reads in this moment has come before. */
  readonly hasStoodStill: boolean
}

const standstills = new Standstills()

export const SYSTEM_CLOCK: Clock = {
  nowMs: () => performance.now(),
  startTimer: (delayMs, onDue) => {
    const timeout = setTimeout(onDue, delayMs)
    return { refresh: () => void timeout.refresh(), clear: () => clearTimeout(timeout) }
  },
  soon: (onTold) => void setImmediate(onTold),
  get hasStoodStill() {
    return standstills.isJustOver
  },
}

/** At most; the signal ends it. */
export async function pause(clock: Clock, durationMs: number, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    const end = (): void => {
      timer.clear()
      signal?.removeEventListener('abort', end)
      resolve()
    }
    const timer = clock.startTimer(durationMs, end)
    signal?.addEventListener('abort', end, { once: true })
  })
}

/** One call to come, at a time that may be moved. */
export class Alarm {
  readonly #clock: Clock
  readonly #onDue: () => void
  #timer: Timer | undefined
  #atMs = 0

  constructor(clock: Clock, onDue: () => void) {
    this.#clock = clock
    this.#onDue = onDue
  }

  get isSet(): boolean {
    return this.#timer !== undefined
  }

  /** In place of what was set before. */
  set(delayMs: number): void {
    this.clear()
    this.#atMs = this.#clock.nowMs() + delayMs
    this.#timer = this.#clock.startTimer(delayMs, () => {
      this.#timer = undefined
      this.#onDue()
    })
  }

  /** No sooner than then; what was set for later holds. */
  postpone(delayMs: number): void {
    if (!this.isSet || this.#clock.nowMs() + delayMs > this.#atMs) this.set(delayMs)
  }

  clear(): void {
    this.#timer?.clear()
    this.#timer = undefined
  }
}
