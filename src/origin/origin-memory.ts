/**
 * What was learned of origins, kept for the next start: how far and how fast they are, how many requests they take, which
 * protocol they speak, and whether they send ranges themselves. Pure but for being filled.
 *
 * Origins are known by a keyed hash of their name: a list of them tells nothing. What has not been used for a month is
 * forgotten, and of more than a few hundred origins those that were used longest ago. It is only ever a first guess:
 * whatever does not look right is left out.
 */

import { createHmac } from 'node:crypto'

import { UNLIMITED, type Allowance } from './allowance.ts'
import type { PathFacts } from './path-estimate.ts'

export interface OriginFacts {
  readonly path: PathFacts | undefined
  readonly learnedLimit: number | undefined
  readonly learnedAtMs: number
  readonly probeIntervalMs: number
  /** When a TLS handshake last chose HTTP/1.1 where HTTP/2 was offered; 0 if none did. */
  readonly chose1AtMs: number
  /** Whether its last answer to a probe was a range, and no redirect; older records do not tell. */
  readonly isDirect?: boolean
}

/** As it is stored. */
export interface OriginRecord extends OriginFacts {
  readonly id: string
  readonly usedAtMs: number
}

const FORGOTTEN_AFTER_MS = 30 * 24 * 3600_000
const MAX_ORIGINS = 256

export class OriginMemory {
  readonly #salt: Buffer
  readonly #records = new Map<string, OriginRecord>()

  /** @param stored what `records` once gave, or anything else */
  constructor(salt: Buffer, stored: unknown, nowMs: number) {
    this.#salt = salt
    for (const record of Array.isArray(stored) ? stored : []) if (isRecord(record, nowMs)) this.#records.set(record.id, record)
  }

  factsOf(origin: string): OriginFacts | undefined {
    return this.#records.get(this.#idOf(origin))
  }

  keep(origin: string, facts: OriginFacts, nowMs: number): void {
    const id = this.#idOf(origin)
    this.#records.set(id, { ...facts, id, usedAtMs: nowMs })
  }

  /** The latest used first. */
  get records(): readonly OriginRecord[] {
    return [...this.#records.values()].sort((a, b) => b.usedAtMs - a.usedAtMs).slice(0, MAX_ORIGINS)
  }

  #idOf(origin: string): string {
    return createHmac('sha256', this.#salt).update(`origin ${origin}`).digest('hex').slice(0, 32)
  }
}

/** A limit that was learned, with the times at which more may be tried. */
export function allowanceOf(facts: OriginFacts | undefined): Allowance {
  if (facts?.learnedLimit === undefined) return UNLIMITED
  const { learnedLimit, learnedAtMs, probeIntervalMs } = facts
  return { ...UNLIMITED, learnedLimit, learnedAtMs, probeIntervalMs }
}

function isRecord(value: unknown, nowMs: number): value is OriginRecord {
  if (typeof value !== 'object' || value === null) return false
  const { id, usedAtMs, path, learnedLimit, learnedAtMs, probeIntervalMs, chose1AtMs, isDirect = false } = value as Partial<OriginRecord>
  if (typeof id !== 'string' || !isPositive(usedAtMs) || usedAtMs > nowMs || usedAtMs < nowMs - FORGOTTEN_AFTER_MS) return false
  const isPath = path === undefined || isPathFacts(path)
  const isLimit = learnedLimit === undefined || (isCount(learnedLimit) && isPositive(learnedAtMs) && learnedAtMs <= nowMs && isPositive(probeIntervalMs))
  return isPath && isLimit && typeof chose1AtMs === 'number' && chose1AtMs <= nowMs && typeof isDirect === 'boolean'
}

function isPathFacts({ rttMs, bytesPerMs, roundTripsAsked, jitterMs = 0 }: PathFacts): boolean {
  return isPositive(rttMs) && isPositive(bytesPerMs) && isPositive(roundTripsAsked) && (jitterMs === 0 || isPositive(jitterMs))
}

function isPositive(value: unknown): value is number {
  return typeof value === 'number' && value > 0 && Number.isFinite(value)
}

function isCount(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 1
}
