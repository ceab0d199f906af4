/**
 * What is worth another try, and when. Pure.
 *
 * Network failures, stalls and the origin's own "later" are; an answer that says something about the request or the file
 * is not. A body that broke off counts as a network failure: what has arrived of it stays.
 */

import { SeekCacheError } from '../errors.ts'

const FIRST_DELAY_MS = 250
const MAX_DELAY_MS = 8_000
/** A longer Retry-After is given to whoever waits, as an error, instead of being waited for. */
export const MAX_RETRY_AFTER_MS = 60_000
const RETRYABLE_STATUSES = new Set([408, 425, 429, 500, 502, 503, 504])

export function isRetryable(error: unknown): boolean {
  if (!(error instanceof SeekCacheError)) return false
  if (error.code === 'ERR_SEEKCACHE_ORIGIN_UNREACHABLE') return true
  if (error.code !== 'ERR_SEEKCACHE_ORIGIN_STATUS') return false
  return RETRYABLE_STATUSES.has(error.httpStatus ?? 0) && (error.retryAfterMs ?? 0) <= MAX_RETRY_AFTER_MS
}

/** ms to wait before try number `attempt` + 1, attempts counted from 1. The first retry of a broken connection is at once. */
export function retryDelayMs(error: unknown, attempt: number): number {
  if (error instanceof SeekCacheError && error.retryAfterMs !== undefined) return error.retryAfterMs
  if (attempt <= 1) return error instanceof SeekCacheError && error.httpStatus !== undefined ? FIRST_DELAY_MS : 0
  return Math.min(FIRST_DELAY_MS * 2 ** (attempt - 2), MAX_DELAY_MS)
}

/** Statuses upon which a link that a redirect led to is looked up again from its first URL, and a fresh one asked for. */
export function meansExpired(error: unknown): boolean {
  return error instanceof SeekCacheError && error.httpStatus !== undefined && [401, 403, 404, 410].includes(error.httpStatus)
}
