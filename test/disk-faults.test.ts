/** A disk that fails, fills up or is smaller than the films: playback goes on, the bounds hold, and caching resumes. */

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, statfsSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, test, type TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'

import { EXTENT_BYTES } from '../src/bytes/ranges.ts'
import { verifyDir } from '../src/cache/verify.ts'
import { connect } from '../src/client/cache.ts'
import { extentDiskBytes } from './support/cache-check.ts'
import { bufferContent, type Content, patternBytes, patternContent } from './support/content.ts'
import { until } from './support/deadline.ts'
import { compileShim, type FaultCode, type Kind, KINDS_OF, whyNoShim } from './support/disk-shim.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost } from './support/host.ts'
import { runProgram } from './support/programs.ts'
import { CONTENT as MENDED, REFUSED } from './support/mending-scenario.ts'
import { CONTENT as RENEWED } from './support/renewal-scenario.ts'
import { assertBytes, openStore } from './support/stores.ts'
import { tempDir } from './support/temp-dir.ts'

const SCENARIO = fileURLToPath(new URL('support/fault-scenario.ts', import.meta.url))
const RENEWAL = fileURLToPath(new URL('support/renewal-scenario.ts', import.meta.url))
const MENDING = fileURLToPath(new URL('support/mending-scenario.ts', import.meta.url))
const CODES = Object.keys(KINDS_OF) as FaultCode[]
const FROM_NOW_ON = 1e9

async function assertBody(url: string, content: Content, start = 0, end = content.sizeBytes): Promise<void> {
  const response = await fetch(url, { headers: { range: `bytes=${start}-${end - 1}` } })
  assert.equal(response.status, 206)
  let at = start
  for await (const piece of response.body as unknown as AsyncIterable<Uint8Array>) {
    if (!Buffer.from(piece).equals(content.read(at, at + piece.length))) assert.fail(`wrong bytes from ${at}`)
    at += piece.length
  }
  assert.equal(at, end)
}

async function runScenario(t: TestContext, code: FaultCode, kind: readonly Kind[] = []): Promise<void> {
  const why = whyNoShim()
  if (why !== undefined) return t.skip(why)
  await using shim = await compileShim()
  await using dir = await tempDir()
  const faults = shim.newFaults()
  const words = ['--import', 'tsx', SCENARIO, faults.file, dir.file('c'), code, '1', '0', ...kind]
  const env = { ...process.env, ...shim.failing(dir.file('c'), faults), NODE_TEST_CONTEXT: undefined }
  const { status, stdout, stderr } = spawnSync(process.execPath, words, { env, encoding: 'utf8', timeout: 280_000 })
  assert.notEqual(stdout, '', stderr)
  const { runs, tellings, hasHungThread } = JSON.parse(stdout) as { runs: number; tellings: number; hasHungThread: boolean }
  assert.equal(status, hasHungThread ? null : 0, stderr)
  t.diagnostic(`${runs} runs, in ${tellings} of them the disk was told to fail`)
  assert.ok(runs >= 6 && tellings > 0)
}

test('a head page of the index that cannot be written, once or for good, costs no byte, and caching resumes in the same host', async (t) => {
  await runScenario(t, 'EIO', ['headPage'])
})

test('a kill at any moment of a renewal of the index leaves nothing behind for the next start', async (t) => {
  const why = whyNoShim()
  if (why !== undefined) return t.skip(why)
  await using shim = await compileShim()
  let kills = 0
  let leftBehind = 0
  for (let nth = 0, isOver = false; !isOver; nth++) {
    await using dir = await tempDir()
    const faults = shim.newFaults()
    const env = { ...process.env, ...shim.failing(dir.file('c'), faults), NODE_TEST_CONTEXT: undefined }
    const words = ['--import', 'tsx', RENEWAL, faults.file, dir.file('c'), String(nth)]
    const { status, signal, stderr } = spawnSync(process.execPath, words, { env, encoding: 'utf8', timeout: 60_000 })
    isOver = status === 0
    if (!isOver) assert.equal(signal, 'SIGKILL', stderr)
    if (!isOver) kills++
    const found = ['index.new', 'probe'].filter((name) => existsSync(dir.file('c', name)))
    leftBehind += found.length
    const verified = await verifyDir(dir.file('c'), { repair: false })
    for (const name of found) assert.ok(verified.orphans.includes(dir.file('c', name)), `verify tells of ${name}`)
    assert.equal(verified.indexDamage, undefined)
    const store = await openStore(dir.file('c'), { onDamage: (message) => assert.fail(message) })
    for (const name of found) assert.ok(!existsSync(dir.file('c', name)), `${name} is removed`)
    const before = [...store.resources()].find(([, { fileName }]) => fileName === 'before.mkv')!
    await assertBytes(store.openGeneration(before[0], RENEWED.sizeBytes), RENEWED, 0, RENEWED.sizeBytes)
    await store.close()
  }
  t.diagnostic(`${kills} kills, ${leftBehind} left-overs`)
  assert.ok(kills >= 5 && leftBehind >= 3)
})

for (const how of ['kill', 'ENOSPC'] as const) {
  test(`a damaged index is mended or kept, never lost: ${how === 'kill' ? 'a kill' : 'a full disk'} at any operation of that`, async (t) => {
    const why = whyNoShim()
    if (why !== undefined) return t.skip(why)
    await using shim = await compileShim()
    let hitCount = 0
    for (let nth = 0, isOver = false; !isOver; nth++) {
      await using dir = await tempDir()
      const faults = shim.newFaults()
      const env = { ...process.env, ...shim.failing(dir.file('c'), faults), NODE_TEST_CONTEXT: undefined }
      const words = ['--import', 'tsx', MENDING, faults.file, dir.file('c'), String(nth), how]
      const { status, signal, stdout, stderr } = spawnSync(process.execPath, words, { env, encoding: 'utf8', timeout: 60_000 })
      if (how === 'kill') assert.ok(status === 0 || signal === 'SIGKILL', stderr)
      else assert.ok(status === 0 || status === REFUSED, stderr)
      isOver = status === 0 && Number(stdout) <= nth
      if (!isOver) hitCount++
      const store = await openStore(dir.file('c'))
      const before = [...store.resources()].find(([, { fileName }]) => fileName === 'before.mkv')
      assert.ok(before !== undefined, `it is lost by operation ${nth}`)
      await assertBytes(store.openGeneration(before[0], MENDED.sizeBytes), MENDED, 0, MENDED.sizeBytes)
      await store.close()
    }
    t.diagnostic(`${hitCount} operations`)
    assert.ok(hitCount >= 10)
  })
}

for (const code of CODES) {
  test(`${code} at any operation, once or for good, costs no byte, and caching resumes`, async (t) => {
    await runScenario(t, code)
  })
}

// Most of their time they wait for the host to try the disk again.
describe('disks that fail', { concurrency: true }, () => {
  for (const code of CODES) {
    test(`a host whose disk fails with ${code} plays on, says so, and caches again when it works`, async (t) => {
      const why = whyNoShim()
      if (why !== undefined) return t.skip(why)
      await using shim = await compileShim()
      await using dir = await tempDir()
      const content = patternContent(6_000_000)
      await using origin = await startFaultOrigin({ content })
      const faults = shim.newFaults()
      await using host = await startHost({ cacheDir: dir.file('c'), env: shim.failing(dir.file('c'), faults), args: ['--reserve', '0'] })
      await assertBody(host.proxyUrl(origin.url('before.mkv')), content)
      faults.arm(code, 0, FROM_NOW_ON)
      await assertBody(host.proxyUrl(origin.url('meanwhile.mkv')), content)
      await assertBody(host.proxyUrl(origin.url('before.mkv')), content)
      await until('it says so', () => /cannot be written .*playing on without caching/.test(host.stderr))
      faults.disarm()

      await using cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
      await until('the host has tried the disk again', async () => (await cache.status()).degraded === null)
      await until('it says that it works again', () => /can be written again: caching goes on/.test(host.stderr))
      // What the disk took long to refuse may still fail, and cost what came meanwhile its place.
      await until('what is played now is kept', async () => {
        await assertBody(host.proxyUrl(origin.url('after.mkv')), content)
        return (await cache.map(origin.url('after.mkv'))).present[0]?.[1] === content.sizeBytes && (await cache.status()).degraded === null
      })
      await host.restart()
      await origin.goDown()
      await assertBody(host.proxyUrl(origin.url('after.mkv')), content)
    })
  }
})

test('eight readers of films larger than the budget: the directory stays within budget and 4 extents', async () => {
  const budgetBytes = 4 * EXTENT_BYTES
  const contents = [1, 2].map((seed) => bufferContent(patternBytes(0, 6 * EXTENT_BYTES + 77, seed)))
  await using first = await startFaultOrigin({ content: contents[0]! })
  await using second = await startFaultOrigin({ content: contents[1]! })
  await using host = await startHost({ args: ['--max-size', String(budgetBytes), '--reserve', '0', '--window', '4M'] })
  let isReading = true
  let mostBytes = 0
  const sampling = (async () => {
    for (let isLast = false; !isLast; await delay(5)) {
      isLast = !isReading
      mostBytes = Math.max(mostBytes, extentDiskBytes(host.cacheDir))
    }
  })()
  const readers = Array.from({ length: 8 }, async (_, reader) => {
    const content = contents[reader % 2]!
    const start = Math.floor((reader * content.sizeBytes) / 10)
    const url = host.proxyUrl([first, second][reader % 2]!.url(`film-${reader % 2}.mkv`))
    await assertBody(url, content, start, Math.min(start + 30_000_000, content.sizeBytes))
  })
  await Promise.all(readers).finally(() => (isReading = false))
  await sampling
  assert.ok(mostBytes > budgetBytes / 2, 'they were cached')
  assert.ok(mostBytes <= budgetBytes + 4 * EXTENT_BYTES, `${mostBytes} bytes were on the disk`)
})

test('the reserve of free disk is left alone', async (t) => {
  await using dir = await tempDir()
  const isMounted = process.platform === 'linux' && (await runProgram(['mount', '-t', 'tmpfs', '-o', 'size=80m', 'tmpfs', dir.path])).code === 0
  if (!isMounted) return t.skip('a small file system cannot be mounted here')
  try {
    const content = patternContent(150_000_000)
    const reserveBytes = 32 * 2 ** 20
    await using origin = await startFaultOrigin({ content })
    await using host = await startHost({ cacheDir: dir.file('c'), args: ['--reserve', String(reserveBytes)] })
    let isReading = true
    let leastFreeBytes = Number.POSITIVE_INFINITY
    const sampling = (async () => {
      for (let isLast = false; !isLast; await delay(2)) {
        isLast = !isReading
        const { bavail, bsize } = statfsSync(dir.path)
        leastFreeBytes = Math.min(leastFreeBytes, bavail * bsize)
      }
    })()
    await assertBody(host.proxyUrl(origin.url()), content).finally(() => (isReading = false))
    await sampling
    assert.ok(leastFreeBytes < 60 * 2 ** 20, 'it was cached')
    assert.ok(leastFreeBytes >= reserveBytes, `${leastFreeBytes} bytes were left`)
  } finally {
    await runProgram(['umount', dir.path])
  }
})
