/**
 * What one reader wants: a position, and a window of bytes ahead of it that grows while the reader goes on. Pure.
 *
 * A reader's moves come in; a move inside the run so far continues it, any other one is a seek and starts over with a
 * small window: reset is replace. The window doubles with what was consumed (as the best prefetchers do), so a probe or a
 * seek that is given up at once costs little, and a watched film is soon far ahead.
 */

export interface Demand {
  /** Where the run began; bytes a little before it still belong to it. */
  readonly runStart: number
  /** The next byte wanted. */
  readonly position: number
  /** How far the run has come, bytes. */
  readonly consumedBytes: number
  /** Exclusive end of what is wanted. */
  readonly windowEnd: number
}

export interface WindowLimits {
  readonly initialBytes: number
  readonly maxBytes: number
  readonly sizeBytes: number
}

/** A demuxer steps back over a header now and then; that is no seek. */
const STEP_BACK_BYTES = 256 * 1024

export function demandAt(position: number, limits: WindowLimits): Demand {
  return { runStart: position, position, consumedBytes: 0, windowEnd: windowEnd(position, 0, limits) }
}

export function moveDemand(demand: Demand, position: number, limits: WindowLimits): Demand {
  if (position < demand.runStart - STEP_BACK_BYTES || position > demand.windowEnd) return demandAt(position, limits)
  const consumedBytes = Math.max(demand.consumedBytes, position - demand.runStart)
  return { runStart: demand.runStart, position, consumedBytes, windowEnd: windowEnd(position, consumedBytes, limits) }
}

/** How a run's window stands: whether its reader ever waited in this run, and whether the window is being filled. */
export interface Filling {
  readonly hasWaited: boolean
  readonly isFilling: boolean
}

export const NOT_FILLING: Filling = { hasWaited: false, isFilling: false }

/** A reader that lives on the cache so far is fetched for when a hole is nearer than this, or than a part of its run. */
const NEAR_BYTES = 64 * 1024
const NEAR_SHARE_OF_RUN = 1 / 4

/**
 * Filling begins when a hole comes near and goes on until there is none: requests come in runs. For a reader that had to wait,
 * near is half the window. For one that never did, it is much less: what is played again from the cache must not fetch
 * again what the first time was given up half-way.
 *
 * @param firstHole the first byte at or after the position that has not arrived
 */
export function nextFilling(demand: Demand, firstHole: number, before: Filling, isWaiting: boolean): Filling {
  const hasWaited = before.hasWaited || isWaiting
  if (isWaiting) return { hasWaited, isFilling: true }
  if (firstHole >= demand.windowEnd) return { hasWaited, isFilling: false }
  const halfWindow = (demand.windowEnd - demand.position) / 2
  const near = hasWaited ? halfWindow : Math.min(halfWindow, Math.max(NEAR_BYTES, demand.consumedBytes * NEAR_SHARE_OF_RUN))
  return { hasWaited, isFilling: before.isFilling || firstHole - demand.position < near }
}

function windowEnd(position: number, consumedBytes: number, limits: WindowLimits): number {
  const lengthBytes = Math.max(limits.initialBytes, Math.min(2 * consumedBytes, limits.maxBytes))
  return Math.min(position + lengthBytes, limits.sizeBytes)
}
