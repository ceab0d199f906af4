/**
 * What is worth another try, and when. Pure.
 *
 * Network failures, stalls and the origin's own "later" are, as long as somebody waits. An answer that makes no sense is
 * asked for twice more: behind one name stand many servers, and one of them may be wrong. An answer that says something
 * about the file is final. A body that broke off counts as a network failure: what has arrived of it stays.
 */

import { SeekCacheError } from '../errors.ts'

const FIRST_DELAY_MS = 250
const MAX_DELAY_MS = 8_000
/** A longer Retry-After is given to whoever waits, as an error, instead of being waited for. */
export const MAX_RETRY_AFTER_MS = 60_000
/** Senseless answers in a row before the last of them is the error. */
const MAX_REFUSALS = 3
const UNTRUSTED = new Set([
  'CERT_HAS_EXPIRED', 'CERT_NOT_YET_VALID', 'CERT_REVOKED', 'DEPTH_ZERO_SELF_SIGNED_CERT', 'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT', 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'CERT_FOR_OTHER_HOST',
])
const RETRYABLE_STATUSES = new Set([408, 425, 429, 500, 502, 503, 504])

/** @param tries how often it has failed in a row, this time included */
export function isRetryable(error: unknown, tries = 1): boolean {
  if (!(error instanceof SeekCacheError)) return false
  if (error.code === 'ERR_SEEKCACHE_ORIGIN_UNREACHABLE') return !isUntrusted(error)
  if (isRefusal(error)) return tries < MAX_REFUSALS
  return isLater(error) && (error.retryAfterMs ?? 0) <= MAX_RETRY_AFTER_MS
}

/** A certificate does not become right while somebody waits. */
function isUntrusted(error: SeekCacheError): boolean {
  return UNTRUSTED.has((error.cause as NodeJS.ErrnoException | undefined)?.code ?? '')
}

/** An answer that came, and was not what was asked for. */
export function isRefusal(error: SeekCacheError): boolean {
  return error.code === 'ERR_SEEKCACHE_ORIGIN_RESPONSE' || error.code === 'ERR_SEEKCACHE_ORIGIN_NOT_RANGEABLE'
}

/** Whether a final failure says something about the bytes that were asked for, and nothing about the rest of the file. */
export function isAboutRange(error: SeekCacheError): boolean {
  return isRefusal(error) || error.httpStatus === 416
}

function isLater(error: SeekCacheError): boolean {
  return error.code === 'ERR_SEEKCACHE_ORIGIN_STATUS' && RETRYABLE_STATUSES.has(error.httpStatus ?? 0)
}

/**
 * Whether a failed comparison with the origin leaves open what has become of the file, so that what is cached of it may be
 * played: the way to the origin is broken, it is overloaded, or somebody else answers in its place, as a hotel's login page.
 */
export function saysNothingOfFile(error: unknown): boolean {
  if (!(error instanceof SeekCacheError)) return false
  const { code } = error
  if (code === 'ERR_SEEKCACHE_ORIGIN_UNREACHABLE' || code === 'ERR_SEEKCACHE_TIMEOUT' || code === 'ERR_SEEKCACHE_ORIGIN_NOT_MEDIA') return true
  const { httpStatus = 400 } = error
  return isRefusal(error) || isLater(error) || httpStatus < 400 || httpStatus >= 500
}

/**
 * ms to wait before try number `tries` + 1, tries counted from 1. The first retry of a broken connection is at once. An
 * origin that says when is not asked sooner, and one that says "now" each time not without a pause.
 */
export function retryDelayMs(error: unknown, tries: number): number {
  const retryAfterMs = error instanceof SeekCacheError ? (error.retryAfterMs ?? 0) : 0
  return Math.max(retryAfterMs, backoffMs(error, tries))
}

function backoffMs(error: unknown, tries: number): number {
  if (tries <= 1) return error instanceof SeekCacheError && error.httpStatus !== undefined ? FIRST_DELAY_MS : 0
  return Math.min(FIRST_DELAY_MS * 2 ** (tries - 2), MAX_DELAY_MS)
}

/** Statuses upon which a link that a redirect led to is looked up again from its first URL. */
export function meansExpired(error: unknown): boolean {
  return error instanceof SeekCacheError && error.httpStatus !== undefined && [401, 403, 404, 410].includes(error.httpStatus)
}

/** Statuses upon which a fresh URL is asked for: these credentials or this signature will not do any more. */
export function meansUrlExpired(httpStatus: number): boolean {
  return [401, 403, 410].includes(httpStatus)
}
