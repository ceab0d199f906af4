/**
 * A network path on a virtual clock: TCP connections with slow start over one bottleneck that serves in order of arrival.
 *
 * Coarse, but with what decides how long a fetch takes: round trips, the first window of about 14 KB, windows that
 * shrink on idle connections, a rate that all share and one that each has for itself, and a queue in which what
 * was sent already stands in front of what is urgent now.
 */
import { SendWindow } from '../../../src/origin/send-window.ts'
import type { VirtualClock } from './virtual-clock.ts'

export interface LinkFacts {
  readonly rttMs: number
  readonly bytesPerMs: number
  /** What one connection may take of it. */
  readonly connectionBytesPerMs: number
  /** 1 for TCP, 2 with TLS. */
  readonly handshakeRoundTrips: number
  /** The bottleneck's queue: windows shrink when it is full. */
  readonly queueMs: number
}

const BURST_BYTES = 16 * 1024
const FIRST_WINDOW_BYTES = 14_480
const MAX_WINDOW_BYTES = 4 * 1024 * 1024
/** A connection without traffic for so long starts slowly again. */
const IDLE_MS = 300

export class Link {
  readonly facts: LinkFacts
  readonly clock: VirtualClock
  /** All that ever entered the bottleneck, wanted or not. */
  sentBytes = 0
  #freeAtMs = 0

  constructor(facts: LinkFacts, clock: VirtualClock) {
    this.facts = facts
    this.clock = clock
  }

  get queuedMs(): number {
    return Math.max(0, this.#freeAtMs - this.clock.nowMs())
  }

  /** @returns when it has passed the bottleneck */
  send(lengthBytes: number): number {
    this.sentBytes += lengthBytes
    this.#freeAtMs = Math.max(this.#freeAtMs, this.clock.nowMs()) + lengthBytes / this.facts.bytesPerMs
    return this.#freeAtMs
  }
}

/** What one answer's body is, as its bytes arrive. */
export interface Body {
  readonly lengthBytes: number
  /** @returns whether they were taken; what was not is acknowledged by `take` later */
  onArrival(lengthBytes: number): boolean
}

export class Connection {
  readonly readyAtMs: number
  /** Its handshake is done. */
  isReady = false
  isBusy = false
  #isClosed = false
  lastUsedMs: number
  /** As its receiver estimates it. */
  readonly window = new SendWindow()
  readonly #link: Link
  #windowBytes = FIRST_WINDOW_BYTES
  #unacknowledgedBytes = 0
  #unsentBytes = 0
  #freeAtMs = 0
  #body: Body | undefined

  constructor(link: Link) {
    this.#link = link
    const { rttMs, handshakeRoundTrips } = link.facts
    this.readyAtMs = link.clock.nowMs() + rttMs * handshakeRoundTrips
    this.lastUsedMs = link.clock.nowMs()
  }

  /** Begins to send, from the origin's end. */
  send(body: Body): void {
    this.window.onHead()
    if (this.#link.clock.nowMs() - this.lastUsedMs > IDLE_MS) this.#windowBytes = FIRST_WINDOW_BYTES
    this.#body = body
    this.#unsentBytes = body.lengthBytes
    this.#pump()
  }

  /** The origin sends no more of it. */
  stop(): void {
    this.#unsentBytes = 0
  }

  /** Nothing arrives any more; the origin sends on until it learns of it, half a round trip later. */
  close(): void {
    this.#isClosed = true
  }

  #pump(): void {
    const { clock, facts } = this.#link
    while (this.#unsentBytes > 0) {
      const openBytes = this.#windowBytes - this.#unacknowledgedBytes
      const lengthBytes = Math.min(BURST_BYTES, this.#unsentBytes, openBytes)
      if (lengthBytes <= 0 || (lengthBytes < this.#unsentBytes && lengthBytes < Math.min(BURST_BYTES, this.#windowBytes) / 2)) return
      this.#unsentBytes -= lengthBytes
      this.#unacknowledgedBytes += lengthBytes
      const passedMs = this.#link.send(lengthBytes)
      this.#freeAtMs = Math.max(this.#freeAtMs, clock.nowMs()) + lengthBytes / facts.connectionBytesPerMs
      const arrivalMs = Math.max(passedMs, this.#freeAtMs) + facts.rttMs / 2
      const body = this.#body
      clock.startTimer(arrivalMs - clock.nowMs(), () => this.#arrive(body!, lengthBytes))
    }
  }

  #arrive(body: Body, lengthBytes: number): void {
    if (this.#isClosed || this.#body !== body) return
    this.lastUsedMs = this.#link.clock.nowMs()
    this.window.onBytes(lengthBytes, this.lastUsedMs)
    if (body.onArrival(lengthBytes)) this.take(lengthBytes)
  }

  /** The receiver has taken them: their acknowledgement is on its way. */
  take(lengthBytes: number): void {
    const { clock, facts } = this.#link
    clock.startTimer(facts.rttMs / 2, () => this.#acknowledge(lengthBytes), true)
  }

  #acknowledge(lengthBytes: number): void {
    this.#unacknowledgedBytes -= lengthBytes
    const isFull = this.#link.queuedMs > this.#link.facts.queueMs
    const windowBytes = isFull ? this.#windowBytes - Math.floor(lengthBytes / 2) : this.#windowBytes + lengthBytes
    this.#windowBytes = Math.min(Math.max(windowBytes, FIRST_WINDOW_BYTES), MAX_WINDOW_BYTES)
    this.#pump()
  }
}
