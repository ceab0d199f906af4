/**
 * What is fetched of a resource that has just been opened, before anybody asks: its head, and its container's index.
 *
 * A demuxer reads the head, and what it finds there sends it to the index (Matroska's Cues, an MP4's moov), most often at
 * the file's end, and GStreamer's, where it pulls, to the second cluster. All of it is wanted at once and as urgently as by a
 * player that waits for it: once the first bytes have told where, and not before, so that the head does not take all
 * connections.
 */

import { containerIndex, secondCluster } from './bytes/container-index.ts'
import type { Range } from './bytes/ranges.ts'
import type { Generation } from './cache/generation.ts'
import { PIECE_BYTES } from './probe.ts'
import type { Reader } from './schedule/reader.ts'
import type { Scheduler } from './schedule/scheduler.ts'

/** The player is there by then. */
const HEAD_BYTES = 256 * 1024
/** Where the head tells of no index, it may be at the end; the very end comes first. */
const TAIL_BYTES = 256 * 1024
const TAIL_END_BYTES = 48 * 1024
const DEADLINE_MS = 30_000

export interface PrefetchParts {
  readonly scheduler: Scheduler
  readonly generation: Generation
  readonly sizeBytes: number
  /** For a demuxer that pulls: one that reads in order has the rest of the first cluster sooner without. */
  readonly pulls: boolean
  readonly signal: AbortSignal
}

/** @throws ERR_SEEKCACHE_TIMEOUT, _CANCELLED, or what the origin did instead */
export async function prefetch(parts: PrefetchParts): Promise<void> {
  const { sizeBytes, generation, pulls } = parts
  const signatureBytes = Math.min(PIECE_BYTES, sizeBytes) // the probe brings it
  await cover(parts, 'play', { start: 0, end: signatureBytes })
  const signature = (await generation.read(0, signatureBytes)) ?? Buffer.alloc(0)
  const index = containerIndex(signature, sizeBytes)
  const beyond = pulls ? secondCluster(signature, sizeBytes) : undefined
  const places = [index, beyond, { start: 0, end: Math.min(HEAD_BYTES, sizeBytes) }]
  await Promise.all(places.map((place) => place !== undefined && cover(parts, 'play', place)))
  if (index !== undefined || sizeBytes < HEAD_BYTES + TAIL_BYTES) return
  for (const lengthBytes of [TAIL_END_BYTES, TAIL_BYTES]) await cover(parts, 'fill', { start: sizeBytes - lengthBytes, end: sizeBytes })
}

/** Until all of a range has arrived. */
async function cover({ scheduler, generation, signal }: PrefetchParts, kind: Reader['kind'], range: Range): Promise<void> {
  const reader = scheduler.openReader(kind, range.start, { end: range.end })
  try {
    for (let position = range.start; position < range.end; position = generation.arrived.endOfRun(position)) {
      reader.moveTo(position)
      await scheduler.arrival(reader, position, { deadlineMs: DEADLINE_MS, signal })
    }
  } finally {
    reader.close()
  }
}
