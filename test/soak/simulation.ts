/** Ten times the random scenarios of the schedule that `npm test` runs. */
import { seedOfRun } from '../support/random.ts'
import { checkScenarios } from '../support/simulation/check.ts'

const SCENARIOS = 100_000

export default async function simulation(): Promise<string> {
  const seed = seedOfRun()
  process.stdout.write(`simulation: SEEKCACHE_SEED=${seed}\n`)
  return await checkScenarios(SCENARIOS, seed)
}
