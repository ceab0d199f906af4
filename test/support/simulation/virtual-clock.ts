/**
 * A time that stands still until the next event: timers fire in order of their due time, and in the order in which they
 * were started where that is the same. Between two events every promise that can settle has settled.
 */
import type { Clock, Timer } from '../../../src/schedule/clock.ts'

/** A timer of the clock, and its entry in the heap. Objects of one class: closures for each cost a tenth of a simulation. */
class VirtualTimer implements Timer {
  dueMs = 0
  order = 0
  /** Its place in the heap; -1 when it is not in it. */
  index = -1
  readonly #clock: VirtualClock
  readonly delayMs: number
  readonly onDue: () => void
  readonly isQuiet: boolean
  /** Of the party that started it: those that are running. */
  readonly #running: Set<VirtualTimer> | undefined
  #isCleared = false

  constructor(clock: VirtualClock, delayMs: number, onDue: () => void, isQuiet: boolean, running?: Set<VirtualTimer>) {
    this.#clock = clock
    this.delayMs = Math.max(0, delayMs)
    this.onDue = onDue
    this.isQuiet = isQuiet
    this.#running = running
    this.#start()
  }

  #start(): void {
    this.#running?.add(this)
    this.#clock.arm(this)
  }

  refresh(): void {
    if (this.#isCleared) return
    this.#clock.disarm(this)
    this.#start()
  }

  clear(): void {
    this.#isCleared = true
    this.#running?.delete(this)
    this.#clock.disarm(this)
  }

  fire(): void {
    this.#running?.delete(this)
    this.onDue()
  }
}

export class VirtualClock {
  #nowMs = 0
  #order = 0
  readonly #heap: VirtualTimer[] = []

  nowMs(): number {
    return this.#nowMs
  }

  /** @param isQuiet nothing waits for a promise upon this event, so that the next one may follow at once */
  startTimer(delayMs: number, onDue: () => void, isQuiet = false): Timer {
    return new VirtualTimer(this, delayMs, onDue, isQuiet)
  }

  /** At the end of the event: it comes alone. */
  soon(onTold: () => void): void {
    queueMicrotask(onTold)
  }

  readonly hasStoodStill = false

  /** A clock for one party, which knows how many of its timers are running. */
  facet(): Clock & { readonly running: number } {
    const clock = this
    const running = new Set<VirtualTimer>()
    return {
      nowMs: () => clock.#nowMs,
      startTimer: (delayMs, onDue) => new VirtualTimer(clock, delayMs, onDue, false, running),
      soon: (onTold) => clock.soon(onTold),
      hasStoodStill: clock.hasStoodStill,
      get running() {
        return running.size
      },
    }
  }

  async sleep(durationMs: number): Promise<void> {
    await new Promise<void>((resolve) => this.startTimer(durationMs, resolve))
  }

  /** Runs event after event until there is none; `afterEach` is called when the promises of an event have settled. */
  async run(afterEach: () => void, untilMs = Number.POSITIVE_INFINITY): Promise<void> {
    await turn()
    afterEach()
    for (let first = this.#heap[0]; first !== undefined && first.dueMs <= untilMs; first = this.#heap[0]) {
      this.disarm(first)
      this.#nowMs = first.dueMs
      first.fire()
      if (first.isQuiet) continue
      await turn()
      afterEach()
    }
  }

  arm(entry: VirtualTimer): void {
    entry.dueMs = this.#nowMs + entry.delayMs
    entry.order = this.#order++
    entry.index = this.#heap.length
    this.#heap.push(entry)
    this.#up(entry)
  }

  disarm(entry: VirtualTimer): void {
    const { index } = entry
    if (index < 0) return
    entry.index = -1
    const last = this.#heap.pop()!
    if (last === entry) return
    last.index = index
    this.#heap[index] = last
    this.#up(last)
    this.#down(last)
  }

  #up(entry: VirtualTimer): void {
    while (entry.index > 0) {
      const parent = this.#heap[(entry.index - 1) >> 1]!
      if (!isBefore(entry, parent)) return
      this.#swap(entry, parent)
    }
  }

  #down(entry: VirtualTimer): void {
    for (;;) {
      const left = this.#heap[2 * entry.index + 1]
      const right = this.#heap[2 * entry.index + 2]
      if (left === undefined) return
      const child = right !== undefined && isBefore(right, left) ? right : left
      if (!isBefore(child, entry)) return
      this.#swap(entry, child)
    }
  }

  #swap(a: VirtualTimer, b: VirtualTimer): void {
    const { index } = a
    a.index = b.index
    b.index = index
    this.#heap[a.index] = a
    this.#heap[b.index] = b
  }
}

function isBefore(a: VirtualTimer, b: VirtualTimer): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.order < b.order)
}

/** Until all promises that can settle have: they do so before the next immediate. */
async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}
