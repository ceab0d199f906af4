/** A new resource's first requests: at once where the origin is known, one alone where it is not, and none of them trusted. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { connect } from 'seekcache'
import { containerIndex, secondCluster } from '../src/bytes/container-index.ts'
import { ControlClient } from '../src/client/control-client.ts'
import { fileContent, patternContent } from './support/content.ts'
import { type FaultOrigin, type RequestRecord, startFaultOrigin, type Script } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { shortFilm } from './support/media.ts'

const CONTENT = patternContent(3_000_000)
const PIECE_BYTES = 13 * 1024
const PIECES = 5
/** What is held is not given up for it. */
const PATIENT = { args: ['--stall', '600', '--first-byte', '600'] }

function at(film: string, then: Script): Script {
  return (request) => (request.target.includes(film) ? then(request) : undefined)
}

async function readHead(origin: FaultOrigin, host: TestHost, name: string, end = 200_000): Promise<Buffer> {
  const cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
  try {
    const media = await cache.open(origin.url(name))
    const parts: Uint8Array[] = []
    for await (const bytes of media.read(0, end)) parts.push(bytes)
    return Buffer.concat(parts)
  } finally {
    await cache.close()
  }
}

/** The origin is known by it, and nothing of it is under way any more: what opens next has all connections. */
async function readOther(origin: FaultOrigin, host: TestHost): Promise<void> {
  assert.ok((await readHead(origin, host, 'first.mkv', CONTENT.sizeBytes)).equals(CONTENT.read(0, CONTENT.sizeBytes)))
}

function firstPieces(origin: FaultOrigin, name: string): number[] {
  const starts = origin.requests.filter(({ target }) => target.includes(name)).map(({ range }) => range?.start ?? -1)
  return starts.filter((start) => start % PIECE_BYTES === 0 && start < PIECES * PIECE_BYTES).sort((a, b) => a - b)
}

for (const isRestarted of [false, true]) {
  const since = isRestarted ? 'since an earlier start of the host' : 'since another film'
  test(`the head of a film is asked for at once where the origin is known, before anything has answered: ${since}`, async () => {
    await using origin = await startFaultOrigin({ content: CONTENT, script: at('second', () => ({ kind: 'head-held' })) })
    await using host = await startHost(PATIENT)
    await readOther(origin, host)
    if (isRestarted) await host.restart()
    const reading = readHead(origin, host, 'second.mkv')
    await origin.when('all pieces are asked for', () => firstPieces(origin, 'second').length === PIECES)
    const interval = setInterval(() => origin.release(), 5)
    try {
      assert.ok((await reading).equals(CONTENT.read(0, 200_000)))
    } finally {
      clearInterval(interval)
    }
    assert.deepEqual(firstPieces(origin, 'second'), [0, 1, 2, 3, 4].map((i) => i * PIECE_BYTES), 'each once')
  })
}

test('pieces that are there before the probe has answered wait for it', async () => {
  const script = at('second', ({ range }) => (range?.start === 0 ? { kind: 'head-held' } : undefined))
  await using origin = await startFaultOrigin({ content: CONTENT, script })
  await using host = await startHost(PATIENT)
  await readOther(origin, host)
  const reading = readHead(origin, host, 'second.mkv')
  const ofSecond = (outcome: RequestRecord['outcome']): number =>
    origin.requests.filter((request) => request.target.includes('second') && request.outcome === outcome).length
  await origin.when('the pieces beside the held probe are there', () => ofSecond('complete') >= PIECES - 1 && ofSecond('stalled') === 1)
  origin.release()
  assert.ok((await reading).equals(CONTENT.read(0, 200_000)))
  assert.deepEqual(firstPieces(origin, 'second'), [0, 1, 2, 3, 4].map((i) => i * PIECE_BYTES), 'each once')
})

test('a strange origin is asked by the probe alone', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, script: () => ({ kind: 'head-held' }) })
  await using host = await startHost(PATIENT)
  const reading = readHead(origin, host, 'first.mkv')
  await origin.when('the probe is there', ({ requests }) => requests.length > 0)
  assert.equal(origin.requests.length, 1)
  const interval = setInterval(() => origin.release(), 5)
  try {
    assert.ok((await reading).equals(CONTENT.read(0, 200_000)))
  } finally {
    clearInterval(interval)
  }
})

test('pieces beside the probe that tell of another file are not taken', async () => {
  const other = patternContent(3_000_000, 2)
  const script = at('second', ({ range }) => (range?.start === 2 * PIECE_BYTES ? [{ kind: 'content', content: other }, { kind: 'etag', value: '"another"' }] : undefined))
  await using origin = await startFaultOrigin({ content: CONTENT, script })
  await using host = await startHost(PATIENT)
  await readOther(origin, host)
  const read = await readHead(origin, host, 'second.mkv').catch((error: NodeJS.ErrnoException) => error)
  if (read instanceof Error) assert.equal(read.code, 'ERR_SEEKCACHE_ORIGIN_CHANGED')
  else assert.ok(read.equals(CONTENT.read(0, 200_000)))
})

test('pieces beside the probe that are refused do not hurt it', async () => {
  const script = at('second', ({ index, range }) => ((range?.start ?? 0) > 0 && index < 30 ? { kind: 'status', status: 416 } : undefined))
  await using origin = await startFaultOrigin({ content: patternContent(20_000), script })
  await using host = await startHost(PATIENT)
  const cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
  try {
    for (const name of ['first.mkv', 'second.mkv']) {
      const media = await cache.open(origin.url(name))
      assert.equal(media.size, 20_000, name)
    }
  } finally {
    await cache.close()
  }
})

test('connections are ready for what is not cached of a film that is opened again, and none more for one that is, or that comes in order', async () => {
  const held = at('a-part', ({ range }) => ((range?.end ?? CONTENT.sizeBytes) > 1_000_000 ? { kind: 'head-held' } : undefined))
  const inOrder = at('in-order', () => [{ kind: 'range-ignored' }, { kind: 'body-stalled', afterBytes: 1_000_000 }])
  await using origin = await startFaultOrigin({ content: CONTENT, script: (request) => held(request) ?? inOrder(request) })
  await using host = await startHost(PATIENT)
  await readHead(origin, host, 'a-part.mkv')
  await readHead(origin, host, 'whole.mkv', CONTENT.sizeBytes)
  await readHead(origin, host, 'in-order.mkv')
  await host.halt()
  await origin.when('its connections are closed', ({ connections }) => connections.open === 0)
  // The answer to the comparison with a film in order is its whole: undici makes the connection again that giving it up costs.
  for (const [name, count] of [['whole.mkv', 1], ['in-order.mkv', 2], ['a-part.mkv', 8]] as const) {
    const { accepted } = origin.connections
    await host.restart()
    const client = await ControlClient.connect(host.socket)
    try {
      await client.request({ type: 'open', url: origin.url(name), headers: [], pulls: false }, ['opened'])
      await origin.when(`${name} is compared, and has its connections`, ({ connections }) => connections.accepted - accepted >= count)
    } finally {
      client.close()
    }
    await host.halt()
    await origin.when('its connections are closed', ({ connections }) => connections.open === 0)
    assert.equal(origin.connections.accepted - accepted, count, name)
  }
})

test('the index is fetched before anybody reads, and for a demuxer that pulls the second cluster', async () => {
  const film = fileContent((await shortFilm()).files.mkv.path)
  const head = film.read(0, PIECE_BYTES)
  const index = containerIndex(head, film.sizeBytes)!
  const cluster = secondCluster(head, film.sizeBytes)!
  await using origin = await startFaultOrigin({ content: film })
  await using host = await startHost()
  const client = await ControlClient.connect(host.socket)
  const isAsked = (name: string, position: number) => ({ requests }: FaultOrigin): boolean =>
    requests.some(({ target, range }) => target.includes(name) && range?.start !== undefined && range.start <= position && position < (range.end ?? film.sizeBytes))
  try {
    for (const pulls of [true, false]) {
      const name = pulls ? 'pulled.mkv' : 'in-order.mkv'
      await client.request({ type: 'open', url: origin.url(name), headers: [], pulls }, ['opened'])
      await origin.when('the index is asked for', isAsked(name, index.start))
      if (pulls) await origin.when('the second cluster is asked for', isAsked(name, cluster.start))
    }
    assert.ok(cluster.start > 256 * 1024, 'it is not of the head')
    assert.ok(!isAsked('in-order', cluster.start)(origin), 'who reads in order has the head sooner')
  } finally {
    client.close()
  }
})
