/** The fuzz targets of `npm test`, many times more often. */

import { FUZZ_TARGETS } from '../support/fuzz.ts'
import { seedOfRun } from '../support/random.ts'

const RUNS = Number(process.env.SEEKCACHE_FUZZ_RUNS ?? 300_000)

export default async function fuzz(): Promise<string> {
  const seed = seedOfRun()
  console.log(`fuzz: SEEKCACHE_SEED=${seed}`)
  for (const { run } of FUZZ_TARGETS) await run({ numRuns: RUNS, seed })
  return `${FUZZ_TARGETS.length} targets, ${RUNS} runs of each, nothing found`
}
