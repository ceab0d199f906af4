/**
 * A place that is wanted for a while although nobody reads there: between two requests of a player, or before a seek that
 * was announced.
 */

import type { Reader, ReaderOptions } from './reader.ts'
import type { Scheduler } from './scheduler.ts'

export class Bookmark {
  readonly #scheduler: Scheduler
  #reader: Reader | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(scheduler: Scheduler) {
    this.#scheduler = scheduler
  }

  /** In place of the one before. */
  keep(position: number, durationMs: number, options: ReaderOptions = {}): void {
    this.drop()
    this.#reader = this.#scheduler.openReader('play', position, options)
    this.#timer = setTimeout(() => this.drop(), durationMs).unref()
  }

  drop(): void {
    clearTimeout(this.#timer)
    this.#reader?.close()
    this.#reader = undefined
  }
}
