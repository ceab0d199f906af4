/** Ten times the reads of the model test. */
import { runModel } from '../support/model/run.ts'
import { seedOfRun } from '../support/random.ts'

const READS = Number(process.env.SEEKCACHE_READS ?? 1_000_000)

export default async function model(): Promise<string> {
  const seed = seedOfRun()
  process.stdout.write(`model: SEEKCACHE_SEED=${seed}\n`)
  return await runModel({ seed, reads: READS })
}
