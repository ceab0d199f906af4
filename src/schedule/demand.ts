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

function windowEnd(position: number, consumedBytes: number, limits: WindowLimits): number {
  const lengthBytes = Math.max(limits.initialBytes, Math.min(2 * consumedBytes, limits.maxBytes))
  return Math.min(position + lengthBytes, limits.sizeBytes)
}
