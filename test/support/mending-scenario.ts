/**
 * A program under the disk shim: `mending-scenario.ts CONTROL DIR NTH kill|ENOSPC`. The index of its store has lost its heads;
 * while the store is opened the program is killed in front of the n-th operation, or the disk is full from there on.
 */
import { closeSync, openSync, writeSync } from 'node:fs'
import { join } from 'node:path'

import { CHUNK_BYTES } from '../../src/bytes/ranges.ts'
import { SeekCacheError } from '../../src/errors.ts'
import { patternContent } from './content.ts'
import { Faults } from './disk-shim.ts'
import { fill, newGeneration, openStore } from './stores.ts'

/** What was cached before the index was damaged. */
export const CONTENT = patternContent(5 * CHUNK_BYTES)
/** The exit status of a start that the disk has refused, with a word for a person. */
export const REFUSED = 9

async function main(control: string, dir: string, nth: number, how: string): Promise<void> {
  const faults = new Faults(control)
  const store = await openStore(dir)
  fill(await newGeneration(store, CONTENT.sizeBytes, 'before.mkv'), CONTENT)
  await store.close()
  const fd = openSync(join(dir, 'index', 'data.mdb'), 'r+')
  writeSync(fd, Buffer.alloc(8192), 0, 8192, 0)
  closeSync(fd)
  if (how === 'kill') faults.armKill(nth, ['open', 'write', 'name'])
  else faults.arm('ENOSPC', nth, 1e9)
  try {
    await (await openStore(dir, { onDamage: () => {} })).close()
  } catch (error) {
    if (!(error instanceof SeekCacheError) || error.code !== 'ERR_SEEKCACHE_CACHE_UNWRITABLE') throw error
    process.exitCode = REFUSED
  }
  process.stdout.write(String(faults.seen))
}

if (process.argv[1] === import.meta.filename) {
  const [control, dir, nth, how] = process.argv.slice(2)
  await main(control!, dir!, Number(nth), how!)
}
