/** Reads of all kinds against a naive oracle, while versions change, hosts die, room is made and the origin fails. */

import { test } from 'node:test'

import { apart } from './support/apart.ts'
import type { runModel } from './support/model/run.ts'
import { seedOfRun } from './support/random.ts'

const READS = 100_000
const SEED = seedOfRun()

test(`every read gives exactly one version's bytes, or a clear error (SEEKCACHE_SEED=${SEED})`, async (t) => {
  t.diagnostic(await apart<typeof runModel>(new URL('./support/model/run.ts', import.meta.url), 'runModel', { seed: SEED, reads: READS }))
})
