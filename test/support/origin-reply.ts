/**
 * The faults that a test origin knows, and the answer to a request with them: pure, no socket and no clock but the Date.
 *
 * A fault is data that says what is wrong, so that a test reads as a list of what its origin does. Each one changes a
 * right answer (`Reply`); `fault-origin.ts` puts the answer on the wire, byte for byte, also where HTTP forbids it.
 */
import { gzipSync } from 'node:zlib'

import type { Content } from './content.ts'

export type Fault =
  // The head as a whole.
  | { readonly kind: 'status'; readonly status: number; readonly headers?: Headers; readonly body?: string }
  | { readonly kind: 'redirect'; readonly location: string; readonly status?: 301 | 302 | 303 | 307 | 308 }
  | { readonly kind: 'redirect-loop' }
  | { readonly kind: 'captive-portal' } // 200, HTML, whatever was asked for
  | { readonly kind: 'html-as-range' } // HTML with a correct-looking 206 head
  | { readonly kind: 'range-not-satisfiable' }
  | { readonly kind: 'range-ignored' } // 200 with everything
  | { readonly kind: 'head-refused'; readonly status: 405 | 500 } // HEAD only, as some media servers do
  | { readonly kind: 'informational'; readonly status: 100 | 103 } // in front of the true answer
  | { readonly kind: 'garbage-head' } // no HTTP at all
  | { readonly kind: 'head-cut' } // half a head, then the end
  | { readonly kind: 'huge-header'; readonly lengthBytes: number }
  | { readonly kind: 'header'; readonly name: string; readonly value: string | undefined } // set, or left out
  | { readonly kind: 'connection-close' }
  | { readonly kind: 'close-before-head' }
  | { readonly kind: 'reset-before-head' }
  | { readonly kind: 'head-held' } // until release()
  | { readonly kind: 'head-delayed'; readonly delayMs: number }
  // What the head says of the range.
  | { readonly kind: 'content-range-off'; readonly start?: number; readonly end?: number; readonly total?: number }
  | { readonly kind: 'content-range-text'; readonly value: string }
  | { readonly kind: 'content-range-total-unknown' }
  | { readonly kind: 'content-range-missing' }
  | { readonly kind: 'content-range-twice' }
  | { readonly kind: 'content-length-off'; readonly by: number } // the body keeps its length
  | { readonly kind: 'content-length-missing' } // the body ends with the connection
  | { readonly kind: 'range-shorter'; readonly lengthBytes: number } // allowed: less than asked for, said truly
  | { readonly kind: 'range-longer'; readonly byBytes: number } // more than asked for, said truly
  | { readonly kind: 'range-moved'; readonly byBytes: number } // another range than asked for, said truly
  | { readonly kind: 'multipart' }
  | { readonly kind: 'chunked' }
  | { readonly kind: 'gzip' } // encoded although not asked for
  | { readonly kind: 'encoding-claimed'; readonly encoding: string } // Content-Encoding over plain bytes
  // Versions.
  | { readonly kind: 'etag'; readonly value: string | undefined }
  | { readonly kind: 'last-modified'; readonly value: string | undefined }
  | { readonly kind: 'content'; readonly content: Content; readonly etag?: string } // grown, shrunk or other bytes
  | { readonly kind: 'conditions-ignored' } // If-Range, If-Match and If-None-Match have no effect
  // The body.
  | { readonly kind: 'body-truncated'; readonly afterBytes: number } // then a clean end
  | { readonly kind: 'body-reset'; readonly afterBytes: number }
  | { readonly kind: 'body-stalled'; readonly afterBytes: number } // until release()
  | { readonly kind: 'body-overrun'; readonly extraBytes: number } // behind the promised length
  | { readonly kind: 'body-flipped'; readonly atByte: number } // one bit, at that byte of the body
  | { readonly kind: 'body-shifted'; readonly byBytes: number } // bytes of another place under a right head
  | { readonly kind: 'body-zeroed'; readonly fromByte: number }
  | { readonly kind: 'body-slow'; readonly bytesPerSecond: number }
  | { readonly kind: 'body-open-ended' } // all is sent and no more comes, but a chunked body is not ended

type Headers = Readonly<Record<string, string>>

export interface OriginRequest {
  /** 0 for the origin's first request. */
  readonly index: number
  readonly method: string
  readonly target: string
  readonly range: AskedRange | undefined
  readonly headers: Headers
  readonly rawHeaders: readonly (readonly [string, string])[]
  /** 1 for the origin's first connection. */
  readonly connection: number
}

/** As it was asked for: `end` is exclusive and undefined for an open range; a suffix has `suffixBytes` alone. */
export interface AskedRange {
  readonly start?: number
  readonly end?: number | undefined
  readonly suffixBytes?: number
}

const CRLF = '\r\n'
const BOUNDARY = 'seekcache-boundary'

/** An answer as it will be sent; faults change it. */
export interface Reply {
  readonly request: OriginRequest
  content: Content
  status: number
  headers: [string, string][]
  /** The bytes `[start, end)` of the content that are the body, for those answers that carry any. */
  span: { start: number; end: number }
  bodyBytes: number
  body: (start: number, end: number) => Buffer
  isChunked: boolean
  isOpenEnded: boolean
  isHeld: boolean
  isLast: boolean
  delayMs: number
  bytesPerSecond: number
  beforeHead: string | 'reset' | undefined
  firstLines: string
  stop: { readonly afterBytes: number; readonly then: 'end' | 'reset' | 'stall' } | undefined
}

export interface Served {
  readonly content: Content
  readonly etag: string | undefined
  readonly lastModified: string | undefined
  readonly contentType: string
}

/** The right answer to `request`, made wrong by `faults`, one after another. */
export function replyTo(request: OriginRequest, served: Served, faults: readonly Fault[]): Reply {
  return faults.reduce(applied, plainReply(request, served, faults))
}

/** The right answer, but for those faults that say what is served. */
function plainReply(request: OriginRequest, now: Served, faults: readonly Fault[]): Reply {
  let served = now
  for (const fault of faults) {
    if (fault.kind === 'content') served = { ...served, content: fault.content, etag: fault.etag ?? served.etag }
    if (fault.kind === 'etag') served = { ...served, etag: fault.value }
    if (fault.kind === 'last-modified') served = { ...served, lastModified: fault.value }
  }
  const { content } = served
  const reply: Reply = {
    request,
    content,
    status: 200,
    headers: [
      ['Date', new Date().toUTCString()],
      ['Content-Type', served.contentType],
      ['Accept-Ranges', 'bytes'],
    ],
    span: { start: 0, end: content.sizeBytes },
    bodyBytes: 0,
    body: () => Buffer.alloc(0),
    isChunked: false,
    isOpenEnded: false,
    isHeld: false,
    isLast: request.headers['connection']?.toLowerCase() === 'close',
    delayMs: 0,
    bytesPerSecond: Infinity,
    beforeHead: undefined,
    firstLines: '',
    stop: undefined,
  }
  if (served.etag !== undefined) set(reply, 'ETag', served.etag)
  if (served.lastModified !== undefined) set(reply, 'Last-Modified', served.lastModified)

  const { headers } = request
  const heeds = !faults.some(({ kind }) => kind === 'conditions-ignored')
  const validators = [served.etag, served.lastModified]
  const match = headers['if-match']
  if (heeds && match !== undefined && match !== '*' && !listed(match, served.etag)) {
    textReply(reply, 412, 'the file has changed')
    return reply
  }
  const noneMatch = headers['if-none-match']
  const isUnchanged =
    noneMatch === undefined
      ? headers['if-modified-since'] !== undefined && headers['if-modified-since'] === served.lastModified
      : listed(noneMatch, served.etag)
  if (heeds && isUnchanged) {
    reply.status = 304
    return reply
  }
  const ifRange = headers['if-range']
  const isRangeWanted = ifRange === undefined || !heeds || (validators.includes(ifRange) && !ifRange.startsWith('W/'))
  const span = request.range === undefined || !isRangeWanted ? undefined : spanOf(request.range, content.sizeBytes)
  if (span === 'unsatisfiable') unsatisfiable(reply)
  else if (span === undefined) spanReply(reply, 200, reply.span)
  else spanReply(reply, 206, span)
  return reply
}

function listed(list: string, etag: string | undefined): boolean {
  return etag !== undefined && list.split(',').some((entry) => entry.trim().replace(/^W\//, '') === etag)
}

function spanOf(range: AskedRange, sizeBytes: number): { start: number; end: number } | 'unsatisfiable' {
  const start = range.suffixBytes === undefined ? (range.start ?? 0) : Math.max(0, sizeBytes - range.suffixBytes)
  const end = Math.min(range.end ?? sizeBytes, sizeBytes)
  return start < end ? { start, end } : 'unsatisfiable'
}

function spanReply(reply: Reply, status: 200 | 206, span: { readonly start: number; readonly end: number }): void {
  const { content } = reply
  reply.status = status
  reply.span = { ...span }
  setBody(reply, span.end - span.start, (start, end) => content.read(span.start + start, span.start + end))
  if (status === 206) set(reply, 'Content-Range', `bytes ${span.start}-${span.end - 1}/${content.sizeBytes}`)
  else set(reply, 'Content-Range', undefined)
}

function textReply(reply: Reply, status: number, text: string, type = 'text/plain'): void {
  const bytes = Buffer.from(text)
  reply.status = status
  set(reply, 'Content-Type', type)
  set(reply, 'Content-Range', undefined)
  setBody(reply, bytes.length, (start, end) => bytes.subarray(start, end))
}

function unsatisfiable(reply: Reply): void {
  textReply(reply, 416, 'no such range')
  set(reply, 'Content-Range', `bytes */${reply.content.sizeBytes}`)
}

function setBody(reply: Reply, lengthBytes: number, body: Reply['body']): void {
  reply.bodyBytes = lengthBytes
  reply.body = body
  set(reply, 'Content-Length', String(lengthBytes))
}

function set(reply: Reply, name: string, value: string | undefined): void {
  reply.headers = reply.headers.filter(([other]) => other.toLowerCase() !== name.toLowerCase())
  if (value !== undefined) reply.headers.push([name, value])
}

function applied(reply: Reply, fault: Fault): Reply {
  const { content, span, body, bodyBytes } = reply
  const range = (start: number, end: number, total: number | string) => `bytes ${start}-${end - 1}/${total}`
  switch (fault.kind) {
    case 'status':
      textReply(reply, fault.status, fault.body ?? `status ${fault.status}`)
      for (const [name, value] of Object.entries(fault.headers ?? {})) set(reply, name, value)
      break
    case 'redirect':
      textReply(reply, fault.status ?? 302, 'elsewhere')
      set(reply, 'Location', fault.location)
      break
    case 'redirect-loop':
      textReply(reply, 302, 'here again')
      set(reply, 'Location', reply.request.target)
      break
    case 'captive-portal':
      textReply(reply, 200, '<!doctype html><title>Welcome</title>Please sign in to use this network.', 'text/html')
      for (const name of ['ETag', 'Last-Modified', 'Accept-Ranges']) set(reply, name, undefined)
      break
    case 'html-as-range': {
      const html = Buffer.from('<!doctype html><title>Sign in</title>'.padEnd(bodyBytes, ' ')).subarray(0, bodyBytes)
      reply.body = (start, end) => html.subarray(start, end)
      set(reply, 'Content-Type', 'text/html; charset=utf-8')
      break
    }
    case 'range-not-satisfiable':
      unsatisfiable(reply)
      break
    case 'range-ignored':
      spanReply(reply, 200, { start: 0, end: content.sizeBytes })
      set(reply, 'Accept-Ranges', undefined)
      break
    case 'head-refused':
      if (reply.request.method === 'HEAD') textReply(reply, fault.status, 'no HEAD here')
      break
    case 'informational':
      reply.firstLines = `HTTP/1.1 ${fault.status} Wait${CRLF}Link: </x>; rel=preload${CRLF}${CRLF}`
      break
    case 'garbage-head':
      reply.beforeHead = '\u0016\u0003\u0001\u0002 this is no HTTP\r\n\r\n'
      break
    case 'head-cut':
      reply.beforeHead = 'HTTP/1.1 206 Partial Content\r\nContent-Ty'
      break
    case 'huge-header':
      set(reply, 'X-Padding', 'x'.repeat(fault.lengthBytes))
      break
    case 'header':
      set(reply, fault.name, fault.value)
      break
    case 'connection-close':
      reply.isLast = true
      break
    case 'close-before-head':
      reply.beforeHead = ''
      break
    case 'reset-before-head':
      reply.beforeHead = 'reset'
      break
    case 'head-held':
      reply.isHeld = true
      break
    case 'head-delayed':
      reply.delayMs = fault.delayMs
      break
    case 'content-range-off': {
      const { start = 0, end = 0, total = 0 } = fault
      set(reply, 'Content-Range', range(span.start + start, span.end + end, content.sizeBytes + total))
      break
    }
    case 'content-range-text':
      set(reply, 'Content-Range', fault.value)
      break
    case 'content-range-total-unknown':
      set(reply, 'Content-Range', range(span.start, span.end, '*'))
      break
    case 'content-range-missing':
      set(reply, 'Content-Range', undefined)
      break
    case 'content-range-twice':
      reply.headers.push(['Content-Range', range(0, span.end - span.start, content.sizeBytes)])
      break
    case 'content-length-off':
      set(reply, 'Content-Length', String(bodyBytes + fault.by))
      // A client that waits for the missing rest must not wait for ever.
      reply.isLast = true
      break
    case 'content-length-missing':
      set(reply, 'Content-Length', undefined)
      reply.isLast = true
      break
    case 'range-shorter':
      spanReply(reply, 206, { start: span.start, end: Math.min(span.end, span.start + fault.lengthBytes) })
      break
    case 'range-longer':
      spanReply(reply, 206, { start: span.start, end: Math.min(content.sizeBytes, span.end + fault.byBytes) })
      break
    case 'range-moved': {
      const start = Math.max(0, Math.min(content.sizeBytes - 1, span.start + fault.byBytes))
      spanReply(reply, 206, { start, end: Math.min(content.sizeBytes, start + bodyBytes) })
      break
    }
    case 'multipart': {
      const type = reply.headers.find(([name]) => name === 'Content-Type')?.[1] ?? ''
      const lines = [`--${BOUNDARY}`, `Content-Type: ${type}`]
      lines.push(`Content-Range: ${range(span.start, span.end, content.sizeBytes)}`, '', '')
      const whole = Buffer.concat([
        Buffer.from(lines.join(CRLF)),
        body(0, bodyBytes),
        Buffer.from(`${CRLF}--${BOUNDARY}--${CRLF}`),
      ])
      setBody(reply, whole.length, (start, end) => whole.subarray(start, end))
      set(reply, 'Content-Range', undefined)
      set(reply, 'Content-Type', `multipart/byteranges; boundary=${BOUNDARY}`)
      break
    }
    case 'chunked':
      reply.isChunked = true
      set(reply, 'Content-Length', undefined)
      set(reply, 'Transfer-Encoding', 'chunked')
      break
    case 'gzip': {
      const packed = gzipSync(body(0, bodyBytes))
      setBody(reply, packed.length, (start, end) => packed.subarray(start, end))
      set(reply, 'Content-Encoding', 'gzip')
      break
    }
    case 'encoding-claimed':
      set(reply, 'Content-Encoding', fault.encoding)
      break
    case 'etag':
    case 'last-modified':
    case 'content':
    case 'conditions-ignored':
      break // plainReply has heeded them
    case 'body-truncated':
      reply.stop = { afterBytes: fault.afterBytes, then: 'end' }
      break
    case 'body-reset':
      reply.stop = { afterBytes: fault.afterBytes, then: 'reset' }
      break
    case 'body-stalled':
      reply.stop = { afterBytes: fault.afterBytes, then: 'stall' }
      break
    case 'body-overrun':
      reply.bodyBytes += fault.extraBytes
      reply.body = (start, end) =>
        Buffer.concat([
          body(Math.min(start, bodyBytes), Math.min(end, bodyBytes)),
          Buffer.alloc(Math.max(0, end - Math.max(start, bodyBytes)), 'overrun'),
        ])
      break
    case 'body-flipped':
      reply.body = (start, end) => {
        const bytes = Buffer.from(body(start, end))
        const at = fault.atByte - start
        if (at >= 0 && at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ 1
        return bytes
      }
      break
    case 'body-shifted':
      reply.body = (start, end) => content.read(span.start + fault.byBytes + start, span.start + fault.byBytes + end)
      break
    case 'body-zeroed':
      reply.body = (start, end) => Buffer.from(body(start, end)).fill(0, Math.max(0, Math.min(end, fault.fromByte) - start))
      break
    case 'body-slow':
      reply.bytesPerSecond = fault.bytesPerSecond
      break
    case 'body-open-ended':
      reply.isOpenEnded = true
      break
  }
  return reply
}

export function headText(reply: Reply): string {
  const lines = [`HTTP/1.1 ${reply.status} ${REASONS[reply.status] ?? 'Status'}`]
  for (const [name, value] of reply.headers) lines.push(`${name}: ${value}`)
  if (reply.isLast) lines.push('Connection: close')
  return reply.firstLines + lines.join(CRLF) + CRLF + CRLF
}

const REASONS: Readonly<Record<number, string>> = {
  200: 'OK',
  206: 'Partial Content',
  302: 'Found',
  304: 'Not Modified',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  410: 'Gone',
  412: 'Precondition Failed',
  416: 'Range Not Satisfiable',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
}
