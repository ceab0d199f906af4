/**
 * HTTP's range fields, parsed and formatted (RFC 9110 §8.8.3, §10.2.3, §14). The only place where inclusive ranges exist.
 *
 * Pure. Parsers return undefined for what is not valid, and never guess: what a peer means by a malformed field is not
 * ours to know.
 */

import { parseHttpDate } from './http-date.ts'
import type { Range } from './ranges.ts'

/** What a Range request field asks of a representation of known size. */
export type RangeRequest =
  /** No range, not a bytes range, malformed, or several ranges: answer the whole with 200 (RFC 9110 §14.2). */
  | { readonly kind: 'whole' }
  | { readonly kind: 'range'; readonly range: Range }
  | { readonly kind: 'unsatisfiable' }

/** Larger numbers are not exact as JavaScript numbers, and no file has them. */
const INTEGER = /^\d{1,15}$/

export function parseRange(field: string | undefined, sizeBytes: number): RangeRequest {
  // No blanks: the grammar has none here, and optional ones on both sides of optional digits take quadratic time.
  const match = field === undefined ? null : /^bytes=(\d*)-(\d*)$/i.exec(field.trim())
  if (match === null) return { kind: 'whole' }
  const [first = '', last = ''] = match.slice(1).map((digits) => digits.replace(/^0+(?=\d)/, ''))
  if (first === '') {
    if (last === '') return { kind: 'whole' }
    const suffixBytes = INTEGER.test(last) ? Math.min(Number(last), sizeBytes) : sizeBytes
    return suffixBytes === 0 ? { kind: 'unsatisfiable' } : range(sizeBytes - suffixBytes, sizeBytes)
  }
  if (last !== '' && isLess(last, first)) return { kind: 'whole' }
  if (!INTEGER.test(first)) return { kind: 'unsatisfiable' }
  const start = Number(first)
  if (start >= sizeBytes) return { kind: 'unsatisfiable' }
  return range(start, INTEGER.test(last) ? Math.min(Number(last) + 1, sizeBytes) : sizeBytes)
}

/** Of two whole numbers of any length, as digits without leading zeros. */
function isLess(a: string, b: string): boolean {
  return a.length === b.length ? a < b : a.length < b.length
}

function range(start: number, end: number): RangeRequest {
  return { kind: 'range', range: { start, end } }
}

/** `bytes=0-499` for `[0, 500)`; open-ended without an end. */
export function formatRange(start: number, end?: number): string {
  return `bytes=${start}-${end === undefined ? '' : end - 1}`
}

export interface ContentRange {
  readonly start: number
  readonly end: number
  /** undefined for `*`: the origin does not know it. */
  readonly totalBytes: number | undefined
}

/** `bytes 0-499/1234` → `[0, 500)` of 1234; undefined where the field is not a valid satisfied range. */
export function parseContentRange(field: string): ContentRange | undefined {
  const match = /^bytes\s+(\d{1,15})-(\d{1,15})\/(\d{1,15}|\*)$/i.exec(field.trim())
  if (match === null) return undefined
  const start = Number(match[1])
  const end = Number(match[2]) + 1
  const totalBytes = match[3] === '*' ? undefined : Number(match[3])
  if (start >= end || (totalBytes !== undefined && end > totalBytes)) return undefined
  return { start, end, totalBytes }
}

/** The size told by a 416: `bytes * /1234`, without the space. */
export function parseUnsatisfiedTotal(field: string): number | undefined {
  const match = /^bytes\s+\*\/(\d{1,15})$/i.exec(field.trim())
  return match === null ? undefined : Number(match[1])
}

export function formatContentRange(range: Range, totalBytes: number): string {
  return `bytes ${range.start}-${range.end - 1}/${totalBytes}`
}

/** A strong entity tag, quotes included, may stand in If-Range and identifies bytes (RFC 9110 §8.8.1). */
export function isStrongEtag(etag: string | undefined): etag is string {
  return etag !== undefined && /^"[\x21\x23-\x7e\x80-\xff]*"$/.test(etag)
}

/** Entity tags of If-Match or If-None-Match; `*` stands for any. */
export function parseEtagList(field: string): readonly string[] {
  return field.trim() === '*' ? ['*'] : (field.match(/(?:W\/)?"[^"]*"/g) ?? [])
}

/** Weak comparison (RFC 9110 §8.8.3.2), for If-None-Match. */
export function etagsMatchWeakly(a: string, b: string): boolean {
  return a.replace(/^W\//, '') === b.replace(/^W\//, '')
}

/** Retry-After in ms from `nowMs`: seconds or an HTTP date (RFC 9110 §10.2.3), at least 0. */
export function parseRetryAfterMs(field: string | undefined, nowMs: number): number | undefined {
  if (field === undefined) return undefined
  if (/^\d{1,9}$/.test(field.trim())) return Number(field) * 1000
  const dateMs = parseHttpDate(field, nowMs)
  return dateMs === undefined ? undefined : Math.max(0, dateMs - nowMs)
}
