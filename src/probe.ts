/**
 * The first requests for a new resource, at once: what opens it is one round trip away, not two.
 *
 * The probe is a ranged request for the first bytes; its answer tells size and validator. Beside it, on connections that are
 * made at the same time, the pieces that follow are asked for before anything is known of the resource; what answers
 * before the probe waits for it, and all must agree with it. What the pieces beside it meet (a redirect, a 416, a refusal)
 * is no failure. That is for origins that are known to answer themselves, and with ranges; a strange one is asked by the probe
 * alone: a redirect may be dear to make, and a whole file is sent for each request.
 */

import { withResolvers } from './deferred.ts'
import { SeekCacheError } from './errors.ts'
import type { Admitted, Expectation, ResponseHead } from './origin/admission.ts'
import type { Source } from './origin/source.ts'
import { isSameVersion } from './origin/validator.ts'
import type { Clock } from './schedule/clock.ts'
import { InFlight, type StallLimits } from './schedule/in-flight.ts'

/** What fits the first window of a connection. */
export const PIECE_BYTES = 13 * 1024
/** With the probe, 64 KiB: the headers of nearly every film. */
const PIECES_BESIDE = 4
/** Of the origin's connections, so many are left for the file's index. */
const CONNECTIONS_LEFT = 2

export interface ProbeParts {
  readonly source: Source
  readonly clock: Clock
  readonly stallLimits: StallLimits
  /** Whether pieces are asked for beside the probe. */
  readonly isAlone: boolean
  /**
   * In the turn in which the head arrived, for the body's first bytes may be in the same network read.
   * @returns what takes over the pieces beside the probe, undefined where they are of no use
   */
  readonly onAnswer: (fetch: InFlight, admitted: Admitted, head: ResponseHead) => ((fetch: InFlight) => void) | undefined
  readonly onSilence: () => void
}

/**
 * A probe that is not answered in time is joined by another one: the first that is answered counts.
 * @throws what the origin did instead of answering, or the signal's reason
 */
export async function probe(parts: ProbeParts, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  const leads = new Set<InFlight>()
  const beside = new Set<PieceBeside>()
  const { promise, resolve, reject } = withResolvers<void>()
  const begin = (): void => {
    const lead: InFlight = new InFlight(0, parts, { start: 0, end: PIECE_BYTES, known: undefined }, parts.stallLimits, {
      onHead: (admitted, head) => {
        leads.delete(lead)
        for (const other of leads) other.cancel()
        try {
          const adopt = parts.onAnswer(lead, admitted, head)
          for (const piece of beside) if (adopt === undefined || !piece.join(admitted, adopt)) piece.cancel()
          resolve()
        } catch (error) {
          reject(error as Error) // whoever has adopted the fetch hears of its end: we do not
          throw error
        }
      },
      onBytes: () => {},
      onEnd: (_, error) => {
        leads.delete(lead)
        if (leads.size === 0) reject(error ?? new SeekCacheError('ERR_SEEKCACHE_ORIGIN_RESPONSE', 'the origin sent nothing'))
      },
      onStall: () => {
        parts.onSilence()
        if (leads.size === 1) begin()
      },
    })
    leads.add(lead)
  }
  begin()
  parts.source.warm()
  const count = parts.isAlone ? 0 : Math.min(PIECES_BESIDE, parts.source.connections.limit - 1 - CONNECTIONS_LEFT)
  for (let index = 1; index <= count; index++) beside.add(new PieceBeside(index, parts))
  const abort = (): void => reject(signal.reason as Error)
  signal.addEventListener('abort', abort, { once: true })
  try {
    await promise
  } catch (error) {
    for (const fetch of [...leads, ...beside]) fetch.cancel()
    throw error
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

class PieceBeside {
  readonly #fetch: InFlight
  readonly #expected: { readonly start: number; readonly end: number; known: Expectation['known'] }
  #answer: Admitted | undefined
  #hasEnded = false

  constructor(index: number, parts: ProbeParts) {
    this.#expected = { start: index * PIECE_BYTES, end: (index + 1) * PIECE_BYTES, known: undefined }
    // The schedule numbers its own from 1.
    this.#fetch = new InFlight(-index, { ...parts, followsRedirects: false }, this.#expected, parts.stallLimits, {
      onHead: (admitted) => {
        this.#answer = admitted
        this.#fetch.pause()
      },
      onBytes: () => {},
      onEnd: () => (this.#hasEnded = true),
      onStall: () => {},
    })
  }

  /** @returns whether it goes on, adopted: what has not answered yet is compared with the probe's answer when it does */
  join({ sizeBytes, validator }: Admitted, adopt: (fetch: InFlight) => void): boolean {
    if (this.#hasEnded || sizeBytes === undefined || this.#expected.start >= sizeBytes) return false
    const { start, sizeBytes: told } = this.#answer ?? { ...this.#expected, sizeBytes }
    if (start !== this.#expected.start || told !== sizeBytes) return false
    if (this.#answer !== undefined && !isSameVersion(validator, this.#answer.validator)) return false
    this.#expected.known = { sizeBytes, validator }
    adopt(this.#fetch)
    this.#fetch.resume()
    return true
  }

  cancel(): void {
    this.#fetch.cancel()
  }
}
