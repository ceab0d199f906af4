/**
 * A program under the disk shim: `renewal-scenario.ts CONTROL DIR NTH`. Its store loses its index, as LMDB gives it up when a
 * head page cannot be written; while it makes a new one the program is killed in front of the n-th operation on a name.
 */
import assert from 'node:assert/strict'

import { CHUNK_BYTES } from '../../src/bytes/ranges.ts'
import { patternContent } from './content.ts'
import { until } from './deadline.ts'
import { Faults } from './disk-shim.ts'
import { fill, newGeneration, openStore } from './stores.ts'

/** What was cached before the index was lost. */
export const CONTENT = patternContent(5 * CHUNK_BYTES)

async function main(control: string, dir: string, nth: number): Promise<void> {
  const faults = new Faults(control)
  let store = await openStore(dir, { diskRetryMs: 1 })
  const generation = await newGeneration(store, CONTENT.sizeBytes, 'before.mkv')
  fill(generation, CONTENT)
  await store.close()
  store = await openStore(dir, { diskRetryMs: 1 })
  faults.arm('EIO', 0, 1, ['headPage'])
  const other = await newGeneration(store, CONTENT.sizeBytes, 'meanwhile.mkv')
  assert.notEqual(store.stats.degraded, undefined, 'the index is lost')
  faults.armKill(nth, ['name'])
  await until('it is renewed', () => store.stats.degraded === undefined)
  fill(other, CONTENT)
  await store.close()
}

if (process.argv[1] === import.meta.filename) {
  const [control, dir, nth] = process.argv.slice(2)
  await main(control!, dir!, Number(nth))
}
