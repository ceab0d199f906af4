/** Reads of all kinds against a naive oracle, while versions change, hosts die, room is made and the origin fails. */

import { test } from 'node:test'

import { runModel } from './support/model/run.ts'
import { seedOfRun } from './support/random.ts'

const READS = 100_000
const SEED = seedOfRun()

test(`every read gives exactly one version's bytes, or a clear error (SEEKCACHE_SEED=${SEED})`, async (t) => {
  t.diagnostic(await runModel({ seed: SEED, reads: READS }))
})
