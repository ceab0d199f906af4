/** A host that is killed at any instant loses recent chunks at most. `npm run soak kill` does it a thousand times. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { killCampaign } from './soak/kill.ts'
import { seedOfRun } from './support/random.ts'

const KILLS = 15

test('after kill -9 at random instants under load every present byte is right, and no space is lost', async (t) => {
  const seed = seedOfRun()
  t.diagnostic(`SEEKCACHE_SEED=${seed}`)
  const { kills, checkedChunks } = await killCampaign({ kills: KILLS, seed })
  assert.equal(kills, KILLS)
  assert.ok(checkedChunks > 0, 'the hosts had cached something')
})
