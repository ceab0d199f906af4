/**
 * One HTTP/2 connection to an origin: many requests at a time, each a stream that is reset when it is cancelled.
 *
 * The only place that knows node:http2. Its flow-control windows are large, since the protocol's 64 KiB would stall a stream
 * once every round trip; what a paused stream may pile up is bounded by its window. A session that the origin ends (GOAWAY)
 * carries what it carries to the end and takes nothing new. One that is silent although it was asked is asked for a sign
 * of life (PING), and given up without one: a cancelled stream leaves its connection as it is, also where that is dead.
 */

import { connect, constants, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'

import type { ResponseHead } from './admission.ts'
import type { Exchange, ExchangeObserver, OutgoingRequest } from './exchange.ts'
import { SendWindow } from './send-window.ts'

/** What may be under way: at 100 ms, 320 Mbit/s of one stream, 1.3 Gbit/s of all. */
const STREAM_WINDOW_BYTES = 4 * 1024 * 1024
const SESSION_WINDOW_BYTES = 16 * 1024 * 1024
/** Without a stream for so long the session is closed, as idle connections are. */
const KEEP_ALIVE_MS = 60_000
/** A session that owes something and is silent for so long is asked for a sign of life. */
const SILENT_MS = 5_000
const PONG_WITHIN_MS = 5_000
const CHECK_MS = 1_000
/** Node refuses streams beyond it, MB: what is buffered is bounded by the windows. */
const MAX_SESSION_MEMORY = 64

/** Why a stream or a session ended, by HTTP/2's error code (RFC 9113 §7). */
export class Http2Error extends Error {
  readonly code: string
  /** The origin has not begun with the request: it may be sent again as it is. */
  readonly isUnprocessed: boolean

  constructor(code: string, isUnprocessed: boolean, cause?: Error) {
    super(`HTTP/2 ${code}`, cause === undefined ? undefined : { cause })
    this.name = 'Http2Error'
    this.code = code
    this.isUnprocessed = isUnprocessed
  }
}

export interface SessionEvents {
  /** The origin told how many streams it takes. */
  onSettings(): void
  /** It takes no new requests any more. `error` is what was wrong with it, if anything was. */
  onEnd(error: Error | undefined): void
  onClosed(): void
}

export class Http2Session {
  readonly #session: ClientHttp2Session
  readonly #socket: Socket
  readonly #hasPeer: boolean
  readonly #events: SessionEvents
  #isEnded = false
  #wasAsked = false
  #streamCount = 0
  #heardMs = performance.now()
  readonly #window = new SendWindow()
  #error: Error | undefined
  #pingTimer: NodeJS.Timeout | undefined
  /** While there are streams. */
  #checkTimer: NodeJS.Timeout | undefined

  constructor(url: URL, socket: Socket, events: SessionEvents) {
    this.#events = events
    this.#socket = socket
    this.#hasPeer = hasPeer(socket)
    this.#session = connect(url.origin, {
      createConnection: () => socket,
      settings: { enablePush: false, initialWindowSize: STREAM_WINDOW_BYTES },
      maxSessionMemory: MAX_SESSION_MEMORY,
    })
    this.#session.once('connect', () => this.#session.setLocalWindowSize(SESSION_WINDOW_BYTES))
    this.#session.on('remoteSettings', () => {
      this.#heard()
      events.onSettings()
    })
    this.#session.on('goaway', () => this.#end(undefined))
    this.#session.on('error', (error) => (this.#error = error))
    this.#session.on('close', () => {
      this.#clearTimers()
      this.#end(this.#error)
      events.onClosed()
    })
    this.#session.setTimeout(KEEP_ALIVE_MS, () => {
      if (this.#streamCount === 0) this.close()
    })
    this.#session.unref()
  }

  get isUsable(): boolean {
    return !this.#isEnded && !this.#session.closed && !this.#session.destroyed && !this.#isReset
  }

  /**
   * Node 20 does not notice a reset that the write of a cancellation meets: it stops reading, and says nothing to anybody. A
   * socket that has been reset has no peer any more.
   */
  get #isReset(): boolean {
    return this.#hasPeer && !hasPeer(this.#socket)
  }

  /** Whether there was any request on it. */
  get wasAsked(): boolean {
    return this.#wasAsked
  }

  get maxStreams(): number {
    return Math.max(1, this.#session.remoteSettings?.maxConcurrentStreams ?? Number.POSITIVE_INFINITY)
  }

  /** What of all answers together may arrive in one round trip. */
  get windowBytes(): number {
    return this.#window.bytesAt(performance.now())
  }

  send(request: OutgoingRequest, observer: ExchangeObserver): Exchange {
    this.#askForLife()
    let stream: ClientHttp2Stream
    try {
      stream = this.#session.request({ ':method': 'GET', ':path': request.path, ...request.headers }, { endStream: true })
    } catch (error) {
      queueMicrotask(() => observer.onEnd(new Http2Error('ERR_SESSION_ENDED', true, error as Error)))
      return { cancel: () => {}, pause: () => {}, resume: () => {} }
    }
    this.#streamCount++
    this.#wasAsked = true
    this.#checkTimer ??= setInterval(() => this.#askForLife(), CHECK_MS)
    let isCancelled = false
    let hasHead = false
    let isComplete = false
    let failure: Error | undefined
    // Node tells a head a tick after it came, bytes at once: those that came with it may be told before it.
    const early: Buffer[] = []
    const take = (bytes: Buffer): void => {
      if (!isCancelled) observer.onBytes(bytes)
    }
    stream.on('response', (_headers, _flags, ...rest: unknown[]) => {
      this.#heard()
      hasHead = true
      if (!isCancelled) observer.onHead(headOf(rest[0] as readonly string[]))
      for (const bytes of early.splice(0)) take(bytes)
    })
    stream.on('data', (bytes: Buffer) => {
      this.#heard()
      this.#window.onBytes(bytes.length, this.#heardMs)
      if (hasHead) take(bytes)
      else early.push(bytes)
    })
    stream.on('end', () => (isComplete = true))
    stream.on('error', (error) => (failure = error))
    stream.on('close', () => {
      if (--this.#streamCount === 0) this.#stopChecking()
      if (isCancelled) return
      const isWell = failure === undefined && hasHead && isComplete && stream.rstCode === constants.NGHTTP2_NO_ERROR
      observer.onEnd(isWell ? undefined : this.#failureOf(stream, hasHead, failure))
    })
    return {
      cancel: () => {
        isCancelled = true
        stream.close(constants.NGHTTP2_CANCEL)
        stream.resume() // what it has received counts against the session's window until it is read
      },
      pause: () => stream.pause(),
      resume: () => stream.resume(),
    }
  }

  #failureOf(stream: ClientHttp2Stream, hasHead: boolean, failure: Error | undefined): Error {
    const code = CODE_NAMES.get(stream.rstCode ?? 0)
    const isUnprocessed = !hasHead && (code === 'REFUSED_STREAM' || stream.id === undefined)
    if (this.#error !== undefined) return new Http2Error(codeOf(this.#error), !hasHead, this.#error)
    const isLost = this.#session.destroyed && code === 'CANCEL' // what node makes of streams whose connection has gone
    if (code !== undefined && code !== 'NO_ERROR' && !isLost) return new Http2Error(code, isUnprocessed, failure)
    return new Http2Error('ECONNRESET', isUnprocessed || (!hasHead && this.#isEnded), failure)
  }

  #heard(): void {
    this.#heardMs = performance.now()
  }

  #askForLife(): void {
    if (this.#isReset && !this.#session.destroyed) return this.#session.destroy(new Http2Error('ECONNRESET', false))
    if (performance.now() - this.#heardMs < SILENT_MS || this.#pingTimer !== undefined || !this.isUsable) return
    this.#pingTimer = setTimeout(() => this.#session.destroy(new Http2Error('ETIMEDOUT', false)), PONG_WITHIN_MS)
    this.#session.ping((error) => {
      clearTimeout(this.#pingTimer)
      this.#pingTimer = undefined
      if (error === null) this.#heard()
    })
  }

  #stopChecking(): void {
    clearInterval(this.#checkTimer)
    this.#checkTimer = undefined
  }

  #clearTimers(): void {
    this.#stopChecking()
    clearTimeout(this.#pingTimer)
  }

  #end(error: Error | undefined): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#events.onEnd(error)
  }

  /** When its streams have ended. */
  close(): void {
    this.#end(undefined)
    this.#session.close()
  }

  async destroy(): Promise<void> {
    this.#isEnded = true
    this.#clearTimers()
    if (this.#session.destroyed) return
    const closed = new Promise<void>((resolve) => this.#session.once('close', () => resolve()))
    this.#session.destroy()
    await closed
  }
}

/** A socket remembers its peer once it was asked; one derived from it asks each time. */
function hasPeer(socket: Socket): boolean {
  return (Object.create(socket) as Socket).remoteAddress !== undefined
}

/** Repeated fields as arrays, as admission wants them: Node drops repetitions of some and joins others. */
function headOf(fields: readonly string[]): ResponseHead {
  const headers: Record<string, string | string[]> = {}
  let status = 0
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const [name, value] = [fields[i]!, fields[i + 1]!]
    const known = headers[name]
    if (name === ':status') status = Number(value)
    else headers[name] = known === undefined ? value : Array.isArray(known) ? [...known, value] : [known, value]
  }
  return { status, headers }
}

const CODE_NAMES = new Map<number, string>(
  Object.entries(constants)
    .filter(([name]) => /^NGHTTP2_(NO_ERROR|PROTOCOL_ERROR|INTERNAL_ERROR|FLOW_CONTROL_ERROR|SETTINGS_TIMEOUT|STREAM_CLOSED|FRAME_SIZE_ERROR|REFUSED_STREAM|CANCEL|COMPRESSION_ERROR|CONNECT_ERROR|ENHANCE_YOUR_CALM|INADEQUATE_SECURITY|HTTP_1_1_REQUIRED)$/.test(name))
    .map(([name, value]) => [value as number, name.slice('NGHTTP2_'.length)]),
)

function codeOf(error: Error): string {
  return (error as NodeJS.ErrnoException).code ?? error.message
}
