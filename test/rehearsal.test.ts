/** A host plays a film to itself before anybody comes: nothing of that is seen, and nobody waits for it. */

import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'

import { connect } from '../src/client/cache.ts'
import { HOST_DEFAULTS, type HostOptions } from '../src/config.ts'
import { withResolvers } from '../src/deferred.ts'
import { Rehearsal } from '../src/rehearsal.ts'
import { within } from './support/deadline.ts'
import { startHost } from './support/host.ts'
import { randomOf, seedOfRun } from './support/random.ts'
import { tempDir } from './support/temp-dir.ts'

const SEED = seedOfRun()
console.log(`seed ${SEED} (SEEKCACHE_SEED)`)
/** Of the event loop; a rehearsal lasts about so long. */
const MOST_TURNS = 6_000

test('a host that nobody needs rehearses, and nothing of it is left in the cache, the metrics, or the directory', async () => {
  await using host = await startHost({ rehearses: true })
  await host.rehearsed
  assert.ok(!readdirSync(host.cacheDir).includes('rehearsal'))
  await using cache = await connect({ cacheDir: host.cacheDir, startHost: false })
  assert.deepEqual(await cache.list(), [])
  const { usedBytes, originBytes } = await cache.status()
  assert.deepEqual({ usedBytes, originBytes }, { usedBytes: 0, originBytes: 0 })
  const metrics = await (await fetch(`${host.proxy}/metrics`)).text()
  const counted = metrics.split('\n').filter((line) => /^seekcache_\w+(_total|_count)\S* [^0]/.test(line))
  assert.deepEqual(counted, [])
})

test('--no-rehearsal: a host that started earlier than one that has rehearsed has not', async () => {
  await using without = await startHost({ rehearses: true, args: ['--no-rehearsal'] })
  let hasRehearsed = false
  without.rehearsed.then(() => (hasRehearsed = true), () => {})
  await using host = await startHost({ rehearses: true })
  await host.rehearsed
  assert.equal(hasRehearsed, false)
})

test('what a host that died in its rehearsal has left is cleared away by the next one', async () => {
  await using dir = await tempDir()
  const cacheDir = dir.file('cache')
  await (await startHost({ cacheDir })).stop()
  mkdirSync(dir.file('cache', 'rehearsal', 'extents'), { recursive: true })
  writeFileSync(dir.file('cache', 'rehearsal', 'extents', 'left-over'), 'x')
  await using _host = await startHost({ cacheDir })
  assert.ok(!readdirSync(cacheDir).includes('rehearsal'))
})

test('whoever comes in the middle of a rehearsal ends it; it is made up for when they have left, and leaves nothing', async () => {
  const random = randomOf(SEED)
  for (let round = 0; round < 12; round++) {
    await using dir = await tempDir()
    const { rehearsal, rehearsed } = rehearsalIn(dir.path)
    let isOver = false
    void rehearsed.then(() => (isOver = true))
    rehearsal.onBusy(false)
    const turns = random.below(MOST_TURNS)
    for (let turn = 0; turn < turns; turn++) await setImmediate()
    rehearsal.onBusy(true)
    const wasOver = isOver
    await within('its end', rehearsal.ended)
    assert.equal(isOver, wasOver, `after ${turns} turns`)
    rehearsal.onBusy(false)
    await within('a rehearsal', rehearsed)
    await rehearsal.close()
    assert.deepEqual(readdirSync(dir.path), [], `after ${turns} turns`)
  }
})

test('a host that leaves ends its rehearsal wherever it is, and begins no other one', async () => {
  const random = randomOf(SEED)
  for (let round = 0; round < 12; round++) {
    await using dir = await tempDir()
    const { rehearsal } = rehearsalIn(dir.path)
    rehearsal.onBusy(false)
    const turns = random.below(MOST_TURNS)
    for (let turn = 0; turn < turns; turn++) await setImmediate()
    await within('its end', rehearsal.close())
    rehearsal.onBusy(false)
    await rehearsal.close()
    assert.deepEqual(readdirSync(dir.path), [], `after ${turns} turns`)
    assert.equal(rehearsal.hasHungThread, false)
  }
})

test('a rehearsal that fails says why, once, and leaves nothing', async () => {
  await using dir = await tempDir()
  const deep = dir.file('d'.repeat(100)) // its socket's path would be too long
  mkdirSync(deep)
  const { rehearsal, failed } = rehearsalIn(deep)
  rehearsal.onBusy(false)
  assert.match((await within('its failure', failed)).message, /socket path/)
  rehearsal.onBusy(false)
  await rehearsal.close()
  assert.deepEqual(readdirSync(deep), [])
})

function rehearsalIn(cacheDir: string): { rehearsal: Rehearsal; rehearsed: Promise<void>; failed: Promise<Error> } {
  const host: HostOptions = { ...HOST_DEFAULTS, cacheDir, socketPath: '' }
  const { promise: rehearsed, resolve: onRehearsed, reject } = withResolvers<void>()
  const { promise: failed, resolve: onFailed } = withResolvers<Error>()
  const onFailure = (error: Error): void => {
    onFailed(error)
    reject(error)
  }
  rehearsed.catch(() => {})
  return { rehearsal: new Rehearsal({ host, onRehearsed: () => onRehearsed(), onFailure, restMs: 0 }), rehearsed, failed }
}
