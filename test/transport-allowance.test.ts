/** What an origin takes is learned, kept to, and shared by all resources that are fetched from it. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import fc from 'fast-check'
import { connect } from 'seekcache'
import {
  afterAllClosed, afterAnswer, afterOverload, afterRefusal, limitOf, nextProbeAtMs, UNLIMITED, type Allowance,
} from '../src/origin/allowance.ts'
import { shareOut, type Claim } from '../src/origin/shares.ts'
import { patternContent } from './support/content.ts'
import { within } from './support/deadline.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { seedOfRun } from './support/random.ts'

const CONTENT = patternContent(20_000_000)
const MINUTE_MS = 60_000
const MAX = 8
/** Of a host to one origin. */
const CONNECTIONS = 8

// ---- what is learned

function overloaded(allowance: Allowance, facts: { inFlight: number; sentMs?: number; retryAfterMs?: number }, nowMs: number): Allowance {
  return afterOverload(allowance, { status: 429, retryAfterMs: undefined, sentMs: nowMs - 10, ...facts }, nowMs)
}

test('an overloaded origin gets half of what was in flight, once for all that were, and more again after minutes', () => {
  const t = 1_000_000
  let allowance = overloaded(UNLIMITED, { inFlight: 8 }, t)
  assert.equal(limitOf(allowance, MAX, t), 4)
  allowance = overloaded(allowance, { inFlight: 7, sentMs: t - 5 }, t + 5)
  assert.equal(limitOf(allowance, MAX, t + 5), 4, 'it was sent before the lesson')
  assert.equal(limitOf(allowance, MAX, t + 2 * MINUTE_MS), 5)
  assert.equal(limitOf(allowance, MAX, t + 4 * MINUTE_MS), 6)
  assert.equal(limitOf(allowance, MAX, t + 60 * MINUTE_MS), MAX)
  assert.equal(nextProbeAtMs(allowance, MAX, t), t + 2 * MINUTE_MS)
  assert.equal(nextProbeAtMs(allowance, MAX, t + 2 * MINUTE_MS), t + 4 * MINUTE_MS)
  assert.equal(nextProbeAtMs(allowance, MAX, t + 60 * MINUTE_MS), undefined)
  assert.equal(nextProbeAtMs(UNLIMITED, MAX, t), undefined)
})

test('where one more is refused, the next try waits twice as long', () => {
  let allowance = overloaded(UNLIMITED, { inFlight: 8 }, 0)
  let nowMs = 2 * MINUTE_MS
  for (const waitMinutes of [4, 8, 16, 30, 30]) {
    allowance = overloaded(allowance, { inFlight: 8 }, nowMs)
    assert.equal(limitOf(allowance, MAX, nowMs + waitMinutes * MINUTE_MS - 1), 4)
    assert.equal(limitOf(allowance, MAX, (nowMs += waitMinutes * MINUTE_MS)), 5)
  }
})

test('one request that is refused alone says nothing of how many the origin takes', () => {
  assert.equal(limitOf(overloaded(UNLIMITED, { inFlight: 1 }, 0), MAX, 0), MAX)
})

test('Retry-After is a pause, the longest counts, and none is longer than ten minutes', () => {
  let allowance = overloaded(UNLIMITED, { inFlight: 2, retryAfterMs: 5_000 }, 0)
  allowance = overloaded(allowance, { inFlight: 2, retryAfterMs: 1_000, sentMs: -10 }, 100)
  assert.equal(allowance.pausedUntilMs, 5_000)
  assert.equal(overloaded(allowance, { inFlight: 2, retryAfterMs: 86_400_000 }, 100).pausedUntilMs, 100 + 10 * MINUTE_MS)
})

test('three refused connections while others are answered are a limit, fewer or older ones are none', () => {
  let allowance = afterRefusal(afterRefusal(UNLIMITED, 3, 0), 3, 1)
  assert.equal(limitOf(afterAnswer(allowance, 3, 2), MAX, 2), MAX)
  allowance = afterRefusal(allowance, 3, 3)
  assert.equal(limitOf(afterAnswer(allowance, 3, 4), MAX, 4), 3)
  assert.equal(limitOf(afterAnswer(allowance, 3, 10_002), MAX, 10_002), MAX, 'too long ago')
})

test('an origin that is down has no limit', () => {
  let allowance = UNLIMITED
  for (let i = 0; i < 10; i++) allowance = afterRefusal(allowance, 1, i)
  assert.equal(limitOf(afterAnswer(afterAllClosed(allowance), 1, 20), MAX, 20), MAX)
  assert.equal(limitOf(afterAnswer(afterRefusal(allowance, 0, 10), 1, 20), MAX, 20), MAX, 'what it refused before, too')
})

// ---- how it is shared

const aClaim = fc.record({
  need: fc.constantFrom('none' as const, 'ahead' as const, 'urgent' as const),
  inFlight: fc.nat(8),
  lastStartMs: fc.nat(1000),
})

test('shares: who waits gets on, the limit holds for what is started, and nobody gives up more than is missing', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 16 }), fc.array(aClaim, { minLength: 1, maxLength: 6 }), fc.nat(3), fc.nat(2), (limit, claims, others, queued) => {
      const shares = shareOut(limit, claims, others, queued)
      const running = others + claims.reduce((sum, { inFlight }) => sum + inFlight, 0)
      const started = (claim: Claim, i: number): number => Math.max(0, shares[i]!.limit - claim.inFlight)
      claims.forEach((claim, i) => {
        const { limit: mine, yieldCount } = shares[i]!
        assert.ok(yieldCount >= 0 && claim.inFlight - yieldCount >= Math.min(mine, claim.inFlight), 'what may run is not given up')
        if (started(claim, i) > 0) assert.ok(running + started(claim, i) <= limit, 'no schedule starts too much')
        if (claim.need === 'none') assert.equal(mine, 0)
      })
      const given = shares.reduce((sum, { yieldCount }) => sum + yieldCount, 0)
      const unserved = claims.filter(({ need, inFlight }) => need === 'urgent' && inFlight === 0).length
      assert.ok(given <= unserved + queued)
      const surplus = claims.filter(({ need }) => need !== 'urgent').reduce((sum, { inFlight }) => sum + inFlight, 0)
      if (unserved > 0 && surplus > 0 && claims.filter(({ need }) => need === 'urgent').length + others + queued <= limit) {
        assert.ok(given > 0 || running < limit, 'readahead makes room for who waits')
      }
    }),
    { numRuns: 5_000, seed: seedOfRun() },
  )
})

test('shares: who gives up and who starts comes to an end, whoever waits', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), fc.array(aClaim, { minLength: 2, maxLength: 6 }), (limit, begun) => {
      const claims = begun.map((claim) => ({ ...claim }))
      let clockMs = 1_001
      /** One after another sees its share, as each resource's plan does; nothing ends meanwhile. */
      const move = (claim: (typeof claims)[number]): boolean => {
        const { limit: mine, yieldCount } = shareOut(limit, [claim, ...claims.filter((other) => other !== claim)])[0]!
        if (yieldCount > 0) claim.inFlight -= yieldCount
        else if (claim.inFlight < mine) {
          claim.inFlight++
          claim.lastStartMs = clockMs++
        } else return false
        return true
      }
      for (let round = 0; claims.map(move).includes(true); round++) assert.ok(round < 60, 'it goes on for ever')
    }),
    { numRuns: 2_000 },
  )
})

test('shares: one resource alone has all; readahead alone is shared alike; beside a waiting reader it keeps one each', () => {
  const ahead: Claim = { need: 'ahead', inFlight: 0, lastStartMs: 1 }
  const urgent: Claim = { need: 'urgent', inFlight: 0, lastStartMs: 2 }
  const limits = (...claims: Claim[]): number[] => shareOut(8, claims).map(({ limit }) => limit)
  assert.deepEqual(limits(ahead), [8])
  assert.deepEqual(limits(ahead, ahead), [4, 4])
  assert.deepEqual(limits(ahead, ahead, urgent), [1, 1, 6])
  assert.deepEqual(limits(ahead, urgent, urgent), [1, 4, 3])
  assert.deepEqual(shareOut(1, [{ ...ahead, inFlight: 1 }, urgent]), [{ limit: 0, yieldCount: 1 }, { limit: 0, yieldCount: 0 }], 'first it gives up, then the other starts')
  assert.deepEqual(shareOut(1, [ahead, { ...ahead, lastStartMs: 5 }]).map(({ limit }) => limit), [1, 0], 'in turn')
})

// ---- in a host

type Cache = Awaited<ReturnType<typeof connect>>
type Media = Awaited<ReturnType<Cache['open']>>

async function connectTo(host: TestHost): Promise<Cache> {
  return await connect({ cacheDir: host.cacheDir, socketPath: host.socket })
}

async function collect(media: Media, start = 0, end = CONTENT.sizeBytes): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const bytes of media.read(start, end)) parts.push(bytes)
  return Buffer.concat(parts)
}

async function countFetches(host: TestHost, ...outcomes: readonly string[]): Promise<number> {
  const metrics = await (await fetch(`${host.proxy}/metrics`)).text()
  const counts = metrics.matchAll(/^seekcache_fetches_total\{outcome="(\w+)"\} (\d+)$/gm)
  return [...counts].reduce((sum, [, outcome, count]) => sum + (outcomes.includes(outcome!) ? Number(count) : 0), 0)
}

async function assertRight(media: Media): Promise<void> {
  assert.ok((await collect(media)).equals(CONTENT.read(0, CONTENT.sizeBytes)), 'every byte')
}

test('all resources of an origin together keep to its connections', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost({ args: ['--connections', '3'] })
  await using cache = await connectTo(host)
  const medias = await Promise.all(['a.mkv', 'b.mkv', 'c.mkv'].map((name) => cache.open(origin.url(name))))
  await Promise.all(medias.map((media) => media.fetchAll()))
  for (const media of medias) await assertRight(media)
  const { accepted } = origin.connections
  const ended = await countFetches(host, 'cancelled', 'stalled', 'failed')
  assert.ok(accepted <= 3 + ended, `${accepted} connections, ${ended} requests given up`)
})

test('a reader that waits is not kept waiting by the readahead of another resource', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost({ args: ['--connections', '1', '--stall', '60'] })
  await using cache = await connectTo(host)
  origin.setScript(({ target, range }) => (target === '/a.mkv' && (range?.start ?? 0) > 1_000_000 ? { kind: 'body-stalled', afterBytes: 70_000 } : undefined))
  const other = await cache.open(origin.url('a.mkv'))
  const filling = new AbortController()
  const filled = other.fetchAll({ signal: filling.signal }).catch(() => undefined)
  await origin.when('readahead stands still', ({ requests }) => requests.some(({ outcome }) => outcome === 'stalled'))
  const media = await cache.open(origin.url('b.mkv'))
  await origin.when('it has given way', ({ requests }) => requests.some(({ outcome }) => outcome === 'aborted'))
  assert.ok((await within('a read', collect(media, 5_000_000, 6_000_000))).equals(CONTENT.read(5_000_000, 6_000_000)))
  filling.abort()
  await filled
})

test('more films that wait than the origin takes requests have their turns, and the host answers meanwhile', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost({ args: ['--connections', '1'] })
  await using cache = await connectTo(host)
  const medias = await Promise.all(['a.mkv', 'b.mkv', 'c.mkv'].map((name) => cache.open(origin.url(name))))
  origin.setScript(() => ({ kind: 'head-delayed', delayMs: 20 }))
  const before = await countFetches(host, 'cancelled')
  const reads = medias.map(async (media) => assert.ok((await collect(media, 5_000_000, 5_400_000)).equals(CONTENT.read(5_000_000, 5_400_000))))
  await within('the reads', Promise.all(reads))
  await within('an answer of the host', cache.status())
  const cancelled = (await countFetches(host, 'cancelled')) - before
  assert.ok(cancelled <= 35, `${cancelled} requests were given up`)
})

test('an origin that says "later" is left alone by all, then asked by fewer at a time', async () => {
  const askedMs: number[] = []
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const medias = await Promise.all(['a.mkv', 'b.mkv'].map((name) => cache.open(origin.url(name))))
  origin.setScript(() => {
    askedMs.push(performance.now())
    if (askedMs.length > CONNECTIONS) return undefined
    return { kind: 'status', status: 429, headers: { 'retry-after': '2' } }
  })
  await Promise.all(medias.map((media) => media.fetchAll()))
  for (const media of medias) await assertRight(media)
  // As many may have been under way at once. The next one was asked for after an answer, whenever it came.
  const sinceMs = askedMs.slice(CONNECTIONS).map((atMs) => atMs - askedMs[0]!)
  assert.ok(sinceMs.length > 0)
  assert.deepEqual(sinceMs.filter((ms) => ms < 1_990), [], 'nothing was asked in between')
  await origin.when('fewer connections', ({ connections }) => connections.open <= 4)
})

test('connections that an origin refuses above a number are tried no more', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, maxConnections: 3 })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const first = await cache.open(origin.url('a.mkv'))
  await first.fetchAll()
  await assertRight(first)
  const refusedCount = origin.connections.refused
  assert.ok(refusedCount > 0 && refusedCount <= 24, `${refusedCount} were refused until it was learned`)
  const second = await cache.open(origin.url('b.mkv'))
  await second.fetchAll()
  await assertRight(second)
  assert.equal(origin.connections.refused, refusedCount)
})
