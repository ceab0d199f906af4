/** What abandoned fetches still cost, counted at a real nginx: bytes beyond those received, and connections. */

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import http from 'node:http'
import { after, before, test } from 'node:test'

import { connect } from 'seekcache'
import { Source } from '../src/origin/source.ts'
import { Transport } from '../src/origin/transport.ts'
import { makeCertificate, type Certificate } from './support/certificate.ts'
import { patternContent } from './support/content.ts'
import { until, within } from './support/deadline.ts'
import { startHost, type TestHost } from './support/host.ts'
import { startNginx, type Nginx } from './support/nginx.ts'
import { tempDir, type TempDir } from './support/temp-dir.ts'

const CONTENT = patternContent(64 * 2 ** 20)
const KIB = 1024
const CONNECTIONS = 8
const SEND_BUFFER_BYTES = 64 * KIB
/** Of one request: nginx's send buffer, which the kernel doubles, and what the host's socket had received and not read. */
const ON_THE_WAY_BYTES = 2 * SEND_BUFFER_BYTES + 256 * KIB
const SEEKS = Array.from({ length: 12 }, (_, i) => ((i * 7) % 12) * 5_000_000 + 100_000)

let certificate: Certificate
let folder: TempDir
before(async () => {
  certificate = await makeCertificate()
  folder = await tempDir()
  await writeFile(folder.file('film.mkv'), CONTENT.read(0, CONTENT.sizeBytes))
})
after(async () => {
  await certificate[Symbol.asyncDispose]()
  await folder.remove()
})

/** Slow enough that fetches run when they are given up, and that little comes while a busy host does not read. */
async function startOrigin(): Promise<Nginx> {
  return await startNginx(folder.path, { certificate, limitRateBytesPerSecond: 100_000, sendBufferBytes: SEND_BUFFER_BYTES })
}

type Cache = Awaited<ReturnType<typeof connect>>

async function connectTo(host: TestHost): Promise<Cache> {
  return await connect({ cacheDir: host.cacheDir, socketPath: host.socket })
}

interface Cost {
  readonly connections: number
  /** Ended early, as the host counts them: what was handed to its socket before, nginx takes for complete. */
  readonly cancelled: number
  /** As the origin counts them. */
  readonly incomplete: number
  /** Sent by the origin, and never received. */
  readonly lostBytes: number
}

/** Once nobody reads and nothing is fetched: all that was given up has been drained or cancelled by then. */
async function costAt(nginx: Nginx, host: TestHost, cache: Cache): Promise<Cost> {
  await until('no reader and no fetch is left', async () => {
    const { readers, fetchesInFlight } = await cache.status()
    return readers === 0 && fetchesInFlight === 0
  })
  const entries = await nginx.log() // when no request runs any more
  const sentBytes = entries.reduce((sum, { bodyBytes }) => sum + bodyBytes, 0)
  const { originBytes } = await cache.status()
  return {
    connections: new Set(entries.map(({ connection }) => connection)).size,
    cancelled: await cancelledCount(host),
    incomplete: entries.filter(({ isComplete }) => !isComplete).length,
    lostBytes: sentBytes - originBytes,
  }
}

async function cancelledCount(host: TestHost): Promise<number> {
  const metrics = await (await fetch(`${host.proxy}/metrics`)).text()
  const ended = [...metrics.matchAll(/^seekcache_fetches_total\{outcome="(?:cancelled|stalled|failed)"\} (\d+)$/gm)]
  return ended.reduce((sum, [, count]) => sum + Number(count), 0)
}

/** Over HTTP/1.1 what has little left is drained, and that may be all of it; a reset of a stream costs no connection. */
function assertCheap({ connections, cancelled, incomplete, lostBytes }: Cost, isMultiplexed: boolean): void {
  assert.ok(lostBytes >= 0 && lostBytes <= cancelled * ON_THE_WAY_BYTES, `${lostBytes} bytes lost with ${cancelled} requests`)
  assert.ok(incomplete <= cancelled, `${incomplete} incomplete, ${cancelled} given up`)
  assert.ok(connections <= (isMultiplexed ? 1 : CONNECTIONS + cancelled), `${connections} connections, ${cancelled} requests given up`)
}

/** Reads some at each place and goes to the next one. */
async function seekAround(cache: Cache, url: string): Promise<void> {
  const media = await cache.open(url)
  for (const start of SEEKS) {
    for await (const bytes of media.read(start)) {
      assert.ok(bytes.equals(CONTENT.read(start, start + bytes.length)))
      break
    }
  }
  await media.close()
}

for (const [protocol, isMultiplexed] of [['HTTP/1.1', false], ['HTTP/2', true]] as const) {
  const urlOf = (nginx: Nginx): string => (isMultiplexed ? nginx.secureUrl('film.mkv') : nginx.url('film.mkv'))

  test(`${protocol}: a long fetch that is given up costs what was on the way`, async (t) => {
    await using nginx = await startOrigin()
    const transport = new Transport({ maxConnectionsPerOrigin: CONNECTIONS, ca: certificate.cert })
    t.after(() => transport.close())
    const source = new Source({ url: urlOf(nginx), headers: [] }, transport, 'test')
    source.warm()
    let receivedBytes = 0
    for (const start of SEEKS) {
      await within('the first bytes', new Promise<void>((resolve, reject) => {
        const fetch = source.fetch({ start, end: CONTENT.sizeBytes, known: undefined }, {
          onHead: () => {},
          onBytes: (_, bytes) => {
            receivedBytes += bytes.length
            fetch.cancel()
            resolve()
          },
          onEnd: reject,
        })
      }))
    }
    const entries = await nginx.log()
    assert.equal(entries.length, SEEKS.length)
    const lostBytes = entries.reduce((sum, { bodyBytes }) => sum + bodyBytes, 0) - receivedBytes
    assert.ok(lostBytes <= SEEKS.length * ON_THE_WAY_BYTES, `${lostBytes} bytes lost with ${SEEKS.length} requests`)
    const connections = new Set(entries.map(({ connection }) => connection)).size
    assert.ok(isMultiplexed ? connections === 1 : connections <= SEEKS.length, `${connections} connections`)
  })

  test(`${protocol}: seeks, and the close at their end, cost what was on the way`, async () => {
    await using nginx = await startOrigin()
    await using host = await startHost({ env: { NODE_EXTRA_CA_CERTS: certificate.certFile } })
    await using cache = await connectTo(host)
    await seekAround(cache, urlOf(nginx))
    assertCheap(await costAt(nginx, host, cache), isMultiplexed)
  })

  test(`${protocol}: players that disconnect cost what was on the way`, async () => {
    await using nginx = await startOrigin()
    await using host = await startHost({ env: { NODE_EXTRA_CA_CERTS: certificate.certFile } })
    await using cache = await connectTo(host)
    for (const start of SEEKS) await within('the first bytes', readAndLeave(host.proxyUrl(urlOf(nginx)), start))
    assertCheap(await costAt(nginx, host, cache), isMultiplexed)
  })
}

/** As a player whose user seeks: the connection goes. */
async function readAndLeave(url: string, start: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const request = http.get(url, { agent: false, headers: { range: `bytes=${start}-` } }, (response) => {
      response.once('data', () => {
        request.destroy()
        resolve()
      })
    })
    request.once('error', reject)
  })
}
