/** A request on its way and what carries it, the same for HTTP/1.1 and HTTP/2. */

import type { ResponseHead } from './admission.ts'

export interface OutgoingRequest {
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
}

export interface ExchangeObserver {
  onHead(head: ResponseHead): void
  onBytes(bytes: Buffer): void
  /** Once, last. Not called after `cancel`. */
  onEnd(error: Error | undefined): void
}

export interface Exchange {
  /** HTTP/1.1: the connection is lost with it, once the request is on it. HTTP/2: its stream is reset. */
  cancel(): void
  /** Back-pressure: no `onBytes` until `resume`. */
  pause(): void
  resume(): void
}

export interface CarrierEvents {
  /** A handshake is done, or the origin takes more than before. */
  onReady(): void
  /** A connection broke, or could not be made, before it carried anything. */
  onRefused(error: Error): void
  /** A connection has ended, or was not made. */
  onClosed(): void
}

export interface Ready {
  /** One for each request that would be on its way at once, in the order in which they would be taken: what may arrive of it in one round trip. */
  readonly windowsBytes: readonly number[]
  /** Requests that would be on their way when a handshake is done. */
  readonly connectingCount: number
}

/** What carries requests to an origin. How many at a time is not its business. */
export interface Carrier {
  send(request: OutgoingRequest, observer: ExchangeObserver): Exchange
  /** Makes what carries so many requests at a time, before there are any. */
  warm(limit: number): void
  /** No more than that is kept without a request. */
  trim(limit: number): void
  /** What would carry so many more requests. */
  ready(limit: number): Ready
  /** Requests at a time that the protocol allows. */
  readonly maxRequests: number
  /** Whether one connection carries them all: more requests do not bring more of TCP's windows, and a cancelled one costs none. */
  readonly isMultiplexed: boolean
  readonly openCount: number
  /** When a TLS handshake chose HTTP/1.1 where HTTP/2 was offered; 0 if none did. */
  readonly chose1AtMs: number
  destroy(): Promise<void>
}

/** An exchange that begins when what carries it is there. */
export class DeferredExchange implements Exchange {
  #inner: Exchange | undefined
  #isPaused = false
  #isCancelled = false

  get isCancelled(): boolean {
    return this.#isCancelled
  }

  begin(start: () => Exchange): void {
    if (this.#isCancelled) return
    this.#inner = start()
    if (this.#isPaused) this.#inner.pause()
  }

  cancel(): void {
    this.#isCancelled = true
    this.#inner?.cancel()
  }

  pause(): void {
    this.#isPaused = true
    this.#inner?.pause()
  }

  resume(): void {
    this.#isPaused = false
    this.#inner?.resume()
  }
}
