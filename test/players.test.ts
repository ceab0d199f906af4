/** Players' habits at the proxy: whose demand a connection is, what a seek leaves behind, and what an announced one does. */

import assert from 'node:assert/strict'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import os from 'node:os'
import { test } from 'node:test'
import { setTimeout as elapse } from 'node:timers/promises'

import { connect } from 'seekcache'
import { continuesRun, endsInMs, isElsewhere, isLeft, isProbe, mayBeOwnRequest, OWN_REQUEST_MS, STALLED_MS, targetOf } from '../src/schedule/player-rules.ts'
import { patternContent } from './support/content.ts'
import { until, within } from './support/deadline.ts'
import { startFaultOrigin, type FaultOrigin, type FaultOriginOptions, type Script } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'

/** So long that no window reaches from one of the places of a test to the next one, whatever sockets have taken. */
const CONTENT = patternContent(200_000_000)
const MIB = 1024 * 1024

interface Served extends AsyncDisposable {
  readonly origin: FaultOrigin
  readonly host: TestHost
  /** The film's URL for a player that names itself, or for one that does not. */
  url(player?: string, kind?: string): string
}

async function serve(options: Partial<FaultOriginOptions> = {}, args: readonly string[] = []): Promise<Served> {
  const origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"', ...options })
  const host = await startHost({ args })
  return {
    origin,
    host,
    url: (player, kind = '') => {
      const spec = Buffer.from(JSON.stringify({ url: origin.url('film.mkv'), headers: [], player })).toString('base64url')
      return `${host.proxy}${kind}/u/${spec}/film.mkv`
    },
    [Symbol.asyncDispose]: async () => {
      await host.stop()
      await origin.stop()
    },
  }
}

/** A connection of its own that reads only when told to. */
interface Client {
  readonly status: number
  /** Takes that many bytes and checks them; then takes no more. */
  take(lengthBytes: number): Promise<void>
  readonly isClosed: boolean
  readonly closed: Promise<void>
  destroy(): void
}

async function get(url: string, start: number, end?: number): Promise<Client> {
  const range = `bytes=${start}-${end === undefined ? '' : end - 1}`
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    httpRequest(url, { agent: false, headers: { range, 'user-agent': 'player/1' } }, resolve).on('error', reject).end()
  })
  let position = start
  let isClosed = false
  response.on('error', () => {})
  const closed = new Promise<void>((resolve) => response.once('close', () => {
    isClosed = true
    resolve()
  }))
  return {
    status: response.statusCode!,
    get isClosed() {
      return isClosed
    },
    closed,
    take: async (lengthBytes) => {
      for (let left = lengthBytes; left > 0; ) {
        const bytes = response.read(Math.min(left, response.readableLength || 1)) as Buffer | null
        if (bytes === null) {
          if (isClosed) assert.fail('the response ended')
          await within('bytes', new Promise((resolve) => response.once('readable', resolve)))
          continue
        }
        assert.ok(bytes.equals(CONTENT.read(position, position + bytes.length)), `bytes at ${position}`)
        position += bytes.length
        left -= bytes.length
      }
    },
    destroy: () => response.destroy(),
  }
}

/** No byte of `[20 MB, 40 MB)` comes. */
const frozen: Script = ({ range }) => {
  const [start = 0, end = CONTENT.sizeBytes] = [range?.start, range?.end]
  if (start >= 40_000_000 || end <= 20_000_000) return undefined
  return start >= 20_000_000 ? { kind: 'head-held' } : { kind: 'body-stalled', afterBytes: 20_000_000 - start }
}

async function connectTo({ host }: Served): Promise<Awaited<ReturnType<typeof connect>>> {
  return await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
}

/** What has arrived is in the index a moment later, and nothing tells when. */
async function untilPresent(served: Served, start: number, end: number): Promise<void> {
  const { origin } = served
  await using cache = await connectTo(served)
  await until(`${start}-${end} is in the cache`, async () => {
    const { present } = await cache.map(origin.url('film.mkv'))
    return present.some((range) => range[0] <= start && range[1] >= end)
  })
}

const slow = (): { kind: 'body-slow'; bytesPerSecond: number } => ({ kind: 'body-slow', bytesPerSecond: 100_000 })
/** Of what the first connection of a test wants; head and tail are fetched at every opening, whoever reads where. */
const isNear = ({ range }: { range?: { start?: number } | undefined }): boolean => (range?.start ?? 0) >= MIB && (range?.start ?? 0) < 40_000_000
const runsNear = (origin: FaultOrigin): boolean => origin.requests.some((request) => isNear(request) && request.outcome === 'running')

test('the newest connection of a named player is its demand at once; an older one that stays has it back', async () => {
  await using served = await serve({ script: ({ range }) => ((range?.start ?? 0) < 40_000_000 ? slow() : { kind: 'head-held' }) })
  const url = served.url('one')
  const older = await get(url, 10_000_000)
  const reading = older.take(3 * MIB)
  await served.origin.when('fetches for the first', runsNear)
  const newer = get(url, 50_000_000)
  await served.origin.when('fetches for the second', (origin) => origin.requests.some(({ range }) => range?.start === 50_000_000))
  await served.origin.when('no fetch for the first', (origin) => !runsNear(origin))
  await using cache = await connectTo(served)
  const farHeld = (): number => served.origin.requests.filter((request) => !isNear(request) && request.outcome === 'stalled').length
  await until('all that is under way is for the second', async () => (await cache.status()).fetchesInFlight === farHeld() && !runsNear(served.origin))
  const before = served.origin.requests.filter(isNear).length
  // Whatever is asked for next comes of a plan that was made after all that: it would ask for the first as well.
  const other = get(served.url('two'), 150_000_000)
  await served.origin.when('fetches of a later plan', (origin) => origin.requests.some(({ range }) => range?.start === 150_000_000))
  assert.equal(served.origin.requests.filter(isNear).length, before)
  served.origin.setScript(slow)
  served.origin.release()
  await (await newer).take(1000)
  ;(await other).destroy()
  assert.equal(older.isClosed, false)
  await served.origin.when('fetches for the first again: it has stayed', runsNear)
  served.origin.setScript(undefined)
  await reading
  older.destroy()
})

test('two named players on one file are both served, each with a demand of its own', async () => {
  await using served = await serve({ script: slow })
  const one = await get(served.url('one'), 10_000_000)
  const two = await get(served.url('two'), 50_000_000)
  const before = served.origin.requests.length
  await Promise.all([one.take(200_000), two.take(200_000)])
  const isFor = (isOfFirst: boolean) => (origin: FaultOrigin): boolean =>
    origin.requests.slice(before).some((request) => isNear(request) === isOfFirst && (request.range?.start ?? 0) >= MIB && request.outcome === 'running')
  await served.origin.when('further fetches for the first', isFor(true))
  await served.origin.when('and for the second', isFor(false))
  one.destroy()
  two.destroy()
})

test('a connection that takes nothing while another one of an unnamed player reads is no demand until it moves', async () => {
  // What the sockets take comes at once, what the window wants beyond it never.
  const script: Script = (request) => {
    const { start = 0 } = request.range ?? {}
    return isNear(request) && start >= 20 * MIB ? { kind: 'head-held' } : undefined
  }
  await using served = await serve({ script }, ['--stall', '60'])
  const isAsked = (origin: FaultOrigin): boolean => origin.requests.some((request) => isNear(request) && request.outcome === 'stalled')
  const paused = await get(served.url(), 0)
  await paused.take(8 * MIB)
  await served.origin.when('what its window wants', isAsked)
  const playing = await get(served.url(), 50_000_000)
  await playing.take(2 * MIB)
  let isOver = false
  const playOn = (async () => {
    for (; !isOver; await new Promise((resolve) => setTimeout(resolve, 20))) await playing.take(20_000) // as a player takes it
  })()
  await served.origin.when('what the paused one wants, again: the seek took its connections', isAsked)
  await served.origin.when('nothing for the paused one', (origin) => !isAsked(origin))
  const before = served.origin.requests.length
  served.origin.setScript(undefined)
  await paused.take(30 * MIB)
  assert.ok(served.origin.requests.slice(before).some(isNear), 'it is demand again')
  isOver = true
  await playOn
  paused.destroy()
  playing.destroy()
})

test('a paused player has its window filled', async () => {
  await using served = await serve()
  const start = 100 * 64 * 1024
  const paused = await get(served.url(), start)
  await paused.take(1)
  await untilPresent(served, start, start + 4 * MIB)
  paused.destroy()
})

for (const name of ['one', undefined]) {
  test(`a player that reads in ranges has a window that grows over its requests (${name ?? 'unnamed'})`, async () => {
    await using served = await serve()
    for (let start = 0; start < 12 * MIB; start += MIB) {
      const client = await get(served.url(name), start, start + MIB)
      await client.take(MIB)
    }
    // As long as it comes again now and then, it is there; a run that began with this request would end before.
    await until('twice what was read is fetched, ahead of it', async () => {
      const client = await get(served.url(name), 11 * MIB, 12 * MIB)
      await client.take(MIB)
      return served.origin.bodyBytesSent >= 30 * MIB
    })
  })
}

test('a look at a few bytes fetches those, and leaves the playing connection its demand', async () => {
  await using served = await serve({ script: slow }, ['--stall', '60'])
  const playing = await get(served.url('one'), 10_000_000)
  const reading = playing.take(400_000)
  await served.origin.when('fetches for it', runsNear)
  const givenUp = (): number => served.origin.requests.filter((request) => isNear(request) && request.outcome === 'aborted').length
  const before = givenUp()
  for (const [start, end] of [[50_000_000, 50_000_001], [CONTENT.sizeBytes - 500, CONTENT.sizeBytes]] as const) {
    const look = await get(served.url('one'), start, end)
    await look.take(end - start)
  }
  await reading
  assert.ok(givenUp() - before <= 2, 'at most what made room for the look')
  const asked = served.origin.requests.filter(({ range }) => (range?.start ?? 0) >= 50_000_000 && (range?.start ?? 0) < 60_000_000)
  assert.ok(asked.length > 0 && asked.every(({ range }) => range!.end! <= 50_000_001), JSON.stringify(asked.map(({ range }) => range)))
  playing.destroy()
})

test('an announced seek ends a read that is stalled elsewhere, refuses to go on there, and fetches its target', async () => {
  await using served = await serve({ script: frozen })
  const url = served.url('one')
  const stalled = await get(url, 19_900_000)
  await stalled.take(100_000)
  await elapse(OWN_REQUEST_MS + 20) // the announced rule: what has just begun may be the seek's own
  const say = async (body: unknown): Promise<number> => (await fetch(served.url('one', '/hint'), { method: 'POST', body: JSON.stringify(body) })).status
  assert.equal(await say({ byte: 70_000_000, uptimeSeconds: os.uptime() }), 204)
  await within('the end of the stalled response', stalled.closed)
  assert.equal((await get(url, 20_000_000)).status, 503, 'a player that tries to go on there is told at once')
  await served.origin.when('the target', (origin) => origin.requests.some(({ range }) => range?.start === 70_000_000))
  const target = await get(url, 70_000_000)
  await target.take(100_000)
  const again = get(url, 20_000_000)
  served.origin.setScript(undefined)
  served.origin.release()
  assert.equal((await again).status, 206, 'it was refused once')
  await elapse(OWN_REQUEST_MS + 20)
  assert.equal(await say({ timeSeconds: 75, durationSeconds: 100, uptimeSeconds: os.uptime() }), 204)
  await served.origin.when('the guess', (origin) => origin.requests.some(({ range }) => range?.start === 150_000_000))
  for (const body of [{}, { byte: -1 }, { byte: 'x' }, { timeSeconds: 1 }, { timeSeconds: 1, durationSeconds: 0 }, { byte: 1, uptimeSeconds: 'x' }, 'text']) {
    assert.equal(await say(body), 400, JSON.stringify(body))
  }
  assert.equal((await fetch(served.url('one', '/hint'))).status, 405)
  assert.equal((await fetch(served.url('one', '/hint'), { method: 'POST', body: '{"byte":1}', headers: { origin: 'http://127.0.0.1:1' } })).status, 403)
  assert.equal((await fetch(served.url('one', '/hint'), { method: 'POST', body: 'x'.repeat(70_000) })).status, 400)
  target.destroy()
})

test('a seek that is announced after its own request has come is fetched there, not where it was guessed to be', async () => {
  await using served = await serve()
  const url = served.url('one')
  const uptimeSeconds = os.uptime()
  const own = await get(url, 50_000_000)
  await fetch(served.url('one', '/hint'), { method: 'POST', body: JSON.stringify({ timeSeconds: 60, durationSeconds: 100, uptimeSeconds }) })
  await own.take(MIB)
  own.destroy()
  const guessed = served.origin.requests.filter(({ range }) => range?.start !== undefined && Math.abs(range.start - 120_000_000) < MIB)
  assert.deepEqual(guessed.map(({ range }) => range), [])
})

test('a seek that is announced late, or without its time, cuts no read that may be its own', async () => {
  await using served = await serve({ script: frozen })
  const sought = os.uptime()
  const own = await get(served.url('one'), 19_900_000)
  await own.take(100_000)
  await elapse(2 * OWN_REQUEST_MS) // as a script's curl from a slow disk
  for (const uptimeSeconds of [sought, sought + 1e6, undefined]) {
    const body = JSON.stringify({ timeSeconds: 75, durationSeconds: 100, uptimeSeconds })
    assert.equal((await fetch(served.url('one', '/hint'), { method: 'POST', body })).status, 204)
  }
  await elapse(STALLED_MS + 50) // by then it would be cut: what is tested is a time
  served.origin.setScript(undefined)
  served.origin.release()
  await own.take(MIB)
  own.destroy()
})

test('an announced seek leaves alone who is another player, who reads, and who waits at the target', async () => {
  await using served = await serve({ script: frozen })
  const other = await get(served.url('other'), 19_900_000)
  const same = await get(served.url('one'), 19_900_000)
  await Promise.all([other.take(100_000), same.take(100_000)])
  await elapse(OWN_REQUEST_MS + 20)
  await fetch(served.url('one', '/hint'), { method: 'POST', body: JSON.stringify({ byte: 20_000_000, uptimeSeconds: os.uptime() }) })
  const there = get(served.url('one'), 20_000_000)
  served.origin.setScript(undefined)
  served.origin.release()
  await Promise.all([other.take(100_000), same.take(100_000)])
  assert.equal((await there).status, 206)
  other.destroy()
  same.destroy()
})

test('a script renews over the proxy: the question answers the request that it keeps open', async () => {
  let valid = '/old.mkv'
  await using origin = await startFaultOrigin({ content: CONTENT, script: (request) => (request.target === valid ? undefined : { kind: 'status', status: 403 }) })
  await using host = await startHost()
  const spec = Buffer.from(JSON.stringify({ url: origin.url('old.mkv'), headers: [], player: 'one' })).toString('base64url')
  const [film, renewal] = [`${host.proxy}/u/${spec}/old.mkv`, `${host.proxy}/renewal/u/${spec}`]
  const poll = fetch(renewal)
  const client = await get(film, 0)
  await client.take(1000)
  client.destroy()
  valid = '/new.mkv'
  const reading = get(film, 50_000_000)
  const question = (await (await poll).json()) as { renewal: number; httpStatus: number }
  assert.deepEqual(question, { renewal: 1, httpStatus: 403 })
  const given = await fetch(renewal, { method: 'POST', body: JSON.stringify({ renewal: question.renewal, url: origin.url('new.mkv') }) })
  assert.equal(given.status, 204)
  const renewed = await reading
  assert.equal(renewed.status, 206)
  await renewed.take(100_000)
  renewed.destroy()

  valid = '/newer.mkv'
  const refusing = get(film, 80_000_000)
  const next = (await (await fetch(renewal)).json()) as { renewal: number }
  await fetch(renewal, { method: 'POST', body: JSON.stringify({ renewal: next.renewal }) })
  assert.equal((await refusing).status, 403)
})

test('rules: what goes on, what is a look, what is left, and what ends for a seek', () => {
  const demand = { runStart: 50 * MIB, position: 70 * MIB, consumedBytes: 20 * MIB, firstWindowEnd: 54 * MIB, windowEnd: 110 * MIB }
  for (const [start, isSo] of [[70, true], [71, true], [72, false], [54, true], [53, false], [49, false], [0, false]] as const) {
    assert.equal(continuesRun(demand, start * MIB), isSo, `${start} MiB`)
  }
  assert.equal(isProbe({ start: 5, end: 6 }, false), true)
  assert.equal(isProbe({ start: 0, end: 64 * 1024 }, false), true)
  assert.equal(isProbe({ start: 0, end: 64 * 1024 }, true), false)
  assert.equal(isProbe({ start: 0, end: MIB }, false), false)
  assert.deepEqual([isLeft(1999), isLeft(2000)], [false, true])
  assert.deepEqual([endsInMs(100), endsInMs(40), endsInMs(5000)], [0, 60, 0])
  for (const [ageMs, soughtMsAgo, isSo] of [[249, 0, true], [250, 0, false], [1249, 1000, true], [1250, 1000, false], [5249, undefined, true], [5250, undefined, false]] as const) {
    assert.equal(mayBeOwnRequest(ageMs, soughtMsAgo), isSo, `${ageMs} ms old, sought ${soughtMsAgo} ms ago`)
  }
  assert.deepEqual([targetOf({ byte: 7 }, 100), targetOf({ byte: 700 }, 100)], [7, 99])
  assert.deepEqual([targetOf({ timeSeconds: 50, durationSeconds: 200 }, 1000), targetOf({ timeSeconds: 9, durationSeconds: 3 }, 1000)], [250, 999])
  assert.equal(isElsewhere({ byte: 1000 }, 1000), false)
  assert.equal(isElsewhere({ byte: 1000 }, 999), true)
  assert.equal(isElsewhere({ byte: 0 }, 2 * MIB), true)
  assert.equal(isElsewhere({ timeSeconds: 0, durationSeconds: 1 }, 0), true)
})
