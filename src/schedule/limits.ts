/**
 * How much may be asked for: how far readers look ahead, by the room that the store has, and how much is under way at a
 * time, by what is known of the link. Pure.
 */

import type { PathEstimate } from '../origin/path-estimate.ts'
import type { Connections } from '../origin/pool.ts'
import type { WindowLimits } from './demand.ts'
import type { PlanLimits } from './plan.ts'

/** A share of the budget that all windows may take together: the rest is what was read and what is in flight. */
const WINDOW_SHARE_OF_BUDGET = 0.25
/** What a seek needs, however many readers there are. */
const MIN_WINDOW_BYTES = 1024 * 1024
/** While the disk fails, readahead must fit the memory that stands in for it. */
const DEGRADED_WINDOW_BYTES = 4 * 1024 * 1024
/** Draining so much is always cheaper than a new connection; more than the other never is. */
const MIN_DRAIN_BYTES = 64 * 1024
const MAX_DRAIN_BYTES = 512 * 1024
/**
 * A fetch is drained that has no more to bring than so many shares of what is under way on a full link, and no more than that:
 * what runs is here within a round trip or two, and leaves a connection that brings 64 KiB in one more, while a new one has its
 * handshake and then 13, 26, 39 KiB. With two shares readahead's pieces were drained or not as the rate was measured: where they
 * were not, a seek in an MP4 took up to 240 ms in playbin; with four it took 180 at most (60 ms, 80 Mbit/s, 8 connections).
 */
const DRAINED_SHARES = 4

export interface Room {
  readonly budgetBytes: number
  /** Nothing can be written to the disk now. */
  readonly isDegraded: boolean
  readonly readerCount: number
  readonly initialWindowBytes: number
  readonly maxWindowBytes: number
}

/** How far each reader may look ahead: less with a smaller budget, more readers, or a failing disk. */
export function windowBytes({ budgetBytes, isDegraded, readerCount, initialWindowBytes, maxWindowBytes }: Room): Omit<WindowLimits, 'sizeBytes'> {
  const share = (budgetBytes * WINDOW_SHARE_OF_BUDGET) / Math.max(1, readerCount)
  const cap = isDegraded ? DEGRADED_WINDOW_BYTES : maxWindowBytes
  const maxBytes = Math.max(MIN_WINDOW_BYTES, Math.min(cap, share))
  return { initialBytes: Math.min(initialWindowBytes, maxBytes), maxBytes }
}

export interface LinkFacts {
  readonly path: Pick<PathEstimate, 'readahead' | 'bandwidthDelayBytes'>
  readonly connections: Connections
  readonly maxFetches: number
  readonly inFlightCount: number
}

/**
 * Readahead takes about what is under way on a full link, so that it keeps the link busy and its queue short: a seek's
 * first bytes waited 110 ms behind 1.5 MB of readahead on a link of 60 ms and 80 Mbit/s.
 */
export function planLimits({ path, connections, maxFetches, inFlightCount }: LinkFacts): PlanLimits {
  const { yieldCount, isMultiplexed, windowsBytes, connectingCount } = connections
  const { bandwidthDelayBytes } = path
  const { askedBytes, pieceBytes } = path.readahead(maxFetches)
  const drainedBytes = Math.min(1, DRAINED_SHARES / Math.max(1, inFlightCount)) * bandwidthDelayBytes
  return {
    maxFetches,
    yieldCount,
    linkBytes: askedBytes,
    readaheadPieceBytes: pieceBytes,
    readyWindowsBytes: windowsBytes,
    connectingConnections: connectingCount,
    isMultiplexed,
    bandwidthDelayBytes,
    drainBytes: isMultiplexed ? 0 : Math.min(Math.max(MIN_DRAIN_BYTES, drainedBytes), MAX_DRAIN_BYTES),
  }
}

/**
 * Whether all connections carry readahead. Short pieces for a seek are less than it may have, and no first byte is late with them:
 * taken for all of it, they let what is asked for grow to three times what fills the link while a player only sought, in pieces
 * too long for the next seek to wait for.
 */
export function isAllOfReadahead(fetches: readonly { readonly lengthBytes: number }[], maxFetches: number, path: LinkFacts['path']): boolean {
  if (fetches.length < maxFetches) return false
  const { pieceBytes } = path.readahead(maxFetches)
  const lengthBytes = fetches.reduce((sum, fetch) => sum + fetch.lengthBytes, 0)
  return lengthBytes >= (fetches.length * pieceBytes) / 2 // those that end on the chunk grid's borders are shorter
}
