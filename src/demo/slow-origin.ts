/**
 * A small HTTP origin behind a simulated slow link: every answer begins one round trip late, a new connection takes one
 * more, and all connections together get the bandwidth of the link.
 *
 * TCP's slow start is imitated, since on real links it is most of what a seek costs: a connection begins with the usual
 * ten segments a round trip and doubles that each time. Lost packets, and what an idle connection unlearns, are not.
 */
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import http from 'node:http'
import type net from 'node:net'
import path from 'node:path'

export interface Link {
  readonly roundTripMs: number
  readonly megabitsPerSecond: number
}

export interface SlowOrigin extends AsyncDisposable {
  /** Body bytes that were sent so far. */
  readonly bytesSent: number
  url(name: string): string
}

// Of one connection's turn on the link: small, so that connections share it evenly and a cancelled one holds nobody up.
const TURN_BYTES = 16 * 1024
/** Ten segments of 1460 bytes, RFC 6928. */
const FIRST_WINDOW_BYTES = 14_600

export async function serveSlowly(folder: string, link: Link): Promise<SlowOrigin> {
  const windows = new WeakMap<net.Socket, Window>()
  const line = new Line(link.megabitsPerSecond)
  const server = http.createServer((request, response) => {
    const { socket } = request
    let window = windows.get(socket)
    const isNew = window === undefined
    window ??= new Window(link.roundTripMs)
    windows.set(socket, window)
    const delayMs = link.roundTripMs * (isNew ? 2 : 1)
    answer(request, response, folder, delayMs, line, window).catch(() => response.destroy())
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the origin has no port')
  return {
    get bytesSent() {
      return line.bytesSent
    },
    url: (name) => `http://127.0.0.1:${address.port}/${encodeURIComponent(name)}`,
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}

/** The link's bandwidth, handed out in the order in which it is asked for. */
class Line {
  bytesSent = 0
  readonly #bytesPerMs: number
  #freeAtMs = 0

  constructor(megabitsPerSecond: number) {
    this.#bytesPerMs = (megabitsPerSecond * 1e6) / 8 / 1000
  }

  async send(response: http.ServerResponse, bytes: Buffer): Promise<void> {
    const nowMs = performance.now()
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + bytes.length / this.#bytesPerMs
    await elapsed(this.#freeAtMs - nowMs)
    if (response.destroyed) throw new Error('the client has gone')
    this.bytesSent += bytes.length
    await new Promise<void>((resolve, reject) => {
      response.write(bytes, (error) => (error === null || error === undefined ? resolve() : reject(error)))
    })
  }
}

/** What one connection may send before it has heard from the other side: slow start. */
class Window {
  readonly #roundTripMs: number
  #windowBytes = FIRST_WINDOW_BYTES
  #leftBytes = FIRST_WINDOW_BYTES
  #beganMs = 0

  constructor(roundTripMs: number) {
    this.#roundTripMs = roundTripMs
  }

  /** Waits until another turn may be sent. */
  async open(): Promise<void> {
    const nowMs = performance.now()
    if (this.#leftBytes === this.#windowBytes) this.#beganMs = nowMs
    if (this.#leftBytes > 0) return
    await elapsed(this.#beganMs + this.#roundTripMs - nowMs)
    this.#windowBytes *= 2
    this.#leftBytes = this.#windowBytes
    this.#beganMs = performance.now()
  }

  sent(lengthBytes: number): void {
    this.#leftBytes -= lengthBytes
  }
}

async function answer(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  folder: string,
  delayMs: number,
  line: Line,
  window: Window,
): Promise<void> {
  await elapsed(delayMs)
  const name = decodeURIComponent(new URL(request.url ?? '/', 'http://origin').pathname.slice(1))
  const file = path.join(folder, path.basename(name))
  const facts = await stat(file).catch(() => undefined)
  if (facts?.isFile() !== true) return void response.writeHead(404).end()

  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? []
  const start = Number(first ?? 0)
  const end = Math.min(last === undefined || last === '' ? facts.size : Number(last) + 1, facts.size)
  const headers: http.OutgoingHttpHeaders = {
    'accept-ranges': 'bytes',
    etag: `"${facts.size.toString(16)}-${Math.round(facts.mtimeMs).toString(16)}"`,
    'content-type': name.endsWith('.mp4') ? 'video/mp4' : 'video/x-matroska',
  }
  if (start >= end) return void response.writeHead(416, { 'content-range': `bytes */${facts.size}` }).end()
  headers['content-length'] = end - start
  if (first !== undefined) headers['content-range'] = `bytes ${start}-${end - 1}/${facts.size}`
  response.writeHead(first === undefined ? 200 : 206, headers)
  if (request.method !== 'HEAD') {
    const bytes = createReadStream(file, { start, end: end - 1, highWaterMark: TURN_BYTES })
    for await (const piece of bytes) {
      await window.open()
      await line.send(response, piece as Buffer)
      window.sent((piece as Buffer).length)
    }
  }
  response.end()
}

function elapsed(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
