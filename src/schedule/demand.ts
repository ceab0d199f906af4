/**
 * What one reader wants: a position, and a window of bytes ahead of it that grows while the reader goes on. Pure.
 *
 * A reader's moves come in; a move inside the run so far continues it, any other one is a seek and starts over with the
 * first window: reset is replace. The first window stands where the run began, however much of it a socket's buffers have
 * taken; then the window is twice what was consumed (as the best prefetchers do), so a watched film is soon far ahead.
 */

import type { RangeSet } from '../bytes/ranges.ts'

export interface Demand {
  /** Where the run began; bytes a little before it still belong to it. */
  readonly runStart: number
  /** The next byte wanted. */
  readonly position: number
  /** How far the run has come, bytes. */
  readonly consumedBytes: number
  /** Exclusive end of the first window, which every run gets. */
  readonly firstWindowEnd: number
  /** Exclusive end of what is wanted. */
  readonly windowEnd: number
}

export interface WindowLimits {
  readonly initialBytes: number
  readonly maxBytes: number
  readonly sizeBytes: number
}

/** A demuxer steps back over a header now and then, or over a box that it does not read; that is no seek. */
const STEP_BYTES = 256 * 1024
/** Until a reader has come so far, it may still step back behind where it sought to. */
const LEAD_UNTIL_BYTES = 1024 * 1024

export function demandAt(position: number, limits: WindowLimits): Demand {
  return demandOf(position, position, 0, limits)
}

/** @param arrived what is there: a skip over bytes that are not is a seek like any other, however near */
export function moveDemand(demand: Demand, position: number, limits: WindowLimits, arrived: RangeSet): Demand {
  const isStep = Math.abs(position - demand.position) <= STEP_BYTES
  const isPassable = isStep || arrived.covers(Math.min(position, demand.position), Math.max(position, demand.position))
  if (!isPassable || position < demand.runStart - STEP_BYTES || position > demand.windowEnd) return demandAt(position, limits)
  return demandOf(demand.runStart, position, Math.max(demand.consumedBytes, position - demand.runStart), limits)
}

/** How far a reader has stepped back behind the start of its run, 0 for a move that is no such step. */
export function stepBack({ runStart, position, consumedBytes }: Demand, to: number): number {
  const isAfterSeek = consumedBytes < LEAD_UNTIL_BYTES && Math.abs(to - position) <= STEP_BYTES
  return isAfterSeek ? Math.min(Math.max(0, runStart - to), STEP_BYTES) : 0
}

/**
 * Where the window of a run begins: at its position, or while it is young before its start, by as much as readers of the same
 * file have stepped back. An MP4's demuxer reads the picture first and then the sound, which stands before it: without this
 * each of those steps is a round trip more.
 */
export function leadStartOf({ runStart, position, consumedBytes }: Demand, leadBytes: number): number {
  return consumedBytes < LEAD_UNTIL_BYTES ? Math.max(0, Math.min(position, runStart - leadBytes)) : position
}

function demandOf(runStart: number, position: number, consumedBytes: number, limits: WindowLimits): Demand {
  const firstWindowEnd = Math.min(runStart + limits.initialBytes, limits.sizeBytes)
  const grownEnd = Math.min(position + Math.min(2 * consumedBytes, limits.maxBytes), limits.sizeBytes)
  return { runStart, position, consumedBytes, firstWindowEnd, windowEnd: Math.max(firstWindowEnd, grownEnd) }
}

/** How a run's window stands: whether its reader ever waited in this run, and whether the window is being filled. */
export interface Filling {
  readonly hasWaited: boolean
  readonly isFilling: boolean
}

export const NOT_FILLING: Filling = { hasWaited: false, isFilling: false }

/** Who has taken so much is no probe. */
const STAYING_BYTES = 1024 * 1024
/** A reader that lives on the cache so far is fetched for when a hole is nearer than this, or than a part of its run. */
const NEAR_BYTES = 64 * 1024
const NEAR_SHARE_OF_RUN = 1 / 4
/** Two sockets' buffers and a player's own hold so much: taken in one burst, it says nothing of whether the player goes on. */
const BURST_BYTES = 16 * 1024 * 1024

/**
 * Filling begins when a hole comes near and goes on until there is none: requests come in runs. For a reader that had to wait,
 * near is half the window. For one that never did, it is much less, because what is played again from the cache must not
 * fetch again what the first time was given up half-way; but who stays gets its first window, unless only its end is missing.
 *
 * @param firstHole the first byte at or after the position that has not arrived
 */
export function nextFilling(demand: Demand, firstHole: number, before: Filling, isWaiting: boolean): Filling {
  const hasWaited = before.hasWaited || isWaiting
  if (isWaiting) return { hasWaited, isFilling: true }
  if (firstHole >= demand.windowEnd) return { hasWaited, isFilling: false }
  const halfWindow = (demand.windowEnd - demand.position) / 2
  const near = hasWaited ? halfWindow : Math.min(halfWindow, Math.max(NEAR_BYTES, (demand.consumedBytes - BURST_BYTES) * NEAR_SHARE_OF_RUN))
  const isNear = firstHole - demand.position < near
  const isEarly = firstHole < (demand.runStart + demand.firstWindowEnd) / 2 && demand.consumedBytes >= STAYING_BYTES
  return { hasWaited, isFilling: before.isFilling || isNear || isEarly }
}
