/** What is cached, as it is told: a list of any length, in pages that fit into messages. */

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'

import { connect } from 'seekcache'
import { ControlClient } from '../src/client/control-client.ts'
import { listPage } from '../src/control/listing.ts'
import { formatMessage, MAX_HOST_LINE_BYTES, type ListEntry } from '../src/control/protocol.ts'
import { startHost } from './support/host.ts'
import { runCli } from './support/programs.ts'
import { openStore, resourceRecord } from './support/stores.ts'
import { randomOf, seedOfRun, type Random } from './support/random.ts'
import { tempDir } from './support/temp-dir.ts'

const SEED = seedOfRun()
console.log(`SEEKCACHE_SEED=${SEED}`)
const FILMS = 1_500
/** A URL as long as it has to be for the list to be longer than a message. */
const LONG = 'x'.repeat(1_000)

function key(random: Random): string {
  return Array.from({ length: 40 }, () => random.below(16).toString(16)).join('')
}

function entry(name: string, lengthBytes = 0): ListEntry {
  return { url: `http://h/${name}${'\u00fc'.repeat(lengthBytes / 2)}`, sizeBytes: 1, presentBytes: 0, contentType: null, lastUsedMs: 0 }
}

test('a list that is longer than a message comes whole, through API and CLI, the last used first', async () => {
  await using dir = await tempDir()
  const store = await openStore(dir.file('cache'))
  const random = randomOf(SEED)
  await Promise.all(Array.from({ length: FILMS }, async (_, i) => {
    const record = { ...resourceRecord(i.toString(16).padStart(16, '0'), 1000), displayUrl: `http://origin/${i}-${LONG}`, lastUsedMs: 1 + random.below(1e12) }
    await store.putResource(key(random), record)
  }))
  await store.close()
  await using host = await startHost({ cacheDir: dir.file('cache') })
  await using cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
  const entries = await cache.list()
  assert.equal(new Set(entries.map(({ url }) => url)).size, FILMS)
  assert.equal(entries.length, FILMS)
  assert.ok(entries.every(({ lastUsedMs }, i) => i === 0 || lastUsedMs <= entries[i - 1]!.lastUsedMs), 'the last used first')
  const printed = await runCli(['ls', '--json'], host.clientEnv)
  assert.equal(printed.sha256, createHash('sha256').update(`${JSON.stringify(entries)}\n`).digest('hex'))

  const client = await ControlClient.connect(host.socket)
  await assert.rejects(client.request({ type: 'list' }, ['list']), { code: 'ERR_SEEKCACHE_USAGE', message: /longer than a message/ })
  assert.equal((await client.request({ type: 'status' }, ['status'])).answer.resources, FILMS, 'and the connection lives')
  client.close()
})

test('pages tell each entry that stays exactly once, whatever comes, goes or is used meanwhile, and fit into messages', () => {
  const random = randomOf(SEED)
  const staying = new Map(Array.from({ length: 500 }, (_, i) => [key(random), entry(`stays-${i}`, random.below(30_000))]))
  const told: string[] = []
  let passing = new Map<string, ListEntry>()
  for (let after: string | undefined = ''; after !== undefined; ) {
    const from: string = after
    passing = new Map(Array.from({ length: 50 }, () => [key(random), entry('passes', random.below(30_000))]))
    const all = [...staying, ...passing].filter(([cursor]) => cursor > from).sort(([a], [b]) => (a < b ? -1 : 1))
    const page = listPage(all)
    assert.ok(Buffer.byteLength(formatMessage({ id: 1, type: 'list', ...page })) <= MAX_HOST_LINE_BYTES / 2)
    assert.ok(page.entries.length > 0)
    told.push(...page.entries.map(({ url }) => url))
    after = page.next
  }
  assert.deepEqual(told.filter((url) => url.includes('stays')).sort(), [...staying.values()].map(({ url }) => url).sort())
})

test('an entry that is larger than a page is a page of its own, and nothing is an empty one', () => {
  const large = entry('large', 600_000)
  assert.deepEqual(listPage([['a', entry('first')], ['b', large], ['c', entry('last')]]), { entries: [entry('first')], next: 'a' })
  assert.deepEqual(listPage([['b', large], ['c', entry('last')]]), { entries: [large], next: 'b' })
  assert.deepEqual(listPage([]), { entries: [] })
})

test('the store lists in the order of keys, also what a failing disk has not taken', async () => {
  await using dir = await tempDir()
  const store = await openStore(dir.file('cache'))
  const put = async (name: string, lastUsedMs: number): Promise<void> => await store.putResource(name, { ...resourceRecord(name, 1000), lastUsedMs })
  for (const name of ['b', 'd', 'f']) await put(name, 0)
  const pending = ['a', 'd', 'g'].map((name) => put(name, 7)) // not saved in this turn
  assert.deepEqual([...store.resources()].map(([name, { lastUsedMs }]) => `${name}${lastUsedMs}`), ['a7', 'b0', 'd7', 'f0', 'g7'])
  assert.deepEqual([...store.resources('b')].map(([name]) => name), ['d', 'f', 'g'])
  assert.deepEqual([...store.resources('g')], [])
  await Promise.all(pending)
  assert.deepEqual([...store.resources('d')].map(([name]) => name), ['f', 'g'])
  await store.close()
})
