/** HTTP/2 origins: one connection, streams that are reset, flow control, and what origins do wrong. */

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import http2, { constants } from 'node:http2'
import net from 'node:net'
import { Duplex } from 'node:stream'
import { after, before, describe, test } from 'node:test'
import tls, { type TLSSocket } from 'node:tls'

import { connect } from 'seekcache'
import { Http2Session } from '../src/origin/http2-session.ts'
import { Source, type Fetch } from '../src/origin/source.ts'
import { Transport } from '../src/origin/transport.ts'
import { makeCertificate, type Certificate } from './support/certificate.ts'
import { patternContent } from './support/content.ts'
import { within } from './support/deadline.ts'
import { startFaultOrigin, type FaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { Http2Origin, type Http2Fault, type Http2OriginOptions, type Http2Request } from './support/http2-origin.ts'
import { listen } from './support/listener.ts'
import { startNginx } from './support/nginx.ts'
import { tempDir } from './support/temp-dir.ts'

const CONTENT = patternContent(40_000_000)
const SMALL = patternContent(1_200_000)
const MIB = 2 ** 20

let certificate: Certificate
before(async () => {
  certificate = await makeCertificate()
})
after(async () => {
  await certificate[Symbol.asyncDispose]()
})

async function startOrigin(options: Partial<Http2OriginOptions> = {}): Promise<Http2Origin> {
  return await Http2Origin.start({ content: CONTENT, certificate, ...options })
}

interface Opened extends AsyncDisposable {
  readonly source: Source
  readonly transport: Transport
}

function openSource(url: string): Opened {
  const transport = new Transport({ maxConnectionsPerOrigin: 8, ca: certificate.cert })
  const source = new Source({ url, headers: [] }, transport, 'test')
  return { source, transport, [Symbol.asyncDispose]: () => transport.close() }
}

interface Fetched {
  readonly fetch: Fetch
  readonly received: { bytes: number }
  firstByte(): Promise<void>
  /** All bytes. @throws what the fetch ended with */
  whole(): Promise<Buffer>
}

function begin(source: Source, start: number, end: number): Fetched {
  const parts: Buffer[] = []
  const received = { bytes: 0 }
  let onFirst!: () => void
  let onWhole!: (bytes: Buffer) => void
  let onFailure!: (error: Error) => void
  const first = new Promise<void>((resolve) => (onFirst = resolve))
  const whole = new Promise<Buffer>((resolve, reject) => {
    onWhole = resolve
    onFailure = reject
  })
  whole.catch(() => undefined)
  const fetch = source.fetch({ start, end, known: undefined }, {
    onHead: () => {},
    onBytes: (_, bytes) => {
      received.bytes += bytes.length
      parts.push(Buffer.from(bytes))
      onFirst()
    },
    onEnd: (error) => (error === undefined ? onWhole(Buffer.concat(parts)) : onFailure(error)),
  })
  return { fetch, received, firstByte: () => within('the first byte', first), whole: () => within('a fetch', whole) }
}

async function assertFetched(source: Source, start: number, end: number): Promise<void> {
  assert.ok((await begin(source, start, end).whole()).equals(CONTENT.read(start, end)), `${start}-${end}`)
}

// ---- one connection

test('parallel fetches share one connection', async () => {
  await using origin = await startOrigin()
  await using opened = openSource(origin.url())
  const { source } = opened
  source.warm()
  await Promise.all([0, 1, 2, 3, 4, 5].map((i) => assertFetched(source, i * MIB, (i + 1) * MIB)))
  assert.equal(origin.connectionCount, 1)
  assert.equal(source.connections.isMultiplexed, true)
  assert.deepEqual([source.connections.windowsBytes.length, source.connections.limit], [8, 8])
})

test('an origin whose handshakes failed some times has no limit when it answers', async () => {
  await using origin = await startOrigin()
  let isUp = false
  await using front = await listen(0, (socket) => {
    if (!isUp) return void socket.destroy()
    const behind = net.connect(Number(new URL(origin.url()).port), '127.0.0.1')
    socket.pipe(behind).pipe(socket)
    for (const [one, other] of [[socket, behind], [behind, socket]] as const) one.on('error', () => other.destroy())
  })
  await using opened = openSource(`https://localhost:${front.port}/film.mkv`)
  const { source } = opened
  for (let i = 0; i < 3; i++) await assert.rejects(begin(source, 0, MIB).whole())
  isUp = true
  await assertFetched(source, 0, MIB)
  assert.equal(source.connections.limit, 8)
})

test('a cancelled fetch is a stream reset: the connection stays, and little of the rest is moved', async () => {
  await using origin = await startOrigin()
  await using opened = openSource(origin.url())
  const { source } = opened
  for (let i = 0; i < 20; i++) {
    const fetched = begin(source, i * MIB, CONTENT.sizeBytes)
    await fetched.firstByte()
    fetched.fetch.cancel()
    await origin.when('the reset arrives', ({ requests }) => requests.length === i + 1 && requests[i]!.outcome === 'aborted')
  }
  assert.ok(origin.requests.every(({ rstCode }) => rstCode === constants.NGHTTP2_CANCEL), 'CANCEL')
  await assertFetched(source, 0, 5 * MIB)
  assert.equal(origin.connectionCount, 1)
  const most = Math.max(...origin.requests.slice(0, 20).map(({ bodyBytesSent }) => bodyBytesSent))
  assert.ok(most <= 5 * MIB, `an abandoned stream moved at most a window: ${most}`)
})

/** What the other end sends next comes in one piece, as soon as there is so much of it. */
class Gathering extends Duplex {
  atLeastBytes = 0
  readonly #socket: net.Socket
  #gathered: Buffer[] = []

  constructor(socket: net.Socket) {
    super()
    this.#socket = socket
    socket.on('data', (bytes: Buffer) => {
      this.#gathered.push(bytes)
      const all = Buffer.concat(this.#gathered)
      if (all.length < this.atLeastBytes) return
      this.#gathered = []
      this.atLeastBytes = 0
      this.push(all)
    })
    socket.on('error', () => {}) // 'close' follows
    socket.once('close', () => this.destroy())
  }

  override _read(): void {}

  override _write(bytes: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#socket.write(bytes, done)
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket.destroy()
    done(error)
  }
}

test('a head that comes in one piece with its body is told before it', async () => {
  const body = CONTENT.read(0, 30_000)
  const server = http2.createServer((_, response) => void response.writeHead(206, { 'content-length': body.length }).end(body))
  await using relay = await listen(0, (socket) => server.emit('connection', socket))
  const socket = net.connect(relay.port, '127.0.0.1')
  const gathering = new Gathering(socket)
  let onSettings!: () => void
  const settled = new Promise<void>((resolve) => (onSettings = resolve))
  const session = new Http2Session(new URL('http://localhost/'), gathering as never, { onSettings, onEnd: () => {}, onClosed: () => {} })
  await within('the settings', settled)
  gathering.atLeastBytes = body.length
  const told: (number | 'head')[] = []
  await within('the answer', new Promise<void>((resolve, reject) => {
    session.send({ path: '/', headers: {} }, {
      onHead: () => told.push('head'),
      onBytes: (bytes) => told.push(bytes.length),
      onEnd: (error) => (error === undefined ? resolve() : reject(error)),
    })
  }))
  await session.destroy()
  assert.equal(told[0], 'head')
  assert.equal(told.slice(1).reduce<number>((sum, length) => sum + Number(length), 0), body.length)
})

test('the flow-control window is large: a stream is not held up until megabytes are under way', async () => {
  await using origin = await startOrigin()
  await using opened = openSource(origin.url())
  const fetched = begin(opened.source, 0, 20 * MIB)
  await fetched.firstByte()
  fetched.fetch.pause()
  await origin.when('megabytes were sent to a paused stream', ({ requests }) => requests[0]!.bodyBytesSent >= 3.5 * MIB)
  assert.equal(origin.sessions[0]!.remoteSettings.initialWindowSize, 4 * MIB)
  await assertFetched(opened.source, 30 * MIB, 31 * MIB) // another stream is not held up by it
  assert.ok(origin.requests[0]!.bodyBytesSent <= 5 * MIB, 'and a paused one is held up in the end')
  fetched.fetch.resume()
  assert.ok((await fetched.whole()).equals(CONTENT.read(0, 20 * MIB)))
})

test('streams that are cancelled while they are paused do not use up the window of the connection', async () => {
  await using origin = await startOrigin()
  await using opened = openSource(origin.url())
  for (let i = 0; i < 12; i++) {
    const fetched = begin(opened.source, 0, CONTENT.sizeBytes)
    await fetched.firstByte()
    fetched.fetch.pause()
    await origin.when('its window is full', ({ requests }) => requests.length === i + 1 && requests[i]!.bodyBytesSent >= 3 * MIB)
    fetched.fetch.cancel()
  }
  await assertFetched(opened.source, 0, 20 * MIB)
  assert.equal(origin.connectionCount, 1)
})

test('an origin that takes one stream at a time gets one at a time', async () => {
  await using origin = await startOrigin({ settings: { maxConcurrentStreams: 1 } })
  await using opened = openSource(origin.url())
  await assertFetched(opened.source, 0, 1000)
  assert.equal(opened.source.connections.limit, 1)
  await Promise.all([1, 2, 3].map((i) => assertFetched(opened.source, i * MIB, (i + 1) * MIB)))
  assert.equal(origin.connectionCount, 1)
})

// ---- faults, through a host

type Cache = Awaited<ReturnType<typeof connect>>

async function hostFor(): Promise<TestHost> {
  return await startHost({ env: { NODE_EXTRA_CA_CERTS: certificate.certFile } })
}

async function connectTo(host: TestHost): Promise<Cache> {
  return await connect({ cacheDir: host.cacheDir, socketPath: host.socket })
}

async function assertPlays(host: TestHost, url: string, start = 0, end = CONTENT.sizeBytes): Promise<void> {
  await using cache = await connectTo(host)
  const media = await cache.open(url)
  const parts: Buffer[] = []
  for await (const bytes of media.read(start, end)) parts.push(bytes)
  assert.ok(Buffer.concat(parts).equals(CONTENT.read(start, end)), 'every byte')
  await media.close()
}

test('a film is played over one connection, through API and proxy, also with seeks', async () => {
  await using origin = await startOrigin()
  await using host = await hostFor()
  await assertPlays(host, origin.url(), 0, 10_000_000)
  for (const start of [30_000_000, 5_000_000, 39_000_000]) {
    const response = await fetch(host.proxyUrl(origin.url('other.mkv')), { headers: { range: `bytes=${start}-${start + 99_999}` } })
    assert.ok(Buffer.from(await response.arrayBuffer()).equals(CONTENT.read(start, start + 100_000)))
  }
  assert.equal(origin.connectionCount, 1)
})

/** So many bytes are so many requests at least, however fast the way to the origin turns out to be. */
const LONGEST_PIECE_BYTES = 4 * MIB

const FAULTS = [
  ['GOAWAY that refuses a request', { kind: 'goaway', code: 0, isRefused: true }],
  ['GOAWAY before a head that comes', { kind: 'goaway', code: 0 }],
  ['GOAWAY in the middle of a body that is then finished', { kind: 'goaway', code: 0, afterBytes: 10_000 }],
  ['GOAWAY with an error in the middle of a body', { kind: 'goaway', code: constants.NGHTTP2_INTERNAL_ERROR, afterBytes: 10_000 }],
  ['GOAWAY in the middle of a body that is refused', { kind: 'goaway', code: 0, isRefused: true, afterBytes: 10_000 }],
  ['a lost connection', { kind: 'disconnect', afterBytes: 10_000 }],
] as const

test('no fault of a stream or of a session reaches a reader', async (t) => {
  await using host = await hostFor()
  for (const [i, [name, fault]] of FAULTS.entries()) {
    await t.test(name, async () => {
      await using origin = await startOrigin({ script: ({ index }) => ([1, 2, 4].includes(index) ? fault : undefined) })
      await assertPlays(host, origin.url(`${i}.mkv`), 0, 4 * LONGEST_PIECE_BYTES + 1)
      assert.ok(origin.requests.length > 4)
    })
  }
  for (let code = 0; code < 14; code++) {
    await t.test(`RST_STREAM ${code}, before the head and in the middle of a body`, async () => {
      const faults = new Map<number, Http2Fault>([[1, { kind: 'reset', code }], [2, { kind: 'reset', code, afterBytes: 10_000 }]])
      await using origin = await startOrigin({ script: ({ index }) => faults.get(index) })
      await assertPlays(host, origin.url(`rst-${code}.mkv`), 0, 2 * LONGEST_PIECE_BYTES + 1)
      assert.ok(origin.requests.length > 2)
    })
  }
})

test('a connection that is reset as a reader leaves does not hold up the next one', async () => {
  await using host = await startHost({ args: ['--stall', '0.3', '--first-byte', '0.5'], env: { NODE_EXTRA_CA_CERTS: certificate.certFile } })
  await using cache = await connectTo(host)
  // The reset has to meet the cancellation's own write: with one film it seldom does, with twenty it always did.
  await Promise.all(Array.from({ length: 20 }, async (_, i) => {
    let isHeld = true
    const script = ({ range: { start, end } }: Http2Request): Http2Fault | undefined => {
      if (!isHeld || start >= 150_000 || end <= 75_000) return undefined
      return start < 75_000 ? { kind: 'shorter', lengthBytes: 75_000 - start } : { kind: 'held' }
    }
    await using origin = await startOrigin({ content: SMALL, script })
    const read = async (end: number): Promise<void> => {
      await using media = await cache.open(origin.url(`${i}.mkv`), { deadlineMs: 9_000 })
      for await (const bytes of media.read(0, end, { deadlineMs: 9_000 })) assert.ok(bytes.length > 0)
    }
    await read(75_000)
    origin.dropConnections()
    isHeld = false
    await read(150_000)
  }))
})

test('a first request that the origin has not begun with is sent again without a word', async () => {
  await using origin = await startOrigin({ script: ({ index }) => (index === 0 ? { kind: 'reset', code: constants.NGHTTP2_REFUSED_STREAM } : undefined) })
  await using opened = openSource(origin.url())
  await assertFetched(opened.source, 0, 1000)
  assert.equal(origin.requests.length, 2)
})

// ---- origins that speak HTTP/1.1, or HTTP/2 badly

interface TlsFront extends AsyncDisposable {
  readonly origin: FaultOrigin
  readonly counts: { http1: number; http2: number }
  url(name?: string): string
}

/** An HTTP/1.1 origin behind TLS, which does `onHttp2` with clients that want HTTP/2; undefined does not offer it. */
async function startTlsFront(onHttp2: ((socket: TLSSocket) => void) | undefined, host = '127.0.0.1'): Promise<TlsFront> {
  const origin = await startFaultOrigin({ content: CONTENT })
  const counts = { http1: 0, http2: 0 }
  const sockets = new Set<net.Socket>()
  const ALPNProtocols = onHttp2 === undefined ? ['http/1.1'] : ['h2', 'http/1.1']
  const server = tls.createServer({ key: certificate.key, cert: certificate.cert, ALPNProtocols }, (socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    if (socket.alpnProtocol === 'h2') {
      counts.http2++
      return onHttp2?.(socket)
    }
    counts.http1++
    const inner = net.connect(origin.port, '127.0.0.1')
    inner.on('error', () => {})
    inner.once('close', () => socket.destroy())
    socket.once('close', () => inner.destroy())
    socket.pipe(inner).pipe(socket)
  })
  server.on('tlsClientError', () => {})
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  const { port } = server.address() as net.AddressInfo
  return {
    origin,
    counts,
    url: (name = 'film.mkv') => `https://${host.includes(':') ? `[${host}]` : 'localhost'}:${port}/${name}`,
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const socket of sockets) socket.destroy()
      await closed
      await origin.stop()
    },
  }
}

test('a TLS origin without HTTP/2 gets HTTP/1.1 connections', async () => {
  await using front = await startTlsFront(undefined)
  await using host = await hostFor()
  await assertPlays(host, front.url(), 0, 10_000_000)
  // Of what is given up early the connection is made anew; that is counted before.
  const { http1 } = front.counts
  const metrics = await (await fetch(`${host.proxy}/metrics`)).text()
  const ended = [...metrics.matchAll(/^seekcache_fetches_total\{outcome="(?:cancelled|stalled|failed)"\} (\d+)$/gm)].reduce((sum, [, count]) => sum + Number(count), 0)
  assert.ok(http1 > 1 && http1 <= 8 + ended, `${http1} connections, ${ended} requests given up`)
})

const BAD_HTTP2: readonly (readonly [string, (socket: TLSSocket) => void])[] = [
  ['sends what is no frame', (socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'.repeat(10))],
  ['closes the connection', (socket) => socket.end()],
  ['breaks it at the first frame', (socket) => socket.once('data', () => socket.destroy())],
  ['never says a word', (socket) => socket.resume()],
]

// They wait for what is never said, side by side.
describe('an origin that speaks HTTP/2 badly', { concurrency: true }, () => {
  for (const [name, onHttp2] of BAD_HTTP2) {
    test(`one that ${name} gets HTTP/1.1`, async () => {
      await using host = await hostFor()
      await using front = await startTlsFront(onHttp2)
      await assertPlays(host, front.url(), 0, 3_000_000)
      const tried = front.counts.http2
      assert.ok(tried >= 1 && tried <= 10, `tried ${tried} times`)
      await assertPlays(host, front.url('other.mkv'), 0, 1_000_000)
      assert.equal(front.counts.http2, tried, 'it was learned')
    })
  }
})

test('connections to an IPv6 address are made in advance as well', async (t) => {
  await using origin = await startFaultOrigin({ content: CONTENT })
  const join = (socket: net.Socket): void => {
    const inner = net.connect(origin.port, '127.0.0.1')
    socket.once('close', () => inner.destroy()).on('error', () => {})
    socket.pipe(inner).on('error', () => {}).pipe(socket)
  }
  const listening = await listen(0, join, '::1').catch(() => undefined)
  if (listening === undefined) return t.skip('no IPv6 here')
  await using front = listening
  await using opened = openSource(`http://[::1]:${front.port}/film.mkv`)
  opened.source.warm()
  await origin.when('all connections', ({ connections }) => connections.accepted === 8)
  await assertFetched(opened.source, 0, MIB)
  assert.equal(origin.connections.accepted, 8)
})

test('nginx over HTTP/2: one connection for opening, playing and seeking', async () => {
  await using folder = await tempDir()
  await writeFile(folder.file('film.mkv'), CONTENT.read(0, CONTENT.sizeBytes))
  await using nginx = await startNginx(folder.path, { certificate })
  await using host = await hostFor()
  await assertPlays(host, nginx.secureUrl('film.mkv'), 0, 8_000_000)
  for (const start of [30_000_000, 12_000_000, 22_000_000]) await assertPlays(host, nginx.secureUrl('film.mkv'), start, start + 2_000_000)
  const entries = await nginx.log()
  assert.equal(new Set(entries.map(({ connection }) => connection)).size, 1)
})

// ---- certificates

test('an origin whose certificate is not trusted is refused at once, with the reason', async () => {
  const cases = [
    [{}, false, /its certificate is self-signed/],
    [{ names: 'DNS:elsewhere.example' }, true, /its certificate is for another host/],
  ] as const
  for (const [options, isTrusted, reason] of cases) {
    await using own = await makeCertificate(options)
    await using origin = await Http2Origin.start({ content: CONTENT, certificate: own })
    await using host = await startHost(isTrusted ? { env: { NODE_EXTRA_CA_CERTS: own.certFile } } : {})
    const response = await fetch(host.proxyUrl(origin.url()))
    assert.equal(response.status, 502)
    assert.match(await response.text(), reason)
    assert.equal(origin.connectionCount, 1, 'one try')
  }
})
