/**
 * The plan: what to fetch now, and what to give up. Pure, and the one place where that is decided.
 *
 * Facts in (readers with their windows, what has arrived, what is in flight, limits), ordered actions out; the scheduler
 * performs them and asks again whenever a fact changes. Nothing is remembered between two plans.
 *
 * - A fetch that serves no window is cancelled, unless so little is left of it that its connection is worth more.
 * - What a reader needs to go on (after a seek: its first bytes) comes first, over all connections, each asked for as much
 *   as arrives in one round trip: TCP's first window is 14 KB, so 13 KiB pieces over idle connections are there at once,
 *   where one of 256 KiB takes four round trips; a connection that has just transferred brings as much by itself. A
 *   piece that would have to wait for a handshake waits for a connection that gets free: that is sooner, and its window
 *   is open then.
 * - No more is asked for at a time than the link holds, but the byte that a reader waits for: more would stand in the
 *   bottleneck's queue, in front of the next seek, or overflow it; a lost packet at a piece's end costs a slow link a second.
 * - Readahead comes in bounded pieces, so that connections get free all the time, and over connections that idled in pieces
 *   of one round trip too: a player that has come to a hole leaves a read for a seek only when it gets bytes. Nearer bytes
 *   come before farther ones, over all readers alike. Until one has what its seek needs, nothing is begun ahead of others: a
 *   player that seeks opens its new connection before it closes the old one.
 * - Filling (downloading a whole file for later) takes what readahead leaves.
 */

import { CHUNK_BYTES, intersect, type Range, type RangeSet } from '../bytes/ranges.ts'
import { FIRST_WINDOW_BYTES, MAX_WINDOW_BYTES } from '../origin/send-window.ts'

export interface PlanReader {
  readonly id: number
  readonly kind: 'play' | 'fill'
  readonly position: number
  /** Before the position, where this file's readers have stepped back after a seek; the position itself otherwise. */
  readonly windowStart: number
  readonly windowEnd: number
  /** Whether its window is being filled: begun when a hole comes near, done when there is none left. */
  readonly isFilling: boolean
  /** Since its last seek. */
  readonly consumedBytes: number
  /** It waits for the byte at `position`. */
  readonly isWaiting: boolean
  /** It does so for longer than a connection that is about to be free takes. */
  readonly isOverdue: boolean
  /** Its player has sought again and again, and the next seek is expected in a moment. */
  readonly isPassing: boolean
}

export interface PlanFetch {
  readonly id: number
  /** What is still to come: `[start, end)`. */
  readonly start: number
  readonly end: number
}

export interface PlanLimits {
  /** Fetches at the same time, when some are started. */
  readonly maxFetches: number
  /** So many of those that run are given up, the least needed ones: other resources of the origin need their connections. */
  readonly yieldCount: number
  /** More is asked for while less than this is still to come of all that runs: it fills the link, and its queue stays short. */
  readonly linkBytes: number
  readonly readaheadPieceBytes: number
  /** Of each connection that could carry a request at once, what may arrive in one round trip, the largest first. */
  readonly readyWindowsBytes: readonly number[]
  /** Connections that still shake hands. */
  readonly connectingConnections: number
  /** One connection carries all: its window is not made larger by striping. */
  readonly isMultiplexed: boolean
  /** What a full link holds: more than that is not urgent at a time. */
  readonly bandwidthDelayBytes: number
  /** A fetch of which no more than this is left ends in a moment: it is not cancelled for its connection. */
  readonly drainBytes: number
}

export interface PlanState {
  readonly arrived: RangeSet
  /** Who is overdue first, the longest wait before all, then the newest demand. */
  readonly readers: readonly PlanReader[]
  readonly inFlight: readonly PlanFetch[]
  readonly limits: PlanLimits
}

export type Action =
  | { readonly type: 'cancel'; readonly fetchId: number }
  /** Nobody wants it, but so little is left that it may end by itself, if it does so soon. */
  | { readonly type: 'drain'; readonly fetchId: number }
  | { readonly type: 'fetch'; readonly start: number; readonly end: number; readonly isUrgent: boolean }

/** What a reader consumes before its seek counts as done: about what a demuxer reads until the first picture. */
export const SEEK_BYTES = 1024 * 1024
/** While it seeks, so much ahead is urgent for each connection, on any link, or that part of what the link holds. */
const URGENT_BYTES = 39 * 1024
const URGENT_SHARE = 0.6

/** Why a piece is wanted, the most pressing first. */
const NEED = { overdue: 0, waiting: 1, seek: 2, readahead: 3, fill: 4, nobody: 5 } as const

interface Piece extends Range {
  readonly need: number
  /** Who needs it most; undefined for nobody. */
  readonly reader: PlanReader | undefined
  /** Ahead of the reader that needs it first. */
  readonly distanceBytes: number
}

export function plan(state: PlanState): Action[] {
  const { limits, readers } = state
  const actions: Action[] = []
  const running: (PlanFetch & Piece)[] = []
  const isSoonDone = (fetch: Range): boolean => fetch.end - fetch.start <= limits.drainBytes
  for (const fetch of state.inFlight) {
    const isKept = isWanted(fetch, readers)
    const isDrained = !isKept && isSoonDone(fetch)
    if (isKept || isDrained) running.push({ ...fetch, ...withNeed(fetch, readers, limits) })
    if (!isKept) actions.push({ type: isDrained ? 'drain' : 'cancel', fetchId: fetch.id })
  }
  for (const fetch of limits.yieldCount === 0 ? [] : [...running].sort(byNeed).slice(-limits.yieldCount)) {
    running.splice(running.indexOf(fetch), 1)
    actions.push({ type: 'cancel', fetchId: fetch.id })
  }
  let comingBytes = running.reduce((sum, { start, end }) => sum + end - start, 0)
  let free = limits.maxFetches - running.length
  let ready = Math.min(limits.readyWindowsBytes.length, free)
  const seeking = readers.find((reader) => isSeeking(reader) && reader.isFilling && !hasUrgent(reader, state))
  const missing = missingOf(state, running)
  for (let carrier = 0; ; carrier++) {
    const piece = mostNeeded(missing, limits.readyWindowsBytes[carrier] ?? FIRST_WINDOW_BYTES, seeking, state)
    if (piece === undefined) break
    const isUrgent = piece.need <= NEED.seek
    if (piece.need > NEED.waiting && comingBytes >= limits.linkBytes) break
    if (limits.yieldCount > 0 && piece.need > NEED.waiting) break // it would take the place of what has just been given up
    if (piece.need === NEED.waiting && ready <= 0 && (free <= 0 || limits.connectingConnections > 0) && running.some(isSoonDone)) break
    if (piece.need === NEED.seek && ready <= 0 && limits.connectingConnections + running.length > 0) break
    if (piece.need > NEED.seek && ready <= 0 && limits.connectingConnections > 0) break
    if (free <= 0) {
      const victim = victimFor(piece, running, limits)
      if (victim === undefined) break
      running.splice(running.indexOf(victim), 1)
      actions.push({ type: 'cancel', fetchId: victim.id })
      free++
    }
    comingBytes += piece.end - piece.start
    free--
    ready--
    actions.push({ type: 'fetch', start: piece.start, end: piece.end, isUrgent })
    for (const part of missing) part.holes = part.holes.flatMap((hole) => without(hole, piece))
  }
  return actions
}

function isWanted(fetch: Range, readers: readonly PlanReader[]): boolean {
  return readers.some((reader) => intersect(fetch, windowOf(reader)) !== undefined)
}

function windowOf({ windowStart, windowEnd }: PlanReader): Range {
  return { start: windowStart, end: windowEnd }
}

/**
 * Whose connection an urgent piece takes when all are busy: the one that is needed last. Readahead gives way to a seek, and
 * everything gives way to the byte that a reader waits for, but what another one waits for. What has little left ends in
 * a moment and leaves a warm connection: only a waiting reader takes it at once. And once half of the connections are urgent,
 * a seek's further pieces wait for those rather than for a handshake in place of a cancelled one.
 */
function victimFor(piece: Piece, running: readonly (PlanFetch & Piece)[], limits: PlanLimits): (PlanFetch & Piece) | undefined {
  const urgentCount = running.filter((fetch) => fetch.need <= NEED.seek).length
  const isVictim = (fetch: Piece): boolean => {
    if (piece.need <= NEED.waiting) return fetch.need > NEED.waiting
    if (piece.need > NEED.seek || urgentCount >= limits.maxFetches / 2) return false
    return fetch.need >= NEED.readahead && fetch.end - fetch.start > limits.drainBytes
  }
  return [...running].sort(byNeed).findLast(isVictim)
}

/** Ahead of a seeking reader, what is urgent. */
function urgentBytes({ maxFetches, bandwidthDelayBytes }: PlanLimits): number {
  return Math.max(maxFetches * URGENT_BYTES, Math.floor(URGENT_SHARE * bandwidthDelayBytes))
}

/** Whether all that is urgent for it, and is asked for at all, has arrived. */
function hasUrgent(reader: PlanReader, { arrived, limits }: PlanState): boolean {
  return arrived.covers(reader.position, Math.min(wantedEnd(reader, limits), reader.position + urgentBytes(limits)))
}

/**
 * Until the first byte after a seek is there, the next seek may come any moment, and what was asked for is for nothing. So it is
 * for longer while seeks follow one another fast; who waits for more than a seek needs has it piece by piece meanwhile.
 */
function wantedEnd({ kind, position, windowEnd, consumedBytes, isWaiting, isPassing }: PlanReader, limits: PlanLimits): number {
  const isFirstByte = kind === 'play' && isWaiting && consumedBytes === 0
  if (!isFirstByte && !isPassing) return windowEnd
  const urgentEnd = position - consumedBytes + urgentBytes(limits)
  const stepsBeyond = isWaiting ? Math.max(0, Math.floor((position - urgentEnd) / URGENT_BYTES) + 1) : 0
  return Math.min(windowEnd, urgentEnd + stepsBeyond * URGENT_BYTES)
}

function isSeeking(reader: PlanReader): boolean {
  return reader.kind === 'play' && reader.consumedBytes < SEEK_BYTES
}

function byNeed(a: Piece, b: Piece): number {
  return a.need - b.need || a.distanceBytes - b.distanceBytes
}

/** What one reader misses: ascending from its position, or before it. */
interface Missing {
  readonly reader: PlanReader
  holes: readonly Range[]
}

function missingOf({ readers, arrived, limits }: PlanState, running: readonly Range[]): Missing[] {
  const filling = readers.filter(({ isFilling }) => isFilling)
  return filling.flatMap((reader) => {
    const { windowStart, position } = reader
    const ranges = [{ start: position, end: wantedEnd(reader, limits) }, { start: windowStart, end: position }]
    return ranges.map((range) => ({ reader, holes: holes(range, arrived, running) }))
  })
}

/**
 * The piece to start next.
 * @param windowBytes what arrives in one round trip on the connection that will carry it
 * @param seeking while this one has not all that its seek needs, nothing is begun ahead of others
 */
function mostNeeded(missing: readonly Missing[], windowBytes: number, seeking: PlanReader | undefined, { readers, limits }: PlanState): Piece | undefined {
  const filling = readers.filter(({ isFilling }) => isFilling) // what a window wants that is not filled is nobody's need
  let best: Piece | undefined
  for (const { reader, holes } of missing) {
    for (const hole of holes.slice(0, limits.maxFetches)) {
      const end = Math.min(hole.start + pieceBytes(reader, hole.start, windowBytes, limits), hole.end)
      const piece = withNeed({ start: hole.start, end }, filling, limits)
      const isHeldBack = piece.need > NEED.seek && seeking !== undefined && piece.reader !== seeking
      if (!isHeldBack && (best === undefined || byNeed(piece, best) < 0)) best = piece
    }
  }
  return best
}

/** One reader's piece may hold what another one waits for: the most pressing need counts. */
function withNeed(piece: Range, readers: readonly PlanReader[], limits: PlanLimits): Piece {
  let best: Piece = { start: piece.start, end: piece.end, need: NEED.nobody, reader: undefined, distanceBytes: Number.POSITIVE_INFINITY }
  for (const reader of readers) {
    if (intersect(piece, { start: reader.windowStart, end: wantedEnd(reader, limits) }) === undefined) continue
    const isBefore = piece.end <= reader.position
    const distanceBytes = isBefore ? reader.position - piece.start : Math.max(0, piece.start - reader.position)
    const need = needOf(reader, isBefore ? 1 : distanceBytes, limits) // what is before is needed at once, and never what is waited for
    if (need < best.need || (need === best.need && distanceBytes < best.distanceBytes)) best = { start: piece.start, end: piece.end, need, reader, distanceBytes }
  }
  return best
}

function needOf(reader: PlanReader, distanceBytes: number, limits: PlanLimits): number {
  if (reader.kind === 'fill') return NEED.fill
  if (reader.isWaiting && distanceBytes === 0) return reader.isOverdue ? NEED.overdue : NEED.waiting
  return isSeeking(reader) && distanceBytes < urgentBytes(limits) ? NEED.seek : NEED.readahead
}

/** What of a range has neither arrived nor is under way, ascending. */
function holes({ start, end }: Range, arrived: RangeSet, underWay: readonly Range[]): Range[] {
  let open = arrived.missing(start, end)
  for (const range of underWay) open = open.flatMap((hole) => without(hole, range))
  return open
}

function without(hole: Range, range: Range): Range[] {
  if (intersect(hole, range) === undefined) return [hole]
  return [
    { start: hole.start, end: range.start },
    { start: range.end, end: hole.end },
  ].filter((part) => part.start < part.end)
}

function pieceBytes(reader: PlanReader, start: number, windowBytes: number, limits: PlanLimits): number {
  const isStarting = !limits.isMultiplexed && windowBytes < MAX_WINDOW_BYTES // one for all is not striped by small pieces
  const roundTripBytes = limits.isMultiplexed ? Math.max(windowBytes, limits.maxFetches * FIRST_WINDOW_BYTES) : windowBytes
  if ((isSeeking(reader) || isStarting) && roundTripBytes < limits.readaheadPieceBytes) return roundTripBytes
  return alignedLength(start, limits.readaheadPieceBytes)
}

/** Large pieces end on borders of the chunk grid, so that few chunks are left half. */
function alignedLength(start: number, lengthBytes: number): number {
  const end = Math.max(Math.floor((start + lengthBytes) / CHUNK_BYTES) * CHUNK_BYTES, Math.floor(start / CHUNK_BYTES + 1) * CHUNK_BYTES)
  return end - start
}

export interface SequentialState {
  readonly arrived: RangeSet
  readonly readers: readonly PlanReader[]
  readonly inFlight: readonly PlanFetch[]
  readonly sizeBytes: number
  /** How far the one fetch may run ahead of the hindmost reader. */
  readonly maxAheadBytes: number
}

export type SequentialAction = Action | { readonly type: 'pause' | 'resume'; readonly fetchId: number }

/**
 * The plan for an origin that sends only the whole file: one fetch from byte 0, which runs on while somebody reads, and
 * starts over only for a reader that waits for what it has passed and what is gone again.
 */
export function planSequential(state: SequentialState): SequentialAction[] {
  const fetch = state.inFlight[0]
  const wanted = state.readers.filter((reader) => reader.isFilling && state.arrived.endOfRun(reader.position) < reader.windowEnd)
  if (fetch === undefined) return wanted.length === 0 ? [] : [{ type: 'fetch', start: 0, end: state.sizeBytes, isUrgent: true }]
  if (state.readers.length === 0) return [{ type: 'cancel', fetchId: fetch.id }]
  const isPassed = wanted.some((reader) => reader.isWaiting && state.arrived.endOfRun(reader.position) < fetch.start)
  if (isPassed) {
    return [{ type: 'cancel', fetchId: fetch.id }, { type: 'fetch', start: 0, end: state.sizeBytes, isUrgent: true }]
  }
  const hindmost = Math.min(...state.readers.map((reader) => reader.position))
  const isNeeded = wanted.some((reader) => reader.isWaiting) || fetch.start < hindmost + state.maxAheadBytes
  return [{ type: isNeeded ? 'resume' : 'pause', fetchId: fetch.id }]
}
