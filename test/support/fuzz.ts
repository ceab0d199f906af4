/**
 * Properties of the parsers that strangers reach, for random and for shaped input. `npm test` runs each some ten thousand
 * times; `npm run soak fuzz` more. SEEKCACHE_FUZZ_RUNS and SEEKCACHE_SEED set the number and repeat a run.
 */
import fc from 'fast-check'
import assert from 'node:assert/strict'

import { parseHttpDate } from '../../src/bytes/http-date.ts'
import {
  etagsMatchWeakly, formatContentRange, formatRange, isStrongEtag, parseContentRange, parseEtagList, parseRange, parseRetryAfterMs, parseUnsatisfiedTotal,
} from '../../src/bytes/http-range.ts'
import { checkExtentPath, parseHostMessage } from '../../src/client/host-answers.ts'
import { formatSize, parseSize } from '../../src/config.ts'
import { formatMessage, Framer, parseClientMessage, parseHello, type Frame } from '../../src/control/protocol.ts'
import { SeekCacheError } from '../../src/errors.ts'
import { freshUntilMs } from '../../src/origin/freshness.ts'
import { decide } from '../../src/proxy/conditions.ts'
import { safeContentType } from '../../src/proxy/representation.ts'
import { ProxyUrls } from '../../src/proxy/urls.ts'
import { displayUrl, fileNameOf, parseHeaderLine, parseUrl } from '../../src/resource-spec.ts'

export interface FuzzTarget {
  readonly name: string
  run(parameters: fc.Parameters<unknown>): void | Promise<void>
}

const NOW_MS = Date.UTC(2026, 0, 2, 3, 4, 5)
const MAX_POSITION = 10 ** 15 - 1
const size = fc.oneof(fc.nat(20), fc.maxSafeNat().map((n) => n % MAX_POSITION))
const digits = fc.oneof(fc.constantFrom('', '0', '00', '9'.repeat(15), '9'.repeat(16), '9'.repeat(400)), fc.nat(30).map(String), fc.maxSafeNat().map(String))
/** Text with the characters that mean something in HTTP. */
const fieldText = fc.string({ unit: fc.constantFrom(...'0123456789-,=*/;:" \tabytesBYTESW/GMT\u00e9\u0000\r\n日') })
const anyText = fc.oneof(fc.string(), fieldText, fc.string({ unit: 'binary' }))
const httpDate = fc.integer({ min: Date.UTC(1990, 0, 1), max: Date.UTC(2075, 0, 1) }).map((ms) => ms - (ms % 1000))

/** What the function throws is one of our own errors, with the code. */
function throwsOnly<T>(code: string, action: () => T): T | undefined {
  try {
    return action()
  } catch (error) {
    assert.ok(error instanceof SeekCacheError && error.code === code, String(error))
    return undefined
  }
}

function target<T extends [unknown, ...unknown[]]>(name: string, arbitraries: { [K in keyof T]: fc.Arbitrary<T[K]> }, property: (...input: T) => void): FuzzTarget {
  return { name, run: (parameters) => fc.assert(fc.property(...arbitraries, property), parameters as fc.Parameters<T>) }
}

/** RFC 9110 §14.1.2 in the longest way: big integers, no regular expression. */
function naiveRange(field: string, sizeBytes: number): { start: number; end: number } | 'whole' | 'unsatisfiable' {
  const text = field.trim()
  if (text.slice(0, 6).toLowerCase() !== 'bytes=') return 'whole'
  const halves = text.slice(6).split('-')
  if (halves.length !== 2 || halves.some((half) => [...half].some((c) => c < '0' || c > '9'))) return 'whole'
  const [first, last] = halves as [string, string]
  if (first === '' && last === '') return 'whole'
  const total = BigInt(sizeBytes)
  if (first === '') {
    const suffix = BigInt(last) > total ? total : BigInt(last)
    return suffix === 0n ? 'unsatisfiable' : { start: Number(total - suffix), end: sizeBytes }
  }
  if (last !== '' && BigInt(last) < BigInt(first)) return 'whole'
  if (BigInt(first) >= total) return 'unsatisfiable'
  return { start: Number(first), end: last === '' || BigInt(last) >= total ? sizeBytes : Number(last) + 1 }
}

const messages = fc.oneof(
  fc.record({ type: fc.constant('locate'), id: fc.nat().map((n) => n + 1), session: fc.string({ maxLength: 64 }), reader: fc.nat(), start: fc.maxSafeNat(), lengthBytes: fc.nat().map((n) => n + 1), deadlineMs: fc.integer({ min: 1, max: 3_600_000 }) }),
  fc.record({ type: fc.constant('position'), session: fc.string({ maxLength: 64 }), reader: fc.nat(), position: fc.maxSafeNat() }),
  fc.record({ type: fc.constant('cancel'), request: fc.nat().map((n) => n + 1) }),
  fc.record({ type: fc.constant('map'), id: fc.nat().map((n) => n + 1), session: fc.string({ maxLength: 64 }), headers: fc.constant([]) }),
)

function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const edges = [0, ...places.map((place) => place % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
  return edges.slice(1).map((edge, i) => bytes.subarray(edges[i], edge))
}

/** What a framer makes of the pieces; a line that starts with "raw " announces so many bytes. */
function framed(pieces: readonly Buffer[], maxLineBytes: number): string[] {
  const framer = new Framer(maxLineBytes)
  const found: string[] = []
  try {
    for (const piece of pieces) {
      framer.push(piece)
      for (let frame: Frame | undefined = framer.next(); frame !== undefined; frame = framer.next()) {
        found.push('line' in frame ? `line ${frame.line}` : `raw ${frame.raw.toString('hex')}`)
        const announced = 'line' in frame ? /^raw (\d{1,3})$/.exec(frame.line) : null
        if (announced !== null) framer.expectRaw(Number(announced[1]))
      }
    }
  } catch (error) {
    assert.ok(error instanceof SeekCacheError && error.code === 'ERR_SEEKCACHE_PROTOCOL')
    found.push('refused')
  }
  return found
}

/** The same, from all of it at once. */
function naiveFramed(bytes: Buffer, maxLineBytes: number): string[] {
  const found: string[] = []
  for (let at = 0; ; ) {
    const end = bytes.indexOf(0x0a, at)
    if ((end === -1 ? bytes.length : end) - at > maxLineBytes) return [...found, 'refused']
    if (end === -1) return found
    const line = bytes.toString('utf8', at, end)
    found.push(`line ${line}`)
    at = end + 1
    const announced = Number(/^raw (\d{1,3})$/.exec(line)?.[1] ?? 0)
    if (announced === 0) continue
    if (bytes.length - at < announced) return found
    found.push(`raw ${bytes.toString('hex', at, at + announced)}`)
    at += announced
  }
}

const urls = new ProxyUrls('token')
const REPRESENTATION = { sizeBytes: 1000, etag: '"v1"', lastModified: new Date(NOW_MS).toUTCString() }

export const FUZZ_TARGETS: readonly FuzzTarget[] = [
  target('Range is what the RFC says, for any text', [fc.oneof(anyText, fc.tuple(fc.constantFrom('bytes=', 'Bytes=', 'bytes =', 'byte='), digits, fc.constantFrom('-', '', '--', ' - '), digits).map((parts) => parts.join(''))), size], (field, sizeBytes) => {
    const parsed = parseRange(field, sizeBytes)
    const expected = naiveRange(field, sizeBytes)
    assert.deepEqual(parsed, typeof expected === 'string' ? { kind: expected } : { kind: 'range', range: expected })
    if (parsed.kind === 'range') assert.ok(0 <= parsed.range.start && parsed.range.start < parsed.range.end && parsed.range.end <= sizeBytes)
  }),
  target('a formatted Range and Content-Range mean what was formatted', [size, size], (a, b) => {
    const [start, end] = [Math.min(a, b), Math.max(a, b) + 1]
    assert.deepEqual(parseRange(formatRange(start, end), end), { kind: 'range', range: { start, end } })
    assert.deepEqual(parseContentRange(formatContentRange({ start, end }, end)), { start, end, totalBytes: end })
  }),
  target('Content-Range is a range within its total, or nothing', [fc.oneof(anyText, fc.tuple(fc.constantFrom('bytes ', 'bytes', 'BYTES  '), digits, fc.constantFrom('-', ''), digits, fc.constantFrom('/', ''), fc.oneof(digits, fc.constant('*'))).map((parts) => parts.join('')))], (field) => {
    const parsed = parseContentRange(field)
    const total = parseUnsatisfiedTotal(field)
    if (total !== undefined) assert.ok(Number.isSafeInteger(total) && total >= 0)
    if (parsed === undefined) return
    assert.ok(Number.isSafeInteger(parsed.end) && 0 <= parsed.start && parsed.start < parsed.end && parsed.end <= (parsed.totalBytes ?? parsed.end))
    const digitsOf = field.match(/\d+/g)!.map(Number)
    assert.deepEqual([parsed.start, parsed.end - 1, parsed.totalBytes].filter((n) => n !== undefined), digitsOf)
  }),
  target('HTTP dates: every form means the same moment, in every time zone; nothing else is a date', [httpDate, anyText], (ms, text) => {
    const date = new Date(ms)
    const [, day, month, year, time] = /^\w+, (\d+) (\w+) (\d+) ([\d:]+) GMT$/.exec(date.toUTCString())!
    const weekday = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'][date.getUTCDay()]!
    assert.equal(parseHttpDate(date.toUTCString(), NOW_MS), ms)
    assert.equal(parseHttpDate(`${weekday}, ${day}-${month}-${year!.slice(2)} ${time} GMT`, NOW_MS), ms)
    assert.equal(parseHttpDate(`${weekday.slice(0, 3)} ${month} ${String(Number(day)).padStart(2)} ${time} ${year}`, NOW_MS), ms)
    const other = parseHttpDate(text, NOW_MS)
    assert.ok(other === undefined || Number.isSafeInteger(other))
    assert.equal(parseHttpDate(`${date.toUTCString()} ${text}x`, NOW_MS), undefined)
  }),
  target('Retry-After is a number of seconds or a date, at least 0, or nothing', [fc.oneof(anyText, digits, httpDate.map((ms) => new Date(ms).toUTCString()))], (field) => {
    const parsed = parseRetryAfterMs(field, NOW_MS)
    const trimmed = field.trim()
    if (/^\d{1,9}$/.test(trimmed)) assert.equal(parsed, Number(trimmed) * 1000)
    else assert.equal(parsed, parseHttpDate(field, NOW_MS) === undefined ? undefined : Math.max(0, parseHttpDate(field, NOW_MS)! - NOW_MS))
  }),
  target('freshness is at most a year, and a number, whatever the fields', [fc.dictionary(fc.constantFrom('cache-control', 'age', 'date', 'expires', 'last-modified'), fc.oneof(anyText, digits, fc.constantFrom('-1e300', '1e400', 'Infinity', 'NaN', '0x10'), httpDate.map((ms) => new Date(ms).toUTCString()), digits.map((n) => `max-age=${n}`)))], (headers) => {
    const until = freshUntilMs({ status: 200, headers }, NOW_MS)
    assert.ok(Number.isFinite(until) && until <= NOW_MS + 366 * 24 * 3600_000, String(until))
  }),
  target('entity tags: what is strong can be sent and compared, a list holds what was put in', [fc.array(fc.string({ unit: fc.constantFrom(...'abc/!#W~\u00e9') }), { maxLength: 5 }), anyText], (tags, text) => {
    const quoted = tags.map((tag, i) => `${i % 2 === 0 ? '' : 'W/'}"${tag}"`)
    assert.deepEqual(parseEtagList(quoted.join(', ')), quoted)
    for (const tag of quoted) assert.ok(etagsMatchWeakly(tag, `W/${tag.replace(/^W\//, '')}`))
    for (const found of parseEtagList(text)) assert.ok(found === '*' || text.includes(found))
    if (isStrongEtag(text)) assert.match(text, /^"[^"\r\n\0]*"$/)
  }),
  target('conditions: one of five answers, and a range within the representation', [fc.dictionary(fc.constantFrom('if-match', 'if-none-match', 'if-modified-since', 'if-unmodified-since', 'if-range', 'range'), fc.oneof(anyText, fc.constantFrom('*', '"v1"', 'W/"v1"', '"v2"', 'bytes=0-', 'bytes=5000-', REPRESENTATION.lastModified), httpDate.map((ms) => new Date(ms).toUTCString())))], (headers) => {
    const decision = decide(headers, REPRESENTATION)
    assert.ok([200, 206, 304, 412, 416].includes(decision.status))
    if ('range' in decision) assert.ok(decision.range.start < decision.range.end && decision.range.end <= 1000)
    if (decision.status === 206) assert.ok(headers['if-range'] === undefined || headers['if-range'] === '"v1"' || headers['if-range'] === REPRESENTATION.lastModified)
    if (decision.status === 304) assert.ok(headers['if-none-match'] !== undefined || headers['if-modified-since'] !== undefined)
    if (decision.status === 412) assert.ok(headers['if-match'] !== undefined || headers['if-unmodified-since'] !== undefined)
  }),
  target('a content type is a media type that a header can carry, or only bytes', [fc.oneof(anyText, fc.tuple(fc.constantFrom('video/', 'audio/', 'text/', 'image/'), fieldText, fc.constantFrom('', ';', ' ; '), fieldText).map((parts) => parts.join('')))], (type) => {
    const safe = safeContentType(type)
    assert.match(safe, /^(audio|video)\/[\x20-\x7e]+$|^application\/(octet-stream|ogg|mp4|x-matroska)$/i)
    assert.ok(!/[,;]\s*(text|image|application)\//i.test(safe.replace(/"[^"]*"/g, '')) || !safe.includes('/', safe.indexOf('/') + 1))
  }),
  target('a spec in a URL is a request or nothing, and means what was put in', [anyText, fc.webUrl({ withQueryParameters: true }), fc.array(fc.tuple(fc.stringMatching(/^[A-Za-z-]{1,10}$/), fc.string({ unit: fc.constantFrom(...'az09 \t~\u00e9') })))], (text, url, headers) => {
    for (const kind of ['u', 's', 'x', '__proto__', undefined]) {
      const spec = urls.resolve(kind, text)?.spec
      if (spec !== undefined) assert.match(spec.url, /^https?:\/\/\S+$/i)
    }
    const json = urls.resolve('u', Buffer.from(text).toString('base64url'))
    if (json !== undefined) for (const [name, value] of json.spec.headers) assert.ok(!/[\r\n\0]/.test(name + value))
    assert.deepEqual(urls.resolve('u', Buffer.from(JSON.stringify({ url, headers })).toString('base64url'))?.spec, { url, headers })
  }),
  target('URLs: what is none is said without its secrets, a file name is one that can be shown', [fc.oneof(anyText, fc.webUrl(), anyText.map((text) => `http://user:secret@h/${text}`))], (text) => {
    const url = throwsOnly('ERR_SEEKCACHE_USAGE', () => parseUrl(text))
    if (url === undefined) return
    assert.doesNotMatch(fileNameOf(url), /[/\\\x00-\x1f\x7f-\x9f]|^\./)
    assert.notEqual(fileNameOf(url), '')
    assert.ok(!displayUrl(url).includes('secret@') && !displayUrl(url).includes('\n'))
  }),
  target('a header line is a name and a value that can be sent, or nothing', [anyText], (line) => {
    const header = parseHeaderLine(line)
    if (header !== undefined) assert.match(`${header[0]}: ${header[1]}`, /^[!-9;-~]+: [\t\x20-\x7e\x80-\xff]*$/)
  }),
  target('a message that is formatted is parsed as itself; anything else is one protocol error', [messages, fc.oneof(anyText, fc.json())], (message, text) => {
    assert.deepEqual(parseClientMessage(formatMessage(message as never).trimEnd()), { ...message })
    throwsOnly('ERR_SEEKCACHE_PROTOCOL', () => parseClientMessage(text))
    throwsOnly('ERR_SEEKCACHE_PROTOCOL', () => parseHello(text))
    throwsOnly('ERR_SEEKCACHE_PROTOCOL', () => parseHostMessage(text))
  }),
  target('what is almost a message is refused or is one', [messages, fc.string(), fc.oneof(fc.jsonValue(), fc.constantFrom(-1, 0.5, 1e300, 2 ** 53, null))], (message, key, value) => {
    const keys = Object.keys(message)
    const changed = { ...message, [keys[key.length % keys.length]!]: value }
    const parsed = throwsOnly('ERR_SEEKCACHE_PROTOCOL', () => parseClientMessage(JSON.stringify(changed)))
    for (const [name, got] of Object.entries(parsed ?? {})) if (typeof got === 'number') assert.ok(Number.isSafeInteger(got) && got >= 0, name)
  }),
  target('frames do not depend on how the bytes are split', [fc.array(fc.oneof(fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)), fc.constantFrom('\n', 'raw 3\n', 'raw 0\n', 'raw 17\n', '{"a":1}\n').map((text) => Buffer.from(text))), { maxLength: 12 }), fc.array(fc.nat(), { maxLength: 12 })], (parts, places) => {
    const bytes = Buffer.concat(parts)
    const expected = naiveFramed(bytes, 60)
    assert.deepEqual(framed([bytes], 60), expected)
    assert.deepEqual(framed(cut(bytes, places), 60), expected)
    assert.deepEqual(framed([...bytes].map((byte) => Buffer.from([byte])), 60), expected)
  }),
  target('sizes: what is formatted is near what is parsed, and anything else is refused', [fc.oneof(anyText, fc.tuple(digits, fc.constantFrom('', '.5', '.', '..'), fc.constantFrom('', 'K', 'm', 'GiB', 'TB', 'X')).map((parts) => parts.join('')))], (text) => {
    const bytes = throwsOnly('ERR_SEEKCACHE_USAGE', () => parseSize(text))
    if (bytes === undefined) return
    assert.ok(Number.isSafeInteger(bytes) && bytes >= 0)
    if (bytes > 2 ** 50) return // rounded up, it may be more than a safe integer
    const again = parseSize(formatSize(bytes).replace(' ', ''))
    assert.ok(Math.abs(again - bytes) <= bytes * 0.06 + 1, `${text}: ${bytes}, ${again}`)
  }),
  {
    name: 'a path that a host names is an extent of the cache directory, or refused',
    run: async (parameters) => {
      const name = fc.constantFrom('0-0123456789abcdef', '12-0123456789abcdef', 'x', '..', '', '0-0123456789ABCDEF')
      const folder = fc.constantFrom('/c', '/c/', '/', '/c/..', '/d', 'c', '/c/../c', '/c\0')
      const path = fc.tuple(folder, fc.constantFrom('/extents/', '/extents//', '/'), fc.constantFrom('0123456789abcdef', '..', 'x'), fc.constant('/'), name)
      const property = fc.asyncProperty(fc.oneof(anyText, path.map((parts) => parts.join(''))), async (text) => {
        const isTaken = await checkExtentPath(text, '/c').then(() => true, (error: unknown) => {
          assert.ok(error instanceof SeekCacheError && error.code === 'ERR_SEEKCACHE_PROTOCOL')
          return false
        })
        if (isTaken) assert.match(text, /^\/c\/extents\/0123456789abcdef\/\d+-0123456789abcdef$/)
      })
      await fc.assert(property, parameters as fc.Parameters<[string]>)
    },
  },
]

/** Text on which careless regular expressions take quadratic time or worse. */
export function longTexts(lengthBytes: number): readonly string[] {
  const pieces = [' ', '\t', '0', '-', '"', 'W/"', ',', ';', 'a', '=', '\\', '/', '[', '{"a":', 'bytes=', '\u00a0', 'video/mp4; ', '%', '@', '.', '..']
  const starts = ['', 'bytes=', 'bytes ', 'max-age=', 'video/', 'video/mp4;', 'http://', '"', 'Sun, ']
  return pieces.flatMap((piece) => starts.map((start) => start + piece.repeat(Math.ceil(lengthBytes / piece.length)) + '!'))
}

/** Every parser of text, for one text. */
export function parseWithAll(text: string): void {
  parseRange(text, 1000)
  parseContentRange(text)
  parseUnsatisfiedTotal(text)
  parseRetryAfterMs(text, NOW_MS)
  parseHttpDate(text, NOW_MS)
  parseEtagList(text)
  isStrongEtag(text)
  safeContentType(text)
  parseHeaderLine(text)
  freshUntilMs({ status: 200, headers: { 'cache-control': text, age: text, date: text, expires: text, 'last-modified': text } }, NOW_MS)
  decide({ 'if-match': text, 'if-none-match': text, range: text }, REPRESENTATION)
  urls.resolve('u', text)
  urls.resolve('u', Buffer.from(text).toString('base64url'))
  throwsOnly('ERR_SEEKCACHE_USAGE', () => parseSize(text))
  throwsOnly('ERR_SEEKCACHE_USAGE', () => parseUrl(text))
  throwsOnly('ERR_SEEKCACHE_PROTOCOL', () => parseClientMessage(text))
  throwsOnly('ERR_SEEKCACHE_PROTOCOL', () => parseHostMessage(text))
}
