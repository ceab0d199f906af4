/**
 * One HTTP/1.1 connection to an origin: one request at a time, cancelled at the socket.
 *
 * The only place that uses undici's client (undici.ts loads it). Its sockets are made here, before undici asks for them, so
 * that a handshake can be done before there is a request, and so that it is known at each moment whether a request would have
 * to wait for one.
 */

import type { Socket } from 'node:net'
import type { buildConnector, Dispatcher } from 'undici'

import type { CarrierEvents, Exchange, ExchangeObserver, OutgoingRequest } from './exchange.ts'
import { SendWindow } from './send-window.ts'
import { Client } from './undici.ts'

/** Idle connections are kept so long unless the origin tells less. */
const KEEP_ALIVE_MS = 60_000
/** A connection that breaks before its first answer was refused if that comes so soon, else it timed out idle. */
const REFUSED_WITHIN_MS = 1_000

export type Connector = buildConnector.connector
type ConnectCallback = buildConnector.Callback

export class Connection {
  isBusy = false
  /** When it last carried a byte, ms of the monotonic clock; 0 if never. */
  lastUsedMs = 0
  /** Of the socket that there is: another one begins anew. */
  #window = new SendWindow()
  readonly #client: Client
  readonly #url: URL
  readonly #events: CarrierEvents
  readonly #connect: Connector
  #isConnected = false
  #hasAnswered = false
  #socket: WarmSocket | undefined

  /** @param socket connected, where there is one already */
  constructor(url: URL, connect: Connector, events: CarrierEvents, socket?: Socket) {
    this.#url = url
    this.#connect = connect
    this.#events = events
    this.#client = new Client(url.origin, {
      pipelining: 1,
      headersTimeout: 0, // the schedule watches over stalls
      bodyTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connect: (_, callback) => this.#takeSocket(callback),
    })
    this.#client.on('connect', () => this.#onConnect())
    this.#client.on('connectionError', () => {
      this.#socket = undefined
      events.onClosed() // whoever it was made for may have gone
    })
    this.#client.on('disconnect', () => {
      this.#isConnected = false
      events.onClosed()
    })
    if (socket !== undefined) this.#socket = new WarmSocket((_, callback) => callback(null, socket), this.#target, events)
  }

  get readiness(): 'connected' | 'connecting' | 'none' {
    if (this.#isConnected || this.#socket?.isConnected === true) return 'connected'
    return this.#socket?.isUsable === true ? 'connecting' : 'none'
  }

  /** What of an answer may arrive in one round trip. */
  get windowBytes(): number {
    return this.#window.bytesAt(performance.now())
  }

  /** Connects before there is a request. */
  warm(): void {
    if (this.readiness === 'none') this.#dial()
  }

  #dial(): WarmSocket {
    this.#hasAnswered = false
    this.#window = new SendWindow()
    this.#socket = new WarmSocket(this.#connect, this.#target, {
      ...this.#events,
      onReady: () => this.isBusy || this.#events.onReady(),
    })
    return this.#socket
  }

  get #target(): buildConnector.Options {
    return connectTarget(this.#url)
  }

  #takeSocket(callback: ConnectCallback): void {
    const socket = this.#socket?.isUsable === true ? this.#socket : this.#dial()
    socket.take(callback)
  }

  #onConnect(): void {
    this.#isConnected = true
    this.#socket = undefined
    if (!this.isBusy) this.#events.onReady() // whoever it was made for has gone
  }

  /** Sends a request; the caller has made the connection busy. */
  send(request: OutgoingRequest, observer: ExchangeObserver): Exchange {
    const sentMs = performance.now()
    let controller: Dispatcher.DispatchController | undefined
    let isPaused = false
    let isCancelled = false
    const cancel = (): void => {
      isCancelled = true
      if (controller === undefined) return
      this.#isConnected = false // undici tells that only when the socket has closed
      controller.abort(new Error('cancelled'))
    }
    this.#client.dispatch({ method: 'GET', path: request.path, headers: request.headers }, {
      onRequestStart: (started) => {
        controller = started
        if (isCancelled) started.abort(new Error('cancelled'))
      },
      onResponseStart: (_, status, headers) => {
        if (isCancelled || status < 200) return
        this.#hasAnswered = true
        this.#window.onHead()
        observer.onHead({ status, headers })
        if (isPaused) controller?.pause()
      },
      onResponseData: (_, bytes) => {
        if (isCancelled) return
        this.lastUsedMs = performance.now()
        this.#window.onBytes(bytes.length, this.lastUsedMs)
        observer.onBytes(bytes)
      },
      onResponseEnd: () => isCancelled || observer.onEnd(undefined),
      onResponseError: (_, error) => {
        if (isCancelled) return
        this.#isConnected = false
        if (!this.#hasAnswered && performance.now() - sentMs < REFUSED_WITHIN_MS) this.#events.onRefused(error)
        observer.onEnd(error)
      },
    })
    return {
      cancel,
      pause: () => {
        isPaused = true
        controller?.pause()
      },
      resume: () => {
        isPaused = false
        // Not in this turn: another connection's bytes may be being parsed in it, and undici parses one connection at a time.
        queueMicrotask(() => {
          if (!isPaused && !isCancelled) controller?.resume()
        })
      },
    }
  }

  /** When its request, if it has one, has ended. */
  close(): void {
    this.#socket?.destroy()
    void this.#client.close()
  }

  async destroy(): Promise<void> {
    this.#socket?.destroy()
    await this.#client.destroy()
  }
}

/** An IPv6 address goes without its brackets. */
export function connectTarget({ hostname, host, protocol, port }: URL): buildConnector.Options {
  return { hostname: hostname.replace(/^\[(.*)\]$/, '$1'), host, protocol, port }
}

/** A socket that is connecting or connected and belongs to no request yet. */
class WarmSocket {
  readonly #events: CarrierEvents
  #socket: Socket | undefined
  #error: Error | undefined
  #callback: ConnectCallback | undefined
  #isDestroyed = false
  #connectedMs = 0

  constructor(connect: Connector, options: buildConnector.Options, events: CarrierEvents) {
    this.#events = events
    connect(options, (error, socket) => {
      if (error !== null) this.#error = error
      else this.#onConnect(socket)
      if (this.#callback !== undefined) this.#hand(this.#callback)
      else if (this.isConnected) events.onReady()
      else if (error !== null && !this.#isDestroyed) events.onRefused(error)
    })
  }

  #onConnect(socket: Socket): void {
    if (this.#isDestroyed) return void socket.destroy()
    this.#socket = socket
    this.#connectedMs = performance.now()
    socket.once('error', (error) => (this.#error = error))
    socket.once('close', () => this.#onClose())
  }

  #onClose(): void {
    this.#error ??= new Error('closed')
    if (this.#callback !== undefined || this.#isDestroyed) return // undici's
    if (performance.now() - this.#connectedMs < REFUSED_WITHIN_MS) this.#events.onRefused(this.#error)
    this.#events.onClosed()
  }

  /** It will be, or is, a connection. */
  get isUsable(): boolean {
    return this.#error === undefined && !this.#isDestroyed
  }

  get isConnected(): boolean {
    return this.isUsable && this.#socket !== undefined
  }

  take(callback: ConnectCallback): void {
    this.#callback = callback
    // Not in this turn: undici does not expect the answer before its own call has returned.
    if (this.#socket !== undefined || this.#error !== undefined) queueMicrotask(() => this.#hand(callback))
  }

  #hand(callback: ConnectCallback): void {
    if (this.#socket !== undefined && this.#error === undefined) callback(null, this.#socket)
    else callback(this.#error ?? new Error('closed'), null)
  }

  destroy(): void {
    this.#isDestroyed = true
    this.#socket?.destroy()
  }
}
