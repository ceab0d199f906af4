/**
 * What to do about a fetch that failed: try again and when, read in order, or give up. No I/O, no clock.
 *
 * Counted are failures in a row. Eight connections that break together are one failure, not eight: what was under way when
 * the last one was counted, and fails as well, is the same. What was under way when a failure ended all reads ends none that
 * has begun since: who waited then has been told, and who waits now has asked again.
 */

import type { SeekCacheError } from '../errors.ts'
import { isAboutRange, isRefusal, isRetryable, retryDelayMs } from '../origin/retry.ts'

/** Also what is tried again at once is a new try. */
const MIN_RETRY_MS = 1
/** An origin that never gets to its first byte is given twice the time at each try, up to this. */
const MAX_FIRST_BYTE_MS = 60_000

export type Remedy =
  /** `delayMs` is undefined where the failure is one with one before, whose delay holds, if it has one. */
  | { readonly kind: 'retry'; readonly tries: number; readonly delayMs: number | undefined }
  /** It gave ranges once and gives the whole file now. */
  | { readonly kind: 'read-in-order' }
  /** Another try does not mend it. */
  | { readonly kind: 'give-up' }

export class Failures {
  #failedTries = 0
  /** Fetches in a row that brought nothing in their time, those in parallel counted once. */
  #silentTries = 0
  /** Senseless answers in a row, without a fetch that went well between them. */
  #refusals = 0
  /** When the last failure was counted. */
  #failedAtMs = Number.NEGATIVE_INFINITY
  /** When a failure that is not about a range alone was given up last: all who waited were told. */
  #endedAtMs = Number.NEGATIVE_INFINITY

  onBytes(): void {
    this.#failedTries = 0
    this.#silentTries = 0
  }

  /** A fetch has brought all that it was to bring. */
  onComplete(): void {
    this.#refusals = 0
  }

  /** A fetch that started then has not got to its first byte. */
  onSilence(startedMs: number, nowMs: number): void {
    if (this.#isNew(startedMs, nowMs)) this.#silentTries++
  }

  /** A fetch that started then has failed. */
  remedyFor(error: SeekCacheError, startedMs: number, nowMs: number): Remedy {
    const isNew = this.#isNew(startedMs, nowMs)
    if (isNew && isRetryable(error)) this.#failedTries++ // after what ended it all, a new try is a first one
    if (isNew && isRefusal(error)) this.#refusals++
    const tries = isRefusal(error) ? this.#refusals : this.#failedTries
    if (isRetryable(error, tries)) {
      const hasOwnDelay = isNew || error.retryAfterMs !== undefined
      return { kind: 'retry', tries, delayMs: hasOwnDelay ? Math.max(retryDelayMs(error, tries), MIN_RETRY_MS) : undefined }
    }
    if (error.code === 'ERR_SEEKCACHE_ORIGIN_NOT_RANGEABLE') {
      this.#refusals = 0
      return { kind: 'read-in-order' }
    }
    if (isAboutRange(error)) return { kind: 'give-up' }
    if (startedMs <= this.#endedAtMs) return { kind: 'retry', tries, delayMs: undefined }
    this.#endedAtMs = nowMs
    return { kind: 'give-up' }
  }

  #isNew(startedMs: number, nowMs: number): boolean {
    if (startedMs <= this.#failedAtMs) return false
    this.#failedAtMs = nowMs
    return true
  }

  /** How long the next fetch may take to its first byte, of an origin that is given `usualMs`. */
  firstByteMs(usualMs: number): number {
    return Math.min(usualMs * 2 ** this.#silentTries, MAX_FIRST_BYTE_MS)
  }
}
