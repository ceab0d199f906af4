/** Chance that can be had again: a seed, printed by whoever uses it and settable by SEEKCACHE_SEED. */

export interface Random {
  /** In `[0, 1)`. */
  next(): number
  /** A whole number in `[0, below)`. */
  below(below: number): number
  pick<T>(from: readonly T[]): T
}

/** mulberry32 */
export function randomOf(seed: number): Random {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (limit: number): number => Math.floor(next() * limit)
  return { next, below, pick: (from) => from[below(from.length)]! }
}

/** Anew in each run of a file or a campaign, but given in `npm test`, which judges a change and not the luck of a day. */
export function seedOfRun(env: NodeJS.ProcessEnv = process.env): number {
  return env.SEEKCACHE_SEED === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(env.SEEKCACHE_SEED)
}
