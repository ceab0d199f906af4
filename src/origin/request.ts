/**
 * One HTTP request to an origin: its head once, its body as it arrives, cancellable at the socket.
 *
 * It translates failures into ERR_SEEKCACHE_ORIGIN_UNREACHABLE with a reason that a person understands, ends a request
 * whose answer its observer refuses, and says nothing of what an answer means: that is admission's.
 */

import assert from 'node:assert/strict'

import { SeekCacheError } from '../errors.ts'
import type { ResponseHead } from './admission.ts'
import type { Exchange } from './exchange.ts'
import type { Claimant, OriginPool } from './pool.ts'
import { unreachable } from './unreachable.ts'

export interface RequestObserver {
  /** Throwing refuses the body: the request ends with that error. */
  onHead(head: ResponseHead): void
  /** Throwing ends the request with that error. */
  onBytes(bytes: Buffer): void
  /** Once, last: the whole body has arrived, or why not. */
  onEnd(error: SeekCacheError | undefined): void
}

export class OriginRequest {
  readonly #url: URL
  readonly #observer: RequestObserver
  readonly #exchange: Exchange
  #hasHead = false
  #isEnded = false

  constructor(pool: OriginPool, claimant: Claimant, url: URL, headers: Readonly<Record<string, string>>, observer: RequestObserver) {
    this.#url = url
    this.#observer = observer
    this.#exchange = pool.send({ path: url.pathname + url.search, headers }, claimant, {
      onHead: (head) => this.#guard(() => {
        this.#hasHead = true
        observer.onHead(head)
      }),
      onBytes: (bytes) => this.#guard(() => {
        assert(this.#hasHead, 'what comes before a head was never admitted')
        observer.onBytes(bytes)
      }),
      onEnd: (error) => this.#end(error === undefined ? undefined : this.#translated(error)),
    })
  }

  /** Ends it without a call of `onEnd`. */
  cancel(): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#exchange.cancel()
  }

  pause(): void {
    this.#exchange.pause()
  }

  resume(): void {
    this.#exchange.resume()
  }

  #guard(action: () => void): void {
    if (this.#isEnded) return
    try {
      action()
    } catch (error) {
      this.cancel()
      this.#observer.onEnd(this.#translated(error as Error))
    }
  }

  #end(error: SeekCacheError | undefined): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#observer.onEnd(error)
  }

  #translated(error: Error): SeekCacheError {
    return error instanceof SeekCacheError ? error : unreachable(error, this.#url)
  }
}
