/** A host that is told to leave does so in a bounded time, whatever it is doing and whatever does not answer it. */

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { describe, test } from 'node:test'

import { signalCampaign } from './soak/signals.ts'
import { patternContent } from './support/content.ts'
import { until, within } from './support/deadline.ts'
import { compileShim, whyNoShim } from './support/disk-shim.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost } from './support/host.ts'
import { seedOfRun } from './support/random.ts'
import { tempDir } from './support/temp-dir.ts'

const CONTENT = patternContent(3_000_000)
const ROUNDS = 12

test('SIGTERM at any instant ends a host, by itself or in order, and the next one takes its directory (SEEKCACHE_SEED=…)', async (t) => {
  const seed = seedOfRun()
  t.diagnostic(`SEEKCACHE_SEED=${seed}`)
  const summary = await signalCampaign(ROUNDS, seed)
  t.diagnostic(JSON.stringify(summary))
  assert.equal(summary.rounds, ROUNDS)
})

/** The disk hangs in the midst of a film; the next host begins with what was kept. */
async function assertLeaves(signals: 1 | 2): Promise<void> {
  await using shim = await compileShim()
  await using dir = await tempDir()
  await using origin = await startFaultOrigin({ content: CONTENT })
  const faults = shim.newFaults()
  await using host = await startHost({ cacheDir: dir.file('c'), env: shim.failing(dir.file('c'), faults) })
  faults.armHang(['write'])
  const body = fetch(host.proxyUrl(origin.url())).then((response) => response.arrayBuffer()).catch(() => undefined)
  await until('the disk is asked', () => faults.seen > 0)
  process.kill(host.pid, 'SIGTERM')
  if (signals === 2) {
    await until('it has begun to leave', () => !existsSync(dir.file('c', 'host.json')))
    process.kill(host.pid, 'SIGTERM')
  }
  await within('its end', host.exited)
  await body
  faults.disarm()
  await using next = await startHost({ cacheDir: dir.file('c') })
  const again = Buffer.from(await (await fetch(next.proxyUrl(origin.url()))).arrayBuffer())
  assert.ok(again.equals(CONTENT.read(0, CONTENT.sizeBytes)))
}

describe('a host that is told to leave', { concurrency: true, skip: whyNoShim() ?? false }, () => {
  test('leaves at the first signal although its disk hangs', async () => await assertLeaves(1))
  test('leaves at the second signal at once although its disk hangs', async () => await assertLeaves(2))

  test('leaves although its disk hangs from that moment on', async () => {
    await using shim = await compileShim()
    await using dir = await tempDir()
    const faults = shim.newFaults()
    await using host = await startHost({ cacheDir: dir.file('c'), env: shim.failing(dir.file('c'), faults) })
    faults.armHang(['write'])
    process.kill(host.pid, 'SIGTERM')
    await within('its end', host.exited)
    assert.ok(faults.seen > 0)
    faults.disarm()
    await using _next = await startHost({ cacheDir: dir.file('c') })
  })

  test('leaves although its disk hangs while it rehearses', async () => {
    await using shim = await compileShim()
    await using dir = await tempDir()
    const faults = shim.newFaults()
    await using host = await startHost({ cacheDir: dir.file('c'), rehearses: true, env: shim.failing(dir.file('c', 'rehearsal'), faults) })
    faults.armHang(['write'])
    await until('it rehearses', () => faults.seen > 0)
    process.kill(host.pid, 'SIGTERM')
    await within('its end', host.exited)
    faults.disarm()
    await using _next = await startHost({ cacheDir: dir.file('c') })
    assert.ok(!existsSync(dir.file('c', 'rehearsal')))
  })

  test('leaves in order from a directory that can no longer be changed', async () => {
    await using shim = await compileShim()
    await using dir = await tempDir()
    const faults = shim.newFaults()
    await using host = await startHost({ cacheDir: dir.file('c'), env: shim.failing(dir.file('c'), faults) })
    faults.arm('EROFS', 0, 1e9)
    process.kill(host.pid, 'SIGTERM')
    assert.equal(await host.exited, 0, host.stderr)
    assert.equal(host.stderr.includes('Error'), false, host.stderr)
  })
})
