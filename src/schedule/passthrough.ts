/**
 * A resource whose size the origin does not tell: passed through in order, once, and not cached.
 *
 * Bytes that nobody has taken yet are bounded; beyond that the origin's connection is paused.
 */

import { cancelled, type SeekCacheError } from '../errors.ts'
import type { Telemetry } from '../telemetry.ts'
import { orAborted, timeLimit } from './deadline.ts'
import type { InFlight, InFlightEvents } from './in-flight.ts'
import type { WaitOptions } from './waits.ts'

const MAX_BUFFERED_BYTES = 1024 * 1024

export class Passthrough {
  readonly #telemetry: Telemetry
  #fetch: InFlight | undefined
  #buffered: Buffer[] = []
  #bufferedBytes = 0
  #position = 0
  #end: { readonly error: SeekCacheError | undefined } | undefined
  #wake: (() => void) | undefined

  constructor(telemetry: Telemetry) {
    this.#telemetry = telemetry
  }

  attach(fetch: InFlight): void {
    this.#fetch = fetch
    fetch.adopt(this.#events())
  }

  #events(): InFlightEvents {
    return {
      onBytes: (_, __, bytes) => {
        this.#telemetry.countOriginBytes(bytes.length)
        this.#buffered.push(bytes)
        this.#bufferedBytes += bytes.length
        if (this.#bufferedBytes > MAX_BUFFERED_BYTES) this.#fetch?.pause()
        this.#wake?.()
      },
      onEnd: (_, error) => {
        this.#end = { error }
        this.#wake?.()
      },
      onStall: () => {}, // a live stream may pause; whoever waits has a deadline
    }
  }

  /** The position of the next byte; what was taken before is gone. */
  get position(): number {
    return this.#position
  }

  /**
   * The next bytes, at most `maxBytes`; undefined at the end.
   * @throws ERR_SEEKCACHE_TIMEOUT, what the origin did instead, or the signal's reason
   */
  async next(maxBytes: number, { deadlineMs, signal }: WaitOptions): Promise<Buffer | undefined> {
    signal?.throwIfAborted()
    for (;;) {
      const first = this.#buffered[0]
      if (first !== undefined) return this.#take(first, maxBytes)
      if (this.#end?.error !== undefined) throw this.#end.error
      if (this.#end !== undefined) return undefined
      await this.#arrival(deadlineMs, signal)
    }
  }

  #take(first: Buffer, maxBytes: number): Buffer {
    const taken = first.subarray(0, maxBytes)
    if (taken.length < first.length) this.#buffered[0] = first.subarray(taken.length)
    else this.#buffered.shift()
    this.#bufferedBytes -= taken.length
    this.#position += taken.length
    if (this.#bufferedBytes <= MAX_BUFFERED_BYTES / 2) this.#fetch?.resume()
    return taken
  }

  async #arrival(deadlineMs: number, signal: AbortSignal | undefined): Promise<void> {
    const limit = timeLimit(deadlineMs, signal)
    try {
      await orAborted(new Promise<void>((resolve) => (this.#wake = resolve)), limit.signal)
    } finally {
      this.#wake = undefined
      limit.clear()
    }
  }

  close(): void {
    this.#fetch?.cancel()
    this.#end ??= { error: cancelled('the read') }
    this.#wake?.()
  }
}
