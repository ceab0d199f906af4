/** The Node API against a real host: what a program that uses the package relies on. */

import assert from 'node:assert/strict'
import { readdirSync, statSync, unlinkSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'

import { connect, SeekCacheError } from 'seekcache'
import { CHUNK_BYTES } from '../src/bytes/ranges.ts'
import { ControlClient } from '../src/client/control-client.ts'
import { patternContent } from './support/content.ts'
import { until, within } from './support/deadline.ts'
import { inOrder, startFaultOrigin, type Script } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { tempDir } from './support/temp-dir.ts'

const CONTENT = patternContent(40_000_000)
/** For hosts whose origin's bytes are counted: what is slow is not replaced. */
const PATIENT = ['--stall', '60']

type Cache = Awaited<ReturnType<typeof connect>>
type Media = Awaited<ReturnType<Cache['open']>>

async function connectTo(host: TestHost): Promise<Cache> {
  return await connect({ cacheDir: host.cacheDir, socketPath: host.socket })
}

async function collect(media: Media, start?: number, end?: number, signal?: AbortSignal): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const bytes of media.read(start, end, signal === undefined ? {} : { signal })) parts.push(bytes)
  return Buffer.concat(parts)
}

async function rejectsWith(action: Promise<unknown>, code: string): Promise<SeekCacheError> {
  const error = await action.then(
    () => assert.fail(`expected ${code}`),
    (reason: unknown) => reason as SeekCacheError,
  )
  assert.ok(error instanceof SeekCacheError, String(error))
  assert.equal(error.code, code)
  return error
}

test('opening tells size, type, validator and URLs; reading gives the right bytes of any range', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"', contentType: 'video/mp4' })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mp4'))
  assert.deepEqual([media.size, media.contentType, media.validator, media.fileName], [CONTENT.sizeBytes, 'video/mp4', '"v1"', 'film.mp4'])
  assert.match(media.proxyUrl, /^http:\/\/127\.0\.0\.1:\d+\/.*\/film\.mp4$/)
  assert.equal(media.gstUri, `seekcache+${origin.url('film.mp4')}`)
  for (const [start, end] of [[0, 10], [39_999_990, 40_000_000], [16_777_000, 16_778_000], [20_000_000, 26_000_000], [5, 5]] as const) {
    assert.ok((await collect(media, start, end)).equals(CONTENT.read(start, end)), `${start}-${end}`)
  }
  assert.ok((await collect(media, 39_000_000)).equals(CONTENT.read(39_000_000, 40_000_000)), 'to the end without an end')
  assert.deepEqual(await collect(media, 50_000_000, 60_000_000), Buffer.alloc(0))
})

test('who reads on in what is cached is known to be there: what is not is asked for before it is read', async () => {
  const cachedBytes = 34_000_000
  const script: Script = ({ range }) => ((range?.end ?? CONTENT.sizeBytes) > cachedBytes + 2_000_000 ? { kind: 'head-held' } : undefined)
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"', script })
  await using host = await startHost({ args: PATIENT })
  {
    await using cache = await connectTo(host)
    await collect(await cache.open(origin.url('film.mkv')), 0, cachedBytes)
  }
  await host.restart()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  const before = origin.requests.length
  const reading = media.read(0)
  const [, cachedEnd] = media.present()[0]!
  for (let position = 0; position < cachedEnd - CHUNK_BYTES; ) position += (await reading.next()).value!.length
  await origin.when('it is asked for', ({ requests }) => requests.slice(before).some(({ range }) => (range?.end ?? 0) > cachedEnd))
  await reading.return()
})

test('fetchAll brings the whole file into the cache, with progress, and present tells it', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"' })
  await using host = await startHost({ args: PATIENT })
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  const progress: number[] = []
  await media.fetchAll({ onProgress: ({ presentBytes, sizeBytes }) => progress.push(presentBytes / sizeBytes) })
  assert.ok(progress.length > 5)
  assert.deepEqual(progress, [...progress].sort((a, b) => a - b))
  assert.equal(progress.at(-1), 1)
  assert.deepEqual(media.present(), [[0, CONTENT.sizeBytes]])
  await origin.idle()
  const sent = origin.bodyBytesSent
  assert.ok(sent <= 1.02 * CONTENT.sizeBytes)
  assert.ok((await collect(media)).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  assert.equal(origin.bodyBytesSent, sent)
})

test('a read and a fetch that are aborted end at once, and their fetches with them', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, script: (request) => (request.index > 0 ? { kind: 'head-held' } : undefined) })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  const controller = new AbortController()
  const reading = rejectsWith(collect(media, 20_000_000, 20_000_100, controller.signal), 'ERR_SEEKCACHE_CANCELLED')
  const fetching = rejectsWith(media.fetchAll({ signal: controller.signal }), 'ERR_SEEKCACHE_CANCELLED')
  await origin.when('the held requests', (seen) => seen.requests.some((request) => request.range?.start === 20_000_000))
  controller.abort()
  await Promise.all([reading, fetching])
  await media.close()
  await origin.when('no held request', (seen) => seen.requests.every((request) => request.range?.start !== 20_000_000 || request.outcome === 'aborted'))
})

test('a read that the origin does not satisfy in time says so', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, script: (request) => (request.index > 0 ? { kind: 'head-held' } : undefined) })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  const read = async (): Promise<void> => {
    for await (const _ of media.read(20_000_000, 20_000_010, { deadlineMs: 300 })) assert.fail('no byte can come')
  }
  await rejectsWith(read(), 'ERR_SEEKCACHE_TIMEOUT')
})

test('what cannot be opened is told by code', async () => {
  const script: Script = ({ target }) => (target.includes('none') ? { kind: 'status', status: 404 } : { kind: 'captive-portal' })
  await using origin = await startFaultOrigin({ content: CONTENT, script })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const missing = await rejectsWith(cache.open(origin.url('none.mkv')), 'ERR_SEEKCACHE_ORIGIN_STATUS')
  assert.equal(missing.httpStatus, 404)
  await rejectsWith(cache.open(origin.url('page')), 'ERR_SEEKCACHE_ORIGIN_NOT_MEDIA')
  await rejectsWith(cache.open('ftp://host/film.mkv'), 'ERR_SEEKCACHE_USAGE')
  await rejectsWith(cache.open('no url'), 'ERR_SEEKCACHE_USAGE')
  await rejectsWith(cache.open('http://127.0.0.1:1/film.mkv'), 'ERR_SEEKCACHE_ORIGIN_UNREACHABLE')
  await rejectsWith(cache.map(origin.url('never')), 'ERR_SEEKCACHE_NOT_FOUND')
})

test('headers reach the origin, and different credentials are different resources', async () => {
  await using origin = await startFaultOrigin({ content: patternContent(1_000_000) })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const url = origin.url('film.mkv')
  const one = await cache.open(url, { headers: { Authorization: 'Bearer one', 'User-Agent': 'player/1' } })
  await one.fetchAll()
  assert.ok(origin.requests.every(({ headers }) => headers.authorization === 'Bearer one' && headers['user-agent'] === 'player/1'))
  const two = await cache.open(url, { headers: [['Authorization', 'Bearer two']] })
  assert.deepEqual((await collect(two, 0, 10)).length, 10)
  assert.ok(origin.requests.some(({ headers, range }) => headers.authorization === 'Bearer two' && range?.start === 0))
  const sameWithOtherAgent = await cache.open(url, { headers: { Authorization: 'Bearer one', 'User-Agent': 'player/2' } })
  assert.deepEqual(sameWithOtherAgent.present(), [[0, 1_000_000]])
})

test('credentials are in no log, no list, no metric and not in the index', async () => {
  await using origin = await startFaultOrigin({ content: patternContent(100_000), script: inOrder(undefined, { kind: 'status', status: 500 }) })
  await using host = await startHost({ args: ['--log-level', 'trace'] })
  const cache = await connectTo(host)
  const url = origin.url('film.mkv').replace('http://', 'http://user:geheim1@')
  const media = await cache.open(`${url}?token=geheim2`, { headers: { Authorization: 'Bearer geheim3', Cookie: 'geheim4' } })
  await collect(media)
  const shown = [JSON.stringify(await cache.list()), JSON.stringify(await cache.status()), await (await fetch(`${host.proxy}/metrics`)).text()]
  await cache.close()
  await host.halt()
  shown.push(host.stderr)
  const { readFileSync } = await import('node:fs')
  for (const name of readdirSync(host.cacheDir, { recursive: true, encoding: 'utf8' })) {
    const file = path.join(host.cacheDir, name)
    if (statSync(file).isFile() && !name.startsWith('extents')) shown.push(readFileSync(file, 'latin1'))
  }
  for (const text of shown) assert.doesNotMatch(text, /geheim/)
})

test('a host that dies in the middle of a read is started again, and the read goes on', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"', script: () => ({ kind: 'body-slow', bytesPerSecond: 2_000_000 }) })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  let position = 0
  for await (const bytes of media.read(0, 12_000_000)) {
    assert.ok(bytes.equals(CONTENT.read(position, position + bytes.length)), `bytes from ${position}`)
    const before = position
    position += bytes.length
    if (before < 4_000_000 && position >= 4_000_000) await host.kill9()
  }
  assert.equal(position, 12_000_000)
  await cache.stopHost()
})

test('a host that dies when all bytes of a read have come does not make it fail', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"' })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  let killed: Promise<void> | undefined
  for await (const bytes of media.read(0, 10)) {
    assert.equal(bytes.length, 10)
    process.kill(host.pid, 'SIGSTOP') // what is asked of it from here on is never answered
    killed = delay(200).then(() => host.kill9())
  }
  await killed
})

test('two readers that start a host at once get the same one', async () => {
  await using dir = await tempDir()
  const options = { cacheDir: dir.file('cache') }
  const [a, b] = await Promise.all([connect(options), connect(options)])
  assert.equal((await a.status()).pid, (await b.status()).pid)
  await a.stopHost()
  await Promise.all([a.close(), b.close()])
})

test('an extent file that somebody removed is fetched again, unseen', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"' })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  await media.fetchAll()
  const extents = path.join(host.cacheDir, 'extents')
  for (const name of readdirSync(extents, { recursive: true, encoding: 'utf8' })) {
    if (/\/\d+-/.test(name)) unlinkSync(path.join(extents, name))
  }
  assert.ok((await collect(media)).equals(CONTENT.read(0, CONTENT.sizeBytes)))
})

test('a resource of unknown size is read once, in order', async () => {
  const content = patternContent(3_000_000)
  await using origin = await startFaultOrigin({ content, script: () => [{ kind: 'range-ignored' }, { kind: 'chunked' }] })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('live.ts'))
  assert.deepEqual([media.size, media.isSeekable], [undefined, false])
  assert.ok((await collect(media)).equals(content.read(0, content.sizeBytes)))
})

test('a resource of unknown size whose origin falls silent is waited for until the deadline', async () => {
  const script: Script = () => [{ kind: 'range-ignored' }, { kind: 'chunked' }, { kind: 'body-stalled', afterBytes: 0 }]
  await using origin = await startFaultOrigin({ content: CONTENT, script })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('live.ts'))
  await assert.rejects(async () => {
    for await (const bytes of media.read(0, undefined, { deadlineMs: 500 })) assert.fail(`${bytes.length} bytes`)
  }, { code: 'ERR_SEEKCACHE_TIMEOUT', message: /sent nothing/ })
})

test('who closes a resource of unknown size ends its reads', async () => {
  const script: Script = () => [{ kind: 'range-ignored' }, { kind: 'chunked' }, { kind: 'body-stalled', afterBytes: 0 }]
  await using origin = await startFaultOrigin({ content: CONTENT, script })
  await using host = await startHost()
  const client = await ControlClient.connect(host.socket)
  try {
    const { answer } = await client.request({ type: 'open', url: origin.url('live.ts'), headers: [] }, ['opened'])
    const { session } = answer
    const read = client.request({ type: 'locate', session, reader: 1, start: 0, lengthBytes: 1, deadlineMs: 3_600_000 }, ['data'])
    client.note({ type: 'close', session })
    await assert.rejects(within('the end of the read', read), { code: 'ERR_SEEKCACHE_CANCELLED' })
  } finally {
    client.close()
  }
})

test('without its origin, a cached file plays', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"' })
  await using host = await startHost()
  const url = origin.url('film.mkv')
  {
    await using cache = await connectTo(host)
    await (await cache.open(url)).fetchAll()
  }
  await host.restart()
  await origin.goDown()
  await using cache = await connectTo(host)
  assert.ok((await collect(await cache.open(url))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
})

test('a file that changed between two openings is the new one, whole', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"', lastModified: undefined })
  await using host = await startHost()
  const url = origin.url('film.mkv')
  {
    await using cache = await connectTo(host)
    await (await cache.open(url)).fetchAll()
  }
  await host.restart()
  const changed = patternContent(CONTENT.sizeBytes, 7)
  origin.setContent(changed, '"v2"')
  await using cache = await connectTo(host)
  assert.ok((await collect(await cache.open(url))).equals(changed.read(0, changed.sizeBytes)))
})

test('a file that still counts as fresh is opened as it was, whole, and as it is now the next time', async () => {
  const maxAge = { kind: 'header', name: 'Cache-Control', value: 'max-age=3600' } as const
  await using origin = await startFaultOrigin({ content: CONTENT, etag: '"v1"', script: () => maxAge })
  await using host = await startHost()
  const url = origin.url('film.mkv')
  const readAll = async (): Promise<Buffer> => {
    await using cache = await connectTo(host)
    return await collect(await cache.open(url))
  }
  await readAll()
  await host.restart()
  const changed = patternContent(CONTENT.sizeBytes, 7)
  origin.setContent(changed, '"v2"')
  assert.ok((await readAll()).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  await until('the origin has told of it', () => /the file has changed at the origin/.test(host.stderr))
  assert.ok((await readAll()).equals(changed.read(0, changed.sizeBytes)))
})

test('a file without any validator is told from another one of its size by its ends', async () => {
  const { etag, lastModified } = { etag: undefined, lastModified: undefined }
  await using origin = await startFaultOrigin({ content: CONTENT, etag, lastModified })
  await using host = await startHost({ args: PATIENT })
  const url = origin.url('film.mkv')
  const readOnce = async (): Promise<Buffer> => {
    await using cache = await connectTo(host)
    return await collect(await cache.open(url), 0, 1_000_000)
  }
  assert.ok((await readOnce()).equals(CONTENT.read(0, 1_000_000)))
  await host.restart()
  const requests = origin.requests.length
  assert.ok((await readOnce()).equals(CONTENT.read(0, 1_000_000)))
  // What is whole of the part that was read is compared at its ends alone, once one byte has told the size; behind it
  // readahead may go on.
  const asked = origin.requests.slice(requests).filter(({ range }) => range!.start! < 1_000_000 - CHUNK_BYTES)
  const askedBytes = asked.reduce((sum, { range }) => sum + range!.end! - range!.start!, 0)
  assert.ok(askedBytes > 0 && askedBytes <= 2 * CHUNK_BYTES + 1, `${askedBytes} bytes were asked for again`)
  await host.restart()
  const changed = patternContent(CONTENT.sizeBytes, 7)
  origin.setContent(changed, undefined)
  assert.ok((await readOnce()).equals(changed.read(0, 1_000_000)))
})
