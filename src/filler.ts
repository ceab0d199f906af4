/**
 * Filling that goes on: a fill that has failed is begun again, after waits that grow, for as long as somebody has the
 * resource open.
 *
 * What the scheduler tries again by itself is not seen here. What says something about the file, as a URL that has expired
 * or a file that is gone, is not tried in haste: each try may be a question to whoever can give a fresh URL.
 */

import { isCode } from './errors.ts'
import { saysNothingOfFile } from './origin/retry.ts'
import { pause, type Clock } from './schedule/clock.ts'

const FIRST_WAIT_MS = 1_000
const MAX_WAIT_MS = 60_000

export interface FillerParts {
  /** Resolves when all is there. */
  readonly fill: () => Promise<void>
  /** What has arrived so far: after progress the waits are short again. */
  readonly arrivedBytes: () => number
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly onFailure: (error: Error, waitMs: number) => void
}

/** Resolves when all is there, or the signal or another version at the origin has ended it. */
export async function fillPersistently({ fill, arrivedBytes, clock, signal, onFailure }: FillerParts): Promise<void> {
  for (let waitMs = FIRST_WAIT_MS; ; ) {
    const beforeBytes = arrivedBytes()
    try {
      return await fill()
    } catch (error) {
      if (signal.aborted || isCode(error, 'ERR_SEEKCACHE_CANCELLED') || isCode(error, 'ERR_SEEKCACHE_ORIGIN_CHANGED')) return
      if (arrivedBytes() > beforeBytes) waitMs = FIRST_WAIT_MS
      if (!saysNothingOfFile(error)) waitMs = MAX_WAIT_MS
      onFailure(error as Error, waitMs)
      await pause(clock, waitMs, signal)
      waitMs = Math.min(2 * waitMs, MAX_WAIT_MS)
    }
  }
}
