/**
 * Which answers of an origin may enter the cache, and as what. Pure.
 *
 * nginx's slice filter and Cloudflare's range rules are the model. What is not exactly what was asked for is refused with
 * an error that says what came instead: a 200 body stored at a chunk's offset, a login page cached as a film and a short
 * body taken for complete are the disasters that this page prevents. That the body is as long as the head says is
 * checked by whoever receives it (source.ts).
 */

import { isStrongEtag, parseContentRange, parseRetryAfterMs, parseUnsatisfiedTotal } from '../bytes/http-range.ts'
import { SeekCacheError, type ErrorCode } from '../errors.ts'
import { isSameVersion, type Validator } from './validator.ts'

/** An answer's status and fields; names in lower case, repeated fields as arrays. */
export interface ResponseHead {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
}

export interface Expectation {
  readonly start: number
  /** Exclusive; undefined when the range asked for was open-ended. */
  readonly end: number | undefined
  /** What is known of the resource; undefined on the first request. */
  readonly known: { readonly sizeBytes: number; readonly validator: Validator } | undefined
}

export interface Admitted {
  /** The bytes that follow, as positions in the resource. `end` is undefined where the origin does not tell. */
  readonly start: number
  readonly end: number | undefined
  readonly sizeBytes: number | undefined
  readonly isRangeable: boolean
  readonly validator: Validator
  readonly contentType: string | undefined
}

/** @throws what the answer is instead, as ERR_SEEKCACHE_ORIGIN_* */
export function admit(head: ResponseHead, expected: Expectation, nowMs: number): Admitted {
  if (head.status === 412 && expected.known !== undefined) throw changed('it says so (412)')
  if (head.status === 416) throw unsatisfied(head, expected)
  if (head.status !== 200 && head.status !== 206) throw statusError(head, nowMs)
  refuseEncoding(head)
  refuseNonMedia(head)
  const validator = validatorOf(head)
  if (head.status === 206) return admitPartial(head, expected, validator)
  return admitWhole(head, expected, validator)
}

export function validatorOf(head: ResponseHead): Validator {
  return { etag: field(head, 'etag'), lastModified: field(head, 'last-modified') }
}

function admitPartial(head: ResponseHead, expected: Expectation, validator: Validator): Admitted {
  const all = head.headers['content-range']
  if (Array.isArray(all)) throw refused('a 206 with several Content-Range fields')
  if (all === undefined) throw refused('a 206 without Content-Range')
  const range = parseContentRange(all)
  if (range === undefined) throw refused(`a 206 with the malformed Content-Range "${all.slice(0, 80)}"`)
  if (range.start !== expected.start) throw refused(`bytes from ${range.start} where ${expected.start} was asked for`)
  if (expected.end !== undefined && range.end > expected.end) {
    throw refused(`bytes up to ${range.end} where ${expected.end} was asked for`)
  }
  if (range.totalBytes === undefined) throw refused('a 206 that does not tell the size')
  if (expected.known !== undefined && range.totalBytes !== expected.known.sizeBytes) {
    throw changed(`it is ${range.totalBytes} bytes long, ${expected.known.sizeBytes} before`)
  }
  refuseOtherVersion(expected, validator)
  const lengthBytes = contentLength(head)
  if (lengthBytes !== undefined && lengthBytes !== range.end - range.start) {
    throw refused(`a Content-Length of ${lengthBytes} for a range of ${range.end - range.start} bytes`)
  }
  return {
    start: range.start,
    end: range.end,
    sizeBytes: range.totalBytes,
    isRangeable: true,
    validator,
    contentType: field(head, 'content-type'),
  }
}

/** Without a length it is taken for as long as before where a strong ETag says that it is the same; the body is counted. */
function admitWhole(head: ResponseHead, { start, known }: Expectation, validator: Validator): Admitted {
  const toldBytes = contentLength(head)
  if (known !== undefined && toldBytes !== undefined && toldBytes !== known.sizeBytes) {
    throw changed(`it is ${toldBytes} bytes long, ${known.sizeBytes} before`)
  }
  refuseOtherVersion({ known }, validator)
  if (start !== 0) throw originError('ERR_SEEKCACHE_ORIGIN_NOT_RANGEABLE', `the origin sent the whole file where bytes from ${start} were asked for`)
  if (toldBytes === 0) throw refused('an empty file')
  if (known !== undefined && toldBytes === undefined && !isStrongEtag(validator.etag)) throw refused('the whole file without its length')
  const sizeBytes = toldBytes ?? known?.sizeBytes
  return { start: 0, end: sizeBytes, sizeBytes, isRangeable: false, validator, contentType: field(head, 'content-type') }
}

function refuseOtherVersion({ known }: Pick<Expectation, 'known'>, validator: Validator): void {
  if (known !== undefined && !isSameVersion(known.validator, validator)) throw changed('its ETag or date is another one than before')
}

/** Bytes that would have to be decoded are not the file's. */
function refuseEncoding(head: ResponseHead): void {
  const encoding = codings(head, 'content-encoding').find((coding) => coding !== 'identity')
  if (encoding !== undefined) throw refused(`a body encoded with ${encoding.slice(0, 40)}`)
  const transfer = codings(head, 'transfer-encoding').find((coding) => coding !== 'chunked' && coding !== 'identity')
  if (transfer !== undefined) throw refused(`a body sent with the encoding ${transfer.slice(0, 40)}`)
}

/** A list field's members, in lower case, from however many lines. */
function codings(head: ResponseHead, name: string): string[] {
  return [head.headers[name] ?? []].flat().join(',').toLowerCase().split(',').map((coding) => coding.trim()).filter((coding) => coding !== '')
}

/** What a browser would show or a player would follow, not play: login pages, error pages, playlists. */
function refuseNonMedia(head: ResponseHead): void {
  const type = field(head, 'content-type')?.toLowerCase() ?? ''
  if (type.startsWith('multipart/')) throw refused('a multipart body')
  if (/^(text\/html|application\/xhtml\+xml)/.test(type)) throw notMedia('an HTML page', 'the link may have expired, or lead to a page about the file')
  if (/mpegurl|dash\+xml|^application\/(xspf|vnd\.ms-sstr)\+xml|^audio\/x-scpls/.test(type)) throw notMedia('a playlist', 'a player can open that without seekcache')
}

function unsatisfied(head: ResponseHead, expected: Expectation): SeekCacheError {
  const totalBytes = parseUnsatisfiedTotal(field(head, 'content-range') ?? '')
  if (expected.known !== undefined && totalBytes !== undefined && totalBytes !== expected.known.sizeBytes) {
    return changed(`it is ${totalBytes} bytes long, ${expected.known.sizeBytes} before`)
  }
  if (totalBytes === 0) return refused('an empty file')
  return new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', `the origin has no bytes from ${expected.start} on (416)`, { httpStatus: 416 })
}

/** A date in Retry-After is counted from the answer's own Date: neither clock need be right. */
export function statusError(head: ResponseHead, nowMs: number): SeekCacheError {
  const saidMs = Date.parse(field(head, 'date') ?? '')
  return new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', `the origin answered ${head.status}: ${meaningOf(head.status)}`, {
    httpStatus: head.status,
    retryAfterMs: parseRetryAfterMs(field(head, 'retry-after'), Number.isNaN(saidMs) ? nowMs : saidMs),
  })
}

function meaningOf(status: number): string {
  const known = STATUS_MEANINGS[status]
  if (known !== undefined) return known
  if (status < 300) return 'that is no file'
  if (status < 400) return 'it points elsewhere without saying where'
  return status < 500 ? 'it refuses' : 'it failed'
}

const STATUS_MEANINGS: Readonly<Record<number, string>> = {
  401: 'it wants credentials, in the URL or as a header',
  403: 'these credentials may not, or the link has expired and a fresh one is needed',
  404: 'there is no such file',
  407: 'the proxy wants credentials',
  410: 'the file is gone',
  429: 'too many requests',
  503: 'it is overloaded',
}

export function changed(what: string): SeekCacheError {
  return originError('ERR_SEEKCACHE_ORIGIN_CHANGED', `the file has changed at the origin: ${what}; open it again to get the new one`)
}

function refused(what: string): SeekCacheError {
  return originError('ERR_SEEKCACHE_ORIGIN_RESPONSE', `the origin sent ${what}`)
}

function notMedia(what: string, remedy: string): SeekCacheError {
  return originError('ERR_SEEKCACHE_ORIGIN_NOT_MEDIA', `the origin sent ${what}, not media: ${remedy}`)
}

function originError(code: ErrorCode, message: string): SeekCacheError {
  return new SeekCacheError(code, message)
}

export function field(head: ResponseHead, name: string): string | undefined {
  const value = head.headers[name]
  return Array.isArray(value) ? value[0] : value
}

/** undefined where none is told. Several different ones are no length at all (RFC 9110 §8.6). */
function contentLength(head: ResponseHead): number | undefined {
  const all = new Set([head.headers['content-length'] ?? []].flat())
  if (all.size > 1) throw refused('several different Content-Length fields')
  const [value] = all
  return value !== undefined && /^\d{1,15}$/.test(value) ? Number(value) : undefined
}
