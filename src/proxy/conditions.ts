/**
 * What a request's conditions and range mean for a representation (RFC 9110 §13.2.2, §14.2). Pure.
 */

import type { IncomingHttpHeaders } from 'node:http'

import { parseHttpDate } from '../bytes/http-date.ts'
import { etagsMatchWeakly, parseEtagList, parseRange } from '../bytes/http-range.ts'
import type { Range } from '../bytes/ranges.ts'

export interface Representation {
  readonly sizeBytes: number
  /** Strong, quotes included. */
  readonly etag: string
  readonly lastModified: string | undefined
}

export type Decision =
  | { readonly status: 200 | 206; readonly range: Range }
  | { readonly status: 304 }
  | { readonly status: 412 }
  | { readonly status: 416 }

/** In the order of RFC 9110 §13.2.2: If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since, If-Range, Range. */
export function decide(headers: IncomingHttpHeaders, representation: Representation): Decision {
  if (!isMatch(headers, representation)) return { status: 412 }
  if (isNotModified(headers, representation)) return { status: 304 }
  const whole: Decision = { status: 200, range: { start: 0, end: representation.sizeBytes } }
  if (!isRangeWanted(headers, representation)) return whole
  const asked = parseRange(headers.range, representation.sizeBytes)
  if (asked.kind === 'unsatisfiable') return { status: 416 }
  return asked.kind === 'whole' ? whole : { status: 206, range: asked.range }
}

function isMatch(headers: IncomingHttpHeaders, { etag, lastModified }: Representation): boolean {
  const wanted = headers['if-match']
  if (wanted !== undefined) return parseEtagList(wanted).some((candidate) => candidate === '*' || candidate === etag)
  const since = headers['if-unmodified-since']
  return !((parseHttpDate(lastModified) ?? Number.NaN) > (parseHttpDate(since) ?? Number.NaN))
}

function isNotModified(headers: IncomingHttpHeaders, { etag, lastModified }: Representation): boolean {
  const known = headers['if-none-match']
  if (known !== undefined) return parseEtagList(known).some((candidate) => candidate === '*' || etagsMatchWeakly(candidate, etag))
  const since = headers['if-modified-since']
  return (parseHttpDate(lastModified) ?? Number.NaN) <= (parseHttpDate(since) ?? Number.NaN)
}

/** If-Range that does not name exactly this version makes the range void (RFC 9110 §13.1.5). */
function isRangeWanted(headers: IncomingHttpHeaders, { etag, lastModified }: Representation): boolean {
  const condition = headers['if-range']
  return typeof condition !== 'string' || condition === etag || condition === lastModified
}
