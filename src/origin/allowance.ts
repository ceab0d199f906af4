/**
 * How many requests an origin takes at a time, and when it wants to be left alone: learned from what it does. Pure.
 *
 * Two kinds of origins say "less". One answers 429 or 503: what was in flight is halved, and with Retry-After nothing is sent
 * until then. The other resets or refuses connections above some number: three of that kind while others go on being
 * answered make the number of those the limit; while none is answered the origin is down, which is no limit. After some
 * minutes without such a sign one more is tried, then another one; where that is refused, the next try waits twice as long.
 */

export interface Allowance {
  /** undefined while the origin never said "less". */
  readonly learnedLimit: number | undefined
  /** When it was learned. */
  readonly learnedAtMs: number
  /** One more is tried after each such span. */
  readonly probeIntervalMs: number
  /** Nothing is sent before. */
  readonly pausedUntilMs: number
  /** The status with which it asked for the pause. */
  readonly pauseStatus: number
  /** Connections that were refused lately, by when. */
  readonly refusedAtMs: readonly number[]
}

const FIRST_PROBE_INTERVAL_MS = 2 * 60_000
const MAX_PROBE_INTERVAL_MS = 30 * 60_000
/** One refused connection may be an accident; so many at a time are a limit. */
const REFUSALS = 3
const REFUSALS_WITHIN_MS = 10_000
/** A longer Retry-After is not believed: whoever starts again by then asks again. */
const MAX_PAUSE_MS = 10 * 60_000

export const UNLIMITED: Allowance = {
  learnedLimit: undefined,
  learnedAtMs: 0,
  probeIntervalMs: FIRST_PROBE_INTERVAL_MS,
  pausedUntilMs: 0,
  pauseStatus: 0,
  refusedAtMs: [],
}

/** Requests at a time, at least 1, at most `maxRequests`. */
export function limitOf(allowance: Allowance, maxRequests: number, nowMs: number): number {
  if (allowance.learnedLimit === undefined) return maxRequests
  return Math.min(maxRequests, allowance.learnedLimit + probesSince(allowance, nowMs))
}

/** When the limit rises by itself; undefined where there is no more to try. */
export function nextProbeAtMs(allowance: Allowance, maxRequests: number, nowMs: number): number | undefined {
  if (limitOf(allowance, maxRequests, nowMs) >= maxRequests) return undefined
  return allowance.learnedAtMs + (probesSince(allowance, nowMs) + 1) * allowance.probeIntervalMs
}

function probesSince({ learnedAtMs, probeIntervalMs }: Allowance, nowMs: number): number {
  return Math.max(0, Math.floor((nowMs - learnedAtMs) / probeIntervalMs))
}

export interface Overload {
  readonly status: number
  readonly retryAfterMs: number | undefined
  /** The refused request included. */
  readonly inFlight: number
  /** When the refused request was sent: what was sent before the last lesson is no new one. */
  readonly sentMs: number
}

/** It answered 429 or 503. */
export function afterOverload(allowance: Allowance, overload: Overload, nowMs: number): Allowance {
  const { retryAfterMs, status } = overload
  const pausedUntilMs = retryAfterMs === undefined ? 0 : nowMs + Math.min(retryAfterMs, MAX_PAUSE_MS)
  const paused = pausedUntilMs > allowance.pausedUntilMs ? { ...allowance, pausedUntilMs, pauseStatus: status } : allowance
  const isOldNews = allowance.learnedLimit !== undefined && overload.sentMs < allowance.learnedAtMs
  if (isOldNews || overload.inFlight < 2) return paused // a single request refused says nothing of how many it takes
  return learned(paused, Math.floor(overload.inFlight / 2), nowMs)
}

/** It refused a connection, or broke it before it carried anything. `openCount`: the others that are open; without any it is down. */
export function afterRefusal(allowance: Allowance, openCount: number, nowMs: number): Allowance {
  if (openCount === 0) return afterAllClosed(allowance)
  return { ...allowance, refusedAtMs: [...allowance.refusedAtMs.filter((atMs) => atMs > nowMs - REFUSALS_WITHIN_MS), nowMs] }
}

/** It answered, so it is not down. `openCount`: the connections that it lets be open. */
export function afterAnswer(allowance: Allowance, openCount: number, nowMs: number): Allowance {
  if (allowance.refusedAtMs.length === 0) return allowance
  const refusedAtMs = allowance.refusedAtMs.filter((atMs) => atMs > nowMs - REFUSALS_WITHIN_MS)
  if (refusedAtMs.length < REFUSALS) return { ...allowance, refusedAtMs }
  return learned({ ...allowance, refusedAtMs: [] }, Math.max(1, openCount), nowMs)
}

/** No connection is open: what it refused, it refused because it is down. */
export function afterAllClosed(allowance: Allowance): Allowance {
  return allowance.refusedAtMs.length === 0 ? allowance : { ...allowance, refusedAtMs: [] }
}

function learned(allowance: Allowance, limit: number, nowMs: number): Allowance {
  const isProbeRefused = allowance.learnedLimit !== undefined && probesSince(allowance, nowMs) > 0
  const probeIntervalMs = isProbeRefused ? Math.min(2 * allowance.probeIntervalMs, MAX_PROBE_INTERVAL_MS) : allowance.probeIntervalMs
  return { ...allowance, learnedLimit: limit, learnedAtMs: nowMs, probeIntervalMs }
}
