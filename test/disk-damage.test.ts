/** Damage to what lies in a cache directory: it is found, costs what it hit, and never shows a wrong byte. */

import assert from 'node:assert/strict'
import {
  copyFileSync, cpSync, existsSync, linkSync, mkdirSync, openSync, closeSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync,
  truncateSync, utimesSync, writeFileSync, writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { CHUNK_BYTES, EXTENT_BYTES } from '../src/bytes/ranges.ts'
import { IndexDb, type IndexContent } from '../src/cache/index-db.ts'
import { examine } from '../src/cache/index-opening.ts'
import { salvage } from '../src/cache/index-salvage.ts'
import { extentPath, indexFile, layoutOf, prepareLayout, type Layout } from '../src/cache/layout.ts'
import { partialCrc, type ExtentRecord, type PartialRecord } from '../src/cache/records.ts'
import { ensureSalt } from '../src/cache/salt.ts'
import type { Store } from '../src/cache/store.ts'
import { extentFiles } from './support/cache-check.ts'
import { type Content, patternContent } from './support/content.ts'
import { startFaultOrigin, type FaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { type Random, randomOf, seedOfRun } from './support/random.ts'
import { assertBytes, fill, lostChunks, newGeneration, openStore } from './support/stores.ts'
import { tempDir } from './support/temp-dir.ts'

const CHUNKS = 10
const FILMS = 6
const RESOURCE = {
  displayUrl: 'http://origin/film', fileName: 'film.mkv', contentType: undefined, etag: undefined, lastModified: undefined,
  isRangeable: true, freshUntilMs: 0, lastUsedMs: 1_700_000_000_000,
}
const EXTENT = { presence: Buffer.alloc(32, 0xff), crcs: Buffer.alloc(1024), bootId: 'boot', stamp: 'stamp', lastUsedMs: 1_700_000_000_000 }
/** Of an index with flipped bits. */
const IMAGES = 24

interface Cached {
  readonly dir: string
  readonly films: readonly { readonly id: string; readonly content: Content }[]
}

/** Some films of a few chunks each, in a directory that was closed in order. */
async function cachedFilms(dir: string, count = FILMS): Promise<Cached> {
  const store = await openStore(dir)
  const films = []
  for (let film = 0; film < count; film++) {
    const content = patternContent(CHUNKS * CHUNK_BYTES - 100 * film, film + 1)
    const generation = await newGeneration(store, content.sizeBytes, `film-${film}.mkv`)
    fill(generation, content)
    films.push({ id: generation.id, content })
  }
  await store.close()
  return { dir, films }
}

/** Reads what is left of all films. @returns how many chunks are there */
async function presentChunks(store: Store, { films }: Cached): Promise<number> {
  let count = 0
  for (const { id, content } of films) {
    if (store.resource(id)?.generation !== id) continue
    const generation = store.openGeneration(id, content.sizeBytes)
    count += CHUNKS - (await lostChunks(generation, content, CHUNK_BYTES)).length
    await store.releaseGeneration(generation)
  }
  return count
}

function overwrite(path: string, position: number, bytes: Buffer): void {
  const fd = openSync(path, 'r+')
  writeSync(fd, bytes, 0, bytes.length, position)
  closeSync(fd)
}

function flipBits(path: string, flips: number, random: Random): void {
  writeFileSync(path, flipped(readFileSync(path), flips, random))
}

// ---- extent files

for (const { what, harm, lost } of [
  { what: 'cut', harm: (path: string) => truncateSync(path, 3 * CHUNK_BYTES + 5), lost: [3, 4, 5, 6, 7, 8, 9] },
  { what: 'changed in one chunk', harm: (path: string) => overwrite(path, 4 * CHUNK_BYTES + 7, Buffer.from([1, 2, 3])), lost: [4] },
  { what: 'deleted', harm: (path: string) => rmSync(path), lost: 'all' },
  { what: 'replaced by another film\'s', harm: (path: string, other: string) => copyFileSync(other, path), lost: 'all' },
  { what: 'made another name of another film\'s', harm: (path: string, other: string) => (rmSync(path), linkSync(other, path)), lost: 'all' },
  { what: 'replaced by a directory', harm: (path: string) => (rmSync(path), mkdirSync(path)), lost: 'all' },
  { what: 'replaced by a symbolic link', harm: (path: string, other: string) => (rmSync(path), symlinkSync(other, path)), lost: 'all' },
] as const) {
  test(`an extent file that was ${what}: what it hit is fetched again, the rest is kept`, async () => {
    await using dir = await tempDir()
    const cached = await cachedFilms(dir.path, 2)
    const [harmed, kept] = cached.films
    const fileOf = (id: string): string => extentFiles(dir.path).find((path) => path.includes(id))!
    harm(fileOf(harmed!.id), fileOf(kept!.id))
    const messages: string[] = []
    const store = await openStore(dir.path, { onDamage: (message) => messages.push(message) })
    const generation = store.openGeneration(harmed!.id, harmed!.content.sizeBytes)
    const gone = await lostChunks(generation, harmed!.content, CHUNK_BYTES)
    assert.deepEqual(gone, lost === 'all' ? [...Array(CHUNKS).keys()] : lost)
    assert.match(messages[0]!, /will be fetched again/)
    for (const chunk of gone) fill(generation, harmed!.content, chunk * CHUNK_BYTES, Math.min((chunk + 1) * CHUNK_BYTES, harmed!.content.sizeBytes))
    await generation.settle()
    assert.equal(store.stats.degraded, undefined, 'one bad file is no bad disk')
    await assertBytes(generation, harmed!.content, 0, harmed!.content.sizeBytes)
    await assertBytes(store.openGeneration(kept!.id, kept!.content.sizeBytes), kept!.content, 0, kept!.content.sizeBytes)
    await store.close()

    const again = await openStore(dir.path, { checkedShare: 1 })
    assert.equal(await presentChunks(again, cached), 2 * CHUNKS)
    assert.equal(again.stats.damagedChunks, 0, 'it was mended')
    await again.close()
  })
}

test('a file that lost its end and was written beyond it is not believed after a restart either', async () => {
  await using dir = await tempDir()
  const cached = await cachedFilms(dir.path, 1)
  const { id, content } = cached.films[0]!
  truncateSync(extentFiles(dir.path)[0]!, 3 * CHUNK_BYTES)
  let store = await openStore(dir.path)
  const generation = store.openGeneration(id, content.sizeBytes)
  assert.equal(await generation.read(9 * CHUNK_BYTES, 10), undefined)
  fill(generation, content, 9 * CHUNK_BYTES, content.sizeBytes) // what lies between reads as zeros now
  await store.close()
  store = await openStore(dir.path)
  assert.deepEqual(await lostChunks(store.openGeneration(id, content.sizeBytes), content, CHUNK_BYTES), [3, 4, 5, 6, 7, 8])
  await store.close()
})

test('what rots without a trace is found after the next boot', async () => {
  await using dir = await tempDir()
  const content = patternContent(CHUNKS * CHUNK_BYTES)
  let store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content)
  await generation.settle()
  const [path] = extentFiles(dir.path)
  utimesSync(path!, 1, 1) // before the record is made of it
  await store.close()
  overwrite(path!, 5 * CHUNK_BYTES, Buffer.from([0xff, 0, 0xff, 0]))
  utimesSync(path!, 1, 1)
  store = await openStore(dir.path, { bootId: 'boot-2' })
  assert.deepEqual(await lostChunks(store.openGeneration(generation.id, content.sizeBytes), content, CHUNK_BYTES), [5])
  await store.close()
})

// ---- the index

test('bits that flip anywhere in the index never show a wrong byte, and what can be read of it is kept', async (t) => {
  const seed = seedOfRun()
  t.diagnostic(`SEEKCACHE_SEED=${seed}`)
  const random = randomOf(seed)
  await using dir = await tempDir()
  const cached = await cachedFilms(dir.file('original'))
  let kept = 0
  let setAside = 0
  for (let image = 0; image < IMAGES; image++) {
    const copy = dir.file(`image-${image}`)
    cpSync(cached.dir, copy, { recursive: true })
    flipBits(join(copy, 'index', 'data.mdb'), 1 + random.below(image < IMAGES / 2 ? 3 : 300), random)
    if (random.next() < 0.5) rmSync(join(copy, 'index', 'state')) // as after a machine's crash
    const store = await openStore(copy, { onDamage: (message) => void (message.includes('set aside') && setAside++) })
    kept += await presentChunks(store, cached)
    const generation = await newGeneration(store, 5_000)
    fill(generation, patternContent(5_000))
    await store.close()
    const again = await openStore(copy, { onDamage: (message) => assert.doesNotMatch(message, /index/) })
    await assertBytes(again.openGeneration(generation.id, 5_000), patternContent(5_000), 0, 5_000)
    await again.close()
    rmSync(copy, { recursive: true })
  }
  t.diagnostic(`${setAside} of ${IMAGES} were set aside, ${kept} of ${IMAGES * FILMS * CHUNKS} chunks kept`)
  assert.ok(setAside > 0 && kept > 0)
})

for (const { what, harm, isKept, word } of [
  { what: 'cut', harm: (index: string) => truncateSync(join(index, 'data.mdb'), 10_000), isKept: false, word: /set aside/ },
  { what: 'emptied', harm: (index: string) => truncateSync(join(index, 'data.mdb'), 0), isKept: false, word: undefined },
  { what: 'filled with zeros at its head', harm: (index: string) => overwrite(join(index, 'data.mdb'), 0, Buffer.alloc(8192)), isKept: true, word: /set aside/ },
  { what: 'replaced by text', harm: (index: string) => writeFileSync(join(index, 'data.mdb'), 'no index\n'.repeat(5000)), isKept: false, word: /set aside/ },
  { what: 'deleted', harm: (index: string) => rmSync(join(index, 'data.mdb')), isKept: false, word: undefined },
  { what: 'deleted with its folder', harm: (index: string) => rmSync(index, { recursive: true }), isKept: false, word: undefined },
  { what: 'left without its state', harm: (index: string) => rmSync(join(index, 'state')), isKept: true, word: undefined },
  { what: 'left with a torn state', harm: (index: string) => writeFileSync(join(index, 'state'), '{"sta'), isKept: true, word: undefined },
  { what: 'left with a damaged lock', harm: (index: string) => writeFileSync(join(index, 'lock.mdb'), Buffer.alloc(9000, 0xa5)), isKept: true, word: undefined },
  { what: 'left without a lock', harm: (index: string) => rmSync(join(index, 'lock.mdb')), isKept: true, word: undefined },
] as const) {
  test(`an index that was ${what}: the store opens, and works on`, async () => {
    await using dir = await tempDir()
    const cached = await cachedFilms(dir.path)
    harm(join(dir.path, 'index'))
    const messages: string[] = []
    const store = await openStore(dir.path, { onDamage: (message) => messages.push(message) })
    assert.equal(await presentChunks(store, cached), isKept ? FILMS * CHUNKS : 0)
    if (word !== undefined) assert.match(messages[0]!, word)
    assert.equal(existsSync(join(dir.path, 'index.damaged')), word !== undefined)
    await store.settleRecovery()
    assert.equal(extentFiles(dir.path).length, isKept ? FILMS : 0, 'no file is left that nobody names')
    const generation = await newGeneration(store, 5_000)
    fill(generation, patternContent(5_000))
    await store.close()
    const again = await openStore(dir.path)
    await assertBytes(again.openGeneration(generation.id, 5_000), patternContent(5_000), 0, 5_000)
    await again.close()
  })
}

test('an index that grows far beyond its first map keeps all of it', async () => {
  await using dir = await tempDir()
  const films = 200
  let store = await openStore(dir.path)
  const content = patternContent(3 * EXTENT_BYTES)
  const ids: string[] = []
  for (let film = 0; film < films; film++) {
    const generation = await newGeneration(store, content.sizeBytes, `film-${film}.mkv`)
    for (let extent = 0; extent < 3; extent++) fill(generation, content, extent * EXTENT_BYTES, extent * EXTENT_BYTES + 300)
    fill(generation, content, EXTENT_BYTES, EXTENT_BYTES + CHUNK_BYTES)
    ids.push(generation.id)
    await store.releaseGeneration(generation)
  }
  await store.close()
  store = await openStore(dir.path)
  for (const id of ids) {
    const generation = store.openGeneration(id, content.sizeBytes)
    await assertBytes(generation, content, EXTENT_BYTES, EXTENT_BYTES + CHUNK_BYTES)
    await assertBytes(generation, content, 0, 300)
    await store.releaseGeneration(generation)
  }
  await store.close()
})

/** The whole film, through the proxy. */
async function assertPlays(host: TestHost, origin: FaultOrigin, content: Content): Promise<void> {
  const body = Buffer.from(await (await fetch(host.proxyUrl(origin.url()))).arrayBuffer())
  assert.ok(body.equals(content.read(0, content.sizeBytes)))
}

const KILLS = 3
/** Always seen, and said: pages that are in use are behind the end. */
const CUT = 'it is cut'
/** What another program, or memory that fails, may do to an index between two hosts. */
const HARMS: Readonly<Record<string, (bytes: Buffer, random: Random) => Buffer>> = {
  'bits of it flip': (bytes, random) => flipped(bytes, 50, random),
  'many bits of it flip': (bytes, random) => flipped(bytes, 50_000, random),
  [CUT]: (bytes) => bytes.subarray(0, Math.floor(bytes.length / 8192) * 4096),
  'pages of it are emptied': (bytes, random) => withPages(bytes, random, (page) => void page.fill(0)),
  'pages of it are exchanged': (bytes, random) => withPages(bytes, random, (page, other) => void page.set(Buffer.from(other))),
}

function flipped(bytes: Buffer, flips: number, random: Random): Buffer {
  for (let i = 0; i < flips; i++) bytes[random.below(bytes.length)]! ^= 1 << random.below(8)
  return bytes
}

/** A third of all pages but the two heads. */
function withPages(bytes: Buffer, random: Random, harm: (page: Buffer, other: Buffer) => void): Buffer {
  const pageAt = (index: number): Buffer => bytes.subarray(index * 4096, (index + 1) * 4096)
  const count = Math.floor(bytes.length / 4096)
  for (let index = 2; index < count; index++) if (random.next() < 0.33) harm(pageAt(index), pageAt(2 + random.below(count - 2)))
  return bytes
}

for (const [what, harm] of Object.entries(HARMS)) {
  test(`a host was killed, and of its index ${what}: the next one starts at once, and plays and caches as ever`, async (t) => {
    const seed = seedOfRun()
    t.diagnostic(`SEEKCACHE_SEED=${seed}`)
    const random = randomOf(seed)
    const content = patternContent(3_000_000)
    await using origin = await startFaultOrigin({ content })
    await using host = await startHost()
    await assertPlays(host, origin, content)
    for (let round = 0; round < KILLS; round++) {
      await host.kill9()
      const data = join(host.cacheDir, 'index', 'data.mdb')
      writeFileSync(data, harm(readFileSync(data), random))
      await host.restart()
      await assertPlays(host, origin, content)
      await fetch(host.proxyUrl(origin.url(`other-${round}.mkv`))).then(async (response) => await response.arrayBuffer()) // is committed
    }
    const said = host.stderr
    const setAside = said.match(/the index was damaged .*set aside/g)?.length ?? 0
    t.diagnostic(`${setAside} of ${KILLS} were set aside`)
    if (what === CUT) assert.equal(setAside, KILLS)
    await host.restart()
    assert.doesNotMatch(host.stderr.slice(said.length), /the index was damaged/)
    await origin.goDown()
    await assertPlays(host, origin, content)
  })
}

/** The index of some films, and their files, empty: what the index says is what counts here. */
async function indexOfFilms(dir: string, films: number, extentsPerFilm: number): Promise<Layout> {
  const layout = layoutOf(dir)
  await prepareLayout(layout)
  const index = await IndexDb.open(layout.indexDir)
  ensureSalt(layout.indexDir, index)
  for (let film = 0; film < films; film++) {
    const generation = (0x1000 + film).toString(16)
    const displayUrl = `http://origin/${film}/${'a long way '.repeat(film % 10 === 9 ? 500 : 1)}` // some are larger than a page
    await index.putResource(`key ${film}`, { ...RESOURCE, displayUrl, generation, sizeBytes: extentsPerFilm * EXTENT_BYTES })
    const keys = Array.from({ length: extentsPerFilm }, (_, i) => ({ generation, index: i }))
    await index.commit(keys.map((key) => ({ key, record: extentRecord(key.index) })))
    mkdirSync(join(layout.extentsDir, generation))
    for (const key of keys) writeFileSync(extentPath(layout, generation, extentRecord(key.index).fileName), '')
  }
  await index.flush()
  await index.close()
  return layout
}

function extentRecord(index: number): ExtentRecord {
  return { ...EXTENT, fileName: `${index}-0123456789abcdef`, crcs: Buffer.alloc(1024, index) }
}

const PAGE_BYTES = 4096
/** Of extents on a page: a record is 1.2 KB. */
const MAX_PER_PAGE = 3

for (const byte of [0x00, 0x01, 0x55, 0x80, 0xff]) {
  test(`a page of a large index that holds nothing but 0x${byte.toString(16)} costs what lies on it, not what lies behind it`, async () => {
    await using dir = await tempDir()
    const [films, extents] = [20, 300]
    const layout = await indexOfFilms(dir.path, films, extents)
    const data = indexFile(layout.indexDir)
    overwrite(data, Math.floor(statSync(data).size / 2 / PAGE_BYTES) * PAGE_BYTES, Buffer.alloc(PAGE_BYTES, byte))
    const { content, problem } = await examine(layout)
    assert.notEqual(problem, undefined)
    assert.equal(content.resources.length, films)
    const lost = films * extents - content.extents.length
    assert.ok(lost > 0 && lost <= MAX_PER_PAGE, `${lost} extents are lost`)
  })
}

test('whichever page of an index is damaged, what lies on the others is kept, as it was', async () => {
  await using dir = await tempDir()
  const [films, extents] = [12, 40]
  const layout = await indexOfFilms(dir.path, films, extents)
  const data = indexFile(layout.indexDir)
  const whole = readFileSync(data)
  const { content } = await examine(layout)
  const sorted = (of: IndexContent): IndexContent['extents'] => of.extents.toSorted(([a], [b]) => a.generation.localeCompare(b.generation) || a.index - b.index)
  assert.deepEqual(sorted(salvage(layout).content), sorted(content).map(([key, record]) => [key, { ...record, bootId: '' }]), 'of a whole one: all')
  let pagesOfFilms = 0
  for (let start = 0; start < whole.length; start += PAGE_BYTES) {
    overwrite(data, start, Buffer.alloc(PAGE_BYTES, 0xa5))
    const saved = salvage(layout).content
    const known = new Set(saved.resources.map(([, { generation }]) => generation))
    const of = (generation: string): number => saved.extents.filter(([key]) => key.generation === generation).length
    const lost = [...known].reduce((sum, generation) => sum + extents - of(generation), 0)
    assert.ok(lost <= MAX_PER_PAGE, `page ${start / PAGE_BYTES}: ${lost} extents are lost`)
    for (const [{ index }, record] of saved.extents) assert.deepEqual(record, { ...extentRecord(index), bootId: '' })
    assert.deepEqual(saved.salt, content.salt)
    if (known.size < films) pagesOfFilms++
    overwrite(data, start, whole.subarray(start, start + PAGE_BYTES))
  }
  assert.ok(pagesOfFilms > 2 && pagesOfFilms <= 4, `${pagesOfFilms} pages cost films`) // two of the large one, and those of all others
})

const SALVAGES = Number(process.env.SEEKCACHE_SALVAGES ?? 500)

test('whatever is done to the file of an index, what is read of it is what was once written', async (t) => {
  const seed = seedOfRun()
  t.diagnostic(`SEEKCACHE_SEED=${seed}`)
  const random = randomOf(seed)
  await using dir = await tempDir()
  const layout = await indexOfFilms(dir.path, 4, 10)
  const whole = readFileSync(indexFile(layout.indexDir))
  const films = new Map(salvage(layout).content.resources)
  const harms = [...Object.values(HARMS), (bytes: Buffer) => withPages(bytes, random, (page) => { for (let i = 0; i < page.length; i++) page[i] = random.below(256) })]
  let keptCount = 0
  for (let image = 0; image < SALVAGES; image++) {
    let bytes = Buffer.from(whole)
    for (let harm = random.below(3); harm >= 0; harm--) bytes = Buffer.from(harms[random.below(harms.length)]!(bytes, random))
    writeFileSync(indexFile(layout.indexDir), bytes)
    const { resources, extents } = salvage(layout).content
    for (const [key, record] of resources) assert.deepEqual(record, films.get(key))
    for (const [{ generation, index }, record] of extents) {
      assert.deepEqual(record, { ...extentRecord(index), bootId: '' })
      assert.ok(existsSync(extentPath(layout, generation, record.fileName)))
    }
    keptCount += extents.length
  }
  t.diagnostic(`${keptCount} extents kept`)
  assert.ok(keptCount > 0)
})

test('a number of a record that a flipped bit makes larger than any is damage like any other', async () => {
  await using dir = await tempDir()
  const layout = await indexOfFilms(dir.path, 4, 10)
  const bytes = readFileSync(indexFile(layout.indexDir))
  const float64 = Buffer.alloc(9, 0xcb)
  float64.writeDoubleBE(EXTENT.lastUsedMs, 1)
  let count = 0
  for (let at = bytes.indexOf(float64); at !== -1; at = bytes.indexOf(float64, at + 1), count++) bytes[at] = 0xcf // a uint64
  assert.ok(count >= 44, `${count} numbers`)
  writeFileSync(indexFile(layout.indexDir), bytes)
  const { content, problem } = await examine(layout)
  assert.match(problem!, /BigInt/)
  assert.deepEqual([content.resources, content.extents], [[], []])
})

test('an index of any size that has lost its heads is read, with pages of any size', async () => {
  for (let films = 1; films <= 9; films++) {
    for (const pageBytes of [PAGE_BYTES, 4 * PAGE_BYTES]) {
      await using dir = await tempDir()
      const layout = await indexOfFilms(dir.path, films, 3)
      const data = indexFile(layout.indexDir)
      if (pageBytes !== PAGE_BYTES) writeFileSync(data, withLargePages(readFileSync(data), pageBytes))
      overwrite(data, 0, Buffer.alloc(2 * pageBytes))
      const { resources, extents } = salvage(layout).content
      assert.deepEqual([resources.length, extents.length], [films, 3 * films])
    }
  }
})

/** As on a system with larger ones: each page's contents in the first part of a larger one. */
function withLargePages(bytes: Buffer, pageBytes: number): Buffer {
  const large = Buffer.alloc(bytes.length / PAGE_BYTES * pageBytes)
  for (let number = 0; number * PAGE_BYTES < bytes.length; number++) {
    bytes.copy(large, number * pageBytes, number * PAGE_BYTES, (number + 1) * PAGE_BYTES)
  }
  return large
}

test('what an index has forgotten or replaced does not come back from its free pages', async () => {
  await using dir = await tempDir()
  const layout = await indexOfFilms(dir.path, 6, 5)
  const index = await IndexDb.open(layout.indexDir)
  const [evicted, removed, changed] = ['1000', '1001', '1002'] as const
  await index.commit([{ key: { generation: evicted, index: 3 }, record: undefined }])
  rmSync(extentPath(layout, evicted, extentRecord(3).fileName))
  await index.removeResource('key 1')
  rmSync(join(layout.extentsDir, removed), { recursive: true })
  await index.putResource('key 2', { ...RESOURCE, etag: '"2"', generation: 'feed', sizeBytes: EXTENT_BYTES })
  await index.flush()
  await index.close()
  const { resources, extents } = salvage(layout).content
  assert.deepEqual(resources.map(([key]) => key).sort(), ['key 0', 'key 3', 'key 4', 'key 5'], `nothing of ${changed} is there yet`)
  assert.equal(extents.length, 4 + 3 * 5)
})

test('the incomplete chunks of a damaged index are kept, small and large ones', async () => {
  await using dir = await tempDir()
  const content = patternContent(100 * CHUNK_BYTES)
  let store = await openStore(dir.path)
  const received = [[0, 2 * CHUNK_BYTES + 300], [4 * CHUNK_BYTES + 100, 5 * CHUNK_BYTES - 1]] as const
  const ids: string[] = []
  for (const parts of [received.slice(0, 1), received]) {
    const generation = await newGeneration(store, content.sizeBytes, `film-${ids.length}.mkv`)
    for (const [start, end] of parts) fill(generation, content, start, end)
    ids.push(generation.id)
  }
  await store.close()
  overwrite(dir.file('index', 'data.mdb'), 0, Buffer.alloc(8192))
  const messages: string[] = []
  store = await openStore(dir.path, { onDamage: (message) => messages.push(message) })
  assert.match(messages.join(), /2 files and 2 extents/)
  for (const [film, id] of ids.entries()) {
    const generation = store.openGeneration(id, content.sizeBytes)
    const expected = received.slice(0, film + 1).map(([start, end]) => ({ start, end }))
    assert.deepEqual([...generation.arrived], expected)
    for (const { start, end } of expected) await assertBytes(generation, content, start, end)
  }
  await store.close()
})

test('a record of an incomplete chunk that is none costs that chunk, not the film', async () => {
  await using dir = await tempDir()
  const index = await IndexDb.open(dir.path)
  const bytes = Buffer.alloc(300, 7)
  const record = { chunk: 3, ranges: [[0, 300]] as const, bytes, crc: partialCrc('feed', 3, [[0, 300]], bytes) }
  const harmed = [null, 5, 'text', {}, { ...record, bytes: undefined }, { ...record, ranges: 7 }, { ...record, chunk: 4 }, { ...record, bytes: Buffer.alloc(300, 8) }]
  await index.putPartials('feed', [...harmed, record] as PartialRecord[])
  assert.deepEqual(index.partials('feed').map(({ chunk }) => chunk), [3])
  await index.close()
})

test('the salt is found where its page or its file is damaged: without it nothing would be', async () => {
  await using dir = await tempDir()
  const cached = await cachedFilms(dir.path, 1)
  const { salt } = salvage(layoutOf(dir.path)).content
  assert.equal(salt?.length, 16)
  const saltFile = dir.file('index', 'salt')
  const harmHeads = (): void => overwrite(dir.file('index', 'data.mdb'), 0, Buffer.alloc(8192))
  for (const harm of [() => writeFileSync(saltFile, 'no salt'), () => rmSync(saltFile), harmHeads, () => (rmSync(saltFile), harmHeads())]) {
    harm()
    const store = await openStore(dir.path)
    assert.ok(store.salt.equals(salt))
    assert.equal(await presentChunks(store, cached), CHUNKS)
    await store.close()
  }
})

test('an index that nobody has left in order and that is whole is gone on with as it is, the incomplete chunks too', async () => {
  await using dir = await tempDir()
  const content = patternContent(3 * CHUNK_BYTES)
  let store = await openStore(dir.path)
  const { id } = await newGeneration(store, content.sizeBytes)
  fill(store.openGeneration(id, content.sizeBytes), content, CHUNK_BYTES, 2 * CHUNK_BYTES + 300)
  await store.close()
  for (let round = 0; round < 2; round++) {
    rmSync(dir.file('index', 'state'))
    store = await openStore(dir.path, { onDamage: assert.fail })
    const generation = store.openGeneration(id, content.sizeBytes)
    assert.deepEqual([...generation.arrived], [{ start: CHUNK_BYTES, end: 2 * CHUNK_BYTES + 300 }])
    await assertBytes(generation, content, CHUNK_BYTES, 2 * CHUNK_BYTES + 300)
    assert.equal(existsSync(dir.file('index.new')), false)
    await store.close()
  }
})

// ---- the format

test('a directory that the first code of format 1 wrote is read, each byte checked', async () => {
  const { COMPLETE } = await import('./fixtures/make-cache-format.ts')
  const golden = join(import.meta.dirname, 'fixtures')
  const names = readdirSync(golden).filter((name) => name.startsWith('cache-format-'))
  assert.ok(names.includes('cache-format-1'))
  for (const name of names) {
    await using dir = await tempDir()
    cpSync(join(golden, name), dir.path, { recursive: true })
    for (let opening = 0; opening < 2; opening++) {
      const store = await openStore(dir.path)
      assert.equal(store.resource(COMPLETE.key)?.generation, COMPLETE.generation, name)
      await assertBytes(store.openGeneration(COMPLETE.generation, COMPLETE.content.sizeBytes), COMPLETE.content, 0, COMPLETE.content.sizeBytes)
      await store.close()
    }
  }
})

for (const line of ['seekcache cache directory, format 2\n', 'seekcache cache directory, format 0\n', 'something else']) {
  test(`a directory of an unknown format is refused with a clear word, and not touched: ${line.trim()}`, async () => {
    await using dir = await tempDir()
    await cachedFilms(dir.path, 1)
    writeFileSync(dir.file('format'), line)
    const before = readFileSync(dir.file('index', 'data.mdb'))
    const files = readdirSync(dir.path, { recursive: true }).sort()
    await assert.rejects(startHost({ cacheDir: dir.path }), /is ".*", this seekcache reads format 1: use another --cache-dir, or remove that one/)
    assert.ok(readFileSync(dir.file('index', 'data.mdb')).equals(before))
    assert.deepEqual(readdirSync(dir.path, { recursive: true }).sort(), files)
  })
}

test('a format line that a power cut left as zeros is no other format', async () => {
  await using dir = await tempDir()
  const cached = await cachedFilms(dir.path, 1)
  writeFileSync(dir.file('format'), Buffer.alloc(36))
  const store = await openStore(dir.path)
  assert.equal(await presentChunks(store, cached), CHUNKS)
  await store.close()
  renameSync(dir.file('format'), dir.file('format.old'))
  assert.equal(readFileSync(dir.file('format.old'), 'utf8'), 'seekcache cache directory, format 1\n')
})
