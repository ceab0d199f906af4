/** Runs random scenarios until one breaks a rule; that one is shrunk. */
import fc from 'fast-check'

import { simulate } from './run.ts'
import { aScenario } from './scenario.ts'

export async function checkScenarios(runs: number, seed: number): Promise<string> {
  const totals = { requests: 0, waits: 0, events: 0 }
  await fc.assert(
    fc.asyncProperty(aScenario, async (scenario) => {
      const counts = await simulate(scenario)
      totals.requests += counts.requests
      totals.waits += counts.waits
      totals.events += counts.events
    }),
    { numRuns: runs, seed: seed | 0 },
  )
  return `${runs} scenarios: ${totals.requests} requests, ${totals.waits} waits, ${totals.events} events`
}
