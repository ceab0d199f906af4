/** What was learned of an origin is there again after a restart. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { connect } from 'seekcache'
import { allowanceOf, OriginMemory, type OriginFacts } from '../src/origin/origin-memory.ts'
import { patternContent } from './support/content.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'

const CONTENT = patternContent(12_000_000)
const SALT = Buffer.alloc(16, 7)
const DAY_MS = 24 * 3600_000
const NOW_MS = 1_800_000_000_000
const FACTS: OriginFacts = {
  path: { rttMs: 61.5, bytesPerMs: 9_000, roundTripsAsked: 1.5 }, learnedLimit: 3, learnedAtMs: NOW_MS - 1000, probeIntervalMs: 120_000, chose1AtMs: 0, isDirect: true,
}

/** Through what the index makes of it. */
function stored(memory: OriginMemory): unknown {
  return JSON.parse(JSON.stringify(memory.records))
}

test('facts of an origin are found again under its name, and the name stands nowhere', () => {
  const memory = new OriginMemory(SALT, undefined, NOW_MS)
  memory.keep('https://films.example:8443', FACTS, NOW_MS)
  const kept = stored(memory)
  assert.doesNotMatch(JSON.stringify(kept), /films|example|8443/)
  const again = new OriginMemory(SALT, kept, NOW_MS + DAY_MS)
  assert.deepEqual(again.factsOf('https://films.example:8443')?.path, FACTS.path)
  assert.equal(allowanceOf(again.factsOf('https://films.example:8443')).learnedLimit, 3)
  assert.equal(again.factsOf('https://films.example:8443')?.isDirect, true)
  assert.equal(again.factsOf('https://films.example'), undefined)
  assert.equal(new OriginMemory(Buffer.alloc(16), kept, NOW_MS).factsOf('https://films.example:8443'), undefined)
})

test('what was not used for a month is forgotten, and of too many the longest unused', () => {
  const memory = new OriginMemory(SALT, undefined, NOW_MS)
  for (let i = 0; i < 300; i++) memory.keep(`http://origin-${i}`, FACTS, NOW_MS + i)
  assert.equal(memory.records.length, 256)
  const again = new OriginMemory(SALT, stored(memory), NOW_MS + DAY_MS)
  assert.equal(again.factsOf('http://origin-43'), undefined)
  assert.ok(again.factsOf('http://origin-44') !== undefined)
  assert.deepEqual(new OriginMemory(SALT, stored(memory), NOW_MS + 31 * DAY_MS).records, [])
})

test('what is no record is left out', () => {
  const memory = new OriginMemory(SALT, undefined, NOW_MS)
  memory.keep('http://origin', FACTS, NOW_MS)
  const [good] = memory.records
  const bad = [
    null, 7, 'x', {}, { ...good, id: 5 }, { ...good, usedAtMs: NOW_MS + DAY_MS }, { ...good, learnedLimit: 0 }, { ...good, learnedLimit: 2.5 },
    { ...good, learnedAtMs: NOW_MS + DAY_MS }, { ...good, isDirect: 'yes' }, { ...good, path: { rttMs: -1, bytesPerMs: 1, roundTripsAsked: 1 } }, { ...good, path: { ...FACTS.path, roundTripsAsked: Number.NaN } },
    { ...good, path: { ...FACTS.path, jitterMs: -1 } },
  ]
  for (const junk of [undefined, {}, 'text', ...bad.map((record) => [record])]) {
    assert.deepEqual(new OriginMemory(SALT, junk, NOW_MS).records, [], JSON.stringify(junk))
  }
})

async function fetchWhole(host: TestHost, url: string): Promise<void> {
  await using cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket })
  const media = await cache.open(url)
  await media.fetchAll()
  const parts: Buffer[] = []
  for await (const bytes of media.read()) parts.push(bytes)
  assert.ok(Buffer.concat(parts).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  await media.close()
}

test('a host knows after its restart how many connections an origin takes', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, maxConnections: 3 })
  await using host = await startHost()
  await fetchWhole(host, origin.url('first.mkv'))
  assert.ok(origin.connections.refused > 0, 'it was learned')
  await host.halt()
  await origin.when('its connections are closed', ({ connections }) => connections.open === 0)
  const { refused } = origin.connections
  await host.restart()
  await fetchWhole(host, origin.url('second.mkv'))
  assert.equal(origin.connections.refused, refused)
})
