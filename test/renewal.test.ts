/** URLs that expire in the middle: who is asked for a fresh one, what becomes of the reader, and what when nobody knows. */

import assert from 'node:assert/strict'
import { chmod, readFile, writeFile } from 'node:fs/promises'
import { test } from 'node:test'

import { connect, SeekCacheError, type OpenOptions } from 'seekcache'
import { patternContent } from './support/content.ts'
import { until, within } from './support/deadline.ts'
import { startFaultOrigin, type FaultOrigin, type FaultOriginOptions, type RequestRecord, type Script } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { tempDir } from './support/temp-dir.ts'

/** The places that a test reads after a URL has expired are so far apart that no readahead of what was read before is there. */
const CONTENT = patternContent(400_000_000)
const FAR = 100_000_000
const FARTHER = 200_000_000
const FARTHEST = 300_000_000

type Cache = Awaited<ReturnType<typeof connect>>
type Media = Awaited<ReturnType<Cache['open']>>

/** An origin that takes one signature at a time; any other one gets `status`. */
interface SignedOrigin extends AsyncDisposable {
  readonly origin: FaultOrigin
  readonly url: (signature: string) => string
  expire(nextSignature: string, status?: number): void
}

async function signedOrigin(options: Partial<FaultOriginOptions> = {}): Promise<SignedOrigin> {
  let valid = '1'
  let refusal = 403
  const origin = await startFaultOrigin({
    content: CONTENT,
    ...options,
    script: (request) => (request.target.endsWith(`Signature=${valid}`) ? options.script?.(request) : { kind: 'status', status: refusal }),
  })
  return {
    origin,
    url: (signature) => `${origin.url('film.mkv')}?X-Amz-Signature=${signature}`,
    expire: (next, status = 403) => {
      valid = next
      refusal = status
    },
    [Symbol.asyncDispose]: () => origin.stop(),
  }
}

async function connectTo(host: TestHost): Promise<Cache> {
  return await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
}

async function assertRead(media: Media, start: number, end: number): Promise<void> {
  const parts: Buffer[] = []
  for await (const bytes of media.read(start, end)) parts.push(bytes)
  assert.ok(Buffer.concat(parts).equals(CONTENT.read(start, end)), `${start}-${end}`)
}

async function failure(action: Promise<unknown>): Promise<SeekCacheError> {
  const error = await action.then(() => assert.fail('it succeeded'), (reason: unknown) => reason)
  assert.ok(error instanceof SeekCacheError, String(error))
  return error
}

for (const status of [401, 403, 410]) {
  test(`a ${status} in the middle asks whoever opened the resource, once, and the read goes on`, async () => {
    await using signed = await signedOrigin()
    await using host = await startHost()
    await using cache = await connectTo(host)
    const asked: unknown[] = []
    const renew: OpenOptions['renew'] = async (info) => {
      asked.push(info)
      return signed.url('2')
    }
    const media = await cache.open(signed.url('1'), { renew })
    await assertRead(media, 0, 1000)
    signed.expire('2', status)
    await Promise.all([assertRead(media, 5_000_000, 12_000_000), assertRead(media, FAR, FAR + 3_000_000)])
    assert.deepEqual(asked, [{ url: signed.url('1'), httpStatus: status }])
    const before = signed.origin.requests.length
    await assertRead(media, FARTHER, FARTHER + 1_000_000)
    assert.ok(signed.origin.requests.length > before)
    for (const { target } of signed.origin.requests.slice(before)) assert.match(target, /Signature=2$/)
  })
}

test('the reader waits for the fresh URL, and with its deadline only', async () => {
  await using signed = await signedOrigin()
  await using host = await startHost()
  await using cache = await connectTo(host)
  let give: (url: string) => void = () => {}
  let hear: () => void = () => {}
  const asked = new Promise<void>((resolve) => (hear = resolve))
  const renew = (): Promise<string> => {
    hear()
    return new Promise((answer) => (give = answer))
  }
  const media = await cache.open(signed.url('1'), { renew })
  signed.expire('2')
  const impatient = (async () => {
    for await (const _ of media.read(FAR, FAR + 10, { deadlineMs: 300 })) assert.fail('no byte can come')
  })()
  const patient = assertRead(media, FAR, FAR + 10)
  await within('the question', asked)
  assert.equal((await failure(impatient)).code, 'ERR_SEEKCACHE_TIMEOUT')
  give(signed.url('2'))
  await patient
})

test('a refusal of what was sent before a reader asked again is no answer to that', async () => {
  let isRefused = false
  let isAgain = false
  const script: Script = ({ range: { start = 0 } = {} }) => {
    if (isAgain && start === FAR) return [{ kind: 'head-held' }, { kind: 'body-stalled', afterBytes: 0 }]
    if (!isRefused || start < FAR || start >= FARTHER) return undefined
    return start === FAR ? { kind: 'status', status: 403 } : [{ kind: 'status', status: 403 }, { kind: 'head-held' }]
  }
  await using origin = await startFaultOrigin({ content: CONTENT, script })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(origin.url('film.mkv'))
  await assertRead(media, 0, 1000)
  isRefused = true
  const isHeld = ({ range, outcome }: RequestRecord): boolean => range!.start! > FAR && range!.start! < FARTHER && outcome === 'stalled'
  assert.equal((await failure(assertRead(media, FAR, FAR + 3_000_000))).httpStatus, 403)
  await origin.when('the requests behind it, held', ({ requests }) => requests.some(isHeld))
  isAgain = true
  const again = assertRead(media, FAR, FAR + 3_000_000)
  await origin.when('the request of who asks again', ({ requests }) => requests.filter(({ range }) => range!.start === FAR).length === 2)
  isRefused = false
  origin.release()
  await origin.when('the late refusals', ({ requests }) => requests.some(({ range, status }) => range!.start! > FAR && status === 403))
  origin.release()
  await again
})

test('when nobody can renew, the error is the origin\'s own; and a later read asks again', async () => {
  await using signed = await signedOrigin()
  await using host = await startHost()
  await using cache = await connectTo(host)
  let answer: string | undefined
  let count = 0
  const renew = (): string | undefined => {
    count++
    if (count === 2) throw new Error('no luck')
    return answer
  }
  const media = await cache.open(signed.url('1'), { renew })
  const without = await cache.open(signed.url('1'))
  signed.expire('2')
  for (const expected of [1, 2]) {
    const error = await failure(assertRead(media, FAR, FAR + 10))
    assert.deepEqual([error.code, error.httpStatus, count], ['ERR_SEEKCACHE_ORIGIN_STATUS', 403, expected])
  }
  answer = signed.url('2')
  await assertRead(without, FAR, FAR + 10)
  await media.close()
  signed.expire('3')
  assert.equal((await failure(assertRead(without, FARTHER, FARTHER + 10))).httpStatus, 403)
  assert.equal(count, 3, 'who has closed is not asked')
})

test('a fresh URL that serves another version is a changed file, and no byte of it is shown', async () => {
  for (const other of [{ content: patternContent(CONTENT.sizeBytes, 2), etag: '"v2"' }, { content: patternContent(CONTENT.sizeBytes - 1, 2), etag: '"v1"' }]) {
    await using signed = await signedOrigin({ etag: '"v1"' })
    await using host = await startHost()
    await using cache = await connectTo(host)
    const media = await cache.open(signed.url('1'), { renew: () => signed.url('2') })
    signed.expire('2')
    signed.origin.setContent(other.content, other.etag)
    assert.equal((await failure(assertRead(media, FAR, FAR + 10))).code, 'ERR_SEEKCACHE_ORIGIN_CHANGED')
  }
})

test('a fresh URL that is refused as well is the end of that read', async () => {
  await using signed = await signedOrigin()
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(signed.url('1'), { renew: () => signed.url('expired too') })
  signed.expire('2')
  assert.equal((await failure(assertRead(media, FAR, FAR + 10))).httpStatus, 403)
})

test('a cached resource whose URL has expired since is opened again with a fresh one', async () => {
  await using signed = await signedOrigin({ lastModified: undefined }) // fresh for no time
  await using host = await startHost()
  {
    await using cache = await connectTo(host)
    await assertRead(await cache.open(signed.url('1')), 0, 1000)
  }
  await host.restart()
  signed.expire('2')
  await using cache = await connectTo(host)
  assert.equal((await failure(cache.open(signed.url('1')))).httpStatus, 403)
  const media = await cache.open(signed.url('1'), { renew: () => signed.url('2') })
  assert.deepEqual(media.url, signed.url('1'))
  await assertRead(media, FAR, FAR + 10)
})

test('a URL under which somebody else has opened the resource does as well as an answer', async () => {
  await using signed = await signedOrigin()
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(signed.url('1'), { renew: () => assert.fail('nobody needs to be asked') })
  signed.expire('2')
  await cache.open(signed.url('2'))
  await assertRead(media, FAR, FAR + 10)
})

test('headers stay with the origin that they were for, unless the answer brings others', async () => {
  await using elsewhere = await startFaultOrigin({ content: CONTENT })
  await using signed = await signedOrigin()
  await using host = await startHost()
  await using cache = await connectTo(host)
  const answers = [
    signed.url('2'),
    elsewhere.url('a.mkv'),
    { url: elsewhere.url('b.mkv'), headers: { 'X-Key': 'theirs' } },
  ]
  const headers = { Authorization: 'Bearer ours', 'User-Agent': 'player/1' }
  const media = await cache.open(signed.url('1'), { headers, renew: () => answers.shift() })
  signed.expire('2')
  await assertRead(media, FAR, FAR + 10)
  assert.equal(signed.origin.requests.at(-1)!.headers.authorization, 'Bearer ours')
  signed.expire('3')
  await assertRead(media, FARTHER, FARTHER + 10)
  assert.deepEqual([elsewhere.requests[0]!.headers.authorization, elsewhere.requests[0]!.headers['user-agent']], [undefined, 'seekcache/0.1.0'])
  elsewhere.setScript((request) => (request.target === '/a.mkv' ? { kind: 'status', status: 401 } : undefined))
  await assertRead(media, FARTHEST, FARTHEST + 10)
  const renewed = elsewhere.requests.find(({ target }) => target === '/b.mkv')
  assert.deepEqual([renewed?.headers['x-key'], renewed?.headers.authorization], ['theirs', undefined])
})

test('--renew-command gives fresh URLs to a player that cannot: on its input, bounded, never among its arguments', async () => {
  await using dir = await tempDir()
  await using signed = await signedOrigin()
  const program = dir.file('renew')
  const seen = dir.file('seen')
  await writeFile(program, `#!/bin/sh\nread -r url\nprintf '%s|%s|%s\\n' "$url" "$*" "$SEEKCACHE_RENEW_STATUS" >>${seen}\n[ "$1" = ok ] || exit 1\necho "\${url%=*}=2"\necho more\n`)
  await chmod(program, 0o700)
  await using host = await startHost({ args: ['--renew-command', `${program} ok`] })
  const range = async (start: number): Promise<Response> => await fetch(host.proxyUrl(signed.url('1')), { headers: { range: `bytes=${start}-${start + 9}` } })
  assert.equal((await range(0)).status, 206)
  signed.expire('2')
  const response = await range(FAR)
  assert.equal(response.status, 206)
  assert.ok(Buffer.from(await response.arrayBuffer()).equals(CONTENT.read(FAR, FAR + 10)))
  assert.equal(await readFile(seen, 'utf8'), `${signed.url('1')}|ok|403\n`)
  assert.doesNotMatch(host.stderr, /Signature/)

  await host.restart(['--renew-command', `${program} no`])
  assert.equal((await range(FARTHER)).status, 403, 'a command that fails has no URL')
  await host.restart(['--renew-command', dir.file('none')])
  assert.equal((await range(FARTHER)).status, 403, 'one that is not there neither')
  await until('a word about it', () => host.stderr.includes('renew command cannot be run: ENOENT'))
})
