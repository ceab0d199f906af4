/**
 * What the requests of one player mean together. Pure.
 *
 * HTTP players have no positions, only connections: a seek is a new one, and the old one is closed after the new one has
 * answered; some read in ranges, one after another; some look at a few bytes first. Demand is where the player reads.
 */

import type { Range } from '../bytes/ranges.ts'
import type { SeekIntent } from '../control/protocol.ts'
import type { Demand } from './demand.ts'

/** Header probes and tail looks of players are up to so long; a player that reads in ranges takes more at a time. */
const PROBE_BYTES = 64 * 1024
/** What a read takes at a time; a little farther is the same run, more is a seek. */
const STEP_AHEAD_BYTES = 1024 * 1024
/** Two sockets' buffers and a player's own: it may go on so far behind what was sent to it. */
const STEP_BACK_BYTES = 16 * 1024 * 1024
/** A player that takes nothing for so long is paused, or has left this connection for another one. */
const BLOCKED_MS = 2_000
/** A read that waits so long is stalled as far as a seek is concerned. */
export const STALLED_MS = 100
/** A seek's own first request may come so long before it is known that there was a seek. */
export const OWN_REQUEST_MS = 250
/** What tells of a seek comes at most so long after it: a script starts a process for that, which took 300 ms from a slow disk. */
const TOLD_WITHIN_MS = 5_000

/**
 * Whether a request of that age may be the one of a seek that was so long ago.
 * @param soughtMsAgo undefined: nobody knows
 */
export function mayBeOwnRequest(requestAgeMs: number, soughtMsAgo = TOLD_WITHIN_MS): boolean {
  return requestAgeMs < soughtMsAgo + OWN_REQUEST_MS
}

/** Whether a request that asks for this goes on where a run of the same player was. */
export function continuesRun(demand: Demand, start: number): boolean {
  return start >= Math.max(demand.runStart, demand.position - STEP_BACK_BYTES) && start <= demand.position + STEP_AHEAD_BYTES
}

/** A look at a few bytes wants those, and nothing ahead of them. */
export function isProbe(range: Range, isContinuing: boolean): boolean {
  return !isContinuing && range.end - range.start <= PROBE_BYTES
}

/** Whether a connection is no demand while another one of its player reads. */
export function isLeft(blockedForMs: number): boolean {
  return blockedForMs >= BLOCKED_MS
}

/** In how long a read that waits is to end for a seek that was announced now, should it wait until then. */
export function endsInMs(waitedMs: number): number {
  return Math.max(0, STALLED_MS - waitedMs)
}

/** A seek that was announced comes within this. */
export const INTENT_MS = 5_000

/** A time is taken for its share of the file: right for a constant rate, else some percent off. */
export function targetOf(intent: SeekIntent, sizeBytes: number): number {
  const share = 'byte' in intent ? intent.byte / sizeBytes : intent.timeSeconds / intent.durationSeconds
  return Math.min(Math.max(0, 'byte' in intent ? intent.byte : Math.floor(share * sizeBytes)), sizeBytes - 1)
}

/** Whether a read at that place is of no use to who goes there. A guessed place says nothing of it: the player left it. */
export function isElsewhere(intent: SeekIntent, position: number): boolean {
  return !('byte' in intent) || position < intent.byte || position > intent.byte + STEP_AHEAD_BYTES
}
