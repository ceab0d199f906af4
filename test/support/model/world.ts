/**
 * What the model test knows: films whose content changes at their origin, the faults of that origin, and who may be told what.
 *
 * The oracle is naive on purpose. A session belongs to one version, told by its validator, and each of its reads must give
 * exactly that version's bytes; that version must have been current at or after the film was first opened in its host's
 * life: who opens what is open already joins it, whatever the origin has by then. (So a new host's
 * life must begin before it can be asked, and a session that goes on over a restart count for it: what only such ones had opened
 * there was once taken for what nobody had, and joining them for an old version.) It is not
 * held to that where the origin was at fault then: what could not be revalidated in time is played from the cache, by the stated
 * policy, and `--revalidate` is long here, so that load alone does not make it so. An error is allowed where something happened
 * that explains it, and nowhere else.
 */
import assert from 'node:assert/strict'

import { patternBytes, patternContent } from '../content.ts'
import type { FaultOrigin } from '../fault-origin.ts'
import type { Fault } from '../origin-reply.ts'
import type { Random } from '../random.ts'

/** All versions have at least so much, so that no read is past the end. */
export const FILM_BYTES = 3_000_000
const FILMS = 4
/** Fetches that a fault has met may end so long after it. */
const AFTERMATH_MS = 10_000

const FAULTS: readonly ((random: Random) => Fault)[] = [
  (random) => ({ kind: 'body-truncated', afterBytes: random.below(20_000) }),
  (random) => ({ kind: 'body-reset', afterBytes: random.below(20_000) }),
  (random) => ({ kind: 'range-shorter', lengthBytes: 1 + random.below(20_000) }),
  (random) => ({ kind: 'range-longer', byBytes: 1 + random.below(1000) }),
  (random) => ({ kind: 'range-moved', byBytes: 1 + random.below(1000) }),
  (random) => ({ kind: 'content-length-off', by: 1 + random.below(100) }),
  (random) => ({ kind: 'body-overrun', extraBytes: 1 + random.below(1000) }),
  (random) => ({ kind: 'status', status: random.pick([500, 503, 404]) }),
  () => ({ kind: 'captive-portal' }),
  () => ({ kind: 'html-as-range' }),
  () => ({ kind: 'multipart' }),
  () => ({ kind: 'gzip' }),
  () => ({ kind: 'chunked' }),
  () => ({ kind: 'conditions-ignored' }),
  () => ({ kind: 'content-range-off', total: 1 }),
  () => ({ kind: 'content-range-missing' }),
  () => ({ kind: 'close-before-head' }),
  () => ({ kind: 'reset-before-head' }),
  () => ({ kind: 'garbage-head' }),
]

interface Film {
  readonly name: string
  version: number
  sizeBytes: number
  changedMs: number
}

export interface ReadBytes {
  readonly version: number
  readonly bytes: Buffer
}

/** One host's life, or a library's: from when its predecessor is gone to its own end, whichever that is. */
export interface Life {
  /** By film: the version that was current when it was first opened, and whether nothing was wrong with the origin then. */
  readonly first: Map<string, { readonly version: number; readonly wasCalm: boolean }>
  /** Since when it is known to answer; it may do so a moment earlier. */
  upMs: number
  endedMs: number
}

export function newLife(upMs = Number.POSITIVE_INFINITY): Life {
  return { first: new Map(), upMs, endedMs: Number.POSITIVE_INFINITY }
}

export class World {
  readonly random: Random
  readonly counts = { reads: 0, failedReads: 0, changes: 0, evictions: 0, restarts: 0, kills: 0, faults: 0 }
  readonly #origin: FaultOrigin
  readonly #films: Film[]
  #faultShare = 0
  #faultyUntilMs = Number.NEGATIVE_INFINITY

  constructor(origin: FaultOrigin, random: Random) {
    this.#origin = origin
    this.random = random
    this.#films = Array.from({ length: FILMS }, (_, i) => ({ name: `film${i}.mkv`, version: 1, sizeBytes: FILM_BYTES + i * 700_001, changedMs: 0 }))
    origin.setScript(({ target }) => {
      const film = this.#film(target.slice(1))
      const now: Fault = { kind: 'content', content: patternContent(film.sizeBytes, seedOf(film.name, film.version)), etag: etagOf(film) }
      if (this.random.next() >= this.#faultShare) return now
      this.counts.faults++
      return [now, this.random.pick(FAULTS)(this.random)]
    })
  }

  #film(name: string): Film {
    return this.#films.find((film) => film.name === name)!
  }

  someFilm(): string {
    return this.random.pick(this.#films).name
  }

  url(name: string): string {
    return this.#origin.url(name)
  }

  // ---- what happens

  change(): void {
    const film = this.random.pick(this.#films)
    film.version++
    film.changedMs = performance.now()
    if (this.random.below(2) === 0) film.sizeBytes = FILM_BYTES + this.random.below(2_000_000)
    this.counts.changes++
  }

  setFaultShare(share: number): void {
    if (this.#faultShare > 0) this.#faultyUntilMs = performance.now() + AFTERMATH_MS
    this.#faultShare = share
  }

  // ---- what may be

  get isCalm(): boolean {
    return this.#faultShare === 0 && performance.now() > this.#faultyUntilMs
  }

  /** Called before a film is opened. */
  noteOpening(life: Life, name: string): void {
    const { version } = this.#film(name)
    if (!life.first.has(name)) life.first.set(name, { version, wasCalm: this.isCalm })
  }

  /** @returns the version that a validator names, if it may be had in this life */
  versionOf(life: Life, name: string, validator: string | undefined): number {
    const [, version] = /^"film\d\.mkv-(\d+)"$/.exec(validator ?? '') ?? []
    assert.ok(version !== undefined && validator!.startsWith(`"${name}-`), `${name} was opened as ${validator}`)
    const first = life.first.get(name)!
    const known = Number(version)
    assert.ok(known <= this.#film(name).version, 'a version from the future')
    assert.ok(!first.wasCalm || known >= first.version, `${name}: version ${known}, and it was ${first.version} before it was opened`)
    return known
  }

  check(name: string, start: number, lengthBytes: number, { version, bytes }: ReadBytes): void {
    this.counts.reads++
    assert.equal(bytes.length, lengthBytes)
    const right = patternBytes(start, start + bytes.length, seedOf(name, version))
    assert.ok(bytes.equals(right), `${name} version ${version}: wrong bytes in ${start}-${start + bytes.length}`)
  }

  /** Whether something explains that a read or an opening, begun at `sinceMs`, has failed. */
  checkError(error: unknown, life: Life, name: string, sinceMs: number, version?: number): void {
    this.counts.failedReads++
    const film = this.#film(name)
    // Who asks without a session joins what is open, and may be the one by whom the change is noticed.
    const before = version ?? life.first.get(name)?.version
    const hasChanged = film.changedMs >= sinceMs || (before !== undefined && film.version !== before)
    const isExplained = hasChanged || !this.isCalm || sinceMs < this.#faultyUntilMs || sinceMs < life.upMs || life.endedMs < Number.POSITIVE_INFINITY
    if (!isExplained) throw new Error(`a read of ${name} fails, and nothing has happened`, { cause: error })
  }
}

function seedOf(name: string, version: number): number {
  return version * 100 + Number(name.slice(4, 5)) + 1
}

function etagOf({ name, version }: Film): string {
  return `"${name}-${version}"`
}
