/**
 * Fetching the whole of a resource, at the lowest priority: what players read comes first.
 */

import type { Generation } from '../cache/generation.ts'
import type { Scheduler } from './scheduler.ts'

/** A fill waits so long for a byte before it fails. */
const FILL_DEADLINE_MS = 120_000

/**
 * Resolves when every byte has arrived, once; what was evicted meanwhile is not fetched again.
 * @throws what the origin did instead, and for the signal ERR_SEEKCACHE_CANCELLED
 */
export async function fetchMissing(
  { generation, scheduler }: { readonly generation: Generation; readonly scheduler: Scheduler },
  signal: AbortSignal,
  onArrival: () => void = () => {},
): Promise<void> {
  const reader = scheduler.openReader('fill', 0)
  try {
    for (let position = generation.arrived.endOfRun(0); position < generation.sizeBytes; position = generation.arrived.endOfRun(position)) {
      onArrival()
      reader.moveTo(position)
      await scheduler.arrival(reader, position, { deadlineMs: FILL_DEADLINE_MS, signal })
    }
  } finally {
    reader.close()
  }
}
