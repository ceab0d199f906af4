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

/** What could be asked of an origin now. */
export interface Connections {
  /** Connected and free: a request on one of them is on its way at once. */
  readonly readyCount: number
  /** Free, with a handshake under way. */
  readonly connectingCount: number
  /** Requests that may be in flight at the same time, those that are included. */
  readonly limit: number
}

export class Connection {
  readonly client: Client
  isBusy = false
  /** When it last carried a byte, ms of the monotonic clock; 0 if never. */
  lastUsedMs = 0
  readonly #url: URL
  readonly #onReady: () => void
  readonly #connect: Connector = buildConnector({ timeout: CONNECT_TIMEOUT_MS })
  #isConnected = false
  #warm: WarmSocket | undefined

  constructor(origin: string, onReady: () => void) {
    this.#url = new URL(origin)
    this.#onReady = onReady
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

  get readiness(): 'connected' | 'connecting' | 'none' {
    if (this.#isConnected || this.#warm?.isConnected === true) return 'connected'
    return this.#warm?.isUsable === true ? 'connecting' : 'none'
  }

  /** Its socket ends with the request it carried; undici tells that only when the socket has closed. */
  lose(): void {
    this.#isConnected = false
  }

  /** Connects before there is a request. */
  warm(): void {
    if (this.readiness !== 'none') return
    const { hostname, host, protocol, port } = this.#url
    this.#warm = new WarmSocket(this.#connect, { hostname, host, protocol, port, servername: hostname }, this.#onReady)
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

  constructor(connect: Connector, options: buildConnector.Options, onReady: () => void) {
    connect(options, (error, socket) => {
      if (error !== null) this.#error = error
      else this.#onConnect(socket)
      if (this.#callback !== undefined) this.#hand(this.#callback)
      else if (this.isConnected) onReady()
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

  get isConnected(): boolean {
    return this.isUsable && this.#socket !== undefined
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

interface Origin {
  readonly connections: Connection[]
  /** What was learned of the way to it. */
  readonly path: PathEstimate
  /** Who wants to know that a connection became ready. */
  readonly watchers: Set<() => void>
}

const READINESS_ORDER = { connected: 2, connecting: 1, none: 0 } as const

export class Transport {
  readonly #options: TransportOptions
  readonly #origins = new Map<string, Origin>()

  constructor(options: TransportOptions) {
    this.#options = options
  }

  /**
   * A free connection, busy from now on. The schedule keeps to the limit; a request beyond it (a redirect, a revalidation)
   * gets a connection of its own rather than a place in a queue.
   */
  acquire(origin: string): Connection {
    const { connections } = this.#origin(origin)
    const free = connections.filter((connection) => !connection.isBusy)
    const rank = ({ readiness }: Connection): number => READINESS_ORDER[readiness]
    const best = free.sort((a, b) => rank(b) - rank(a) || b.lastUsedMs - a.lastUsedMs)[0]
    const connection = best ?? this.#add(origin)
    connection.isBusy = true
    return connection
  }

  release(origin: string, connection: Connection): void {
    connection.isBusy = false
    const { connections } = this.#origin(origin)
    if (connections.length > this.#options.maxConnectionsPerOrigin) {
      connections.splice(connections.indexOf(connection), 1)
      void connection.client.close()
    }
    this.#tell(origin)
  }

  /** Makes the origin's connections, up to the limit, before there are requests for them. */
  warm(origin: string): void {
    const { connections } = this.#origin(origin)
    while (connections.length < this.#options.maxConnectionsPerOrigin) this.#add(origin)
    for (const connection of connections) if (!connection.isBusy) connection.warm()
  }

  #add(origin: string): Connection {
    const connection = new Connection(origin, () => this.#tell(origin))
    this.#origin(origin).connections.push(connection)
    return connection
  }

  /** What was learned of the way to this origin, by all who fetch from it. */
  path(origin: string): PathEstimate {
    return this.#origin(origin).path
  }

  connections(origin: string): Connections {
    const free = this.#origin(origin).connections.filter((connection) => !connection.isBusy)
    const count = (wanted: Connection['readiness']): number => free.filter(({ readiness }) => readiness === wanted).length
    return { readyCount: count('connected'), connectingCount: count('connecting'), limit: this.#options.maxConnectionsPerOrigin }
  }

  /** `onReady` is called when a handshake is done and when a request has ended. @returns what ends that */
  watch(origin: string, onReady: () => void): () => void {
    const { watchers } = this.#origin(origin)
    watchers.add(onReady)
    return () => void watchers.delete(onReady)
  }

  #tell(origin: string): void {
    for (const watcher of [...this.#origin(origin).watchers]) watcher()
  }

  #origin(name: string): Origin {
    let origin = this.#origins.get(name)
    if (origin === undefined) this.#origins.set(name, (origin = { connections: [], path: new PathEstimate(), watchers: new Set() }))
    return origin
  }

  async close(): Promise<void> {
    const all = [...this.#origins.values()].flatMap(({ connections }) => connections)
    this.#origins.clear()
    await Promise.all(all.map((connection) => connection.destroy()))
  }
}
