/** A power cut loses what was not synced, never shows a wrong byte, and leaves a directory that opens. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { powerCampaign } from './soak/power.ts'
import { apart } from './support/apart.ts'
import { whyNoShim } from './support/disk-shim.ts'
import { seedOfRun } from './support/random.ts'

const IMAGES = 150

test('after a power cut at any operation the store opens, and gives right bytes alone', async (t) => {
  const why = whyNoShim()
  if (why !== undefined) return t.skip(why)
  const seed = seedOfRun()
  t.diagnostic(`SEEKCACHE_SEED=${seed}`)
  const { images, readBytes, damagedChunks } = await apart<typeof powerCampaign>(new URL('./soak/power.ts', import.meta.url), 'powerCampaign', IMAGES, seed)
  assert.equal(images, IMAGES)
  assert.ok(readBytes > 0, 'something was there')
  assert.ok(damagedChunks > 0, 'something was lost: the cuts cut')
})
