/**
 * The proxy: any HTTP player's way in (RFC 9110 ranges over node:http).
 *
 * A request is held until its first byte can be sent or the wait is over; then the status is the truth. Once the head is
 * out, a failure cuts the connection: a promised length is never shortened. A client that disconnects is no demand from
 * that moment on. Who may speak at all is guard.ts's.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

import { formatContentRange } from '../bytes/http-range.ts'
import type { Range } from '../bytes/ranges.ts'
import { cancelled, SeekCacheError } from '../errors.ts'
import type { MediaLibrary } from '../media.ts'
import type { Renewals } from '../origin/renewals.ts'
import type { CachedMedia, PassthroughMedia } from '../opening.ts'
import { pause, SYSTEM_CLOCK } from '../schedule/clock.ts'
import type { Telemetry } from '../telemetry.ts'
import { LEAVING_MS, READ_BYTES, ReadBuffers, sendPiece, sendRange } from './body.ts'
import { decide } from './conditions.ts'
import { Connections, descriptorLimit, maxConnections } from './connections.ts'
import { isMessage, refusalOf } from './guard.ts'
import { PlayerMessages } from './player-messages.ts'
import { Players, type PlayerConnection } from './players.ts'
import { problem, problemOf, type Problem } from './problem.ts'
import { representationOf, SAFE_HEADERS, safeContentType } from './representation.ts'
import type { ProxyUrls } from './urls.ts'

/** A spec with headers is a few KiB of URL. */
const MAX_HEADER_BYTES = 64 * 1024
/** For a head, and for everything before the next one; a player on this machine sends its head at once. */
const HEAD_DEADLINE_MS = 10_000
const DEADLINE_CHECK_MS = 1_000
/** Each has two buffers of READ_BYTES. */
const MAX_REQUESTS = 256
/** No player sends a request before the last one is answered; who sends many does it to be a burden. */
const MAX_PIPELINED = 4

export interface ProxyOptions {
  readonly port: number
  /** Whether another port will not do. */
  readonly isPortRequired: boolean
  /** How long a request is held for its first byte. */
  readonly waitMs: number
  /** And for each further one. */
  readonly bodyWaitMs: number
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
  readonly #buffers = new ReadBuffers()
  readonly #messages: PlayerMessages
  readonly #connections = new Connections(maxConnections(descriptorLimit()))
  #requests = 0
  #port = 0

  constructor(options: ProxyOptions, parts: ProxyParts) {
    this.#options = options
    this.#parts = parts
    this.#messages = new PlayerMessages(parts.library, parts.renewals, this.#players)
    this.#server = createServer({
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: HEAD_DEADLINE_MS,
      requestTimeout: HEAD_DEADLINE_MS,
      connectionsCheckingInterval: DEADLINE_CHECK_MS,
    })
    this.#server.on('connection', (socket) => this.#connections.add(socket))
    this.#server.on('request', (request, response) => this.#accept(request, response))
  }

  /** @returns the port: the one wanted, or where it is taken and was only a preference, any. @throws ERR_SEEKCACHE_USAGE */
  async listen(): Promise<number> {
    const { port, isPortRequired } = this.#options
    await this.#bind(port).catch(async (cause: Error) => {
      if (!isPortRequired) return await this.#bind(0)
      const message = `cannot listen on 127.0.0.1:${port} (${cause.message}): choose another with --port, or leave it out`
      throw new SeekCacheError('ERR_SEEKCACHE_USAGE', message, { cause })
    })
    this.#port = (this.#server.address() as AddressInfo).port
    return this.#port
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

  /** Answers it when its connection has answered the ones before: what cannot be sent yet is not read either. */
  #accept(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request
    const count = this.#connections.begin(socket)
    if (count > MAX_PIPELINED) socket.destroy()
    if (socket.destroyed) return
    const controller = new AbortController()
    let isEnded = false
    const end = (): void => {
      if (isEnded) return
      isEnded = true
      socket.off('close', end)
      if (!response.writableFinished) controller.abort(cancelled('the request'))
      this.#connections.end(socket)
      this.#requests--
      this.#parts.telemetry.responses.inc({ status: response.headersSent ? String(response.statusCode) : 'none' })
      this.#parts.onActivity(-1)
    }
    this.#requests++
    this.#parts.onActivity(1)
    response.once('close', end)
    socket.once('close', end) // a response that waits for its turn is not told
    response.on('error', () => {}) // 'close' follows
    for (const [name, value] of Object.entries(SAFE_HEADERS)) response.setHeader(name, value)
    if (response.socket !== null) void this.#handle(request, response, controller.signal)
    else response.once('socket', () => void this.#handle(request, response, controller.signal))
  }

  async #handle(request: IncomingMessage, response: ServerResponse, signal: AbortSignal): Promise<void> {
    try {
      await this.#answer(request, response, signal)
    } catch (error) {
      if (signal.aborted || response.headersSent) response.destroy()
      else send(response, problemOf(error))
      if (!signal.aborted) this.#parts.telemetry.log.warn(`request failed: ${(error as Error).message}`)
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const { method, url: target, headers } = request
    const refusal = refusalOf({ method, target, headers }, this.#port, this.#parts.urls.token)
    if (refusal !== undefined) return refuse(response, refusal)
    if (this.#requests > MAX_REQUESTS) return send(response, problem(503, `more than ${MAX_REQUESTS} requests at a time`))
    const [, , kind, ...rest] = (target ?? '').split('/')
    if (kind === 'metrics') return await this.#sendMetrics(response)
    const isSaid = isMessage(target)
    const asked = isSaid ? this.#parts.urls.resolve(rest[0], rest[1]) : this.#parts.urls.resolve(kind, rest[0])
    if (asked === undefined) return send(response, problem(404, 'there is nothing at this path'))
    if (isSaid) return await this.#messages.answer(kind!, request, response, asked, signal)
    const { spec, player } = asked
    const media = await this.#parts.library.open(spec, this.#options.waitMs, signal)
    try {
      if (media.kind === 'passthrough') await this.#stream(request, response, media, signal)
      else await this.#serve(request, response, media, player, signal)
    } finally {
      this.#parts.library.release(media)
    }
  }

  async #sendMetrics(response: ServerResponse): Promise<void> {
    const { registry } = this.#parts.telemetry
    response.writeHead(200, { 'content-type': registry.contentType, 'cache-control': 'no-store' })
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
    const representation = representationOf(record)
    const { etag, lastModified } = representation
    const decision = decide(request.headers, representation)
    const headers: Record<string, string | number> = {
      'accept-ranges': 'bytes',
      'content-type': safeContentType(record.contentType),
      etag,
    }
    if (lastModified !== undefined) headers['last-modified'] = lastModified
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
      await sendRange({
        response,
        range,
        buffers: this.#buffers,
        read: async (position, maxBytes, target) => {
          const deadlineMs = response.headersSent ? this.#options.bodyWaitMs : this.#options.waitMs
          return await connection.read(position, maxBytes, { deadlineMs, signal }, target)
        },
        signal,
        untilStaying: async () => await pause(SYSTEM_CLOCK, LEAVING_MS, signal),
        onFirst: writeHead,
        onSent: (lengthBytes) => this.#parts.telemetry.servedBytes.inc(lengthBytes),
      })
      response.end()
      connection.close(true)
    } finally {
      connection.close(false)
    }
  }

  // ---- a resource of unknown size

  async #stream(request: IncomingMessage, response: ServerResponse, media: PassthroughMedia, signal: AbortSignal): Promise<void> {
    const headers = { 'accept-ranges': 'none', 'content-type': safeContentType(media.contentType) }
    if (request.method === 'HEAD') return void response.writeHead(200, headers).end()
    for (;;) {
      const { waitMs, bodyWaitMs } = this.#options
      const bytes = await media.stream.next(READ_BYTES, { deadlineMs: response.headersSent ? bodyWaitMs : waitMs, signal })
      if (!response.headersSent) response.writeHead(200, headers)
      if (bytes === undefined) break
      this.#parts.telemetry.servedBytes.inc(bytes.length)
      await sendPiece(response, bytes)
    }
    response.end()
  }
}

/** Nothing more is taken from who is refused: what follows on the connection may be the rest of an attack. */
function refuse(response: ServerResponse, refusal: Problem): void {
  response.shouldKeepAlive = false
  send(response, refusal)
}

function send(response: ServerResponse, { status, headers, body }: Problem): void {
  response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) })
  response.end(body)
}
