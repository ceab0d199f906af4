/**
 * The errors of seekcache: one class, told apart by `code`.
 *
 * A message gives the fact, the subject and, where there is one, the remedy, in one line for a person. It never holds a
 * query string or a header value: those carry credentials.
 */

export type ErrorCode =
  | 'ERR_SEEKCACHE_USAGE'
  | 'ERR_SEEKCACHE_PROTOCOL'
  | 'ERR_SEEKCACHE_NOT_FOUND'
  | 'ERR_SEEKCACHE_CANCELLED'
  | 'ERR_SEEKCACHE_TIMEOUT'
  | 'ERR_SEEKCACHE_ORIGIN_UNREACHABLE'
  | 'ERR_SEEKCACHE_ORIGIN_STATUS'
  | 'ERR_SEEKCACHE_ORIGIN_RESPONSE'
  | 'ERR_SEEKCACHE_ORIGIN_NOT_RANGEABLE'
  | 'ERR_SEEKCACHE_ORIGIN_NOT_MEDIA'
  | 'ERR_SEEKCACHE_ORIGIN_CHANGED'
  | 'ERR_SEEKCACHE_CACHE_LOCKED'
  | 'ERR_SEEKCACHE_CACHE_FORMAT'
  | 'ERR_SEEKCACHE_CACHE_UNWRITABLE'
  | 'ERR_SEEKCACHE_CACHE_FULL'
  | 'ERR_SEEKCACHE_HOST_UNAVAILABLE'

export interface ErrorFacts {
  readonly cause?: unknown
  /** The origin's status, where its answer was the cause. */
  readonly httpStatus?: number | undefined
  /** The origin's Retry-After, in ms from its arrival. */
  readonly retryAfterMs?: number | undefined
}

export class SeekCacheError extends Error {
  readonly code: ErrorCode
  readonly httpStatus: number | undefined
  readonly retryAfterMs: number | undefined

  constructor(code: ErrorCode, message: string, facts: ErrorFacts = {}) {
    super(message, facts.cause === undefined ? undefined : { cause: facts.cause })
    this.name = 'SeekCacheError'
    this.code = code
    this.httpStatus = facts.httpStatus
    this.retryAfterMs = facts.retryAfterMs
  }
}

export function isCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof SeekCacheError && error.code === code
}

export function cancelled(what: string): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_CANCELLED', `${what} was cancelled`)
}
