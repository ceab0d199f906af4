/**
 * The faults of the matrix as a table: what an origin does wrong, from when on, and what must come of it.
 *
 * Everything is data; `fault-matrix.ts` runs each case at each place of the file, in each state of the cache, through each face.
 */
import { constants, type Settings } from 'node:http2'

import { patternContent, type Content } from './content.ts'
import type { Http2Fault } from './http2-origin.ts'
import type { Fault, OriginRequest } from './origin-reply.ts'

export const SIZE_BYTES = 1_200_000
export const CONTENT = patternContent(SIZE_BYTES, 1)

/** Where in the file the fault is met; of a partly cached one the second half is missing. */
export const REGIONS = {
  head: { start: 0, end: 150_000 },
  middle: { start: 500_000, end: 650_000 },
  tail: { start: 1_050_000, end: SIZE_BYTES },
} as const
export const STATES = ['cold', 'warm', 'restarted'] as const
export const FACES = ['proxy', 'api', 'element'] as const

export type Region = keyof typeof REGIONS
export type State = (typeof STATES)[number]
export type Face = (typeof FACES)[number]

export interface Place {
  readonly region: Region
  readonly state: State
}

export interface Failure {
  readonly kind: 'fails'
  /** Of SeekCacheError, without ERR_SEEKCACHE_. */
  readonly code: RegExp
  /** The proxy's status. */
  readonly status: readonly number[]
  /** In the message: it names what came. */
  readonly words: RegExp
  /** GST_RESOURCE_ERROR_*, where it is not OPEN_READ or READ. */
  readonly gst?: 'NOT_FOUND' | 'NOT_AUTHORIZED'
  /** It is about the file: what is cached is not played by who opens it then. */
  readonly isFinal?: boolean
  /** It is tried again until whoever waits gives up. */
  readonly lastsToDeadline?: boolean
  /** At least so much of what the origin says reaches the player; the host minds no origin for longer than ten minutes. */
  readonly minRetryAfterSeconds?: number
}

export type Outcome =
  | { readonly kind: 'recovers' }
  /** The new version for whoever opens it now; who reads the old one reads what is cached and is told. */
  | { readonly kind: 'changes'; readonly to: Content }
  /** The size is not known: it is read from byte 0 on, whole. */
  | { readonly kind: 'streams' }
  | Failure

/** What is wrong with the server itself, if not with its answers. */
export type Server = 'limited' | 'down' | TlsFault

export type TlsFault = 'tls-good' | 'tls-self-signed' | 'tls-expired' | 'tls-wrong-name' | 'tls-unknown-authority' | 'tls-reset' | 'tls-none'

export interface FaultCase {
  readonly name: string
  readonly server?: Server
  /** What the nth request that is affected meets. */
  readonly faults?: (n: number, request: OriginRequest, place: Place) => Fault | readonly Fault[] | undefined
  /** The same with a state of its own for each cell. */
  readonly makeFaults?: () => NonNullable<FaultCase['faults']>
  /** At an origin that speaks HTTP/2: what the nth request that is affected meets, and how the origin is set. */
  readonly http2?: { readonly faults?: (n: number) => Http2Fault | undefined; readonly settings?: Settings }
  /** Which requests are affected: those of the region, or all from then on. */
  readonly scope?: 'region' | 'everything'
  readonly outcome: Outcome | ((place: Place) => Outcome)
}

const RECOVERS: Outcome = { kind: 'recovers' }

type Faults = Fault | readonly Fault[]

function always(name: string, faults: Faults, outcome: FaultCase['outcome']): FaultCase {
  return { name, faults: () => faults, outcome }
}

function first(count: number, name: string, faults: Faults): FaultCase {
  return { name, faults: (n) => (n < count ? faults : undefined), outcome: RECOVERS }
}

function everywhere(name: string, faults: Faults, outcome: FaultCase['outcome']): FaultCase {
  return { ...always(name, faults, outcome), scope: 'everything' }
}

function overHttp2(name: string, faults: (n: number) => Http2Fault | undefined, outcome: FaultCase['outcome'] = RECOVERS): FaultCase {
  return { name: `HTTP/2, ${name}`, http2: { faults }, outcome }
}

function fails(code: RegExp, status: number | readonly number[], words: RegExp, more: Partial<Failure> = {}): Failure {
  return { kind: 'fails', code, status: [status].flat(), words, ...more }
}

const refused = (words: RegExp): Failure => fails(/^ORIGIN_RESPONSE$/, 502, words)
const unreachable = (words: RegExp): Failure => fails(/^ORIGIN_UNREACHABLE$/, 502, words, { lastsToDeadline: true })
const silent = (): Failure =>
  fails(/^TIMEOUT$/, 504, /(sent nothing|not sent it yet|stopped sending|connections to the origin are busy)/, { lastsToDeadline: true })
const answered = (status: number, proxyStatus: number, more: Partial<Failure> = {}): Failure =>
  fails(/^ORIGIN_STATUS$/, proxyStatus, new RegExp(`\\b${status}\\b`), more)
const notMedia = (words: RegExp): Failure => fails(/^ORIGIN_NOT_MEDIA$/, 502, words)
const later = (seconds: number): string => new Date(Date.now() + seconds * 1000).toUTCString()
const status = (code: number, headers: Readonly<Record<string, string>> = {}): Fault => ({ kind: 'status', status: code, headers })

const changed = (content: Content): FaultCase['outcome'] => ({ kind: 'changes', to: content })
const OTHER_BYTES = patternContent(SIZE_BYTES, 2)
const GROWN = patternContent(SIZE_BYTES + 70_000, 3)
const SHRUNK = patternContent(SIZE_BYTES - 70_000, 4)

/** A 206 that promises what it does not bring, and ends in good order. */
const shortButOrderly = (request: OriginRequest): readonly Fault[] => {
  const { start = 0, end = SIZE_BYTES } = request.range ?? {}
  const told = `bytes ${start}-${Math.min(end, SIZE_BYTES) - 1}/${SIZE_BYTES}`
  return [{ kind: 'range-shorter', lengthBytes: 6_000 }, { kind: 'content-range-text', value: told }, { kind: 'chunked' }]
}

/** Each visit of the first URL gets a link of its own. */
function expiringLinks(): NonNullable<FaultCase['faults']> {
  const uses = new Map<string, number>()
  return (n, { target }) => {
    if (!target.includes('?')) return { kind: 'redirect', location: `?link-${n}` }
    uses.set(target, (uses.get(target) ?? 0) + 1)
    return uses.get(target)! > 2 ? status(403) : undefined
  }
}

const { NGHTTP2_CANCEL, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM } = constants
const HTTP2_CODES = 14
/** Before the head; the origin has begun with some of these requests, and not with others. */
const RESETS = [NGHTTP2_REFUSED_STREAM, NGHTTP2_INTERNAL_ERROR, NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_CANCEL, NGHTTP2_NO_ERROR]
const resetBeforeHead = (code: number): Http2Fault => ({ kind: 'reset', code })
const resetInBody = (code: number, afterBytes: number): Http2Fault => ({ kind: 'reset', code, afterBytes })

const HTTP2_CASES: readonly FaultCase[] = [
  overHttp2('right', () => undefined),
  { name: 'HTTP/2, one stream at a time', http2: { settings: { maxConcurrentStreams: 1 } }, outcome: RECOVERS },
  { name: 'HTTP/2, two streams at a time', http2: { settings: { maxConcurrentStreams: 2 } }, outcome: RECOVERS },
  overHttp2('GOAWAY that refuses the request', (n) => (n < 3 ? { kind: 'goaway', code: NGHTTP2_NO_ERROR, isRefused: true } : undefined)),
  overHttp2('GOAWAY in the middle of a body that is then finished', (n) => (n < 3 ? { kind: 'goaway', code: NGHTTP2_NO_ERROR, afterBytes: 5_000 } : undefined)),
  overHttp2('GOAWAY with an error in the middle of every body', () => ({ kind: 'goaway', code: NGHTTP2_INTERNAL_ERROR, afterBytes: 9_000 })),
  overHttp2('GOAWAY with an error before every head', () => ({ kind: 'goaway', code: NGHTTP2_INTERNAL_ERROR }), unreachable(/broke/)),
  overHttp2('RST_STREAM before the head, one code after the other', (n) => (n < RESETS.length ? resetBeforeHead(RESETS[n]!) : undefined)),
  overHttp2('RST_STREAM before every head', () => resetBeforeHead(NGHTTP2_INTERNAL_ERROR), unreachable(/broke/)),
  overHttp2('REFUSED_STREAM to every request', () => resetBeforeHead(NGHTTP2_REFUSED_STREAM), unreachable(/refuses requests now/)),
  overHttp2('RST_STREAM in the body, one code after the other', (n) => (n < HTTP2_CODES ? resetInBody(n, 5_000) : undefined)),
  overHttp2('RST_STREAM in the middle of every body', () => resetInBody(NGHTTP2_INTERNAL_ERROR, 9_000)),
  overHttp2('RST_STREAM before any byte of every body', () => resetInBody(NGHTTP2_INTERNAL_ERROR, 0), unreachable(/broke/)),
  overHttp2('a connection that dies in the middle of a body', (n) => (n < 2 ? { kind: 'disconnect', afterBytes: 5_000 } : undefined)),
  overHttp2('connections that die in the middle of every body', () => ({ kind: 'disconnect', afterBytes: 9_000 })),
  overHttp2('connections that die before every head', () => ({ kind: 'disconnect' }), unreachable(/broke/)),
  overHttp2('a body that stalls', (n) => (n < 2 ? { kind: 'stalled', afterBytes: 1_000 } : undefined)),
  overHttp2('heads that never come', () => ({ kind: 'held' }), silent()),
  overHttp2('503, twice', (n) => (n < 2 ? { kind: 'status', status: 503 } : undefined)),
  overHttp2('404', () => ({ kind: 'status', status: 404 }), answered(404, 404, { gst: 'NOT_FOUND', isFinal: true })),
]

export const FAULT_CASES: readonly FaultCase[] = [
  // ---- connections and bodies that break
  first(2, 'a body that ends early', { kind: 'body-truncated', afterBytes: 5_000 }),
  always('bodies that all end early', { kind: 'body-truncated', afterBytes: 9_000 }, RECOVERS),
  always('bodies that all end before they begin', { kind: 'body-truncated', afterBytes: 0 }, unreachable(/broke/)),
  first(2, 'a reset in the middle of a body', { kind: 'body-reset', afterBytes: 3_000 }),
  always('resets in the middle of every body', { kind: 'body-reset', afterBytes: 9_000 }, RECOVERS),
  first(3, 'a reset before the head', { kind: 'reset-before-head' }),
  always('resets before every head', { kind: 'reset-before-head' }, unreachable(/broke the connection/)),
  first(2, 'a close before the head', { kind: 'close-before-head' }),
  always('a close before every head', { kind: 'close-before-head' }, unreachable(/broke the connection/)),
  { name: 'a short body under a longer Content-Range', faults: (_, request) => shortButOrderly(request), outcome: RECOVERS },
  always('more bytes than promised, behind a Content-Length', { kind: 'body-overrun', extraBytes: 500 }, RECOVERS),
  always('more bytes than promised, chunked', [{ kind: 'body-overrun', extraBytes: 500 }, { kind: 'chunked' }], refused(/more bytes than it promised/)),
  // ---- silence
  first(2, 'a body that stalls', { kind: 'body-stalled', afterBytes: 1_000 }),
  always('bodies that all stall before they begin', { kind: 'body-stalled', afterBytes: 0 }, silent()),
  first(1, 'a head that does not come', { kind: 'head-held' }),
  always('heads that never come', { kind: 'head-held' }, silent()),
  always('late heads', { kind: 'head-delayed', delayMs: 150 }, RECOVERS),
  always('slow bodies', { kind: 'body-slow', bytesPerSecond: 300_000 }, RECOVERS),
  // ---- heads that are none
  first(1, 'no HTTP, once', { kind: 'garbage-head' }),
  always('no HTTP', { kind: 'garbage-head' }, unreachable(/does not speak (proper )?HTTP/)),
  always('half a head', { kind: 'head-cut' }, unreachable(/broke the connection/)),
  always('a head without end', { kind: 'huge-header', lengthBytes: 40_000 }, unreachable(/head of its answer is too long/)),
  always('103 before each answer', { kind: 'informational', status: 103 }, RECOVERS),
  // ---- what the head says of the range
  always('bytes from one byte later', { kind: 'content-range-off', start: 1 }, refused(/sent bytes from \d+ where \d+ was asked/)),
  first(1, 'bytes from one byte later, once', { kind: 'content-range-off', start: 1 }),
  always('another range, truly told', { kind: 'range-moved', byBytes: -1 }, refused(/bytes from \d+ where/)),
  { name: 'bytes beyond what was asked for', faults: (_, { range }) => ({ kind: 'content-range-text', value: `bytes ${range?.start ?? 0}-${range?.end ?? 0}/${SIZE_BYTES + 9}` }), outcome: refused(/bytes up to \d+ where/) },
  { name: 'a Content-Range that is none', faults: () => ({ kind: 'content-range-text', value: 'bytes many' }), outcome: refused(/malformed Content-Range "bytes many"/) },
  always('a 206 without Content-Range', { kind: 'content-range-missing' }, refused(/206 without Content-Range/)),
  always('two Content-Ranges', { kind: 'content-range-twice' }, refused(/(several|malformed) Content-Range/)),
  always('a total that is not told', { kind: 'content-range-total-unknown' }, refused(/does not tell the size/)),
  always('a Content-Length that disagrees', { kind: 'content-length-off', by: -10 }, refused(/Content-Length of \d+ for a range of \d+/)),
  always('no Content-Length', { kind: 'content-length-missing' }, RECOVERS),
  always('less than asked for, truly told', { kind: 'range-shorter', lengthBytes: 7_000 }, RECOVERS),
  always('more than asked for, truly told', { kind: 'range-longer', byBytes: 100 }, refused(/bytes up to \d+ where/)),
  // ---- bodies in disguise
  always('multipart', { kind: 'multipart' }, refused(/multipart/)),
  first(1, 'multipart, once', { kind: 'multipart' }),
  always('gzip', { kind: 'gzip' }, refused(/encoded with gzip/)),
  first(1, 'gzip, once', { kind: 'gzip' }),
  always('an encoding that is claimed', { kind: 'encoding-claimed', encoding: 'br' }, refused(/encoded with br/)),
  always('chunked', { kind: 'chunked' }, RECOVERS),
  always('chunked without an end', [{ kind: 'chunked' }, { kind: 'body-open-ended' }], RECOVERS),
  // ---- 200 instead of 206
  first(1, '200, once', { kind: 'range-ignored' }),
  always('200 to every range of the region', { kind: 'range-ignored' }, RECOVERS),
  everywhere('200 to every range', { kind: 'range-ignored' }, RECOVERS),
  everywhere('200 without a length', [{ kind: 'range-ignored' }, { kind: 'chunked' }], ({ state }) => (state === 'cold' ? { kind: 'streams' } : RECOVERS)),
  { name: '200 to If-Range', faults: (_, { headers }) => (headers['if-range'] === undefined ? undefined : { kind: 'range-ignored' }), outcome: RECOVERS },
  // ---- statuses
  everywhere('HEAD refused with 500', { kind: 'head-refused', status: 500 }, RECOVERS),
  always('401', status(401), answered(401, 403, { gst: 'NOT_AUTHORIZED', isFinal: true })),
  always('403', status(403), answered(403, 403, { gst: 'NOT_AUTHORIZED', isFinal: true })),
  always('404', status(404), answered(404, 404, { gst: 'NOT_FOUND', isFinal: true })),
  always('410', status(410), answered(410, 410, { gst: 'NOT_FOUND', isFinal: true })),
  always('412', status(412), fails(/^ORIGIN_(CHANGED|STATUS)$/, [502, 503], /412/, { isFinal: true })),
  always('416', { kind: 'range-not-satisfiable' }, answered(416, 502, { isFinal: true })),
  always('204', status(204), answered(204, 502)),
  always('429 for an hour', status(429, { 'Retry-After': '3600' }), answered(429, 503, { minRetryAfterSeconds: 500 })),
  first(1, '429 with Retry-After in seconds', status(429, { 'Retry-After': '1' })),
  always('503 for an hour', status(503, { 'Retry-After': '3600' }), answered(503, 503, { minRetryAfterSeconds: 500 })),
  { name: '503 with Retry-After as a date', faults: (n) => (n < 1 ? status(503, { 'Retry-After': later(1.5) }) : undefined), outcome: RECOVERS },
  always('503', status(503), answered(503, 503, { lastsToDeadline: true })),
  first(2, '500, twice', status(500)),
  always('500', status(500), answered(500, 502, { lastsToDeadline: true })),
  always('504', status(504), answered(504, 504, { lastsToDeadline: true })),
  // ---- elsewhere
  { name: 'a redirect', faults: (_, { target }) => (target.includes('?') ? undefined : { kind: 'redirect', location: '?elsewhere' }), outcome: RECOVERS },
  first(1, 'a redirect loop, once', { kind: 'redirect-loop' }),
  always('a redirect loop', { kind: 'redirect-loop' }, refused(/redirects more than 10 times/)),
  always('a redirect to nowhere', status(302), answered(302, 502)),
  always('a redirect to another scheme', { kind: 'redirect', location: 'ftp://127.0.0.1/film.mkv' }, refused(/redirects to what is no http/)),
  { name: 'a link behind a redirect that expires', faults: (_, { target }) => (target.includes('expired') ? status(403) : { kind: 'redirect', location: '?expired' }), outcome: answered(403, 403, { gst: 'NOT_AUTHORIZED', isFinal: true }) },
  { name: 'links behind a redirect that expire after two uses', makeFaults: expiringLinks, outcome: RECOVERS },
  // ---- pages
  always('a captive portal', { kind: 'captive-portal' }, notMedia(/an HTML page, not media/)),
  { name: 'a redirect to a portal', faults: (_, { target }) => (target.includes('portal') ? { kind: 'captive-portal' } : { kind: 'redirect', location: '?portal' }), outcome: notMedia(/an HTML page, not media/) },
  always('HTML under a right head', { kind: 'html-as-range' }, notMedia(/an HTML page, not media/)),
  always('a playlist', { kind: 'header', name: 'Content-Type', value: 'application/vnd.apple.mpegurl' }, notMedia(/a playlist, not media/)),
  // ---- versions
  everywhere('other bytes of the same size', { kind: 'content', content: OTHER_BYTES, etag: '"other"' }, changed(OTHER_BYTES)),
  everywhere('a file that has grown', { kind: 'content', content: GROWN, etag: '"grown"' }, changed(GROWN)),
  everywhere('a file that has shrunk', { kind: 'content', content: SHRUNK, etag: '"shrunk"' }, changed(SHRUNK)),
  everywhere('a new ETag over the same bytes', { kind: 'etag', value: '"renamed"' }, changed(CONTENT)),
  everywhere('an ETag that is gone', { kind: 'etag', value: undefined }, changed(CONTENT)),
  // ---- servers
  { name: 'two connections, no more', server: 'limited', outcome: RECOVERS },
  { name: 'a server that is down', server: 'down', outcome: unreachable(/refuses connections/) },
  { name: 'TLS', server: 'tls-good', outcome: RECOVERS },
  { name: 'a self-signed certificate', server: 'tls-self-signed', outcome: { ...unreachable(/certificate is self-signed/), lastsToDeadline: false } },
  { name: 'a certificate by an unknown authority', server: 'tls-unknown-authority', outcome: { ...unreachable(/certificate (is by an authority|cannot be verified)/), lastsToDeadline: false } },
  { name: 'an expired certificate', server: 'tls-expired', outcome: { ...unreachable(/certificate has expired/), lastsToDeadline: false } },
  { name: 'a certificate for another name', server: 'tls-wrong-name', outcome: { ...unreachable(/certificate is for another host/), lastsToDeadline: false } },
  { name: 'a reset in the TLS handshake', server: 'tls-reset', outcome: unreachable(/broke the connection/) },
  { name: 'no TLS where it was', server: 'tls-none', outcome: unreachable(/does not speak TLS/) },
  ...HTTP2_CASES,
]
