/** Fetching whole files beside what is played, reads that an announced seek ends, and clients that can read no file. */

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod } from 'node:fs/promises'
import { get, type IncomingMessage } from 'node:http'
import path from 'node:path'
import { test } from 'node:test'

import { connect } from 'seekcache'
import { SeekCacheError } from '../src/errors.ts'
import { fillPersistently } from '../src/filler.ts'
import { patternContent } from './support/content.ts'
import { until, within } from './support/deadline.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import type { OriginRequest } from './support/origin-reply.ts'
import { runProgram } from './support/programs.ts'
import { VirtualClock } from './support/simulation/virtual-clock.ts'

const CONTENT = patternContent(60_000_000)
/** So large that no buffers, windows or seconds of a slow link amount to a part of it that counts. */
const LONG_CONTENT = patternContent(1_500_000_000)
const WINDOW_BYTES = 4 * 1024 * 1024
/** As many requests a host makes at a time. */
const CONNECTIONS = 8
/** For hosts whose origin's bytes are counted: what is slow is not replaced. */
const PATIENT = ['--stall', '60']

async function connectTo(host: TestHost): Promise<Awaited<ReturnType<typeof connect>>> {
  return await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
}

/** A player that has begun and takes nothing more. */
async function pausedPlayer(url: string): Promise<IncomingMessage> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => get(url, { agent: false }, resolve).on('error', reject))
  response.pause()
  return response
}

test('with --fill a paused player ends with the whole file in the cache; without it, with its window', async () => {
  for (const isFilled of [false, true]) {
    await using origin = await startFaultOrigin({ content: isFilled ? CONTENT : LONG_CONTENT })
    await using host = await startHost({ args: isFilled ? [...PATIENT, '--fill'] : PATIENT })
    await using cache = await connectTo(host)
    const url = origin.url('film.mkv')
    const player = await pausedPlayer(host.proxyUrl(url))
    if (isFilled) {
      await origin.when('all of it', () => origin.bodyBytesSent >= CONTENT.sizeBytes)
      await until('the whole file is in the cache', async () => (await cache.map(url)).present[0]?.[1] === CONTENT.sizeBytes)
      assert.ok(origin.bodyBytesSent < 1.02 * CONTENT.sizeBytes)
    } else {
      await origin.when('the window', () => origin.bodyBytesSent >= WINDOW_BYTES)
      await until('nothing is fetched', async () => (await cache.status()).fetchesInFlight === 0)
      await origin.idle()
      assert.ok(origin.bodyBytesSent < LONG_CONTENT.sizeBytes / 10, `${origin.bodyBytesSent} bytes`)
    }
    player.destroy()
  }
})

test('--fill fills for a session of the API, ends with it, and leaves alone what the budget cannot hold', async () => {
  await using origin = await startFaultOrigin({ content: LONG_CONTENT, script: () => ({ kind: 'body-slow', bytesPerSecond: 2_000_000 }) })
  await using host = await startHost({ args: ['--fill'] })
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  await origin.when('more than the opening fetches', () => origin.bodyBytesSent > 2_000_000)
  await media.close()
  await cache.status() // is answered behind the close
  assert.equal((await cache.status()).readers, 0)
  await origin.idle()
  assert.ok(origin.bodyBytesSent < LONG_CONTENT.sizeBytes / 2)

  origin.setScript(undefined)
  await using small = await startHost({ args: ['--fill', '--max-size', '32M'] })
  await using other = await connectTo(small)
  const before = origin.bodyBytesSent
  const tooLarge = await other.open(origin.url('film.mkv'))
  const player = await pausedPlayer(tooLarge.proxyUrl)
  await origin.when('the window', () => origin.bodyBytesSent - before >= WINDOW_BYTES)
  await until('nothing is fetched', async () => (await other.status()).fetchesInFlight === 0)
  await origin.idle()
  assert.ok(origin.bodyBytesSent - before < LONG_CONTENT.sizeBytes / 10, `${origin.bodyBytesSent - before} bytes`)
  player.destroy()
  await assert.rejects(tooLarge.fetchAll(), { code: 'ERR_SEEKCACHE_CACHE_FULL' })
  assert.ok(origin.bodyBytesSent - before < LONG_CONTENT.sizeBytes / 10, 'it is not fetched to find out')
})

test('a fill that failed goes on by itself when the origin answers again', async () => {
  // Its end does not come before the origin fails.
  const isEnd = ({ range }: OriginRequest): boolean => (range?.start ?? 0) >= 30_000_000
  await using origin = await startFaultOrigin({ content: CONTENT, script: (request) => (isEnd(request) ? { kind: 'head-held' } : undefined) })
  await using host = await startHost({ args: ['--fill', '--log-level', 'info'] })
  await using cache = await connectTo(host)
  await cache.open(origin.url('film.mkv'))
  await origin.when('the fill', () => origin.bodyBytesSent > 3_000_000)
  let refusals = 0
  origin.setScript(() => {
    refusals++
    return { kind: 'captive-portal' }
  })
  origin.dropConnections()
  await origin.when('the end of the fill, and a second one', () => (host.stderr.match(/not fetched whole yet/g)?.length ?? 0) >= 2)
  assert.ok(refusals < 100, `the waits grow: ${refusals} requests`)
  const before = origin.bodyBytesSent
  origin.setScript(undefined)
  await origin.when('the rest', () => origin.bodyBytesSent - before > CONTENT.sizeBytes / 3)
  await cache.stopHost()
  await host.exited
})

test('a fill is tried again after waits that grow to a minute, short again after progress, and ends with its signal', async () => {
  const clock = new VirtualClock()
  const controller = new AbortController()
  const unreachable = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', 'down')
  const expired = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', 'gone', { httpStatus: 403 })
  const failures = [...Array.from({ length: 9 }, () => unreachable), unreachable, unreachable, expired, unreachable, unreachable]
  const waitsSeconds: number[] = []
  let tries = 0
  let arrivedBytes = 0
  const ended = fillPersistently({
    clock,
    signal: controller.signal,
    arrivedBytes: () => arrivedBytes,
    onFailure: (_, waitMs) => waitsSeconds.push(waitMs / 1000),
    fill: async () => {
      const error = failures[tries++]
      if (tries === 10) arrivedBytes += 1
      if (error === undefined) controller.abort()
      else throw error
    },
  })
  await clock.run(() => {})
  await ended
  assert.deepEqual(waitsSeconds, [1, 2, 4, 8, 16, 32, 60, 60, 60, 1, 2, 60, 60, 60])
  assert.equal(clock.nowMs(), 1000 * waitsSeconds.reduce((sum, wait) => sum + wait, 0))

  for (const code of ['ERR_SEEKCACHE_ORIGIN_CHANGED', 'ERR_SEEKCACHE_CANCELLED'] as const) {
    const once = { clock, arrivedBytes: () => 0, fill: () => Promise.reject(new SeekCacheError(code, 'over')), onFailure: () => assert.fail('it is tried again') }
    await fillPersistently({ ...once, signal: new AbortController().signal })
  }
  const waiting = new AbortController()
  const given = fillPersistently({ clock, signal: waiting.signal, arrivedBytes: () => 0, fill: () => Promise.reject(unreachable), onFailure: () => setImmediate(() => waiting.abort()) })
  await within('a fill that is given up while it waits', given)
})

test('what a player reads comes before what is filled', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, script: () => ({ kind: 'body-slow', bytesPerSecond: 400_000 }) })
  await using host = await startHost({ args: ['--fill'] })
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  await origin.when('the fill', () => origin.bodyBytesSent > 1_000_000)
  const reading = media.read(30_000_000, 60_000_000)
  assert.equal((await reading.next()).done, false)
  const isAhead = ({ range }: OriginRequest): boolean => range!.start! >= 30_000_000 && range!.start! < 40_000_000
  await origin.when('readahead', ({ requests }) => requests.filter(isAhead).length > 40)
  // From the first request of the read on, as long as its window is being fetched.
  const ahead = origin.requests.filter(isAhead)
  const meanwhile = origin.requests.slice(ahead[0]!.index, ahead.at(-1)!.index)
  const filled = meanwhile.filter(({ range }) => range!.start! < 30_000_000)
  assert.ok(filled.length <= CONNECTIONS, `${filled.length} of ${meanwhile.length} requests were for the fill`) // under way before
  await reading.return(undefined)
})

test('an announced seek cancels a read of the session that waits elsewhere, and fetches its target', async () => {
  await using origin = await startFaultOrigin({
    content: CONTENT,
    script: ({ range }) => ((range?.start ?? 0) >= 20_000_000 && (range?.start ?? 0) < 30_000_000 ? { kind: 'head-held' } : undefined),
  })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  const first = async (start: number): Promise<number> => {
    for await (const bytes of media.read(start, start + 10)) return bytes[0]!
    return assert.fail('no byte')
  }
  const elsewhere = assert.rejects(first(20_000_000), (error: SeekCacheError) => error.code === 'ERR_SEEKCACHE_CANCELLED')
  const there = first(29_500_000)
  await origin.when('both', (seen) => [20_000_000, 29_500_000].every((start) => seen.requests.some(({ range }) => range?.start === start)))
  media.announceSeek(29_000_000)
  await elsewhere
  media.announceSeek({ timeSeconds: 50, durationSeconds: 60 })
  await assert.rejects(there, { code: 'ERR_SEEKCACHE_CANCELLED' })
  await origin.when('the guess', (seen) => seen.requests.some(({ range }) => range?.start === 50_000_000))
})

test('a client that may not read the cache\'s files gets the bytes over the socket', async (t) => {
  if (process.getuid?.() !== 0 || process.platform !== 'linux') return t.skip('only root can become another user')
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost()
  const url = origin.url('film.mkv')
  {
    await using cache = await connectTo(host)
    await (await cache.open(url)).fetchAll()
  }
  // The other user may connect, and nothing more.
  await chmod(path.dirname(host.cacheDir), 0o711)
  await chmod(host.cacheDir, 0o711)
  await chmod(host.socket, 0o666)
  const other = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
  const native = path.resolve(import.meta.dirname, '../build/Release/client-read')
  try {
    execFileSync(other[0]!, [...other.slice(1), 'test', '-x', native])
  } catch {
    return t.skip('setpriv is not there, or the other user may not look into this folder')
  }
  const expected = createHash('sha256').update(CONTENT.read(5_000_000, 25_000_000)).digest('hex')
  const read = await runProgram([...other, native, '--socket', host.socket, '--offset', '5000000', '--length', '20000000', url])
  assert.equal(read.code, 0, read.stderr)
  assert.equal(read.sha256, expected)
  const program = `const { connect } = await import(${JSON.stringify(path.resolve(import.meta.dirname, '../dist/index.js'))})
    const cache = await connect({ cacheDir: ${JSON.stringify(host.cacheDir)}, socketPath: ${JSON.stringify(host.socket)}, startHost: false })
    const media = await cache.open(${JSON.stringify(url)})
    for await (const bytes of media.read(5_000_000, 25_000_000)) process.stdout.write(bytes)
    await cache.close()`
  const node = await runProgram([...other, process.execPath, '--input-type=module', '-e', program])
  assert.equal(node.code, 0, node.stderr)
  assert.equal(node.sha256, expected)
})
