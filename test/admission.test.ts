/** One test per rule of admission: what an origin says, and what becomes of it. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'

import { SeekCacheError, type ErrorCode } from '../src/errors.ts'
import { admit, type Admitted, type Expectation } from '../src/origin/admission.ts'
import { freshUntilMs } from '../src/origin/freshness.ts'
import { isRetryable, retryDelayMs, saysNothingOfFile } from '../src/origin/retry.ts'
import { isSameVersion } from '../src/origin/validator.ts'
import { seedOfRun } from './support/random.ts'

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
test('an encoded body is refused, wherever the encoding stands', () => {
  refuses(206, { ...GOOD, 'content-encoding': ['identity', 'br'] }, 'ORIGIN_RESPONSE', /encoded with br/)
  refuses(206, { ...GOOD, 'content-encoding': 'identity, GZIP' }, 'ORIGIN_RESPONSE', /encoded with gzip/)
  refuses(206, { ...GOOD, 'transfer-encoding': 'gzip, chunked' }, 'ORIGIN_RESPONSE', /sent with the encoding gzip/)
  assert.equal(answer(206, { ...GOOD, 'transfer-encoding': 'chunked' }).start, 100)
})
test('two lengths are no length', () => {
  refuses(206, { ...GOOD, 'content-length': ['100', '50'] }, 'ORIGIN_RESPONSE', /several different Content-Length/)
  assert.equal(answer(206, { ...GOOD, 'content-length': ['100', '100'] }).end, 200)
})
test('an encoded body is refused', () => refuses(206, { ...GOOD, 'content-encoding': 'gzip' }, 'ORIGIN_RESPONSE', /gzip/))
test('identity is no encoding', () => assert.equal(answer(206, { ...GOOD, 'content-encoding': 'identity' }).start, 100))
test('a multipart body is refused', () =>
  refuses(206, { ...GOOD, 'content-type': 'multipart/byteranges; boundary=x' }, 'ORIGIN_RESPONSE', /multipart/))
test('another validator is another version', () => refuses(206, { ...GOOD, etag: '"v2"' }, 'ORIGIN_CHANGED', /ETag or date/))
test('a vanished validator is another version', () => {
  const { etag: _, ...rest } = GOOD
  refuses(206, rest, 'ORIGIN_CHANGED', /ETag or date/)
})
test('a 200 to a range in the middle is refused', () =>
  refuses(200, { 'content-length': '1000', etag: '"v1"' }, 'ORIGIN_NOT_RANGEABLE', /whole file/))
test('a 200 of another size is another version', () => refuses(200, { 'content-length': '999', etag: '"v1"' }, 'ORIGIN_CHANGED', /999/))
test('a 200 with another validator is another version', () => refuses(200, { 'content-length': '1000', etag: '"v2"' }, 'ORIGIN_CHANGED', /ETag or date/))
test('a 200 without a length is the same file only by a strong ETag', () => {
  const fromStart = { start: 0, end: 100, known: KNOWN }
  assert.deepEqual([answer(200, { etag: '"v1"' }, fromStart).end], [1000])
  const undated = { sizeBytes: 1000, validator: { etag: undefined, lastModified: undefined } }
  refuses(200, {}, 'ORIGIN_RESPONSE', /without its length/, { ...fromStart, known: undated })
  refuses(200, { etag: 'W/"v1"' }, 'ORIGIN_RESPONSE', /without its length/, { ...fromStart, known: { ...undated, validator: { ...undated.validator, etag: 'W/"v1"' } } })
  refuses(200, { etag: '"v2"' }, 'ORIGIN_CHANGED', /ETag or date/, fromStart)
})
test('a 200 for an empty file says so', () =>
  refuses(200, { 'content-length': '0' }, 'ORIGIN_RESPONSE', /empty/, { start: 0, end: 100, known: undefined }))
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
test('a 416 of the same size is told as such', () => refuses(416, { 'content-range': 'bytes */1000' }, 'ORIGIN_STATUS', /no bytes from 100 on \(416\)/))
test('a 412 is another version of what is known, and a refusal of what is not', () => {
  refuses(412, {}, 'ORIGIN_CHANGED', /412/)
  refuses(412, {}, 'ORIGIN_STATUS', /412/, { start: 0, end: 100, known: undefined })
})
for (const [status, words] of [[204, /204: that is no file/], [304, /304: it points elsewhere/], [418, /418: it refuses/], [507, /507: it failed/]] as const) {
  test(`a ${status} is no file`, () => refuses(status, GOOD, 'ORIGIN_STATUS', words))
}
test('a date in Retry-After counts from the Date of the answer, whatever our clock says', () => {
  const headers = { date: 'Sat, 21 Nov 2026 10:00:00 GMT', 'retry-after': 'Sat, 21 Nov 2026 10:00:07 GMT' }
  assert.throws(() => admit({ status: 503, headers }, ASKED, Date.parse('2031-01-01')), { retryAfterMs: 7000 })
  const { date: _, ...undated } = headers
  assert.throws(() => admit({ status: 503, headers: undated }, ASKED, Date.parse('Sat, 21 Nov 2026 10:00:05 GMT')), { retryAfterMs: 2000 })
})
for (const status of [401, 403, 404, 410, 429, 500, 503]) {
  test(`a ${status} is told as such`, () => refuses(status, {}, 'ORIGIN_STATUS', new RegExp(String(status))))
}

test('a senseless answer is asked for twice more, and no failure says anything of the file that is not about it', () => {
  const of = (code: ErrorCode, httpStatus?: number, retryAfterMs?: number): SeekCacheError => new SeekCacheError(code, '', { httpStatus, retryAfterMs })
  for (const code of ['ERR_SEEKCACHE_ORIGIN_RESPONSE', 'ERR_SEEKCACHE_ORIGIN_NOT_RANGEABLE'] as const) {
    assert.deepEqual([1, 2, 3].map((tries) => isRetryable(of(code), tries)), [true, true, false])
    assert.ok(saysNothingOfFile(of(code)))
  }
  assert.ok(!isRetryable(of('ERR_SEEKCACHE_ORIGIN_NOT_MEDIA')), 'a login page stays one')
  assert.ok(saysNothingOfFile(of('ERR_SEEKCACHE_ORIGIN_NOT_MEDIA')))
  assert.ok(saysNothingOfFile(of('ERR_SEEKCACHE_ORIGIN_STATUS', 503, 3_600_000)), 'however long it wants to be left alone')
  for (const status of [204, 302, 429, 500, 502, 503, 504, 507]) assert.ok(saysNothingOfFile(of('ERR_SEEKCACHE_ORIGIN_STATUS', status)))
  for (const status of [401, 403, 404, 410, 412, 416]) assert.ok(!saysNothingOfFile(of('ERR_SEEKCACHE_ORIGIN_STATUS', status)))
  assert.ok(!saysNothingOfFile(of('ERR_SEEKCACHE_ORIGIN_CHANGED')))
})

test('an origin that says "now" each time is not asked without a pause', () => {
  const now = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', '', { httpStatus: 429, retryAfterMs: 0 })
  assert.deepEqual([1, 2, 3, 20].map((tries) => retryDelayMs(now, tries)), [250, 250, 500, 8000])
})

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

// ---- whatever an origin says

const SEED = seedOfRun()

/** Ranges and lengths near the ones asked for, so that a slip by one is met often, and anything else as well. */
const near = (...values: number[]): fc.Arbitrary<number> =>
  fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...values.flatMap((value) => [value - 1, value, value, value, value + 1]).filter((value) => value >= 0)) }, fc.nat(2000))
const rangeText = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(near(0, 100), near(99, 199, 999), fc.oneof(near(1000), fc.constant('*'))).map(([first, last, total]) => `bytes ${first}-${last}/${total}`) },
  fc.constantFrom('bytes 100-200/1000', 'bytes 0-200/1000', 'bytes */1000', 'items 100-199/1000', 'bytes 100-199', 'bytes 199-100/1000', ''),
  fc.string(),
)
const oneOrMore = (values: fc.Arbitrary<string>): fc.Arbitrary<string | string[] | undefined> =>
  fc.oneof({ weight: 6, arbitrary: values }, fc.constant(undefined), fc.array(values, { minLength: 1, maxLength: 3 }))
const anyHead = fc.record({
  status: fc.oneof({ weight: 6, arbitrary: fc.constant(206) }, { weight: 3, arbitrary: fc.constant(200) }, fc.integer({ min: 200, max: 599 })),
  headers: fc.record({
    'content-range': oneOrMore(rangeText),
    'content-length': oneOrMore(fc.oneof({ weight: 4, arbitrary: near(100, 1000).map(String) }, fc.string())),
    'content-encoding': fc.oneof({ weight: 5, arbitrary: fc.constant(undefined) }, oneOrMore(fc.constantFrom('identity', 'gzip', 'br', ''))),
    'content-type': fc.oneof({ weight: 5, arbitrary: fc.constantFrom(undefined, 'video/mp4') }, fc.constantFrom('text/html', 'multipart/byteranges', 'audio/x-mpegurl'), fc.string()),
    etag: oneOrMore(fc.constantFrom('"v1"', 'W/"v1"', '"v2"', 'v1')),
    'last-modified': oneOrMore(fc.constantFrom('Sat, 21 Nov 2026 10:00:00 GMT', 'yesterday')),
  }),
})
const validator = fc.record({ etag: fc.constantFrom('"v1"', 'W/"v1"', undefined), lastModified: fc.constantFrom('Sat, 21 Nov 2026 10:00:00 GMT', undefined) })
const anyExpectation: fc.Arbitrary<Expectation> = fc.record({
  start: fc.constantFrom(0, 100),
  end: fc.constantFrom(200, 1000, undefined),
  known: fc.option(fc.record({ sizeBytes: fc.constant(1000), validator }), { nil: undefined }),
})

test('whatever an origin says is refused by name, or is what was asked for', () => {
  let admittedCount = 0
  const property = fc.property(anyHead, anyExpectation, (head, expected) => {
    let admitted: Admitted
    try {
      admitted = admit(head, expected, 0)
    } catch (error) {
      assert.ok(error instanceof SeekCacheError, String(error))
      assert.match(error.code, /^ERR_SEEKCACHE_ORIGIN_(STATUS|RESPONSE|NOT_MEDIA|NOT_RANGEABLE|CHANGED)$/)
      assert.match(error.message, /^the (origin|file) .{8}/)
      return
    }
    admittedCount++
    const { headers, status } = head
    assert.equal(admitted.start, expected.start)
    if (expected.known !== undefined) assert.equal(admitted.sizeBytes, expected.known.sizeBytes)
    for (const encoding of [headers['content-encoding'] ?? []].flat()) assert.ok(['identity', ''].includes(encoding))
    assert.ok(!/html|multipart|mpegurl/.test(String(headers['content-type'])))
    const lengths = [headers['content-length'] ?? []].flat().filter((text) => /^\d+$/.test(text)).map(Number)
    if (status === 206) {
      assert.equal(headers['content-range'], `bytes ${admitted.start}-${admitted.end! - 1}/${admitted.sizeBytes}`)
      assert.ok(admitted.start < admitted.end! && admitted.end! <= Math.min(expected.end ?? Infinity, admitted.sizeBytes!))
      assert.ok(lengths.every((length) => length === admitted.end! - admitted.start))
    } else {
      assert.deepEqual([status, admitted.start, admitted.isRangeable], [200, 0, false])
      assert.ok(lengths.every((length) => length === admitted.sizeBytes && length > 0))
    }
    const strong = expected.known?.validator.etag
    if (strong?.startsWith('"') === true) assert.equal([headers.etag].flat()[0], strong)
  })
  fc.assert(property, { seed: SEED, numRuns: 20_000 })
  console.log(`admission: 20 000 heads, seed ${SEED}, ${admittedCount} admitted`)
  assert.ok(admittedCount > 100, 'the property is not vacuous')
})

test('sameness of versions is reflexive, and a strong ETag never equals anything but itself', () => {
  const same = fc.property(validator, validator, (known, got) => {
    assert.ok(isSameVersion(known, known))
    if (known.etag === '"v1"') assert.equal(isSameVersion(known, got), got.etag === '"v1"')
    if (known.etag === undefined && got.lastModified !== known.lastModified) assert.ok(!isSameVersion(known, got))
  })
  fc.assert(same, { seed: SEED, numRuns: 500 })
})
