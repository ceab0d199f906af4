/** What the transport tells of an origin's connections, and which of them carries a request. */

import assert from 'node:assert/strict'
import net from 'node:net'
import { test, type TestContext } from 'node:test'

import type { Connector } from '../src/origin/connection.ts'
import { Http1Carrier } from '../src/origin/http1-carrier.ts'
import { Claimant, OriginPool } from '../src/origin/pool.ts'
import { Source, type Fetch } from '../src/origin/source.ts'
import { FIRST_WINDOW_BYTES } from '../src/origin/send-window.ts'
import { Transport } from '../src/origin/transport.ts'
import { patternContent } from './support/content.ts'
import { within } from './support/deadline.ts'
import { inOrder, startFaultOrigin, whenever, type FaultOrigin, type FaultOriginOptions } from './support/fault-origin.ts'

const SIZE_BYTES = 8 * 2 ** 20
/** So much that a window would be believed to have grown. */
const CARRIED_BYTES = 300_000

interface Setup {
  readonly origin: FaultOrigin
  readonly source: Source
  /** Resolves when the source's connections are so; looked at again at each call of its watcher only. */
  when(what: string, condition: (source: Source) => boolean): Promise<void>
}

async function setUp(t: TestContext, { protocol = 'http:', ...options }: Partial<FaultOriginOptions> & { readonly protocol?: string } = {}): Promise<Setup> {
  const origin = await startFaultOrigin({ content: patternContent(SIZE_BYTES), ...options })
  const transport = new Transport({ maxConnectionsPerOrigin: 4 })
  t.after(async () => {
    await transport.close()
    await origin.stop()
  })
  const source = new Source({ url: origin.url().replace('http:', protocol), headers: [] }, transport, 'test')
  const when = async (what: string, condition: (source: Source) => boolean): Promise<void> => {
    const met = new Promise<void>((resolve) => source.watchConnections(() => condition(source) && resolve()))
    if (!condition(source)) await within(what, met)
  }
  return { origin, source, when }
}

interface Watched {
  readonly fetch: Fetch
  firstByte(): Promise<void>
  end(): Promise<Error | undefined>
}

function begin(source: Source, start: number, end: number): Watched {
  let onFirstByte!: () => void
  let onEnd!: (error: Error | undefined) => void
  const firstByte = new Promise<void>((resolve) => (onFirstByte = resolve))
  const ended = new Promise<Error | undefined>((resolve) => (onEnd = resolve))
  const fetch = source.fetch({ start, end, known: undefined }, { onHead: () => {}, onBytes: onFirstByte, onEnd })
  return { fetch, firstByte: () => within('the first byte', firstByte), end: () => within('the end of a fetch', ended) }
}

test('connections are told as ready when their handshakes are done', async (t) => {
  const { source, origin, when } = await setUp(t)
  assert.deepEqual(source.connections, { windowsBytes: [], connectingCount: 0, limit: 4, yieldCount: 0, isPaused: false, isMultiplexed: false })
  source.warm()
  assert.deepEqual(source.connections, { windowsBytes: [], connectingCount: 4, limit: 4, yieldCount: 0, isPaused: false, isMultiplexed: false })
  await when('four connections', ({ connections }) => connections.windowsBytes.length === 4)
  assert.equal(source.connections.connectingCount, 0)
  await origin.when('four connections', ({ connections }) => connections.accepted === 4)
})

for (const protocol of ['http:', 'https:']) {
  test(`${protocol} that a connection could not be made is told, whoever it was made for`, async (t) => {
    const { origin, source, when } = await setUp(t, { protocol })
    await origin.stop()
    source.warm()
    assert.notEqual(source.connections.connectingCount, 0)
    await when('no connection on its way', ({ connections }) => connections.connectingCount === 0)
    begin(source, 0, 1000).fetch.cancel()
    assert.notEqual(source.connections.connectingCount, 0)
    await when('no connection on its way again', ({ connections }) => connections.connectingCount === 0)
  })
}

test('an origin that was down when connections to it were to be made has no limit when it is up again', async (t) => {
  const { origin, source, when } = await setUp(t)
  await origin.goDown()
  source.warm()
  await when('no connection on its way', ({ connections }) => connections.connectingCount === 0)
  await origin.listen()
  assert.equal(await begin(source, 0, 1000).end(), undefined)
  assert.equal(source.connections.limit, 4)
})

const errorOf = (code: string): Error => Object.assign(new Error(code), { code })

for (const { what, failure, limit } of [
  { what: 'a network that is gone is no limit', failure: errorOf('ENETUNREACH'), limit: 4 },
  { what: 'connections that nobody answers are no limit', failure: errorOf('UND_ERR_CONNECT_TIMEOUT'), limit: 4 },
  { what: 'connections that are refused are a limit', failure: errorOf('ECONNREFUSED'), limit: 1 },
  {
    what: 'connections that are refused at one of the addresses are a limit',
    failure: Object.assign(new AggregateError([errorOf('ENETUNREACH'), errorOf('ECONNREFUSED')]), { code: 'ENETUNREACH' }),
    limit: 1,
  },
]) {
  test(`${what}, while another connection is open`, async (t) => {
    const origin = await startFaultOrigin({ content: patternContent(SIZE_BYTES) })
    const url = new URL(origin.url())
    let isReachable = true
    const connector: Connector = ({ port, hostname }, callback) => {
      if (!isReachable) return queueMicrotask(() => callback(failure, null))
      const socket = net.connect(Number(port), hostname, () => callback(null, socket))
    }
    const pool = new OriginPool((events) => new Http1Carrier(url, connector, events), 4)
    t.after(async () => {
      await pool.close()
      await origin.stop()
    })
    const claimant = new Claimant()
    const get = async (): Promise<Error | undefined> =>
      await within('an answer', new Promise((resolve) => {
        pool.send({ path: url.pathname, headers: { range: 'bytes=0-999' } }, claimant, { onHead: () => {}, onBytes: () => {}, onEnd: resolve })
      }))
    assert.equal(await get(), undefined)
    isReachable = false
    pool.warm()
    const { connectingCount } = pool.connections(claimant)
    assert.equal(connectingCount, 3)
    await within('no connection on its way', new Promise<void>((resolve) => {
      pool.watch(() => pool.connections(claimant).connectingCount === 0 && resolve())
    }))
    assert.equal(await get(), undefined)
    assert.equal(pool.connections(claimant).limit, limit)
  })
}

test('a request takes a ready connection and gives it back at its end', async (t) => {
  const { source, origin, when } = await setUp(t, { script: inOrder({ kind: 'body-stalled', afterBytes: 1000 }) })
  source.warm()
  await when('four connections', ({ connections }) => connections.windowsBytes.length === 4)
  const { firstByte, end } = begin(source, 0, 100_000)
  await firstByte()
  assert.equal(source.connections.windowsBytes.length, 3)
  const free = when('four connections again', ({ connections }) => connections.windowsBytes.length === 4)
  origin.release()
  assert.equal(await end(), undefined)
  await free
  assert.equal(origin.connections.accepted, 4, 'no connection was made or lost')
})

test('a cancelled request takes its connection with it, and another one is made at once', async (t) => {
  const { source, origin, when } = await setUp(t, { script: whenever(({ index }) => index === 0, { kind: 'body-stalled', afterBytes: 1000 }) })
  source.warm()
  await when('four connections', ({ connections }) => connections.windowsBytes.length === 4)
  const { fetch, firstByte } = begin(source, 0, SIZE_BYTES)
  await firstByte()
  fetch.cancel()
  assert.deepEqual(source.connections, { windowsBytes: [FIRST_WINDOW_BYTES, FIRST_WINDOW_BYTES, FIRST_WINDOW_BYTES], connectingCount: 1, limit: 4, yieldCount: 0, isPaused: false, isMultiplexed: false }, 'in the same turn')
  const next = begin(source, 0, 1000)
  assert.equal(await next.end(), undefined)
  await when('four connections again', ({ connections }) => connections.windowsBytes.length === 4)
  const [first, second] = origin.requests
  assert.ok(first !== undefined && second !== undefined && second.connection !== first.connection && second.connection <= 4, 'a ready one carried it')
  await origin.when('a fifth connection', ({ connections }) => connections.accepted === 5)
})

test('a connection in the place of a cancelled one begins with a first window, whatever that one had carried', async (t) => {
  const { source, when } = await setUp(t, { script: inOrder({ kind: 'body-stalled', afterBytes: CARRIED_BYTES }) })
  source.warm()
  await when('four connections', ({ connections }) => connections.windowsBytes.length === 4)
  let carriedBytes = 0
  const fetch = await within('what it carries', new Promise<Fetch>((resolve, reject) => {
    const started = source.fetch({ start: 0, end: SIZE_BYTES, known: undefined }, {
      onHead: () => {},
      onBytes: (_, bytes) => (carriedBytes += bytes.length) === CARRIED_BYTES && resolve(started),
      onEnd: reject,
    })
  }))
  fetch.cancel()
  await when('four connections again', ({ connections }) => connections.windowsBytes.length === 4)
  assert.deepEqual(source.connections.windowsBytes, Array.from({ length: 4 }, () => FIRST_WINDOW_BYTES))
})

test('a refused answer takes its connection with it', async (t) => {
  const { source, when } = await setUp(t, { script: inOrder([{ kind: 'range-ignored' }, { kind: 'body-stalled', afterBytes: 1000 }]) })
  source.warm()
  await when('four connections', ({ connections }) => connections.windowsBytes.length === 4)
  const { end } = begin(source, 100, 200)
  assert.match(String((await end())?.message), /the whole file where bytes from 100 were asked for/)
  assert.equal(source.connections.windowsBytes.length, 3)
})

test('a source that was redirected tells of the connections to the new place', async (t) => {
  const { origin: place } = await setUp(t)
  const { source, when } = await setUp(t, { script: () => ({ kind: 'redirect', location: place.url() }) })
  const known = when('connections there', ({ connections }) => place.connections.accepted > 0 && connections.windowsBytes.length > 0)
  assert.equal(await begin(source, 0, 1000).end(), undefined)
  await known
  const { windowsBytes: [windowBytes, ...others], ...facts } = source.connections
  assert.deepEqual([others, facts], [[], { connectingCount: 0, limit: 4, yieldCount: 0, isPaused: false, isMultiplexed: false }])
  // Of the connection that has carried it, as long as it has not idled.
  assert.ok([FIRST_WINDOW_BYTES, FIRST_WINDOW_BYTES + 1000].includes(windowBytes!), `${windowBytes}`)
})
