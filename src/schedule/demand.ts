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

/**
 * Whether the window is to be filled now. Filling begins when a hole is nearer than half the window, and goes on until there is
 * none: requests come in runs, and a reader that is satisfied from the cache does not fetch what it may never come to.
 *
 * @param firstHole the first byte at or after the position that has not arrived
 */
export function shouldFill(demand: Demand, firstHole: number, isFilling: boolean, isWaiting: boolean): boolean {
  if (isWaiting) return true
  if (firstHole >= demand.windowEnd) return false
  return isFilling || firstHole - demand.position < (demand.windowEnd - demand.position) / 2
}

function windowEnd(position: number, consumedBytes: number, limits: WindowLimits): number {
  const lengthBytes = Math.max(limits.initialBytes, Math.min(2 * consumedBytes, limits.maxBytes))
  return Math.min(position + lengthBytes, limits.sizeBytes)
}
