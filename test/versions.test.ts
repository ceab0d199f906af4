/**
 * Files that change at their origin, for each kind of validator an origin may give: nothing is ever mixed that can be told apart,
 * and what cannot is stated here and in src/origin/validator.ts.
 */

import assert from 'node:assert/strict'
import { after, test } from 'node:test'

import { connect, SeekCacheError } from 'seekcache'
import { patternContent, type Content } from './support/content.ts'
import { startFaultOrigin, type FaultOrigin } from './support/fault-origin.ts'
import { startHost } from './support/host.ts'
import type { Fault, OriginRequest } from './support/origin-reply.ts'

type Cache = Awaited<ReturnType<typeof connect>>
type Media = Awaited<ReturnType<Cache['open']>>

const SIZE_BYTES = 3_000_000
/** Of a film that changes while it is played, nothing is sent before the change that begins beyond HELD_BYTES. */
const PLAYED_BYTES = 12_000_000
const HELD_BYTES = 5_000_000
const READ_BEFORE_BYTES = 1_000_000

/** Otherwise a cached file of 2024 counts as fresh for a day, and a change is seen from the next opening but one. */
const STALE: Fault = { kind: 'header', name: 'Cache-Control', value: 'no-cache' }

function holdFarAhead({ range }: OriginRequest): readonly Fault[] {
  return (range?.start ?? 0) > HELD_BYTES ? [STALE, { kind: 'head-held' }] : [STALE]
}

interface Version {
  readonly content: Content
  readonly etag: string | undefined
  readonly lastModified: string | undefined
}

const DATES = { v1: 'Tue, 02 Jan 2024 03:04:05 GMT', v2: 'Wed, 03 Jan 2024 03:04:05 GMT' } as const

const VALIDATORS = {
  'a strong ETag': (name: 'v1' | 'v2') => ({ etag: `"${name}"`, lastModified: DATES.v1 }),
  'a weak ETag': (name: 'v1' | 'v2') => ({ etag: `W/"${name}"`, lastModified: DATES.v1 }),
  'Last-Modified alone': (name: 'v1' | 'v2') => ({ etag: undefined, lastModified: DATES[name] }),
  'no validator': () => ({ etag: undefined, lastModified: undefined }),
} as const
type ValidatorKind = keyof typeof VALIDATORS

const CHANGES = { 'other bytes of the same size': 0, 'a longer file': 300_000, 'a shorter file': -300_000 } as const

function versionsOf(kind: ValidatorKind, growthBytes: number, sizeBytes = SIZE_BYTES): readonly [Version, Version] {
  return [
    { content: patternContent(sizeBytes, 1), ...VALIDATORS[kind]('v1') },
    { content: patternContent(sizeBytes + growthBytes, 2), ...VALIDATORS[kind]('v2') },
  ]
}

/** For all of them, one after another: each has an origin and so a resource of its own. */
const HOST = await startHost()
after(async () => await HOST.stop())

/** The host, an origin that serves one version at a time, and a connection that is made anew after a restart. */
class Stage implements AsyncDisposable {
  readonly origin: FaultOrigin
  #cache: Cache

  private constructor(origin: FaultOrigin, cache: Cache) {
    this.origin = origin
    this.#cache = cache
  }

  static async set(version: Version): Promise<Stage> {
    const origin = await startFaultOrigin({ content: version.content, etag: version.etag, lastModified: version.lastModified, script: holdFarAhead })
    return new Stage(origin, await connected())
  }

  serve({ content, etag, lastModified }: Version): void {
    const version: readonly Fault[] = [{ kind: 'content', content }, { kind: 'etag', value: etag }, { kind: 'last-modified', value: lastModified }, STALE]
    this.origin.setScript(() => version)
  }

  /** In the middle of a play: what was held is asked for again. */
  change(version: Version): void {
    this.serve(version)
    this.origin.dropConnections()
  }

  async open(): Promise<Media> {
    return await this.#cache.open(this.origin.url())
  }

  async readWhole(): Promise<Buffer> {
    await using media = await this.open()
    return await rest(media.read())
  }

  async restart(): Promise<void> {
    await this.#cache.close()
    await HOST.restart()
    this.#cache = await connected()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cache.close()
    await this.origin.stop()
  }
}

async function connected(): Promise<Cache> {
  return await connect({ cacheDir: HOST.cacheDir, socketPath: HOST.socket, startHost: false })
}

async function rest(reading: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const bytes of reading) parts.push(bytes)
  return Buffer.concat(parts)
}

/** The same generator goes on where `next` left it. */
async function readUntil(reading: AsyncGenerator<Buffer>, lengthBytes: number): Promise<Buffer> {
  const parts: Buffer[] = []
  for (let count = 0; count < lengthBytes; ) {
    const { value, done } = await reading.next()
    assert.ok(done !== true)
    parts.push(value)
    count += value.length
  }
  return Buffer.concat(parts)
}

/** The bytes up to the error, which is ERR_SEEKCACHE_ORIGIN_CHANGED, or all of them. */
async function untilChanged(reading: AsyncGenerator<Buffer>): Promise<{ bytes: Buffer; isWhole: boolean }> {
  const parts: Buffer[] = []
  try {
    for await (const bytes of reading) parts.push(bytes)
    return { bytes: Buffer.concat(parts), isWhole: true }
  } catch (error) {
    assert.ok(error instanceof SeekCacheError)
    assert.equal(error.code, 'ERR_SEEKCACHE_ORIGIN_CHANGED')
    assert.match(error.message, /^the file has changed at the origin: /)
    return { bytes: Buffer.concat(parts), isWhole: false }
  }
}

function assertVersion(bytes: Buffer, { content }: Version): void {
  assert.equal(bytes.length, content.sizeBytes)
  assert.ok(bytes.equals(content.read(0, content.sizeBytes)), 'a wrong byte')
}

for (const kind of Object.keys(VALIDATORS) as ValidatorKind[]) {
  for (const [change, growthBytes] of Object.entries(CHANGES)) {
    test(`${kind}: ${change} while it was closed is seen when it is opened`, async () => {
      const [first, second] = versionsOf(kind, growthBytes)
      await using stage = await Stage.set(first)
      assertVersion(await stage.readWhole(), first)
      await stage.restart()
      stage.serve(second)
      assertVersion(await stage.readWhole(), second)
    })

    // Nothing but the size can tell it: stated, and put right by the next opening.
    if (kind === 'no validator' && growthBytes === 0) continue
    test(`${kind}: ${change} in the middle of a play ends the old one clearly and gives the new one to who opens it`, async () => {
      const [first, second] = versionsOf(kind, growthBytes, PLAYED_BYTES)
      await using stage = await Stage.set(first)
      await using media = await stage.open()
      const reading = media.read()
      const before = await readUntil(reading, READ_BEFORE_BYTES)
      stage.change(second)
      const { bytes, isWhole } = await untilChanged(reading)
      const old = Buffer.concat([before, bytes])
      assert.ok(!isWhole && old.length < PLAYED_BYTES, 'not all of the old one can have come')
      assert.ok(old.equals(first.content.read(0, old.length)), 'a wrong byte')
      assertVersion(await stage.readWhole(), second)
      // Who has the old one open still reads what is cached of it.
      assert.ok((await rest(media.read(0, READ_BEFORE_BYTES))).equals(first.content.read(0, READ_BEFORE_BYTES)))
    })
  }

  test(`${kind}: a change and back again while it was closed leaves what is cached`, async () => {
    const [first, second] = versionsOf(kind, 0)
    await using stage = await Stage.set(first)
    assertVersion(await stage.readWhole(), first)
    await stage.restart()
    stage.serve(second)
    stage.serve(first)
    const sentBytes = stage.origin.bodyBytesSent
    assertVersion(await stage.readWhole(), first)
    assert.ok(stage.origin.bodyBytesSent - sentBytes <= 2 * 65_536 + 1, 'nothing but the comparison is fetched')
  })

  test(`${kind}: a change and back again in the middle of a play gives either version whole to who opens it then`, async () => {
    const [first, second] = versionsOf(kind, 300_000, PLAYED_BYTES)
    await using stage = await Stage.set(first)
    await using media = await stage.open()
    const reading = media.read()
    const before = await readUntil(reading, READ_BEFORE_BYTES)
    stage.change(second)
    const { bytes } = await untilChanged(reading)
    const old = Buffer.concat([before, bytes])
    assert.ok(old.equals(first.content.read(0, old.length)), 'a wrong byte')
    assertVersion(await stage.readWhole(), second)
    stage.serve(first)
    await stage.restart()
    assertVersion(await stage.readWhole(), first)
  })

  test(`${kind}: a change that is taken back before anybody has opened the new version`, async () => {
    const [first, second] = versionsOf(kind, 300_000, PLAYED_BYTES)
    await using stage = await Stage.set(first)
    await using media = await stage.open()
    const reading = media.read()
    await readUntil(reading, READ_BEFORE_BYTES)
    stage.change(second)
    assert.equal((await untilChanged(reading)).isWhole, false)
    stage.serve(first)
    // The same version again, beside the opening that was told it is gone.
    assertVersion(await stage.readWhole(), first)
    await media.close()
    assertVersion(await stage.readWhole(), first)
  })
}

test('no validator: other bytes of the same size in the middle of a play are seen at the next opening, not before', async () => {
  const [first, second] = versionsOf('no validator', 0, PLAYED_BYTES)
  await using stage = await Stage.set(first)
  {
    await using media = await stage.open()
    const reading = media.read()
    const before = await readUntil(reading, READ_BEFORE_BYTES)
    assert.ok(before.equals(first.content.read(0, before.length)))
    stage.change(second)
    assert.equal((await untilChanged(reading)).isWhole, true)
  }
  await stage.restart()
  assertVersion(await stage.readWhole(), second)
})

test('no validator: a file of which only the middle is cached is compared there', async () => {
  const [first, second] = versionsOf('no validator', 0)
  await using stage = await Stage.set(first)
  stage.origin.setScript(({ range }) => ((range?.start ?? 0) >= SIZE_BYTES - 300_000 ? { kind: 'head-held' } : STALE))
  {
    await using media = await stage.open()
    await rest(media.read(1_000_000, 1_500_000))
  }
  await stage.restart()
  stage.serve(second)
  assertVersion(await stage.readWhole(), second)
})

test('a date that went back is a change, also where the origin answers 304 to every If-Modified-Since', async () => {
  const [first, second] = versionsOf('Last-Modified alone', 0)
  await using stage = await Stage.set(first)
  assertVersion(await stage.readWhole(), first)
  await stage.restart()
  const older = { ...second, lastModified: 'Mon, 01 Jan 2018 03:04:05 GMT' }
  stage.origin.setScript(({ headers }) =>
    headers['if-modified-since'] !== undefined
      ? { kind: 'status', status: 304, headers: { 'Last-Modified': older.lastModified } }
      : [{ kind: 'content', content: older.content }, { kind: 'last-modified', value: older.lastModified }],
  )
  assertVersion(await stage.readWhole(), older)
})

test('a 304 that names another ETag is a change', async () => {
  const [first, second] = versionsOf('a strong ETag', 0)
  await using stage = await Stage.set(first)
  assertVersion(await stage.readWhole(), first)
  await stage.restart()
  // As an origin that compares weakly what it had to compare strongly.
  const weakened = 'W/"v1"'
  stage.origin.setScript(({ headers }) =>
    headers['if-none-match'] !== undefined
      ? { kind: 'status', status: 304, headers: { ETag: weakened } }
      : [{ kind: 'content', content: second.content }, { kind: 'etag', value: weakened }],
  )
  assertVersion(await stage.readWhole(), second)
})

test('the date of a weak ETag counts: the same tag under another date is a change', async () => {
  const [first, second] = versionsOf('a weak ETag', 0)
  await using stage = await Stage.set(first)
  assertVersion(await stage.readWhole(), first)
  await stage.restart()
  const again = { ...second, etag: first.etag, lastModified: DATES.v2 }
  stage.serve(again)
  assertVersion(await stage.readWhole(), again)
})

for (const kind of ['a weak ETag', 'Last-Modified alone'] as const) {
  test(`${kind}: other bytes under the same validator and size are the same version by the stated policy`, async () => {
    const [first, second] = versionsOf(kind, 0)
    await using stage = await Stage.set(first)
    assertVersion(await stage.readWhole(), first)
    await stage.restart()
    stage.serve({ ...first, content: second.content })
    assertVersion(await stage.readWhole(), first)
  })
}

test('only a strong ETag is sent as a condition', async () => {
  for (const kind of Object.keys(VALIDATORS) as ValidatorKind[]) {
    const [first] = versionsOf(kind, 0)
    await using stage = await Stage.set(first)
    await stage.readWhole()
    await stage.restart()
    await stage.readWhole()
    const conditions = stage.origin.requests.flatMap(({ headers }) => Object.keys(headers).filter((name) => name.startsWith('if-')))
    const expected = kind === 'a strong ETag' ? ['if-none-match', 'if-range'] : []
    assert.deepEqual([...new Set(conditions)].sort(), expected, kind)
  }
})
