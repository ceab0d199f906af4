/**
 * The connections to origins: how many, and which one carries a request.
 *
 * A connection carries one request at a time (HTTP/1.1 without pipelining), so which one carries an urgent request is our
 * choice, not a pool's: the one that transferred last, whose TCP window is open. Measured at 60 ms and 80 Mbit/s, 64 KiB take
 * 98 ms on such a connection, 188 ms on one that idled 1.5 s, 279 ms on a new one. A handshake is a round trip, or two
 * with TLS, so connections are made before they are needed: beside the first request, and in place of a cancelled one.
 */

import type { Socket } from 'node:net'
import { buildConnector, Client } from 'undici'

import { PathEstimate } from './path-estimate.ts'

/** TCP and TLS handshakes together; beyond it the origin counts as unreachable for this try. */
const CONNECT_TIMEOUT_MS = 10_000
/** Idle connections are kept so long unless the origin tells less. */
const KEEP_ALIVE_MS = 60_000

type Connector = buildConnector.connector
type ConnectCallback = buildConnector.Callback

export class Connection {
  readonly client: Client
  isBusy = false
  /** When it last carried a byte, ms of the monotonic clock; 0 if never. */
  lastUsedMs = 0
  readonly #url: URL
  readonly #connect: Connector = buildConnector({ timeout: CONNECT_TIMEOUT_MS })
  #isConnected = false
  #warm: WarmSocket | undefined

  constructor(origin: string) {
    this.#url = new URL(origin)
    this.client = new Client(origin, {
      pipelining: 1,
      headersTimeout: 0, // the schedule watches over stalls
      bodyTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connect: (options, callback) => this.#takeWarm(callback) || this.#connect(options, callback),
    })
    this.client.on('connect', () => (this.#isConnected = true))
    this.client.on('disconnect', () => (this.#isConnected = false))
  }

  /** How soon a request on it would be on its way: connected, connecting, or neither. */
  get readiness(): number {
    if (this.#isConnected) return 2
    return this.#warm?.isUsable === true ? 1 : 0
  }

  /** Connects before there is a request. */
  warm(): void {
    if (this.readiness > 0) return
    const { hostname, host, protocol, port } = this.#url
    this.#warm = new WarmSocket(this.#connect, { hostname, host, protocol, port, servername: hostname })
  }

  #takeWarm(callback: ConnectCallback): boolean {
    const warm = this.#warm
    this.#warm = undefined
    return warm?.isUsable === true && warm.take(callback)
  }

  async destroy(): Promise<void> {
    this.#warm?.destroy()
    await this.client.destroy()
  }
}

/** A socket that is connecting or connected and belongs to no request yet. */
class WarmSocket {
  #socket: Socket | undefined
  #error: Error | undefined
  #callback: ConnectCallback | undefined
  #isTaken = false

  constructor(connect: Connector, options: buildConnector.Options) {
    connect(options, (error, socket) => {
      if (error !== null) this.#error = error
      else this.#onConnect(socket)
      if (this.#callback !== undefined) this.#hand(this.#callback)
    })
  }

  #onConnect(socket: Socket): void {
    if (this.#isTaken && this.#callback === undefined) return void socket.destroy()
    this.#socket = socket
    const onError = (error: Error): void => void (this.#error = error)
    socket.once('error', onError)
    socket.once('close', () => (this.#error ??= new Error('closed')))
  }

  get isUsable(): boolean {
    return this.#error === undefined && !this.#isTaken
  }

  take(callback: ConnectCallback): boolean {
    this.#isTaken = true
    this.#callback = callback
    // Not in this turn: undici does not expect the answer before its own call has returned.
    if (this.#socket !== undefined || this.#error !== undefined) queueMicrotask(() => this.#hand(callback))
    return true
  }

  #hand(callback: ConnectCallback): void {
    if (this.#socket !== undefined && this.#error === undefined) callback(null, this.#socket)
    else callback(this.#error ?? new Error('closed'), null)
  }

  destroy(): void {
    this.#isTaken = true
    this.#socket?.destroy()
  }
}

export interface TransportOptions {
  readonly maxConnectionsPerOrigin: number
}

export class Transport {
  readonly #options: TransportOptions
  readonly #origins = new Map<string, Connection[]>()
  readonly #paths = new Map<string, PathEstimate>()

  constructor(options: TransportOptions) {
    this.#options = options
  }

  /**
   * A free connection, busy from now on. The schedule keeps to the limit; a request beyond it (a redirect, a revalidation)
   * gets a connection of its own rather than a place in a queue.
   */
  acquire(origin: string): Connection {
    const connections = this.#connectionsOf(origin)
    const free = connections.filter((connection) => !connection.isBusy)
    const best = free.sort((a, b) => b.readiness - a.readiness || b.lastUsedMs - a.lastUsedMs)[0]
    const connection = best ?? new Connection(origin)
    if (best === undefined) connections.push(connection)
    connection.isBusy = true
    return connection
  }

  release(origin: string, connection: Connection): void {
    connection.isBusy = false
    const connections = this.#connectionsOf(origin)
    if (connections.length <= this.#options.maxConnectionsPerOrigin) return
    connections.splice(connections.indexOf(connection), 1)
    void connection.client.close()
  }

  /** Makes the origin's connections, up to the limit, before there are requests for them. */
  warm(origin: string): void {
    const connections = this.#connectionsOf(origin)
    while (connections.length < this.#options.maxConnectionsPerOrigin) connections.push(new Connection(origin))
    for (const connection of connections) if (!connection.isBusy) connection.warm()
  }

  /** What was learned of the way to this origin, by all who fetch from it. */
  path(origin: string): PathEstimate {
    let path = this.#paths.get(origin)
    if (path === undefined) this.#paths.set(origin, (path = new PathEstimate()))
    return path
  }

  #connectionsOf(origin: string): Connection[] {
    let connections = this.#origins.get(origin)
    if (connections === undefined) this.#origins.set(origin, (connections = []))
    return connections
  }

  async close(): Promise<void> {
    const all = [...this.#origins.values()].flat()
    this.#origins.clear()
    await Promise.all(all.map((connection) => connection.destroy()))
  }
}
