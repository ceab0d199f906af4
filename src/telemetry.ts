/**
 * What the host tells of itself: a logger, and the metrics of /metrics (Prometheus text).
 *
 * One value, made by the host and handed down; no module keeps counters of its own. Nothing that may hold a credential is
 * given to either: URLs pass through `displayUrl` first.
 */

import { pino, type Logger } from 'pino'
import type * as prom from 'prom-client'

import { partsOf } from './package-parts.ts'

export type { Logger } from 'pino'

export type LogLevel = 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent'

export interface LogTarget {
  readonly level: LogLevel
  /** A file instead of standard error. */
  readonly file?: string | undefined
}

/** Human lines on a terminal, JSON lines otherwise; never on standard output, which is for data. */
export async function createLogger(target: LogTarget): Promise<Logger> {
  const options = { level: target.level, base: null }
  if (target.file !== undefined) return pino(options, pino.destination({ dest: target.file, mode: 0o600, sync: false }))
  if (process.stderr.isTTY) {
    const { default: pretty } = await import('pino-pretty') // 25 ms, which a host in the background does not need
    return pino(options, pretty({ destination: 2, ignore: 'pid,hostname', sync: true }))
  }
  return pino(options, pino.destination({ dest: 2, sync: true }))
}

const { Counter, Gauge, Histogram, Registry } = partsOf<typeof prom, 'Counter' | 'Gauge' | 'Histogram' | 'Registry'>('prom-client', {
  Counter: 'lib/counter.js',
  Gauge: 'lib/gauge.js',
  Histogram: 'lib/histogram.js',
  Registry: 'lib/registry.js',
})

/** From a cached byte (ms) to an origin that takes half a minute. */
const SECONDS_BUCKETS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

export class Telemetry {
  readonly log: Logger
  /** Counts that are told outside of /metrics too. */
  readonly counted = { originBytes: 0 }
  readonly registry = new Registry()
  readonly #of = { registers: [this.registry] }

  readonly originBytes = new Counter({ name: 'seekcache_origin_bytes_total', help: 'Body bytes received from origins', ...this.#of })
  readonly servedBytes = new Counter({
    name: 'seekcache_served_bytes_total', help: 'Bytes sent to HTTP clients', ...this.#of,
  })
  readonly fetches = new Counter({
    name: 'seekcache_fetches_total', help: 'Origin requests by how they ended', labelNames: ['outcome'], ...this.#of,
  })
  readonly firstByteSeconds = new Histogram({
    name: 'seekcache_fetch_first_byte_seconds', help: 'From an origin request to its first body byte',
    buckets: SECONDS_BUCKETS, ...this.#of,
  })
  readonly waits = new Counter({
    name: 'seekcache_waits_total', help: 'Reads that had to wait for the origin, by how that ended', labelNames: ['outcome'], ...this.#of,
  })
  readonly waitSeconds = new Histogram({
    name: 'seekcache_wait_seconds', help: 'How long reads waited for the origin', buckets: SECONDS_BUCKETS, ...this.#of,
  })
  readonly openSeconds = new Histogram({
    name: 'seekcache_open_seconds', help: 'From opening a resource to its known size', buckets: SECONDS_BUCKETS, ...this.#of,
  })
  readonly responses = new Counter({
    name: 'seekcache_responses_total', help: 'HTTP responses by status', labelNames: ['status'], ...this.#of,
  })
  readonly damagedChunks = new Counter({
    name: 'seekcache_damaged_chunks_total', help: 'Chunks or files of the cache found damaged', ...this.#of,
  })
  /** Asked when the metrics are. Set by the host. */
  usedBytesNow: () => number = () => 0
  readonly usedBytes = this.#usedBytesGauge()
  readonly readers = new Gauge({ name: 'seekcache_readers', help: 'Live readers', ...this.#of })

  constructor(log: Logger) {
    this.log = log
  }

  #usedBytesGauge(): prom.Gauge {
    const telemetry = this
    return new Gauge({
      name: 'seekcache_used_bytes', help: 'Disk bytes of extent files', ...this.#of,
      collect() {
        this.set(telemetry.usedBytesNow())
      },
    })
  }

  countOriginBytes(lengthBytes: number): void {
    this.originBytes.inc(lengthBytes)
    this.counted.originBytes += lengthBytes
  }
}
