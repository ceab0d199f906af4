/**
 * Failures as HTTP: which status, and a problem body (RFC 9457) that says why. Pure.
 *
 * A status of the origin's that is about the file passes on; one that is about the way to it becomes the gateway's.
 */

import { SeekCacheError } from '../errors.ts'

export interface Problem {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** What a player may try again after, when the origin did not say. */
const DEFAULT_RETRY_AFTER_SECONDS = 5

export function problemOf(error: unknown): Problem {
  const known = error instanceof SeekCacheError ? error : undefined
  const status = known === undefined ? 500 : statusOf(known)
  return problem(status, known?.message ?? 'seekcache failed', known?.code, known?.retryAfterMs)
}

export function problem(status: number, detail: string, code?: string, retryAfterMs?: number): Problem {
  const headers: Record<string, string> = {
    'content-type': 'application/problem+json',
    'cache-control': 'no-store',
  }
  if (status === 502 || status === 503 || status === 504) {
    headers['retry-after'] = String(Math.ceil((retryAfterMs ?? DEFAULT_RETRY_AFTER_SECONDS * 1000) / 1000))
  }
  return { status, headers, body: `${JSON.stringify({ type: 'about:blank', status, detail, code })}\n` }
}

function statusOf(error: SeekCacheError): number {
  switch (error.code) {
    case 'ERR_SEEKCACHE_USAGE':
      return 400
    case 'ERR_SEEKCACHE_NOT_FOUND':
      return 404
    case 'ERR_SEEKCACHE_TIMEOUT':
      return 504
    case 'ERR_SEEKCACHE_CANCELLED':
    case 'ERR_SEEKCACHE_ORIGIN_CHANGED':
      return 503
    case 'ERR_SEEKCACHE_ORIGIN_STATUS':
      return statusOfOrigin(error.httpStatus ?? 0)
    default:
      return 502
  }
}

function statusOfOrigin(status: number): number {
  if ([401, 402, 403, 407].includes(status)) return 403
  if (status === 404 || status === 410) return status
  if (status === 429 || status === 503) return 503
  return status === 504 ? 504 : 502
}
