/**
 * The proxy: any HTTP player's way in (RFC 9110 ranges over node:http).
 *
 * A request is held until its first byte can be sent or the wait is over; then the status is the truth. Once the head is
 * out, a failure cuts the connection: a promised length is never shortened. A client that disconnects is no demand from
 * that moment on. The port is open to whoever knows the token, names us as Host, and is no other site's page.
 */

import { timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

import { formatContentRange, isStrongEtag } from '../bytes/http-range.ts'
import type { Range } from '../bytes/ranges.ts'
import { cancelled, SeekCacheError } from '../errors.ts'
import type { MediaLibrary } from '../media.ts'
import type { Renewals } from '../origin/renewals.ts'
import type { CachedMedia, PassthroughMedia } from '../opening.ts'
import type { Telemetry } from '../telemetry.ts'
import { decide } from './conditions.ts'
import { PlayerMessages } from './player-messages.ts'
import { Players, type PlayerConnection } from './players.ts'
import { problem, problemOf, type Problem } from './problem.ts'
import type { ProxyUrls } from './urls.ts'

/** One read of the store; two are in flight. 1 MiB took 0.5 CPU s/GB, 64 KiB 1.4 (measured on loopback). */
const READ_BYTES = 1024 * 1024
/** A stalled origin is waited for so long in the middle of a body; players give up earlier if they like. */
const MID_BODY_DEADLINE_MS = 120_000
/** A spec with headers is a few KiB of URL. */
const MAX_HEADER_BYTES = 64 * 1024

export interface ProxyOptions {
  readonly port: number
  /** Whether another port will not do. */
  readonly isPortRequired: boolean
  /** How long a request is held for its first byte. */
  readonly waitMs: number
}

export interface ProxyParts {
  readonly library: MediaLibrary
  readonly urls: ProxyUrls
  readonly renewals: Renewals
  readonly telemetry: Telemetry
  /** Called when a request begins and when it has ended. */
  readonly onActivity: (delta: 1 | -1) => void
}

export class Proxy {
  readonly #options: ProxyOptions
  readonly #parts: ProxyParts
  readonly #server: Server
  readonly #players = new Players()
  readonly #messages: PlayerMessages

  constructor(options: ProxyOptions, parts: ProxyParts) {
    this.#options = options
    this.#parts = parts
    this.#messages = new PlayerMessages(parts.library, parts.renewals, this.#players)
    this.#server = createServer({ maxHeaderSize: MAX_HEADER_BYTES, headersTimeout: 10_000, requestTimeout: 30_000 })
    this.#server.on('request', (request, response) => void this.#handle(request, response))
  }

  /** @returns the port: the one wanted, or where it is taken and was only a preference, any. @throws ERR_SEEKCACHE_USAGE */
  async listen(): Promise<number> {
    const { port, isPortRequired } = this.#options
    await this.#bind(port).catch(async (cause: Error) => {
      if (!isPortRequired) return await this.#bind(0)
      throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `cannot listen on 127.0.0.1:${port}: ${cause.message}`, { cause })
    })
    return (this.#server.address() as AddressInfo).port
  }

  async #bind(port: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(port, '127.0.0.1', () => {
        this.#server.off('error', reject)
        resolve()
      })
    })
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve())
      this.#server.closeAllConnections()
    })
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#parts.onActivity(1)
    const controller = new AbortController()
    response.once('close', () => {
      controller.abort(cancelled('the request'))
      this.#parts.telemetry.responses.inc({ status: response.headersSent ? String(response.statusCode) : 'none' })
      this.#parts.onActivity(-1)
    })
    response.on('error', () => {}) // 'close' follows
    try {
      await this.#answer(request, response, controller.signal)
    } catch (error) {
      if (controller.signal.aborted || response.headersSent) response.destroy()
      else send(response, problemOf(error))
      if (!controller.signal.aborted) this.#parts.telemetry.log.warn(`request failed: ${(error as Error).message}`)
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const refusal = this.#refusal(request)
    if (refusal !== undefined) return send(response, refusal)
    const [, , kind, ...rest] = (request.url ?? '').split('/')
    if (kind === 'metrics') return await this.#sendMetrics(response)
    const isMessage = isMessagePath(request)
    const asked = isMessage ? this.#parts.urls.resolve(rest[0], rest[1]) : this.#parts.urls.resolve(kind, rest[0])
    if (asked === undefined) return send(response, problem(404, 'there is nothing at this path'))
    if (isMessage) return await this.#messages.answer(kind!, request, response, asked, signal)
    const { spec, player } = asked
    const media = await this.#parts.library.open(spec, this.#options.waitMs, signal)
    try {
      if (media.kind === 'passthrough') await this.#stream(request, response, media, signal)
      else await this.#serve(request, response, media, player, signal)
    } finally {
      this.#parts.library.release(media)
    }
  }

  #refusal(request: IncomingMessage): Problem | undefined {
    const { port } = this.#server.address() as AddressInfo
    const host = request.headers.host
    if (host !== `127.0.0.1:${port}` && host !== `localhost:${port}`) return problem(403, 'the Host field names another server')
    if (request.headers.origin !== undefined || request.headers['sec-fetch-site'] === 'cross-site') {
      return problem(403, "another site's page gets nothing here")
    }
    const token = (request.url ?? '').split('/')[1] ?? ''
    if (!isEqual(token, this.#parts.urls.token)) return problem(404, 'there is nothing at this path')
    const isMessage = isMessagePath(request)
    if (!isMessage && request.method !== 'GET' && request.method !== 'HEAD') return problem(405, 'only GET and HEAD are answered')
    return undefined
  }

  async #sendMetrics(response: ServerResponse): Promise<void> {
    const { registry } = this.#parts.telemetry
    response.writeHead(200, { 'content-type': registry.contentType, 'x-content-type-options': 'nosniff' })
    response.end(await registry.metrics())
  }

  // ---- a resource of known size

  async #serve(
    request: IncomingMessage,
    response: ServerResponse,
    media: CachedMedia,
    playerName: string | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const { record } = media
    const etag = isStrongEtag(record.etag) ? record.etag : `"${record.generation}"`
    const decision = decide(request.headers, { sizeBytes: record.sizeBytes, etag, lastModified: record.lastModified })
    const headers: Record<string, string | number> = {
      'accept-ranges': 'bytes',
      'content-type': safeContentType(record.contentType),
      etag,
      ...SAFE_HEADERS,
    }
    if (record.lastModified !== undefined) headers['last-modified'] = record.lastModified
    if (decision.status === 412) return send(response, problem(412, 'this is another version'))
    if (decision.status === 304) return void response.writeHead(304, headers).end()
    if (decision.status === 416) {
      const unsatisfied = problem(416, 'there are no bytes in this range')
      return send(response, { ...unsatisfied, headers: { ...unsatisfied.headers, 'content-range': `bytes */${record.sizeBytes}` } })
    }
    const { range } = decision
    headers['content-length'] = range.end - range.start
    if (decision.status === 206) headers['content-range'] = formatContentRange(range, record.sizeBytes)
    if (request.method === 'HEAD') return void response.writeHead(decision.status, headers).end()
    const player = this.#players.of(media, playerName, request.headers['user-agent'] ?? '')
    const connection = player.connect(range, () => response.destroy())
    await this.#sendRange(response, connection, range, signal, () => response.writeHead(decision.status, headers))
  }

  async #sendRange(
    response: ServerResponse,
    connection: PlayerConnection,
    range: Range,
    signal: AbortSignal,
    writeHead: () => void,
  ): Promise<void> {
    signal.addEventListener('abort', () => connection.close(false), { once: true })
    try {
      const first = await connection.read(range.start, Math.min(READ_BYTES, range.end - range.start), {
        deadlineMs: this.#options.waitMs,
        signal,
      })
      writeHead()
      await this.#pump(response, connection, range, first, signal)
      response.end()
      connection.close(true)
    } finally {
      connection.close(false)
    }
  }

  /** Two buffers in turn: one is read into while the other one is on its way to the socket. */
  async #pump(response: ServerResponse, connection: PlayerConnection, range: Range, first: Buffer, signal: AbortSignal): Promise<void> {
    const slots = [new Slot(response), new Slot(response)]
    let position = range.start
    let bytes = first
    for (let turn = 0; ; turn++) {
      slots[turn % 2]!.write(bytes)
      this.#parts.telemetry.servedBytes.inc(bytes.length)
      position += bytes.length
      if (position >= range.end) break
      const slot = slots[(turn + 1) % 2]!
      await slot.isFree
      signal.throwIfAborted()
      const options = { deadlineMs: MID_BODY_DEADLINE_MS, signal }
      bytes = await connection.read(position, Math.min(READ_BYTES, range.end - position), options, slot.buffer)
    }
    await Promise.all(slots.map((slot) => slot.isFree))
  }

  // ---- a resource of unknown size

  async #stream(request: IncomingMessage, response: ServerResponse, media: PassthroughMedia, signal: AbortSignal): Promise<void> {
    const headers = { 'accept-ranges': 'none', 'content-type': safeContentType(media.contentType), ...SAFE_HEADERS }
    if (request.method === 'HEAD') return void response.writeHead(200, headers).end()
    for (;;) {
      const bytes = await media.stream.next(READ_BYTES, signal)
      if (!response.headersSent) response.writeHead(200, headers)
      if (bytes === undefined) break
      this.#parts.telemetry.servedBytes.inc(bytes.length)
      const slot = new Slot(response)
      slot.write(bytes)
      await slot.isFree
    }
    response.end()
  }
}

/** A buffer that may be filled again when the socket has taken what it held. */
class Slot {
  #buffer: Buffer | undefined
  readonly #response: ServerResponse
  /** Resolves when the socket has taken the last write, or is closed. */
  isFree: Promise<void> = Promise.resolve()

  constructor(response: ServerResponse) {
    this.#response = response
  }

  get buffer(): Buffer {
    return (this.#buffer ??= Buffer.allocUnsafeSlow(READ_BYTES))
  }

  write(bytes: Buffer): void {
    this.isFree = new Promise((resolve) => this.#response.write(bytes, () => resolve()))
  }
}

function send(response: ServerResponse, { status, headers, body }: Problem): void {
  response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) })
  response.end(body)
}

/** What a player says, in place of what it reads. */
function isMessagePath(request: IncomingMessage): boolean {
  return PlayerMessages.isKind((request.url ?? '').split('/')[2])
}

function isEqual(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)]
  return left.length === right.length && timingSafeEqual(left, right)
}

/** A browser that is led here must not run anything, nor show it inside another page. */
const SAFE_HEADERS = {
  'x-content-type-options': 'nosniff',
  'content-security-policy': "sandbox; default-src 'none'; media-src 'self'",
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
} as const

/** Media types pass; what a browser might execute is only bytes. */
function safeContentType(type: string | undefined): string {
  return type !== undefined && /^(audio|video)\/[\w.+-]+(\s*;[\w\s="'.,+-]*)?$|^application\/(ogg|mp4|x-matroska)$/i.test(type)
    ? type
    : 'application/octet-stream'
}
