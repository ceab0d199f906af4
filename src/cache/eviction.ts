/**
 * Which extents go when room is needed. Pure.
 *
 * Least recently used first. What a reader's window covers or what is being written is never a victim. The first extent of a
 * resource and the last two (headers, Cues, a trailing moov of 16 MiB and more: what every open and every seek reads) go only
 * when nothing else is left.
 */

export interface EvictionCandidate {
  readonly lengthBytes: number
  readonly lastUsedMs: number
  readonly isProtected: boolean
  readonly holdsIndex: boolean
}

/** The victims, in the order of their going, that free at least `neededBytes`, or as much as can be. */
export function victims<T extends EvictionCandidate>(candidates: Iterable<T>, neededBytes: number): T[] {
  if (neededBytes <= 0) return []
  const order = [...candidates]
    .filter((candidate) => !candidate.isProtected)
    .sort((a, b) => Number(a.holdsIndex) - Number(b.holdsIndex) || a.lastUsedMs - b.lastUsedMs)
  const chosen: T[] = []
  let freedBytes = 0
  for (const candidate of order) {
    if (freedBytes >= neededBytes) break
    chosen.push(candidate)
    freedBytes += candidate.lengthBytes
  }
  return chosen
}
