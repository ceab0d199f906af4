/**
 * How the requests that an origin takes at a time are shared by all who fetch from it. Pure.
 *
 * Each resource that wants anything gets one first, those that somebody waits for before the others, and the one that was
 * served longest ago before the rest; what is left goes to those that somebody waits for, or else to all alike. Who waits and
 * is being served keeps that one request until it ends: given up for another who waits, it would be that one's turn to give
 * up next, at once and for ever. A share
 * says how many may be started. What runs beyond it ends by itself, but where a reader waits and no request is free for
 * it, those with more than their share give up as many as are missing.
 */

/** `urgent`: a reader waits. `ahead`: something is wanted for later. */
export type Need = 'none' | 'ahead' | 'urgent'

export interface Claim {
  readonly need: Need
  readonly inFlight: number
  /** When its last request was started; 0 if none was. */
  readonly lastStartMs: number
}

export interface Share {
  /** Requests it may have in flight, were it to start some now. */
  readonly limit: number
  /** Of those that it has in flight, so many are to be given up now. */
  readonly yieldCount: number
}

/**
 * @param limit what the origin takes
 * @param others requests in flight that are in no claim
 * @param queued such requests that wait for their turn
 * @returns a share for each claim, in their order
 */
export function shareOut(limit: number, claims: readonly Claim[], others = 0, queued = 0): Share[] {
  const free = Math.max(0, limit - others - claims.reduce((sum, { inFlight }) => sum + inFlight, 0))
  const stakes: Stake[] = claims.map((claim) => ({ claim, share: 0, yieldCount: 0 }))
  deal(limit - others - queued, stakes)
  const unserved = stakes.filter(({ claim, share }) => claim.need === 'urgent' && claim.inFlight === 0 && share > 0).length
  let missing = Math.max(0, unserved + queued - free)
  for (const stake of [...stakes].sort((a, b) => surplusOf(b) - surplusOf(a))) {
    stake.yieldCount = Math.max(0, Math.min(surplusOf(stake), missing))
    missing -= stake.yieldCount
  }
  return stakes.map(({ claim, share, yieldCount }) => ({
    limit: Math.min(share, claim.inFlight + Math.max(0, free - queued)),
    yieldCount,
  }))
}

interface Stake {
  readonly claim: Claim
  share: number
  yieldCount: number
}

function surplusOf({ claim, share }: Stake): number {
  return claim.inFlight - share
}

/** One for each that wants any, then, one after another, what is left. */
function deal(limit: number, stakes: readonly Stake[]): void {
  const wanting = stakes
    .filter(({ claim }) => claim.need !== 'none')
    .sort((a, b) => rank(a.claim) - rank(b.claim) || a.claim.lastStartMs - b.claim.lastStartMs)
  const first = wanting[0]
  if (first === undefined) return
  const preferred = wanting.filter(({ claim }) => claim.need === first.claim.need)
  for (let i = 0; i < limit; i++) {
    const stake = wanting[i] ?? preferred[(i - wanting.length) % preferred.length]
    stake!.share++
  }
}

/** Who waits and is being served, who waits, and all others. */
function rank({ need, inFlight }: Claim): number {
  if (need !== 'urgent') return 2
  return inFlight > 0 ? 0 : 1
}
