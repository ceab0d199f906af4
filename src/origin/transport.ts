/** The origins that are talked to, each with its connections and what was learned about it. */

import type { Connector } from './connection.ts'
import type { Carrier, CarrierEvents } from './exchange.ts'
import { Http1Carrier } from './http1-carrier.ts'
import type { OriginMemory } from './origin-memory.ts'
import { OriginPool } from './pool.ts'
import { SecureCarrier, type Connectors } from './secure-carrier.ts'
import { buildConnector } from './undici.ts'

/** TCP and TLS handshakes together; beyond it the origin counts as unreachable for this try. */
const CONNECT_TIMEOUT_MS = 10_000

export interface TransportOptions {
  /** Requests at the same time, of all resources of an origin together. */
  readonly maxConnectionsPerOrigin: number
  /** What earlier runs have learned, and where `remember` puts what this one has. */
  readonly memory?: OriginMemory
  /** Certificates to trust in place of the usual ones. */
  readonly ca?: string
}

export class Transport {
  readonly #options: TransportOptions
  readonly #pools = new Map<string, OriginPool>()
  readonly #connectors: Connectors

  constructor(options: TransportOptions) {
    this.#options = options
    const connect = { timeout: CONNECT_TIMEOUT_MS, ...(options.ca === undefined ? {} : { ca: options.ca }) }
    this.#connectors = {
      either: connector({ ...connect, allowH2: true }),
      http1: connector({ ...connect, allowH2: false }),
    }
  }

  pool(origin: string): OriginPool {
    let pool = this.#pools.get(origin)
    if (pool === undefined) {
      const url = new URL(origin)
      const known = this.#options.memory?.factsOf(origin)
      const carrierWith = (events: CarrierEvents): Carrier =>
        url.protocol === 'https:' ? new SecureCarrier(url, this.#connectors, events, known?.chose1AtMs) : new Http1Carrier(url, this.#connectors.http1, events)
      pool = new OriginPool(carrierWith, this.#options.maxConnectionsPerOrigin, known)
      this.#pools.set(origin, pool)
    }
    return pool
  }

  /** Puts what was learned in this run into the memory. */
  remember(nowMs: number): void {
    for (const [origin, pool] of this.#pools) this.#options.memory?.keep(origin, pool.facts, nowMs)
  }

  async close(): Promise<void> {
    const pools = [...this.#pools.values()]
    this.#pools.clear()
    await Promise.all(pools.map((pool) => pool.close()))
  }
}

/**
 * A client of undici that meets this one code fails its request, but keeps it in its queue: nothing that is sent by that client
 * afterwards ever ends. So it is told another code.
 */
const OTHER_HOST = 'ERR_TLS_CERT_ALTNAME_INVALID'

function connector(settings: Parameters<typeof buildConnector>[0]): Connector {
  const connect = buildConnector(settings)
  return (options, callback) =>
    connect(options, (error, socket) => {
      if (error === null) return callback(null, socket)
      const isOtherHost = (error as NodeJS.ErrnoException).code === OTHER_HOST
      callback(isOtherHost ? Object.assign(new Error(error.message, { cause: error }), { code: 'CERT_FOR_OTHER_HOST' }) : error, null)
    })
}
