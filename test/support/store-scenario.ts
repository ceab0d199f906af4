/**
 * A program: works with a store as a host would, for a recording: `store-scenario.ts DIR SEED sync|nosync`.
 *
 * Films of a few extents with some chunks in each and a budget below their sum, so that writing, committing and evicting
 * go on at the same time; parts of chunks for readers of other processes; a new version of a film; two hosts, one after
 * the other.
 */
import { setTimeout as delay } from 'node:timers/promises'

import { CHUNK_BYTES, EXTENT_BYTES } from '../../src/bytes/ranges.ts'
import type { Generation } from '../../src/cache/generation.ts'
import { layoutOf, newGenerationId, prepareLayout } from '../../src/cache/layout.ts'
import { Store } from '../../src/cache/store.ts'
import { type Content, patternContent } from './content.ts'
import { randomOf, type Random } from './random.ts'

const FILMS = 4
const EXTENTS_PER_FILM = 3
const SIZE_BYTES = (EXTENTS_PER_FILM - 1) * EXTENT_BYTES + 5 * CHUNK_BYTES + 1_234
const MAX_SIZE_BYTES = 24 * CHUNK_BYTES

/** By the record's file name: its versions are different films. */
export function scenarioContent(fileName: string): Content {
  return patternContent(SIZE_BYTES, 1 + Number(/\d+/.exec(fileName)![0]))
}

async function main(dir: string, random: Random, syncData: boolean): Promise<void> {
  await prepareLayout(layoutOf(dir))
  for (let run = 0; run < 2; run++) {
    const store = await Store.open({ dir, maxSizeBytes: MAX_SIZE_BYTES, reserveFreeBytes: 0, checkedShare: 0, syncData })
    for (let film = 0; film < FILMS; film++) await watch(store, film, run, random)
    await store.close()
  }
}

async function watch(store: Store, film: number, run: number, random: Random): Promise<void> {
  const known = store.resource(`film-${film}`)
  const isNewVersion = known === undefined || random.next() < 0.3
  const fileName = isNewVersion ? `${film + FILMS * run}.mkv` : known.fileName
  const generationId = isNewVersion ? newGenerationId() : known.generation
  await store.putResource(`film-${film}`, {
    displayUrl: `http://origin/${fileName}`, fileName, generation: generationId, sizeBytes: SIZE_BYTES, contentType: undefined,
    etag: `"${fileName}"`, lastModified: undefined, isRangeable: true, freshUntilMs: 0, lastUsedMs: Date.now(),
  })
  const generation = store.openGeneration(generationId, SIZE_BYTES)
  const content = scenarioContent(fileName)
  for (let step = 0; step < 6; step++) {
    const start = random.below(EXTENTS_PER_FILM) * EXTENT_BYTES + random.below(5) * CHUNK_BYTES
    arrive(generation, content, start, start + 1 + random.below(3 * CHUNK_BYTES))
    if (random.next() < 0.4) await generation.locate(start)
    if (random.next() < 0.6) await generation.settle()
    if (random.next() < 0.3) await delay(random.below(40)) // past the moment at which a group is committed
  }
  await store.releaseGeneration(generation)
}

function arrive(generation: Generation, content: Content, start: number, end: number): void {
  for (let at = start; at < Math.min(end, SIZE_BYTES); at += 50_000) {
    generation.write(at, content.read(at, Math.min(at + 50_000, end, SIZE_BYTES)))
  }
}

if (process.argv[1] === import.meta.filename) {
  await main(process.argv[2]!, randomOf(Number(process.argv[3])), process.argv[4] === 'sync')
}
