/**
 * The readers' waits: each for one byte, until it has arrived, its deadline has passed or its reader has given up.
 *
 * It knows nothing of fetches: the schedule tells what has come (`wake`), what went wrong on the way (`blame`) and what will
 * never come (`reject`), and is told in turn whenever who waits has changed, so that it makes a new plan. A wait that ends
 * by its deadline says what became of the last fetch of its byte. Every wait is counted once, by how it ended.
 */

import type { Range } from '../bytes/ranges.ts'
import { cancelled, isCode, SeekCacheError } from '../errors.ts'
import type { Telemetry } from '../telemetry.ts'
import type { Clock } from './clock.ts'

/** Who waits for longer comes before newer demand, and before what is about to end: some round trips. */
const OVERDUE_MS = 500

export interface WaitOptions {
  readonly deadlineMs: number
  readonly signal?: AbortSignal | undefined
}

export interface WaitsParts {
  readonly clock: Clock
  readonly telemetry: Pick<Telemetry, 'waits' | 'waitSeconds'>
  /** Who waits has changed, or who is overdue. */
  readonly onChange: () => void
  /** Why nothing has come, in words for a person, where nothing has gone wrong. */
  readonly reasonOf: (position: number) => string
}

interface Wait<Who> {
  readonly who: Who
  readonly position: number
  isOverdue: boolean
  /** What became of the last fetch of this byte. */
  lastError: SeekCacheError | undefined
  resolve(): void
  reject(error: Error): void
}

export class Waits<Who> {
  readonly #parts: WaitsParts
  readonly #waits = new Set<Wait<Who>>()
  /** What went wrong last, anywhere, since bytes came last. */
  #lastError: SeekCacheError | undefined

  constructor(parts: WaitsParts) {
    this.#parts = parts
  }

  get waiting(): ReadonlySet<Who> {
    return new Set([...this.#waits].map(({ who }) => who))
  }

  /** Who waits longest comes first, so that everybody's turn comes. */
  get overdue(): ReadonlySet<Who> {
    return new Set([...this.#waits].filter(({ isOverdue }) => isOverdue).map(({ who }) => who))
  }

  /**
   * Resolves when the byte at `position` has arrived.
   * @throws ERR_SEEKCACHE_TIMEOUT or what went wrong instead at the deadline, _CANCELLED, or what it is rejected with
   */
  async arrival(who: Who, position: number, options: WaitOptions): Promise<void> {
    const startedMs = this.#parts.clock.nowMs()
    const outcome = await this.#wait(who, position, options).then(() => 'satisfied' as const, (error: Error) => error)
    this.#count(outcome, this.#parts.clock.nowMs() - startedMs)
    if (outcome !== 'satisfied') throw outcome
  }

  #wait(who: Who, position: number, { deadlineMs, signal }: WaitOptions): Promise<void> {
    const { clock, onChange } = this.#parts
    return new Promise((resolve, reject) => {
      const end = (settle: () => void): void => {
        this.#waits.delete(wait)
        timer.clear()
        overdueTimer.clear()
        signal?.removeEventListener('abort', onAbort)
        onChange() // who does not wait any more gives way to those who do
        settle()
      }
      const wait: Wait<Who> = { who, position, isOverdue: false, lastError: undefined, resolve: () => end(resolve), reject: (error) => end(() => reject(error)) }
      const onAbort = (): void => wait.reject(cancelled('the read'))
      const timer = clock.startTimer(deadlineMs, () => wait.reject(this.#timeout(wait, deadlineMs)))
      const overdueTimer = clock.startTimer(OVERDUE_MS, () => {
        wait.isOverdue = true
        onChange()
      })
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waits.add(wait)
      onChange()
    })
  }

  #timeout({ position, lastError = this.#lastError }: Wait<Who>, deadlineMs: number): SeekCacheError {
    if (lastError !== undefined) return lastError
    return new SeekCacheError('ERR_SEEKCACHE_TIMEOUT', `no data within ${deadlineMs / 1000} s, for ${this.#parts.reasonOf(position)}: try again, or allow more time`)
  }

  #count(outcome: 'satisfied' | Error, durationMs: number): void {
    const { waits, waitSeconds } = this.#parts.telemetry
    waits.inc({ outcome: outcome === 'satisfied' ? outcome : failureOf(outcome) })
    waitSeconds.observe(durationMs / 1000)
  }

  /** Bytes have come. */
  wake(range: Range): void {
    this.#lastError = undefined
    for (const wait of this.#waitsFor(range)) wait.resolve()
  }

  /** A fetch of this range went wrong. Bytes of another place clear what was the matter in general, not with this one. */
  blame(range: Range, error: SeekCacheError): void {
    this.#lastError = error
    for (const wait of this.#waitsFor(range)) wait.lastError = error
  }

  /** Whether somebody waits for a byte of this range. */
  isAwaited(range: Range): boolean {
    return this.#waitsFor(range).length > 0
  }

  /** What a fetch of this range was to bring will not come; what is waited for elsewhere may. */
  reject(range: Range, error: SeekCacheError): void {
    for (const wait of this.#waitsFor(range)) wait.reject(error)
  }

  rejectAll(error: SeekCacheError): void {
    for (const wait of [...this.#waits]) wait.reject(error)
  }

  #waitsFor({ start, end }: Range): Wait<Who>[] {
    return [...this.#waits].filter(({ position }) => start <= position && position < end)
  }

  /** It is gone, and waits for nothing any more. */
  cancel(who: Who): void {
    for (const wait of [...this.#waits]) if (wait.who === who) wait.reject(cancelled('the read'))
  }
}

function failureOf(error: Error): 'timeout' | 'cancelled' | 'failed' {
  if (isCode(error, 'ERR_SEEKCACHE_TIMEOUT')) return 'timeout'
  return isCode(error, 'ERR_SEEKCACHE_CANCELLED') ? 'cancelled' : 'failed'
}
