/**
 * One HTTP request to an origin: its head once, its body as it arrives, cancellable at the socket.
 *
 * The only place that knows undici. It translates failures into ERR_SEEKCACHE_ORIGIN_UNREACHABLE with a reason that a
 * person understands, and says nothing of what an answer means: that is admission's.
 */

import type { Dispatcher } from 'undici'

import { SeekCacheError } from '../errors.ts'
import type { ResponseHead } from './admission.ts'
import type { Connection, Transport } from './transport.ts'

export interface RequestObserver {
  /** Throwing refuses the body: the request ends with that error. */
  onHead(head: ResponseHead): void
  /** Throwing ends the request with that error. */
  onBytes(bytes: Buffer): void
  /** Once, last: the whole body has arrived, or why not. */
  onEnd(error: SeekCacheError | undefined): void
}

export class OriginRequest {
  readonly #transport: Transport
  readonly #url: URL
  readonly #observer: RequestObserver
  readonly #connection: Connection
  #controller: Dispatcher.DispatchController | undefined
  #isEnded = false
  #isPaused = false

  constructor(transport: Transport, url: URL, headers: Record<string, string>, observer: RequestObserver) {
    this.#transport = transport
    this.#url = url
    this.#observer = observer
    this.#connection = transport.acquire(url.origin)
    this.#connection.client.dispatch({ method: 'GET', path: url.pathname + url.search, headers }, this.#handler())
  }

  /** Ends it without a call of `onEnd`; the connection is lost with what is left of the body. */
  cancel(): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#abort()
    this.#transport.release(this.#url.origin, this.#connection)
    this.#transport.warm(this.#url.origin) // who seeks needs another one in a moment
  }

  /** Back-pressure: no `onBytes` until `resume`. */
  pause(): void {
    this.#isPaused = true
    this.#controller?.pause()
  }

  resume(): void {
    this.#isPaused = false
    this.#controller?.resume()
  }

  #handler(): Dispatcher.DispatchHandler {
    return {
      onRequestStart: (controller) => {
        this.#controller = controller
        if (this.#isEnded) controller.abort(new Error('cancelled'))
      },
      onResponseStart: (_, status, headers) => {
        if (status >= 200) this.#guard(() => this.#observer.onHead({ status, headers }))
        if (this.#isPaused) this.#controller?.pause()
      },
      onResponseData: (_, bytes) => {
        this.#connection.lastUsedMs = performance.now()
        this.#guard(() => this.#observer.onBytes(bytes))
      },
      onResponseEnd: () => this.#end(undefined),
      onResponseError: (_, error) => this.#end(translate(error, this.#url)),
    }
  }

  /** The connection goes with it, once the request is on it. */
  #abort(): void {
    if (this.#controller === undefined) return
    this.#connection.lose()
    this.#controller.abort(new Error('cancelled'))
  }

  #guard(action: () => void): void {
    if (this.#isEnded) return
    try {
      action()
    } catch (error) {
      this.#isEnded = true
      this.#abort()
      this.#release(error instanceof SeekCacheError ? error : translate(error as Error, this.#url))
    }
  }

  #end(error: SeekCacheError | undefined): void {
    if (this.#isEnded) return
    this.#isEnded = true
    if (error !== undefined) this.#connection.lose()
    this.#release(error)
  }

  #release(error: SeekCacheError | undefined): void {
    this.#transport.release(this.#url.origin, this.#connection)
    this.#observer.onEnd(error)
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOTFOUND: 'there is no such host',
  EAI_AGAIN: 'its name cannot be looked up now',
  ECONNREFUSED: 'it refuses connections',
  ECONNRESET: 'it broke the connection',
  EHOSTUNREACH: 'there is no way to it',
  ENETUNREACH: 'there is no network',
  ETIMEDOUT: 'it does not answer',
  EPIPE: 'it broke the connection',
  UND_ERR_CONNECT_TIMEOUT: 'it does not answer',
  UND_ERR_SOCKET: 'it broke the connection',
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'its body is not as long as it says',
  HPE_INVALID_CONSTANT: 'it does not speak HTTP',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is self-signed',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate cannot be verified',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another host',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it does not speak TLS',
}

function translate(error: Error, url: URL): SeekCacheError {
  const code = (error as NodeJS.ErrnoException).code ?? ''
  const reason = REASONS[code] ?? (code.startsWith('HPE_') ? 'it does not speak proper HTTP' : code || error.message)
  return new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', `cannot fetch from ${url.host}: ${reason}`, { cause: error })
}
