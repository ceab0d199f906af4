/**
 * An HTTP/1.1 origin on loopback that is right by default and wrong exactly as its script says.
 *
 * It serves one content under every path, with ranges, ETag, Last-Modified and conditions; before each request it asks the
 * script, which answers with faults as data (`Fault`). It speaks on raw sockets, since most of what real origins do wrong
 * is what an HTTP library would not let one do. Nothing depends on time: what is held back or stalled goes on when the
 * test says so, and every wait for the origin's state is an event. Each request is recorded with the bytes that were
 * really handed to its socket.
 */
import net from 'node:net'

import type { Content } from './content.ts'
import { within } from './deadline.ts'
import { listenAgain } from './listener.ts'
import { type AskedRange, type Fault, type OriginRequest, type Reply, headText, replyTo } from './origin-reply.ts'

/** What to do wrong with a request; nothing where undefined. Several faults apply one after another. */
export type Script = (request: OriginRequest) => Fault | readonly Fault[] | undefined

export type Outcome = 'running' | 'stalled' | 'complete' | 'cut' | 'aborted'

export interface RequestRecord extends OriginRequest {
  /** 0 until there is one. */
  readonly status: number
  /** Body bytes that the kernel has taken. */
  readonly bodyBytesSent: number
  /** `cut` was ended by a fault, `aborted` by the client. */
  readonly outcome: Outcome
}

export interface FaultOriginOptions {
  readonly content: Content
  readonly script?: Script
  readonly etag?: string | undefined
  readonly lastModified?: string | undefined
  readonly contentType?: string
  /** More connections than that at a time are reset. */
  readonly maxConnections?: number
}

export interface FaultOrigin extends AsyncDisposable {
  readonly port: number
  readonly origin: string
  readonly requests: readonly RequestRecord[]
  /** Connections that were accepted, ever and now. */
  readonly connections: { readonly accepted: number; readonly open: number; readonly refused: number }
  readonly bodyBytesSent: number
  url(name?: string): string
  setScript(script: Script | undefined): void
  /** What is served from the next request on. */
  setContent(content: Content, etag: string | undefined): void
  /** Lets everything go on that is stalled or held now. */
  release(): void
  /** Waits until `condition` holds; it is looked at again whenever something happens at the origin. */
  when(what: string, condition: (origin: FaultOrigin) => boolean): Promise<void>
  /** Waits until no request is running. */
  idle(): Promise<void>
  /** Breaks every connection, as a server does with idle ones. */
  dropConnections(): void
  /** Stops listening and breaks every connection, as a server that goes down; `listen` brings it back on its port. */
  goDown(): Promise<void>
  listen(): Promise<void>
  stop(): Promise<void>
}

const CRLF = '\r\n'
// Small enough that a stall or a cut leaves little in flight, large enough to be quick.
const PIECE_BYTES = 64 * 1024
const DEFAULT_LAST_MODIFIED = 'Tue, 02 Jan 2024 03:04:05 GMT'

/** The nth request gets the nth list of faults; later ones get none. */
export function inOrder(...faults: readonly (Fault | readonly Fault[] | undefined)[]): Script {
  return (request) => faults[request.index]
}

/** Every request that `when` takes gets the faults. */
export function whenever(when: (request: OriginRequest) => boolean, ...faults: readonly Fault[]): Script {
  return (request) => (when(request) ? faults : undefined)
}

export async function startFaultOrigin(options: FaultOriginOptions): Promise<FaultOrigin> {
  const origin = new Origin(options)
  await origin.listen()
  return origin
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

class Origin implements FaultOrigin {
  readonly requests: Mutable<RequestRecord>[] = []
  readonly connections = { accepted: 0, open: 0, refused: 0 }
  readonly #options: FaultOriginOptions
  readonly #sockets = new Set<net.Socket>()
  readonly #held = new Set<() => void>()
  readonly #watchers = new Set<() => void>()
  #server: net.Server | undefined
  #script: Script | undefined
  #content: Content
  #etag: string | undefined
  #port = 0

  constructor(options: FaultOriginOptions) {
    this.#options = options
    this.#script = options.script
    this.#content = options.content
    this.#etag = 'etag' in options ? options.etag : '"version-1"'
  }

  get port(): number {
    return this.#port
  }

  get origin(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  get bodyBytesSent(): number {
    return this.requests.reduce((sum, request) => sum + request.bodyBytesSent, 0)
  }

  url(name = 'film.mkv'): string {
    return `${this.origin}/${name}`
  }

  setScript(script: Script | undefined): void {
    this.#script = script
  }

  setContent(content: Content, etag: string | undefined): void {
    this.#content = content
    this.#etag = etag
  }

  release(): void {
    for (const goOn of [...this.#held]) goOn()
  }

  async when(what: string, condition: (origin: FaultOrigin) => boolean): Promise<void> {
    let watcher: (() => void) | undefined
    const met = new Promise<void>((resolve) => {
      watcher = () => {
        if (condition(this)) resolve()
      }
      this.#watchers.add(watcher)
      watcher()
    })
    try {
      await within(`the origin: ${what}`, met)
    } finally {
      if (watcher !== undefined) this.#watchers.delete(watcher)
    }
  }

  async idle(): Promise<void> {
    await this.when('no request runs', () =>
      this.requests.every(({ outcome }) => outcome !== 'running' && outcome !== 'stalled'),
    )
  }

  async listen(): Promise<void> {
    const server = net.createServer({ noDelay: true }, (socket) => this.#accept(socket))
    await listenAgain(server, this.#port)
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('the origin has no port')
    this.#port = address.port
    this.#server = server
  }

  dropConnections(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  async goDown(): Promise<void> {
    const server = this.#server
    if (server === undefined) return
    this.#server = undefined
    const closed = new Promise<void>((resolve) => server.close(() => resolve()))
    for (const socket of this.#sockets) socket.destroy()
    this.release()
    await closed
  }

  async stop(): Promise<void> {
    await this.goDown()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #happened(): void {
    for (const watcher of [...this.#watchers]) watcher()
  }

  #accept(socket: net.Socket): void {
    socket.on('error', () => {}) // a client may go at any time; `close` follows and is what counts
    if (this.connections.open >= (this.#options.maxConnections ?? Infinity)) {
      this.connections.refused++
      socket.resetAndDestroy()
      this.#happened()
      return
    }
    const connection = ++this.connections.accepted
    this.connections.open++
    this.#sockets.add(socket)
    socket.once('close', () => {
      this.connections.open--
      this.#sockets.delete(socket)
      this.#happened()
    })

    const gone = new Promise<void>((resolve) => socket.once('close', () => resolve()))
    let unread = ''
    let last = Promise.resolve()
    socket.setEncoding('latin1')
    socket.on('data', (text: string) => {
      unread += text
      for (let end = unread.indexOf(CRLF + CRLF); end >= 0; end = unread.indexOf(CRLF + CRLF)) {
        const head = unread.slice(0, end)
        unread = unread.slice(end + 4)
        // Answers leave in the order of the requests, one at a time.
        last = last.then(() => this.#serve(socket, gone, head, connection))
      }
    })
    this.#happened()
  }

  async #serve(socket: net.Socket, gone: Promise<void>, head: string, connection: number): Promise<void> {
    if (socket.destroyed) return
    const request = parseRequest(head, this.requests.length, connection)
    const record: Mutable<RequestRecord> = { ...request, status: 0, bodyBytesSent: 0, outcome: 'running' }
    this.requests.push(record)
    this.#happened()
    const asked = this.#script?.(request) ?? []
    const faults: readonly Fault[] = Array.isArray(asked) ? asked : [asked as Fault]
    const { contentType = 'video/x-matroska' } = this.#options
    const served = { content: this.#content, etag: this.#etag, lastModified: this.#lastModified(), contentType }
    const reply = replyTo(request, served, faults)
    await this.#send(socket, gone, reply, record)
    this.#happened()
  }

  #lastModified(): string | undefined {
    return 'lastModified' in this.#options ? this.#options.lastModified : DEFAULT_LAST_MODIFIED
  }

  async #send(socket: net.Socket, gone: Promise<void>, reply: Reply, record: Mutable<RequestRecord>): Promise<void> {
    const isGone = () => socket.destroyed
    if (reply.isHeld) await this.#hold(record, gone)
    if (reply.delayMs > 0) await Promise.race([elapsed(reply.delayMs), gone])
    if (isGone()) return void (record.outcome = 'aborted')

    if (reply.beforeHead !== undefined) {
      record.outcome = 'cut'
      if (reply.beforeHead === 'reset') socket.resetAndDestroy()
      else socket.end(reply.beforeHead, 'latin1')
      return
    }
    record.status = reply.status
    socket.write(headText(reply), 'latin1')
    if (record.method === 'HEAD') {
      record.outcome = 'complete'
      if (reply.isLast) socket.end()
      return
    }

    const started = performance.now()
    // A slow body comes in small pieces, twenty a second, not in long silences.
    const pieceBytes = Math.max(1, Math.min(PIECE_BYTES, Math.ceil(reply.bytesPerSecond / 20)))
    for (let sent = 0; sent <= reply.bodyBytes; ) {
      if (reply.stop !== undefined && sent >= reply.stop.afterBytes) {
        if (reply.stop.then === 'stall') {
          await this.#hold(record, gone)
          if (isGone()) return void (record.outcome = 'aborted')
          reply.stop = undefined
          continue
        }
        record.outcome = 'cut'
        if (reply.stop.then === 'reset') socket.resetAndDestroy()
        else socket.end()
        return
      }
      if (sent === reply.bodyBytes) break
      const end = Math.min(sent + pieceBytes, reply.bodyBytes, reply.stop?.afterBytes ?? Infinity)
      const piece = reply.body(sent, end)
      if (!(await taken(socket, framed(piece, reply.isChunked)))) return void (record.outcome = 'aborted')
      record.bodyBytesSent += piece.length
      sent = end
      this.#happened()
      const dueMs = (sent / reply.bytesPerSecond) * 1000 - (performance.now() - started)
      if (dueMs > 1) await Promise.race([elapsed(dueMs), gone])
      if (isGone()) return void (record.outcome = 'aborted')
    }
    if (reply.isChunked && !reply.isOpenEnded) socket.write(`0${CRLF}${CRLF}`)
    record.outcome = 'complete'
    if (reply.isLast) socket.end()
  }

  async #hold(record: Mutable<RequestRecord>, gone: Promise<void>): Promise<void> {
    record.outcome = 'stalled'
    let goOn: (() => void) | undefined
    const released = new Promise<void>((resolve) => {
      goOn = resolve
      this.#held.add(resolve)
    })
    this.#happened()
    await Promise.race([released, gone])
    if (goOn !== undefined) this.#held.delete(goOn)
    record.outcome = 'running'
  }
}

function framed(piece: Buffer, isChunked: boolean): Buffer {
  if (!isChunked) return piece
  return Buffer.concat([Buffer.from(piece.length.toString(16) + CRLF), piece, Buffer.from(CRLF)])
}

function taken(socket: net.Socket, bytes: Buffer): Promise<boolean> {
  return new Promise((resolve) => socket.write(bytes, (error) => resolve(error === null || error === undefined)))
}

/** A pace that a fault asked for; nothing waits for it to learn a state. */
function elapsed(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

function parseRequest(head: string, index: number, connection: number): OriginRequest {
  const [first = '', ...lines] = head.split(CRLF)
  const [method = '', target = ''] = first.split(' ')
  const rawHeaders = lines.map((line): readonly [string, string] => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon), line.slice(colon + 1).trim()]
  })
  const headers: Record<string, string> = {}
  for (const [name, value] of rawHeaders) headers[name.toLowerCase()] = value
  return { index, method, target, range: parseRange(headers['range']), headers, rawHeaders, connection }
}

function parseRange(value: string | undefined): AskedRange | undefined {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(value ?? '') ?? []
  if (first === undefined || last === undefined || first + last === '') return undefined
  if (first === '') return { suffixBytes: Number(last) }
  return { start: Number(first), end: last === '' ? undefined : Number(last) + 1 }
}
