/** The origins that are talked to, each with its connections and what was learned about it. */

import { buildConnector } from 'undici'

import type { Connector } from './connection.ts'
import { OriginPool } from './pool.ts'

/** TCP and TLS handshakes together; beyond it the origin counts as unreachable for this try. */
const CONNECT_TIMEOUT_MS = 10_000

export interface TransportOptions {
  /** Requests at the same time, of all resources of an origin together. */
  readonly maxConnectionsPerOrigin: number
}

export class Transport {
  readonly #options: TransportOptions
  readonly #pools = new Map<string, OriginPool>()
  readonly #connect: Connector = buildConnector({ timeout: CONNECT_TIMEOUT_MS })

  constructor(options: TransportOptions) {
    this.#options = options
  }

  pool(origin: string): OriginPool {
    let pool = this.#pools.get(origin)
    if (pool === undefined) {
      pool = new OriginPool(origin, this.#connect, this.#options.maxConnectionsPerOrigin)
      this.#pools.set(origin, pool)
    }
    return pool
  }

  async close(): Promise<void> {
    const pools = [...this.#pools.values()]
    this.#pools.clear()
    await Promise.all(pools.map((pool) => pool.close()))
  }
}
