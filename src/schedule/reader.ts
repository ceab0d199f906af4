/**
 * One live consumer: a position, the window ahead of it, and the reads over present and arriving bytes.
 *
 * A reader is demand as long as it is open; its owner closes it when its player goes away.
 */

import type { Range } from '../bytes/ranges.ts'
import type { Location } from '../cache/generation.ts'
import { pause } from './clock.ts'
import { demandAt, leadStartOf, moveDemand, nextFilling, NOT_FILLING, stepBack, type Demand, type Filling, type WindowLimits } from './demand.ts'
import { SEEK_BYTES, type PlanReader } from './plan.ts'
import type { Scheduler } from './scheduler.ts'
import type { WaitOptions } from './waits.ts'

/** What is known of a consumer's run: who takes it over goes on with its window. */
export interface Run {
  readonly demand: Demand
  readonly filling: Filling
}

/**
 * A network read brings one packet or two, and each costs a reader, its player and the plan as much as many: 100 MB at
 * 80 Mbit/s took 6.5 s of a slow processor's time so, 9.7 one by one (medians).
 */
export const GATHER_MS = 2

export interface ReaderOptions {
  /** The run of a reader of the same consumer; taken over where the new position belongs to it. */
  readonly continues?: Run | undefined
  /** Nothing is wanted from there on. */
  readonly end?: number | undefined
}

export class Reader {
  readonly id: number
  readonly kind: 'play' | 'fill'
  /** When it last sought, ms of the monotonic clock: the newest demand goes first. */
  movedAtMs: number
  readonly #scheduler: Scheduler
  readonly #end: number
  #demand: Demand
  #filling: Filling = NOT_FILLING

  constructor(scheduler: Scheduler, id: number, kind: 'play' | 'fill', position: number, options: ReaderOptions) {
    this.#scheduler = scheduler
    this.id = id
    this.movedAtMs = scheduler.clock.nowMs()
    this.kind = kind
    this.#end = options.end ?? Number.POSITIVE_INFINITY
    const before = options.continues
    this.#demand = before === undefined ? demandAt(position, this.#limits) : this.#moved(before.demand, position)
    if (before !== undefined && this.#demand.runStart === before.demand.runStart) this.#filling = before.filling
    else if (kind === 'play') scheduler.noteSeek(this.movedAtMs)
  }

  get #limits(): WindowLimits {
    const limits = this.#scheduler.windowLimits
    return { ...limits, sizeBytes: Math.min(limits.sizeBytes, this.#end) }
  }

  #moved(demand: Demand, position: number): Demand {
    this.#scheduler.learnLead(stepBack(demand, position))
    return moveDemand(demand, position, this.#limits, this.#scheduler.generation.arrived)
  }

  get run(): Run {
    return { demand: this.#demand, filling: this.#filling }
  }

  /** The facts for the plan. */
  facts({ isWaiting, isOverdue, isPassing }: Pick<PlanReader, 'isWaiting' | 'isOverdue' | 'isPassing'>): PlanReader {
    const { id, kind } = this
    const { position, consumedBytes } = this.#demand
    const { arrived } = this.#scheduler.generation
    const { start: windowStart, end: windowEnd } = this.window
    if (kind === 'fill') return { id, kind, position, consumedBytes, windowStart, windowEnd, isWaiting, isOverdue, isPassing, isFilling: true }
    this.#filling = nextFilling(this.#demand, arrived.endOfRun(position), this.#filling, isWaiting)
    return { id, kind, position, windowStart, windowEnd, consumedBytes, isWaiting, isOverdue, isPassing, isFilling: this.#filling.isFilling }
  }

  get window(): Range {
    const { position, windowEnd } = this.#demand
    const leadStart = this.kind === 'play' ? leadStartOf(this.#demand, this.#scheduler.leadBytes) : position
    return { start: leadStart, end: this.kind === 'fill' ? this.#scheduler.generation.sizeBytes : windowEnd }
  }

  /** The next byte wanted. Any jump out of the run so far is a seek. */
  moveTo(position: number): void {
    if (position === this.#demand.position) return
    const { runStart } = this.#demand
    this.#demand = this.#moved(this.#demand, position)
    if (this.#demand.runStart !== runStart) {
      this.movedAtMs = this.#scheduler.clock.nowMs()
      this.#filling = NOT_FILLING
      if (this.kind === 'play') this.#scheduler.noteSeek(this.movedAtMs)
    }
    this.#scheduler.requestPlan()
  }

  /** The limits may have changed since the last move. */
  refreshWindow(): void {
    this.#demand = this.#moved(this.#demand, this.#demand.position)
  }

  /**
   * Bytes from `position` on, at least one and at most `maxBytes`, as soon as there are any; into `target` where they
   * come from a file and one is given.
   * @throws ERR_SEEKCACHE_TIMEOUT, _CANCELLED, or what the origin did instead
   */
  async read(position: number, maxBytes: number, options: WaitOptions, target?: () => Buffer): Promise<Buffer> {
    this.moveTo(position)
    for (;;) {
      const bytes = await this.#scheduler.generation.read(position, maxBytes, target)
      if (bytes !== undefined) return bytes
      await this.#arrival(position, options)
    }
  }

  /** Where another process can read the byte at `position`, as soon as it can. Throws as `read` does. */
  async locate(position: number, options: WaitOptions): Promise<Location> {
    this.moveTo(position)
    for (;;) {
      const location = await this.#scheduler.generation.locate(position)
      if (location !== undefined) return location
      await this.#arrival(position, options)
    }
  }

  /** A seek's bytes are taken as they come, later ones as they gather. */
  async #arrival(position: number, options: WaitOptions): Promise<void> {
    await this.#scheduler.arrival(this, position, options)
    if (this.#demand.consumedBytes < SEEK_BYTES) return
    await pause(this.#scheduler.clock, GATHER_MS, options.signal)
    options.signal?.throwIfAborted()
  }

  close(): void {
    this.#scheduler.closeReader(this)
  }
}
