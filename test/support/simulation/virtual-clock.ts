/**
 * A time that stands still until the next event: timers fire in order of their due time, and in the order in which they
 * were started where that is the same. Between two events every promise that can settle has settled.
 */
import type { Clock, Timer } from '../../../src/schedule/clock.ts'

interface Entry {
  dueMs: number
  order: number
  /** Its place in the heap; -1 when it is not in it. */
  index: number
  readonly delayMs: number
  readonly isQuiet: boolean
  readonly onDue: () => void
}

export class VirtualClock {
  #nowMs = 0
  #order = 0
  readonly #heap: Entry[] = []

  nowMs(): number {
    return this.#nowMs
  }

  /** @param isQuiet nothing waits for a promise upon this event, so that the next one may follow at once */
  startTimer(delayMs: number, onDue: () => void, isQuiet = false): Timer {
    const entry: Entry = { dueMs: 0, order: 0, index: -1, delayMs: Math.max(0, delayMs), isQuiet, onDue }
    let isCleared = false
    this.#arm(entry)
    return {
      refresh: () => {
        if (isCleared) return
        this.#remove(entry)
        this.#arm(entry)
      },
      clear: () => {
        isCleared = true
        this.#remove(entry)
      },
    }
  }

  /** A clock for one party, which knows how many of its timers are running. */
  facet(): Clock & { readonly running: number } {
    const clock = this
    const running = new Set<object>()
    return {
      nowMs: () => clock.#nowMs,
      startTimer: (delayMs, onDue) => {
        const token = {}
        running.add(token)
        const timer = clock.startTimer(delayMs, () => {
          running.delete(token)
          onDue()
        })
        return {
          refresh: () => timer.refresh(),
          clear: () => {
            running.delete(token)
            timer.clear()
          },
        }
      },
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
      this.#remove(first)
      this.#nowMs = first.dueMs
      first.onDue()
      if (first.isQuiet) continue
      await turn()
      afterEach()
    }
  }

  #arm(entry: Entry): void {
    entry.dueMs = this.#nowMs + entry.delayMs
    entry.order = this.#order++
    entry.index = this.#heap.length
    this.#heap.push(entry)
    this.#up(entry)
  }

  #remove(entry: Entry): void {
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

  #up(entry: Entry): void {
    while (entry.index > 0) {
      const parent = this.#heap[(entry.index - 1) >> 1]!
      if (!isBefore(entry, parent)) return
      this.#swap(entry, parent)
    }
  }

  #down(entry: Entry): void {
    for (;;) {
      const left = this.#heap[2 * entry.index + 1]
      const right = this.#heap[2 * entry.index + 2]
      if (left === undefined) return
      const child = right !== undefined && isBefore(right, left) ? right : left
      if (!isBefore(child, entry)) return
      this.#swap(entry, child)
    }
  }

  #swap(a: Entry, b: Entry): void {
    const { index } = a
    a.index = b.index
    b.index = index
    this.#heap[a.index] = a
    this.#heap[b.index] = b
  }
}

function isBefore(a: Entry, b: Entry): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.order < b.order)
}

/** Until all promises that can settle have: they do so before the next immediate. */
async function turn(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}
