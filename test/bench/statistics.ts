/** Medians and the like of a few samples. */

/** The sample that a share of all does not exceed (nearest rank). NaN without samples. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

export function median(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b)
  const middle = sorted.length / 2
  return sorted.length % 2 === 1 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

export interface Spread {
  readonly p50: number
  readonly p95: number
  readonly samples: readonly number[]
}

export function spreadOf(samples: readonly number[]): Spread {
  const rounded = samples.map((sample) => Math.round(sample * 10) / 10)
  return { p50: median(rounded), p95: quantile(rounded, 0.95), samples: rounded }
}
