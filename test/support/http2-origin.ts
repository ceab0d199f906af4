/**
 * An HTTP/2 origin on loopback, over TLS, that is right by default and wrong exactly as its script says.
 *
 * The HTTP/2 counterpart of `fault-origin.ts`: one content under every path, faults as data, each request recorded with the
 * bytes that were handed to its stream, every wait an event.
 */

import { constants, createSecureServer, type Http2SecureServer, type ServerHttp2Session, type ServerHttp2Stream, type Settings } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'

import type { Certificate } from './certificate.ts'
import type { Content } from './content.ts'
import { within } from './deadline.ts'

export type Http2Fault =
  | { readonly kind: 'status'; readonly status: number; readonly headers?: Readonly<Record<string, string>> }
  /** A stream's end by RST_STREAM; before the head where `afterBytes` is undefined. */
  | { readonly kind: 'reset'; readonly code: number; readonly afterBytes?: number }
  /** GOAWAY. With code 0, what runs is finished, but for this request if it is refused (a session's first cannot be). */
  | { readonly kind: 'goaway'; readonly code: number; readonly afterBytes?: number; readonly isRefused?: boolean }
  | { readonly kind: 'stalled'; readonly afterBytes: number }
  /** The head does not come, until whoever asked goes. */
  | { readonly kind: 'held' }
  /** All connections end at once; before the head where `afterBytes` is undefined. */
  | { readonly kind: 'disconnect'; readonly afterBytes?: number }
  /** Less than was asked for, truly told. */
  | { readonly kind: 'shorter'; readonly lengthBytes: number }

export interface Http2Request {
  readonly index: number
  readonly path: string
  readonly session: number
  readonly range: { readonly start: number; readonly end: number }
}

export interface Http2Record extends Http2Request {
  bodyBytesSent: number
  outcome: 'running' | 'stalled' | 'complete' | 'cut' | 'aborted'
  rstCode: number
}

export interface Http2OriginOptions {
  readonly content: Content
  readonly certificate: Pick<Certificate, 'key' | 'cert'>
  readonly script?: (request: Http2Request) => Http2Fault | undefined
  readonly settings?: Settings
  /** Of every right answer, besides those that make it one. */
  readonly headers?: Readonly<Record<string, string>>
}

const PIECE_BYTES = 64 * 1024

export class Http2Origin implements AsyncDisposable {
  readonly requests: Http2Record[] = []
  readonly sessions: ServerHttp2Session[] = []
  connectionCount = 0
  openCount = 0
  script: ((request: Http2Request) => Http2Fault | undefined) | undefined
  readonly #content: Content
  readonly #headers: Readonly<Record<string, string>>
  readonly #server: Http2SecureServer
  readonly #sockets = new Set<Socket>()
  readonly #watchers = new Set<() => void>()
  #releases: (() => void)[] = []

  static async start(options: Http2OriginOptions): Promise<Http2Origin> {
    const origin = new Http2Origin(options)
    await new Promise<void>((resolve) => origin.#server.listen(0, '127.0.0.1', resolve))
    return origin
  }

  private constructor({ content, certificate, script, settings, headers = {} }: Http2OriginOptions) {
    this.#content = content
    this.#headers = headers
    this.script = script
    this.#server = createSecureServer({ key: certificate.key, cert: certificate.cert, settings: settings ?? {} })
    this.#server.on('connection', (socket: Socket) => {
      this.connectionCount++
      this.openCount++
      this.#sockets.add(socket)
      socket.on('error', () => {})
      socket.once('close', () => {
        this.openCount--
        this.#sockets.delete(socket)
        this.#happened()
      })
    })
    this.#server.on('session', (session) => {
      this.sessions.push(session)
      session.on('error', () => {})
    })
    this.#server.on('stream', (stream, headers) => void this.#serve(stream, String(headers[':path']), headers.range as string | undefined))
    this.#server.on('sessionError', () => {})
    this.#server.on('tlsClientError', () => {})
  }

  url(name = 'film.mkv'): string {
    return `https://localhost:${(this.#server.address() as AddressInfo).port}/${name}`
  }

  async when(what: string, condition: (origin: Http2Origin) => boolean): Promise<void> {
    let watcher!: () => void
    const met = new Promise<void>((resolve) => {
      watcher = () => condition(this) && resolve()
      this.#watchers.add(watcher)
      watcher()
    })
    await within(`the origin: ${what}`, met).finally(() => this.#watchers.delete(watcher))
  }

  /** What is stalled goes on. */
  release(): void {
    for (const release of this.#releases.splice(0)) release()
  }

  dropConnections(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  #happened(): void {
    for (const watcher of [...this.#watchers]) watcher()
  }

  async #serve(stream: ServerHttp2Stream, path: string, rangeField: string | undefined): Promise<void> {
    const session = this.sessions.indexOf(stream.session as ServerHttp2Session)
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(rangeField ?? '') ?? []
    const { sizeBytes } = this.#content
    const range = { start: Number(first ?? 0), end: last === undefined || last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes) }
    const record: Http2Record = { index: this.requests.length, path, session, range, bodyBytesSent: 0, outcome: 'running', rstCode: 0 }
    this.requests.push(record)
    let isGone = false
    stream.on('error', () => {})
    const gone = new Promise<void>((resolve) => stream.once('close', () => {
      isGone = true
      record.rstCode = stream.rstCode
      if (record.outcome === 'running' || record.outcome === 'stalled') record.outcome = 'aborted'
      resolve()
      this.#happened()
    }))
    this.#happened()
    const fault = this.script?.(record)
    const stopAt = fault !== undefined && 'afterBytes' in fault ? fault.afterBytes : undefined
    if (fault?.kind === 'status') {
      stream.respond({ ':status': fault.status, ...fault.headers })
      stream.end('no')
      record.outcome = 'complete'
      return
    }
    if (fault?.kind === 'held') {
      record.outcome = 'stalled'
      this.#happened()
      return await gone
    }
    if (fault?.kind === 'shorter') range.end = Math.min(range.end, range.start + fault.lengthBytes)
    if (fault !== undefined && stopAt === undefined && this.#break(stream, record, fault)) return
    stream.respond({
      ':status': 206, 'content-type': 'video/x-matroska', etag: '"version-1"', 'content-length': range.end - range.start,
      'content-range': `bytes ${range.start}-${range.end - 1}/${sizeBytes}`, ...this.#headers,
    })
    let isStopped = false
    for (let position = range.start; position < range.end && !isGone; ) {
      if (stopAt !== undefined && !isStopped && position - range.start >= stopAt) {
        isStopped = true
        if (fault?.kind === 'stalled') {
          record.outcome = 'stalled'
          const released = new Promise<void>((resolve) => this.#releases.push(resolve))
          this.#happened()
          await Promise.race([released, gone])
          if (!isGone) record.outcome = 'running'
          continue
        }
        if (this.#break(stream, record, fault!)) return
        continue
      }
      const end = Math.min(position + PIECE_BYTES, range.end, stopAt !== undefined && !isStopped ? range.start + stopAt : Infinity)
      const piece = Buffer.from(this.#content.read(position, end))
      const taken = new Promise<void>((resolve) => stream.write(piece, () => resolve()))
      await Promise.race([taken, gone])
      if (isGone) return
      record.bodyBytesSent += piece.length
      position = end
      this.#happened()
    }
    if (isGone) return
    if (record.outcome === 'running') record.outcome = 'complete'
    stream.end()
    this.#happened()
  }

  /** @returns whether that is the end of the request */
  #break(stream: ServerHttp2Stream, record: Http2Record, fault: Http2Fault): boolean {
    if (fault.kind === 'reset') {
      record.outcome = 'cut'
      stream.close(fault.code)
    } else if (fault.kind === 'goaway') {
      const isRefused = fault.isRefused === true && stream.id! > 1
      stream.session?.goaway(fault.code, isRefused ? stream.id! - 2 : stream.id!)
      if (fault.code === constants.NGHTTP2_NO_ERROR && !isRefused) return false
      record.outcome = 'cut'
    } else if (fault.kind === 'disconnect') {
      record.outcome = 'cut'
      this.dropConnections()
    } else {
      return false
    }
    this.#happened()
    return true
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const session of this.sessions) session.destroy()
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }
}
