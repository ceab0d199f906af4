/**
 * How long a cached resource may be used without asking its origin first (RFC 9111 §4.2). Pure.
 *
 * `no-store` is read as "not fresh": this cache is the user's own, made by an explicit request for this file, and what it
 * holds is compared with the origin at every opening. That is the promise `no-store` media need.
 */

import { parseHttpDate } from '../bytes/http-date.ts'
import { field, type ResponseHead } from './admission.ts'

/** RFC 9111 §4.2.2 suggests 10 % of the time since the last modification. */
const HEURISTIC_SHARE = 0.1
/** A heuristic lifetime is at most a day: Warning 113 of the older RFC marked longer ones as doubtful. */
const MAX_HEURISTIC_MS = 24 * 3600_000
/** An explicit lifetime is believed for a year at most. */
const MAX_EXPLICIT_MS = 365 * 24 * 3600_000

/** The moment until which the answer is fresh, ms since the epoch; `nowMs` or earlier when it is stale at once. */
export function freshUntilMs(head: ResponseHead, nowMs: number): number {
  const control = (field(head, 'cache-control') ?? '').toLowerCase()
  if (/\bno-(store|cache)\b/.test(control)) return nowMs
  const age = field(head, 'age') ?? ''
  const ageMs = /^\d{1,10}$/.test(age) ? Number(age) * 1000 : 0
  const maxAge = /\bmax-age="?(\d{1,10})/.exec(control)
  if (maxAge !== null) return nowMs - ageMs + Math.min(Number(maxAge[1]) * 1000, MAX_EXPLICIT_MS)
  const dateMs = parseHttpDate(field(head, 'date'), nowMs) ?? nowMs
  const expires = field(head, 'expires')
  if (expires !== undefined) return nowMs - ageMs + Math.min((parseHttpDate(expires, nowMs) ?? dateMs) - dateMs, MAX_EXPLICIT_MS)
  const modifiedMs = parseHttpDate(field(head, 'last-modified'), nowMs)
  if (modifiedMs === undefined || modifiedMs > dateMs) return nowMs
  return nowMs - ageMs + Math.min((dateMs - modifiedMs) * HEURISTIC_SHARE, MAX_HEURISTIC_MS)
}
