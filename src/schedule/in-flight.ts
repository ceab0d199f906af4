/**
 * One running fetch: what of its range is still to come, and the watchdog over its silence.
 *
 * A fetch belongs to nobody: its bytes go into the generation, where every reader finds them; whoever wants bytes that it
 * will bring has joined it by not asking again.
 */

import type { Expectation } from '../origin/admission.ts'
import type { Admitted, ResponseHead } from '../origin/admission.ts'
import type { Fetch, Source } from '../origin/source.ts'
import type { SeekCacheError } from '../errors.ts'
import type { Clock, Timer } from './clock.ts'

export interface InFlightEvents {
  onHead?(admitted: Admitted, head: ResponseHead): void
  onBytes(fetch: InFlight, position: number, bytes: Buffer, isFirst: boolean): void
  onEnd(fetch: InFlight, error: SeekCacheError | undefined): void
  /** No byte for as long as the limits say. The fetch still runs; cancelling it is the observer's choice. */
  onStall(fetch: InFlight): void
}

/** What is drained for its connection's sake must be worth it: a few round trips. */
const DRAIN_MS = 1_000

/**
 * So many times the latency of its own first byte another fetch goes on before one of which nothing comes is behind. A sender
 * whose last packets were lost waits for 200 ms and a round trip, or more, and then begins with one packet.
 */
const BEHIND_LATENCIES = 3
const MIN_BEHIND_MS = 100
/** What has gathered in all sockets during a pause of this process is read in less. */
const MOMENT_MS = 50

export interface StallLimits {
  /** From the request to its head: an origin may have to wake a disk or a transcoder. */
  readonly firstByteMs: number
  /** Between two network reads of the body. */
  readonly betweenBytesMs: number
}

export interface InFlightParts {
  readonly source: Pick<Source, 'fetch'>
  readonly clock: Clock
  readonly followsRedirects?: boolean
}

export class InFlight {
  readonly id: number
  readonly startedMs: number
  /** Of all that it was to bring when it was begun. */
  readonly lengthBytes: number
  /** What is still to come. */
  start: number
  end: number
  hasBytes = false
  /** When bytes came last. */
  #heardMs: number
  /** Moments at which bytes came, some time apart: the last one, and the one before. */
  #momentMs: number
  #momentBeforeMs: number
  #latencyMs = 0
  isPaused = false
  isDraining = false
  readonly #fetch: Fetch
  readonly #clock: Clock
  readonly #stallLimits: StallLimits
  #events: InFlightEvents
  #watchdog: Timer

  constructor(id: number, parts: InFlightParts, expected: Expectation, stallLimits: StallLimits, events: InFlightEvents) {
    this.id = id
    this.#clock = parts.clock
    this.startedMs = this.#heardMs = this.#momentMs = this.#momentBeforeMs = parts.clock.nowMs()
    this.start = expected.start
    this.end = expected.end ?? Number.MAX_SAFE_INTEGER
    this.lengthBytes = this.end - this.start
    this.#stallLimits = stallLimits
    this.#events = events
    this.#watchdog = this.#watch(stallLimits.firstByteMs)
    this.#fetch = parts.source.fetch(expected, {
      onHead: (admitted, head) => {
        this.start = admitted.start
        this.end = admitted.end ?? Number.MAX_SAFE_INTEGER
        this.#events.onHead?.(admitted, head)
      },
      onBytes: (position, bytes) => {
        const isFirst = !this.hasBytes
        this.#touch()
        this.start = position + bytes.length
        this.#events.onBytes(this, position, bytes, isFirst)
      },
      onEnd: (error) => {
        this.#watchdog.clear()
        this.#events.onEnd(this, error)
      },
    }, { followsRedirects: parts.followsRedirects ?? true })
  }

  /** Hands a running fetch over: from now on others hear of it. */
  adopt(events: InFlightEvents): void {
    this.#events = events
  }

  cancel(): void {
    this.#watchdog.clear()
    this.#fetch.cancel()
  }

  /** Nobody waits for it any more: it may end by itself, but soon. */
  drain(): void {
    if (this.isDraining) return
    this.isDraining = true
    this.#watchdog.clear()
    this.#watchdog = this.#watch(DRAIN_MS)
  }

  /** Its silence is then ours; only a drain ends all the same. */
  pause(): void {
    if (this.isPaused) return
    this.isPaused = true
    if (!this.isDraining) this.#watchdog.clear()
    this.#fetch.pause()
  }

  resume(): void {
    if (!this.isPaused) return
    this.isPaused = false
    this.#heardMs = this.#clock.nowMs() // until now it was not listened to
    if (!this.isDraining) this.#watchdog = this.#watch(this.#stallLimits.betweenBytesMs)
    this.#fetch.resume()
  }

  /**
   * Whether nothing comes of this one while `other` goes on, and did so a while ago: after a pause of this process all bytes
   * come in one moment, those of one connection first.
   */
  isBehind(other: InFlight): boolean {
    if (!this.hasBytes || this.isPaused || this.isDraining) return false
    const behindMs = Math.max(MIN_BEHIND_MS, BEHIND_LATENCIES * this.#latencyMs)
    return other.#heardMs - this.#heardMs > behindMs && other.#momentBeforeMs - this.#heardMs > behindMs / 2
  }

  #touch(): void {
    const isFirst = !this.hasBytes
    const nowMs = this.#clock.nowMs()
    if (isFirst) this.#latencyMs = nowMs - this.startedMs
    this.#heardMs = nowMs
    if (nowMs - this.#momentMs >= MOMENT_MS) {
      this.#momentBeforeMs = this.#momentMs
      this.#momentMs = nowMs
    }
    this.hasBytes = true
    if (this.isPaused || this.isDraining) return
    if (!isFirst) return this.#watchdog.refresh()
    this.#watchdog.clear()
    this.#watchdog = this.#watch(this.#stallLimits.betweenBytesMs)
  }

  #watch(delayMs: number): Timer {
    return this.#clock.startTimer(delayMs, () => this.#events.onStall(this))
  }
}
