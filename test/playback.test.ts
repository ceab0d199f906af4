/** The main job with real programs: nginx as origin, GStreamer and mpv as players, a host as a process of its own. */

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdirSync, statSync } from 'node:fs'
import path from 'node:path'
import { describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'

import { connect } from 'seekcache'
import { EXTENT_BYTES } from '../src/bytes/ranges.ts'
import { fileContent, patternContent } from './support/content.ts'
import { until } from './support/deadline.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { longFilm, shortFilm } from './support/media.ts'
import { startMpv } from './support/mpv.ts'
import { startNginx, type Nginx, type NginxOptions } from './support/nginx.ts'
import { play, runProgram, sha256OfFile, type PlayerEvent } from './support/programs.ts'
import { tempDir } from './support/temp-dir.ts'

const FORMATS = ['mkv', 'mp4'] as const
/** The films have a key frame every 2 s. */
const GOP_SECONDS = 2
/** So far apart that what was read ahead of one place does not reach the next: whoever comes there waits, and has its window filled. */
const SEEKS = [90, 30, 60]
/** Most of a first window, which begins at a key frame before the place. */
const AHEAD_BYTES = 10_000_000
/** Bytes go with the time but for so much. */
const GOP_BYTES = 2_000_000

async function mediaBytes(nginx: Nginx): Promise<number> {
  return (await nginx.log()).reduce((sum, entry) => sum + entry.bodyBytes, 0)
}

async function filmOrigin(format: 'mkv' | 'mp4', options: NginxOptions = {}): Promise<{ nginx: Nginx; file: string; url: string; sizeBytes: number }> {
  const film = await longFilm()
  const { path: file } = film.files[format]
  const nginx = await startNginx(path.dirname(file), options)
  return { nginx, file, url: nginx.url(path.basename(file)), sizeBytes: statSync(file).size }
}

function assertLanded(events: readonly PlayerEvent[]): void {
  const seeks = events.filter((event) => event.event === 'seek')
  assert.equal(seeks.length, SEEKS.length)
  for (const { targetSeconds, landedSeconds } of seeks) {
    assert.ok(Math.abs(targetSeconds! - landedSeconds!) <= GOP_SECONDS, `${targetSeconds} s led to ${landedSeconds} s`)
  }
}

/** On a link without a limit a player has filled its own queues before it seeks on; this is 8 × 0.25 MB/s. */
const SLOW_LINK = { limitRateBytesPerSecond: 250_000 }
/** Where a player takes its time between its seeks, readahead would have 16 MiB at each place by then. */
const SMALL_WINDOW = { args: ['--window', '1M'] }
const seekArgs = SEEKS.flatMap((percent) => ['--seek', String(percent)])
const gst = (url: string): string => `seekcache+${url}`

for (const format of FORMATS) {
  test(`a whole ${format} comes through the element and through the proxy as it is, each byte fetched once`, async () => {
    const { nginx, file, url, sizeBytes } = await filmOrigin(format)
    await using _nginx = nginx
    await using host = await startHost()
    assert.ok(sizeBytes > 100e6)
    const expected = await sha256OfFile(file)
    const element = await runProgram(['gst-launch-1.0', '-q', 'seekcachesrc', `location=${url}`, '!', 'fdsink'], host.clientEnv)
    assert.equal(element.code, 0, element.stderr)
    assert.equal(element.sha256, expected)
    assert.ok((await mediaBytes(nginx)) <= 1.02 * sizeBytes, 'a straight watch fetches each byte once')
    const proxied = await runProgram(['curl', '-sS', '--fail', host.proxyUrl(url)])
    assert.equal(proxied.sha256, expected)
    assert.ok((await mediaBytes(nginx)) <= 1.02 * sizeBytes, 'the second one comes from the cache')
  })

  test(`a whole ${format} comes through the proxy on an empty cache as it is`, async () => {
    const { nginx, file, url, sizeBytes } = await filmOrigin(format)
    await using _nginx = nginx
    await using host = await startHost()
    const proxied = await runProgram(['curl', '-sS', '--fail', host.proxyUrl(url)])
    assert.equal(proxied.sha256, await sha256OfFile(file))
    assert.ok((await mediaBytes(nginx)) <= 1.02 * sizeBytes)
  })

  for (const player of ['playbin', 'playbin3']) {
    test(`${player}: seeks in a ${format} land with 90 % of it never downloaded`, async () => {
      const { nginx, url, sizeBytes } = await filmOrigin(format, SLOW_LINK)
      await using _nginx = nginx
      await using host = await startHost(SMALL_WINDOW)
      assertLanded(await play([`--${player}`, ...seekArgs, gst(url)], host.clientEnv))
      const fetchedBytes = await mediaBytes(nginx)
      assert.ok(fetchedBytes < 0.1 * sizeBytes, `${fetchedBytes} of ${sizeBytes} were fetched`)
    })
  }

  test(`mpv: seeks in a ${format} through the proxy land with 90 % of it never downloaded`, async () => {
    const { nginx, url, sizeBytes } = await filmOrigin(format, SLOW_LINK)
    await using _nginx = nginx
    await using host = await startHost(SMALL_WINDOW)
    await watchInMpv(host.proxyUrl(url))
    const fetchedBytes = await mediaBytes(nginx)
    assert.ok(fetchedBytes < 0.1 * sizeBytes, `${fetchedBytes} of ${sizeBytes} were fetched`)
  })

  test(`mpv: the same ${format} with the same seeks after a restart takes no byte from the origin`, async () => {
    const { nginx, url, sizeBytes } = await filmOrigin(format)
    await using _nginx = nginx
    await using host = await startHost()
    await watchInMpv(host.proxyUrl(url), async (percent) => {
      await until(`readahead of ${percent} %`, () => isAheadOf(host, url, sizeBytes, percent))
      await quiet(host)
    })
    await host.restart()
    const firstBytes = await mediaBytes(nginx)
    await watchInMpv(host.proxyUrl(url), () => quiet(host))
    assert.equal((await mediaBytes(nginx)) - firstBytes, 0)
  })
}

/** Opens and seeks; `dwell` is what happens while the person looks at each picture. */
async function watchInMpv(url: string, dwell: (percent: number) => Promise<void> = () => Promise.resolve()): Promise<void> {
  // Its own readahead of 150 MB would take the whole film before the first seek.
  await using mpv = await startMpv({ args: ['--pause', '--cache=no'] })
  await mpv.open(url)
  const duration = Number(await mpv.get('duration'))
  await dwell(0)
  for (const percent of SEEKS) {
    await mpv.seekPercent(percent)
    const landed = Number(await mpv.get('time-pos'))
    assert.ok(Math.abs(landed - (duration * percent) / 100) <= GOP_SECONDS, `${percent} % led to ${landed} s`)
    await dwell(percent)
  }
}

async function mapOf(host: TestHost, url: string): Promise<{ present: [number, number][] }> {
  await using cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
  return await cache.map(url)
}

/** Whether so much is cached from this place on that who comes there again has no reason to fetch more. */
async function isAheadOf(host: TestHost, url: string, sizeBytes: number, percent: number): Promise<boolean> {
  const { present } = await mapOf(host, url)
  const at = (percent / 100) * sizeBytes
  return present.some(([start, end]) => start <= at + GOP_BYTES && end >= Math.min(at + AHEAD_BYTES, sizeBytes))
}

/** Until the host has nothing more to fetch: the player's buffers and the windows are full, which have begun to be filled. */
async function quiet(host: TestHost): Promise<void> {
  const cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
  try {
    for (let calm = 0; calm < 5; ) {
      calm = (await cache.status()).fetchesInFlight === 0 ? calm + 1 : 0
      await delay(50)
    }
  } finally {
    await cache.close()
  }
}

// Most of their time they dwell, or wait for a slow origin.
describe('players that take their time', { concurrency: true }, () => {
  test('an origin that answers HEAD with 500 and takes 3 s to its first byte plays; the wait is in the metrics', async () => {
    const film = await shortFilm()
    await using origin = await startFaultOrigin({
      content: fileContent(film.files.mkv.path),
      contentType: 'video/x-matroska',
      script: () => [{ kind: 'head-refused', status: 500 }, { kind: 'head-delayed', delayMs: 3000 }],
    })
    await using host = await startHost()
    const url = origin.url('film.mkv')
    const proxied = await fetch(host.proxyUrl(url), { headers: { range: 'bytes=0-99' } })
    assert.equal(proxied.status, 206)
    assert.ok(Buffer.from(await proxied.arrayBuffer()).equals(fileContent(film.files.mkv.path).read(0, 100)))
    const head = await fetch(host.proxyUrl(url), { method: 'HEAD' })
    assert.equal(head.status, 200)
    await play(['--playbin', gst(url)], host.clientEnv)
    assert.ok(origin.requests.every((request) => request.method === 'GET'), 'HEAD is never sent')
    const metrics = await (await fetch(`${host.proxy}/metrics`)).text()
    const value = (name: string): number => Number(new RegExp(`^${name} ([\\d.e+-]+)$`, 'm').exec(metrics)?.[1])
    assert.ok(value('seekcache_open_seconds_sum') >= 3, metrics)
    assert.ok(value('seekcache_fetch_first_byte_seconds_sum') >= 3)
    assert.match(metrics, /seekcache_waits_total\{outcome="satisfied"\} \d+/)
    assert.doesNotMatch(metrics, /seekcache_responses_total\{status="5/)
  })

  for (const format of FORMATS) {
    for (const player of ['playbin', 'playbin3']) {
      // How far it gets in a second, and how far is read ahead then, differs from one sitting to the next.
      test(`${player}: the same ${format} with the same seeks after a restart asks for nothing that is there`, async () => {
        const { nginx, url } = await filmOrigin(format)
        await using _nginx = nginx
        await using host = await startHost()
        const args = [`--${player}`, '--dwell', '1', ...seekArgs, gst(url)]
        assertLanded(await play(args, host.clientEnv))
        await host.restart()
        const before = await nginx.log() // nothing of the first host's is under way any more
        const { present } = await mapOf(host, url)
        const presentBytes = present.reduce((sum, [start, end]) => sum + end - start, 0)
        assert.ok(presentBytes > 1_000_000, `${presentBytes} are there`) // how much was on the way, and is lost, differs as well
        assertLanded(await play(args, host.clientEnv))
        for (const { range, bodyBytes } of (await nginx.log()).slice(before.length)) {
          if (bodyBytes === 0) continue // it is asked whether the file has changed
          const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range) ?? assert.fail(`another range: ${range}`)
          const again = present.find(([start, end]) => start <= Number(last) && Number(first) < end)
          assert.equal(again, undefined, `${range} was asked for`)
        }
      })
    }
  }
})

test('two players at once on one file: the origin sends each byte once', async () => {
  const { nginx, file, url, sizeBytes } = await filmOrigin('mkv')
  await using _nginx = nginx
  await using host = await startHost()
  const expected = await sha256OfFile(file)
  const [element, proxied] = await Promise.all([
    runProgram(['gst-launch-1.0', '-q', 'seekcachesrc', `location=${url}`, '!', 'fdsink'], host.clientEnv),
    runProgram(['curl', '-sS', '--fail', host.proxyUrl(url)]),
  ])
  assert.equal(element.sha256, expected)
  assert.equal(proxied.sha256, expected)
  const bytes = await mediaBytes(nginx)
  assert.ok(bytes <= 1.02 * sizeBytes, `${bytes} of ${sizeBytes}`)
})

function diskBytes(dir: string): number {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' }).reduce((sum, name) => {
    const found = statSync(path.join(dir, name), { throwIfNoEntry: false })
    return sum + (found?.isFile() === true ? found.blocks * 512 : 0)
  }, 0)
}

test('a file larger than the budget plays to its end; the directory stays within budget and 4 extents', async () => {
  const content = patternContent(200 * 2 ** 20)
  await using origin = await startFaultOrigin({ content })
  await using host = await startHost({ args: ['--max-size', '64M'] })
  const budget = 64 * 2 ** 20
  const response = await fetch(host.proxyUrl(origin.url('big.bin')))
  let position = 0
  let largest = 0
  for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
    const isRight = Buffer.from(bytes).equals(content.read(position, position + bytes.length))
    if (!isRight) assert.fail(`wrong bytes at ${position}`)
    if (Math.floor(position / 2 ** 22) !== Math.floor((position + bytes.length) / 2 ** 22)) largest = Math.max(largest, diskBytes(host.cacheDir))
    position += bytes.length
  }
  assert.equal(position, content.sizeBytes)
  assert.ok(largest > budget / 2, `it was cached: ${largest}`)
  assert.ok(largest <= budget + 4 * EXTENT_BYTES, `${largest} bytes in the directory`)
})

test('a film larger than the budget plays to its end in GStreamer', async () => {
  const { nginx, url } = await filmOrigin('mp4')
  await using _nginx = nginx
  await using host = await startHost({ args: ['--max-size', '64M'] })
  const events = await play(['--playbin', '--to-eos', gst(url)], host.clientEnv)
  assert.ok(events.some((event) => event.event === 'eos'))
  assert.ok(diskBytes(host.cacheDir) <= 64 * 2 ** 20 + 4 * EXTENT_BYTES)
})

async function readAll(host: TestHost, url: string): Promise<string> {
  const cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
  try {
    const media = await cache.open(url)
    const hash = createHash('sha256')
    for await (const bytes of media.read()) hash.update(bytes)
    return hash.digest('hex')
  } finally {
    await cache.close()
  }
}

test('a host that is killed loses recent bytes at most, and shows no wrong one', async () => {
  const { nginx, file, url } = await filmOrigin('mkv')
  await using _nginx = nginx
  await using dir = await tempDir()
  const expected = await sha256OfFile(file)
  for (const killAtBytes of [1, 20e6, 70e6]) {
    await using host = await startHost({ cacheDir: dir.file('cache') })
    const response = await fetch(host.proxyUrl(url))
    let received = 0
    await (async () => {
      for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
        received += bytes.length
        if (received >= killAtBytes) await host.kill9()
      }
    })().catch(() => undefined) // the connection breaks with the host
    await host.restart()
    assert.equal(await readAll(host, url), expected)
  }
})

test('on a full disk a film plays to its end, uncached, with a clear word', async (t) => {
  await using dir = await tempDir()
  const mount = async (...words: string[]): Promise<boolean> => (await runProgram(words)).code === 0
  if (process.platform !== 'linux' || !(await mount('mount', '-t', 'tmpfs', '-o', 'size=48m', 'tmpfs', dir.path))) {
    return t.skip('a small file system cannot be mounted here')
  }
  try {
    const content = patternContent(150_000_000)
    await using origin = await startFaultOrigin({ content })
    await using host = await startHost({ cacheDir: dir.file('cache'), args: ['--reserve', '0'] })
    const response = await fetch(host.proxyUrl(origin.url('big.bin')))
    let position = 0
    for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
      if (!Buffer.from(bytes).equals(content.read(position, position + bytes.length))) assert.fail(`wrong bytes at ${position}`)
      position += bytes.length
    }
    assert.equal(position, content.sizeBytes)
    await until('a word about it', () => /cannot be written \(.*no space left on device\): playing on without caching/.test(host.stderr))
  } finally {
    await mount('umount', dir.path)
  }
})
