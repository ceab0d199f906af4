/**
 * The control protocol's messages, and their framing (docs/PROTOCOL.md is the specification; native/client mirrors it).
 *
 * Pure: bytes in, messages out. What a peer sends is validated here, so that what comes out has the shape that its
 * type says; anything else is a SeekCacheError with code ERR_SEEKCACHE_PROTOCOL, upon which the connection is closed.
 */

import * as v from 'valibot'

import type { FilePlace } from '../bytes/ranges.ts'
import { SeekCacheError, type ErrorCode } from '../errors.ts'
import { HEADER_NAME, HEADER_VALUE, HTTP_URL } from '../resource-spec.ts'

export const PROTOCOL_VERSION = 1
/** A client's line. A URL with its headers is a few KiB; more is an attack or a mistake. */
export const MAX_CLIENT_LINE_BYTES = 64 * 1024
/** A host's line: a map of a scrubbed film has some hundred ranges, ~40 bytes each. */
export const MAX_HOST_LINE_BYTES = 1024 * 1024
/** The raw bytes of one `data`. */
export const MAX_DATA_BYTES = 256 * 1024

export type Header = readonly [name: string, value: string]

const position = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const id = v.pipe(v.number(), v.safeInteger(), v.minValue(1))
const deadlineMs = v.pipe(v.number(), v.safeInteger(), v.minValue(1), v.maxValue(3_600_000))
const session = v.pipe(v.string(), v.maxLength(64))
const reader = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const url = v.pipe(v.string(), v.regex(HTTP_URL), v.maxLength(32 * 1024))
const header = v.tuple([v.pipe(v.string(), v.regex(HEADER_NAME)), v.pipe(v.string(), v.regex(HEADER_VALUE))])
const headers = v.optional(v.array(header), [])

const seconds = v.pipe(v.number(), v.finite(), v.minValue(0))
/** Where a player is about to go: a byte, or a time of the film. */
export const SeekIntent = v.union([
  v.object({ byte: position }),
  v.object({ timeSeconds: seconds, durationSeconds: v.pipe(seconds, v.minValue(0.001)) }),
])
export type SeekIntent = v.InferOutput<typeof SeekIntent>

export const ClientMessage = v.variant('type', [
  v.object({ type: v.literal('open'), id, url, headers, deadlineMs: v.optional(deadlineMs), canRenew: v.optional(v.boolean()), pulls: v.optional(v.boolean()) }),
  v.object({
    type: v.literal('locate'), id, session, reader, start: position,
    lengthBytes: v.pipe(position, v.minValue(1)), deadlineMs, unreadable: v.optional(v.string()), wantsData: v.optional(v.boolean()),
  }),
  v.object({ type: v.literal('map'), id, session: v.optional(session), url: v.optional(url), headers }),
  v.object({ type: v.literal('url'), id, url, headers }),
  v.object({ type: v.literal('fetch-all'), id, session }),
  v.object({ type: v.literal('status'), id }),
  v.object({ type: v.literal('list'), id, after: v.optional(v.pipe(v.string(), v.maxLength(64))) }),
  v.object({ type: v.literal('evict'), id, url: v.optional(url), headers, all: v.optional(v.boolean()) }),
  v.object({ type: v.literal('stop'), id }),
  v.object({ type: v.literal('position'), session, reader, position }),
  v.object({ type: v.literal('release'), session, reader }),
  v.object({ type: v.literal('hint'), session, to: SeekIntent }),
  v.object({ type: v.literal('close'), session }),
  v.object({ type: v.literal('cancel'), request: id }),
  v.object({ type: v.literal('renewed'), renewal: id, url: v.optional(url), headers: v.optional(v.array(header)) }),
])
export type ClientMessage = v.InferOutput<typeof ClientMessage>
export type ClientRequest = Extract<ClientMessage, { id: number }>

const Hello = v.object({ type: v.literal('hello'), protocol: v.number(), client: v.pipe(v.string(), v.maxLength(128)) })
export type Hello = v.InferOutput<typeof Hello>

export interface HostHello {
  readonly type: 'hello'
  readonly protocol: number
  readonly version: string
  readonly pid: number
}

export interface Opened {
  readonly type: 'opened'
  readonly session: string
  readonly sizeBytes: number | null
  readonly contentType: string | null
  readonly validator: string | null
  readonly generation: string
  readonly isSeekable: boolean
  readonly proxyUrl: string
  readonly fileName: string
}

export interface ExtentAnswer extends FilePlace {
  readonly type: 'extent'
  /** What follows, without a gap. */
  readonly next?: readonly FilePlace[] | undefined
}

export interface ListEntry {
  /** The URL without query string and credentials. */
  readonly url: string
  readonly sizeBytes: number
  readonly presentBytes: number
  readonly contentType: string | null
  readonly lastUsedMs: number
}

export interface ListPage {
  readonly entries: readonly ListEntry[]
  /** What the next page is asked for with; absent where this is the last one. */
  readonly next?: string
}

export interface Status {
  readonly version: string
  readonly pid: number
  readonly uptimeSeconds: number
  readonly cacheDir: string
  readonly socket: string
  readonly proxy: string
  readonly maxSizeBytes: number
  readonly usedBytes: number
  readonly resources: number
  readonly sessions: number
  readonly readers: number
  readonly fetchesInFlight: number
  readonly originBytes: number
  /** Why nothing is being written to the disk at the moment, or null. */
  readonly degraded: string | null
}

/** The host asks a client that can renew: the resource's URL, `opened` by the request of that id, has expired. */
export interface RenewQuestion {
  readonly type: 'renew'
  readonly renewal: number
  readonly open: number
  readonly httpStatus: number
}

/** A host's message as its sender builds it; the receiver checks `type` and the fields that it uses. */
export type HostMessage =
  | HostHello
  | RenewQuestion
  | ({ readonly id: number } & (
      | Opened
      | ExtentAnswer
      | { readonly type: 'data'; readonly start: number; readonly lengthBytes: number }
      | { readonly type: 'end' }
      | { readonly type: 'map'; readonly sizeBytes: number | null; readonly present: readonly (readonly [number, number])[] }
      | { readonly type: 'url'; readonly proxyUrl: string }
      | { readonly type: 'progress'; readonly presentBytes: number; readonly sizeBytes: number }
      | { readonly type: 'ok' }
      | ({ readonly type: 'status' } & Status)
      | ({ readonly type: 'list' } & ListPage)
      | { readonly type: 'evicted'; readonly freedBytes: number }
    ))
  | {
      readonly id?: number
      readonly type: 'error'
      readonly code: ErrorCode
      readonly message: string
      readonly httpStatus?: number
    }

export function protocolError(message: string): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_PROTOCOL', message)
}

export function parseHello(line: string): Hello {
  const parsed = v.safeParse(Hello, parseJson(line))
  if (!parsed.success) throw protocolError('the first line is no hello of the control protocol')
  if (parsed.output.protocol !== PROTOCOL_VERSION) {
    throw protocolError(
      `the host speaks protocol ${PROTOCOL_VERSION}, the client ${parsed.output.protocol}: ` +
        `stop the host ("seekcache stop") so that one of the client's version can start`,
    )
  }
  return parsed.output
}

export function parseClientMessage(line: string): ClientMessage {
  const parsed = v.safeParse(ClientMessage, parseJson(line))
  if (parsed.success) return parsed.output
  const issue = parsed.issues[0]
  throw protocolError(`malformed message: ${v.getDotPath(issue) ?? 'type'}: ${issue.message}`)
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    throw protocolError('a line is not JSON')
  }
}

export function formatMessage(message: HostMessage | ClientMessage | Hello): string {
  return `${JSON.stringify(message)}\n`
}

/** One incoming piece: a line, or the raw bytes that a `data` line announced. */
export type Frame = { readonly line: string } | { readonly raw: Buffer }

/**
 * Cuts a byte stream into lines, and into raw runs on demand: after a line that announces raw bytes, its consumer calls
 * `expectRaw` before taking the next frame.
 */
export class Framer {
  readonly #maxLineBytes: number
  /** Not joined before they make up a frame: a peer that sends byte by byte must not have all of them copied each time. */
  #pieces: Buffer[] = []
  #lengthBytes = 0
  /** Pieces and bytes before the first one that has not been searched for the end of a line. */
  #searched = { pieces: 0, lengthBytes: 0 }
  #rawBytes = 0

  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes
  }

  expectRaw(lengthBytes: number): void {
    this.#rawBytes = lengthBytes
  }

  push(bytes: Buffer): void {
    if (bytes.length === 0) return
    this.#pieces.push(bytes)
    this.#lengthBytes += bytes.length
  }

  /** The next whole frame, or undefined until more bytes are pushed. */
  next(): Frame | undefined {
    if (this.#rawBytes > 0) {
      if (this.#lengthBytes < this.#rawBytes) return undefined
      const raw = this.#take(this.#rawBytes)
      this.#rawBytes = 0
      return { raw }
    }
    const end = this.#endOfLine()
    if ((end ?? this.#lengthBytes) > this.#maxLineBytes) throw protocolError(`a line is longer than ${this.#maxLineBytes} bytes`)
    if (end === undefined) return undefined
    return { line: this.#take(end + 1).toString('utf8', 0, end) }
  }

  #endOfLine(): number | undefined {
    let { pieces, lengthBytes } = this.#searched
    for (; pieces < this.#pieces.length; pieces++) {
      const found = this.#pieces[pieces]!.indexOf(0x0a)
      if (found >= 0) return lengthBytes + found
      lengthBytes += this.#pieces[pieces]!.length
      this.#searched = { pieces: pieces + 1, lengthBytes }
    }
    return undefined
  }

  #take(lengthBytes: number): Buffer {
    const all = this.#pieces.length === 1 ? this.#pieces[0]! : Buffer.concat(this.#pieces, this.#lengthBytes)
    const rest = all.subarray(lengthBytes)
    this.#pieces = rest.length === 0 ? [] : [rest]
    this.#lengthBytes = rest.length
    this.#searched = { pieces: 0, lengthBytes: 0 }
    return all.subarray(0, lengthBytes)
  }
}
