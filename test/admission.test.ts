/** One test per rule of admission: what an origin says, and what becomes of it. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { SeekCacheError } from '../src/errors.ts'
import { admit, type Admitted, type Expectation } from '../src/origin/admission.ts'
import { freshUntilMs } from '../src/origin/freshness.ts'
import { isRetryable, retryDelayMs } from '../src/origin/retry.ts'
import { isSameVersion } from '../src/origin/validator.ts'

type Headers = Record<string, string | string[]>
const KNOWN = { sizeBytes: 1000, validator: { etag: '"v1"', lastModified: undefined } }
const ASKED: Expectation = { start: 100, end: 200, known: KNOWN }
const GOOD: Headers = { 'content-range': 'bytes 100-199/1000', 'content-length': '100', etag: '"v1"' }

function answer(status: number, headers: Headers, expected: Expectation = ASKED): Admitted {
  return admit({ status, headers }, expected, 0)
}

function refuses(status: number, headers: Headers, code: string, words: RegExp, expected: Expectation = ASKED): void {
  assert.throws(
    () => answer(status, headers, expected),
    (error: SeekCacheError) => {
      assert.equal(error.code, `ERR_SEEKCACHE_${code}`)
      assert.match(error.message, words)
      return true
    },
  )
}

test('a 206 for exactly what was asked is admitted', () => {
  const admitted = answer(206, GOOD)
  assert.deepEqual([admitted.start, admitted.end, admitted.sizeBytes, admitted.isRangeable], [100, 200, 1000, true])
})

test('a lawful shorter 206 is taken for what it says', () => {
  const admitted = answer(206, { ...GOOD, 'content-range': 'bytes 100-149/1000', 'content-length': '50' })
  assert.deepEqual([admitted.start, admitted.end], [100, 150])
})

test('a 206 without Content-Length is admitted: the body is counted', () => {
  const { 'content-length': _, ...rest } = GOOD
  assert.equal(answer(206, rest).end, 200)
})

test('a wrong start is refused', () => refuses(206, { ...GOOD, 'content-range': 'bytes 101-199/1000' }, 'ORIGIN_RESPONSE', /from 101/))
test('an end beyond is refused', () => refuses(206, { ...GOOD, 'content-range': 'bytes 100-200/1000' }, 'ORIGIN_RESPONSE', /up to 201/))
test('a changed total is another version', () => refuses(206, { ...GOOD, 'content-range': 'bytes 100-199/999' }, 'ORIGIN_CHANGED', /999/))
test('an unknown total is refused', () => refuses(206, { ...GOOD, 'content-range': 'bytes 100-199/*' }, 'ORIGIN_RESPONSE', /size/))
test('a missing Content-Range is refused', () => refuses(206, { etag: '"v1"' }, 'ORIGIN_RESPONSE', /without Content-Range/))
test('a malformed one is refused', () => refuses(206, { ...GOOD, 'content-range': 'bytes 5-/5' }, 'ORIGIN_RESPONSE', /malformed/))
test('two of them are refused', () =>
  refuses(206, { ...GOOD, 'content-range': ['bytes 100-199/1000', 'bytes 0-1/1000'] }, 'ORIGIN_RESPONSE', /several/))
test('a Content-Length that disagrees is refused', () => refuses(206, { ...GOOD, 'content-length': '99' }, 'ORIGIN_RESPONSE', /99/))
test('an encoded body is refused', () => refuses(206, { ...GOOD, 'content-encoding': 'gzip' }, 'ORIGIN_RESPONSE', /gzip/))
test('identity is no encoding', () => assert.equal(answer(206, { ...GOOD, 'content-encoding': 'identity' }).start, 100))
test('a multipart body is refused', () =>
  refuses(206, { ...GOOD, 'content-type': 'multipart/byteranges; boundary=x' }, 'ORIGIN_RESPONSE', /multipart/))
test('another validator is another version', () => refuses(206, { ...GOOD, etag: '"v2"' }, 'ORIGIN_CHANGED', /validator/))
test('a vanished validator is another version', () => {
  const { etag: _, ...rest } = GOOD
  refuses(206, rest, 'ORIGIN_CHANGED', /validator/)
})
test('a 200 to a range in the middle is refused', () =>
  refuses(200, { 'content-length': '1000', etag: '"v1"' }, 'ORIGIN_RESPONSE', /whole file/))
test('a 200 of another size is another version', () => refuses(200, { 'content-length': '999', etag: '"v1"' }, 'ORIGIN_CHANGED', /999/))
test('a 200 with another validator is another version', () => refuses(200, { 'content-length': '1000', etag: '"v2"' }, 'ORIGIN_CHANGED', /validator/))
test('a 200 is admitted from byte 0, as the whole', () => {
  const admitted = answer(200, { 'content-length': '1000', etag: '"v1"' }, { start: 0, end: 100, known: KNOWN })
  assert.deepEqual([admitted.start, admitted.end, admitted.isRangeable], [0, 1000, false])
})
test('a first 200 without a length has no size', () => {
  const admitted = answer(200, {}, { start: 0, end: 100, known: undefined })
  assert.deepEqual([admitted.end, admitted.sizeBytes], [undefined, undefined])
})
test('a login page is no media', () => refuses(200, { 'content-type': 'text/html; charset=utf-8' }, 'ORIGIN_NOT_MEDIA', /HTML/))
test('a playlist is no media', () => refuses(200, { 'content-type': 'application/vnd.apple.mpegurl' }, 'ORIGIN_NOT_MEDIA', /playlist/))
test('a 416 that tells another size is another version', () =>
  refuses(416, { 'content-range': 'bytes */50' }, 'ORIGIN_CHANGED', /50 bytes/))
test('a 416 for an empty file says so', () =>
  refuses(416, { 'content-range': 'bytes */0' }, 'ORIGIN_RESPONSE', /empty/, { start: 0, end: 100, known: undefined }))
test('a 412 is another version', () => refuses(412, {}, 'ORIGIN_CHANGED', /412/))
for (const status of [401, 403, 404, 410, 429, 500, 503]) {
  test(`a ${status} is told as such`, () => refuses(status, {}, 'ORIGIN_STATUS', new RegExp(String(status))))
}

test('what can pass is tried again, what cannot is not', () => {
  const of = (status: number, retryAfterMs?: number): SeekCacheError =>
    new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', '', { httpStatus: status, retryAfterMs })
  for (const status of [429, 500, 502, 503, 504]) assert.ok(isRetryable(of(status)))
  for (const status of [400, 401, 403, 404, 410, 416]) assert.ok(!isRetryable(of(status)))
  assert.ok(!isRetryable(of(503, 3_600_000)), 'an hour is not waited for')
  assert.ok(isRetryable(new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', '')))
  assert.ok(!isRetryable(new SeekCacheError('ERR_SEEKCACHE_ORIGIN_CHANGED', '')))
  assert.equal(retryDelayMs(of(503, 7000), 1), 7000)
  assert.equal(retryDelayMs(new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', ''), 1), 0)
})

test('versions are compared by the stated policy', () => {
  const v = (etag?: string, lastModified?: string): { etag: string | undefined; lastModified: string | undefined } => ({ etag, lastModified })
  assert.ok(isSameVersion(v('"a"', 'x'), v('"a"', 'y')), 'a strong ETag decides alone')
  assert.ok(!isSameVersion(v('"a"'), v('W/"a"')))
  assert.ok(isSameVersion(v('W/"a"', 'x'), v('W/"a"', 'x')))
  assert.ok(!isSameVersion(v('W/"a"', 'x'), v('W/"a"', 'y')), 'a weak one needs the date as well')
  assert.ok(isSameVersion(v(undefined, 'x'), v(undefined, 'x')))
  assert.ok(!isSameVersion(v(undefined, 'x'), v(undefined, undefined)))
  assert.ok(isSameVersion(v(), v()))
})

test('freshness follows RFC 9111', () => {
  const now = Date.parse('Sat, 21 Nov 2026 10:00:00 GMT')
  const of = (headers: Headers): number => freshUntilMs({ status: 200, headers }, now) - now
  assert.equal(of({ 'cache-control': 'max-age=60' }), 60_000)
  assert.equal(of({ 'cache-control': 'max-age=60', age: '20' }), 40_000)
  assert.equal(of({ 'cache-control': 'no-cache, max-age=60' }), 0)
  assert.equal(of({ 'cache-control': 'no-store' }), 0)
  assert.equal(of({ date: 'Sat, 21 Nov 2026 10:00:00 GMT', expires: 'Sat, 21 Nov 2026 10:01:00 GMT' }), 60_000)
  assert.equal(of({ 'last-modified': 'Sat, 21 Nov 2026 09:00:00 GMT' }), 360_000, '10 % of an hour')
  assert.equal(of({}), 0)
})
