/** The store on a real directory: what is written comes back, what is damaged is found, what is evicted is gone. */

import assert from 'node:assert/strict'
import { readFileSync, rmSync, statSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { CHUNK_BYTES, EXTENT_BYTES, type FilePlace } from '../src/bytes/ranges.ts'
import { victims } from '../src/cache/eviction.ts'
import type { Generation, Location } from '../src/cache/generation.ts'
import { claimDir } from '../src/cache/private-dir.ts'
import { isCode } from '../src/errors.ts'
import { extentFiles } from './support/cache-check.ts'
import { patternContent } from './support/content.ts'
import { assertBytes, fill, newGeneration, openStore, resourceRecord } from './support/stores.ts'
import { tempDir } from './support/temp-dir.ts'

test('what is written is read back, at once and after a restart', async () => {
  await using dir = await tempDir()
  const content = patternContent(2 * EXTENT_BYTES + 12_345)
  let store = await openStore(dir.path)
  const first = await newGeneration(store, content.sizeBytes)
  fill(first, content)
  await assertBytes(first, content, 0, content.sizeBytes)
  await first.settle()
  await store.close()

  store = await openStore(dir.path)
  const again = store.openGeneration(first.id, content.sizeBytes)
  assert.deepEqual([...again.present], [{ start: 0, end: content.sizeBytes }])
  await assertBytes(again, content, 0, content.sizeBytes)
  await store.close()
})

test('pieces in any order and overlap make whole chunks; the first arrival counts', async () => {
  await using dir = await tempDir()
  const content = patternContent(CHUNK_BYTES * 3)
  const lie = patternContent(CHUNK_BYTES * 3, 2)
  const store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content, 70_000, 90_000)
  fill(generation, lie, 60_000, 100_000, 40_000)
  assert.equal(generation.present.lengthBytes, 0)
  await assertBytes(generation, content, 70_000, 90_000)
  await assertBytes(generation, lie, 60_000, 65_536)
  await store.close()
})

test('who reads on after a resource was closed and removed learns that its bytes are gone, not that they have arrived', async () => {
  await using dir = await tempDir()
  const content = patternContent(2 * CHUNK_BYTES)
  const store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content)
  await generation.settle()
  await store.releaseGeneration(generation)
  await store.removeResource(generation.id)
  assert.equal(await generation.read(0, 10), undefined)
  assert.ok(!generation.arrived.has(0))
  assert.equal(await generation.locate(CHUNK_BYTES), undefined)
  assert.ok(!generation.arrived.has(CHUNK_BYTES))
  await store.close()
})

test('bytes of an incomplete chunk are read as they arrive, in memory and by place', async () => {
  await using dir = await tempDir()
  const content = patternContent(EXTENT_BYTES)
  const store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  generation.write(1000, content.read(1000, 1500))
  assert.equal(await generation.read(999, 10), undefined)
  await assertBytes(generation, content, 1000, 1500)
  const location = (await generation.locate(1200)) as Extract<Location, { kind: 'file' }>
  assert.deepEqual([location.kind, location.start, location.end], ['file', 1000, 1500])
  const inFile = readFileSync(location.path).subarray(location.fileOffset, location.fileOffset + 500)
  assert.ok(inFile.equals(content.read(1000, 1500)))
  await store.close()
})

test('with a place those are told that follow it, as far as they are whole and known to be what was written', async () => {
  await using dir = await tempDir()
  const content = patternContent(3 * EXTENT_BYTES + 12_345)
  let store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content)
  await generation.settle()
  const placesFrom = async (of: Generation, position: number): Promise<FilePlace[]> => {
    const location = await of.locate(position)
    assert.equal(location?.kind, 'file')
    return [location, ...location.next]
  }
  const ends = (places: readonly FilePlace[]): number[] => places.map(({ end }) => end)
  const borders = [1, 2, 3].map((i) => i * EXTENT_BYTES)
  const all = await placesFrom(generation, 100)
  assert.deepEqual(ends(all), [...borders, content.sizeBytes])
  for (const { path, fileOffset, start, end } of all) {
    assert.ok(readFileSync(path).subarray(fileOffset, fileOffset + end - start).equals(content.read(start, end)), `${start}-${end}`)
  }
  await store.close()

  store = await openStore(dir.path, { bootId: 'boot-2', checkedShare: 1 })
  const again = store.openGeneration(generation.id, content.sizeBytes)
  const places = async (position: number): Promise<number[]> => ends(await placesFrom(again, position))
  await assertBytes(again, content, 2 * EXTENT_BYTES, content.sizeBytes)
  await assertBytes(again, content, 0, EXTENT_BYTES)
  assert.deepEqual(await places(0), [borders[0]], 'nothing is known of the second one since the reboot')
  await assertBytes(again, content, EXTENT_BYTES, EXTENT_BYTES + CHUNK_BYTES)
  assert.deepEqual(await places(0), [borders[0], EXTENT_BYTES + 16 * CHUNK_BYTES], 'so much of it is checked at a time')
  await assertBytes(again, content, EXTENT_BYTES, 2 * EXTENT_BYTES)
  assert.deepEqual(await places(0), [...borders, content.sizeBytes])
  const [, second] = await placesFrom(again, 0)
  const bytes = readFileSync(second!.path)
  bytes[0]! ^= 1
  writeFileSync(second!.path, bytes)
  assert.deepEqual(await places(0), [borders[0]], 'it is damaged, and one of those that are compared')
  assert.ok(!again.present.has(EXTENT_BYTES))
  await store.close()
})

test('an incomplete chunk is no presence, but what it holds is there after a restart in order', async () => {
  await using dir = await tempDir()
  const content = patternContent(EXTENT_BYTES)
  let store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content, 0, CHUNK_BYTES + 500)
  await generation.locate(CHUNK_BYTES + 10)
  await store.close()
  store = await openStore(dir.path)
  const again = store.openGeneration(generation.id, content.sizeBytes)
  assert.deepEqual([...again.present], [{ start: 0, end: CHUNK_BYTES }])
  await assertBytes(again, content, 0, CHUNK_BYTES + 500)
  assert.equal(await again.read(CHUNK_BYTES + 500, 1), undefined)
  fill(again, content, CHUNK_BYTES + 500, 2 * CHUNK_BYTES)
  await assertBytes(again, content, 0, 2 * CHUNK_BYTES)
  await store.close()
})

test('after another boot every chunk is checked, and only a damaged one is lost', async () => {
  await using dir = await tempDir()
  const content = patternContent(10 * CHUNK_BYTES)
  let store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content)
  await store.close()
  const [path] = extentFiles(dir.path)
  const bytes = readFileSync(path!)
  bytes[4 * CHUNK_BYTES + 77]! ^= 1
  writeFileSync(path!, bytes)

  store = await openStore(dir.path, { bootId: 'boot-2' })
  const again = store.openGeneration(generation.id, content.sizeBytes)
  await assertBytes(again, content, 0, 4 * CHUNK_BYTES)
  assert.equal(await again.read(4 * CHUNK_BYTES, 10), undefined, 'the damaged chunk is not served')
  await assertBytes(again, content, 5 * CHUNK_BYTES, content.sizeBytes)
  assert.equal(store.stats.damagedChunks, 1)
  fill(again, content, 4 * CHUNK_BYTES, 5 * CHUNK_BYTES)
  await store.close()

  store = await openStore(dir.path, { bootId: 'boot-2', checkedShare: 1 })
  await assertBytes(store.openGeneration(generation.id, content.sizeBytes), content, 0, content.sizeBytes)
  assert.equal(store.stats.damagedChunks, 0, 'it was mended')
  await store.close()
})

test('a chunk that was not checked in its first new boot is still checked in the next', async () => {
  await using dir = await tempDir()
  const content = patternContent(40 * CHUNK_BYTES)
  let store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content)
  await store.close()
  store = await openStore(dir.path, { bootId: 'boot-2' })
  await assertBytes(store.openGeneration(generation.id, content.sizeBytes), content, 0, 100)
  await store.close()
  const [path] = extentFiles(dir.path)
  const bytes = readFileSync(path!)
  bytes[39 * CHUNK_BYTES]! ^= 1
  writeFileSync(path!, bytes)
  store = await openStore(dir.path, { bootId: 'boot-2' })
  assert.equal(await store.openGeneration(generation.id, content.sizeBytes).read(39 * CHUNK_BYTES, 10), undefined)
  await store.close()
})

for (const [what, harm] of [
  ['truncated', (path: string): void => truncateSync(path, 3 * CHUNK_BYTES + 5)],
  ['deleted', (path: string): void => unlinkSync(path)],
] as const) {
  test(`an extent file that was ${what} costs what it held, not a wrong byte`, async () => {
    await using dir = await tempDir()
    const content = patternContent(10 * CHUNK_BYTES)
    let store = await openStore(dir.path)
    const id = (await newGeneration(store, content.sizeBytes)).id
    fill(store.openGeneration(id, content.sizeBytes), content)
    await store.close()
    harm(extentFiles(dir.path)[0]!)
    store = await openStore(dir.path)
    const generation = store.openGeneration(id, content.sizeBytes)
    if (what === 'truncated') await assertBytes(generation, content, 0, 3 * CHUNK_BYTES)
    assert.equal(await generation.read(5 * CHUNK_BYTES, 10), undefined)
    fill(generation, content, 9 * CHUNK_BYTES, 10 * CHUNK_BYTES) // beyond the new end: what lies between reads as zeros now
    await generation.settle()
    for (let at = 0; at < content.sizeBytes; ) {
      const bytes = await generation.read(at, CHUNK_BYTES)
      if (bytes === undefined) fill(generation, content, at, at + CHUNK_BYTES)
      else assert.ok(bytes.equals(content.read(at, at + bytes.length)), `bytes from ${at} are right`)
      at += bytes?.length ?? 0
    }
    await assertBytes(generation, content, 0, content.sizeBytes)
    await store.close()
  })
}

test('another process that cannot read a place makes the host look, and forget', async () => {
  await using dir = await tempDir()
  const content = patternContent(CHUNK_BYTES * 4)
  const store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content)
  await generation.settle()
  const location = (await generation.locate(0)) as Extract<Location, { kind: 'file' }>
  assert.equal(await generation.inspect(location.path, 0), 'intact')
  unlinkSync(location.path)
  assert.equal(await generation.inspect(location.path, 0), 'lost')
  assert.equal(await generation.locate(0), undefined)
  await store.close()
})

test('files that no record names are removed at the start', async () => {
  await using dir = await tempDir()
  const content = patternContent(CHUNK_BYTES * 4)
  let store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content)
  await store.close()
  const [named] = extentFiles(dir.path)
  const orphan = join(dir.path, 'extents', generation.id, '7-0123456789abcdef')
  writeFileSync(orphan, 'left over')
  store = await openStore(dir.path)
  await store.settleRecovery()
  assert.deepEqual(extentFiles(dir.path), [named])
  await store.close()
})

test('the budget holds, the least recently used goes first, a window never', async () => {
  await using dir = await tempDir()
  const content = patternContent(6 * EXTENT_BYTES)
  const store = await openStore(dir.path, { maxSizeBytes: 4 * EXTENT_BYTES })
  const generation = await newGeneration(store, content.sizeBytes)
  generation.protectedRanges = () => [{ start: 2 * EXTENT_BYTES, end: 3 * EXTENT_BYTES }]
  for (let index = 0; index < 6; index++) {
    fill(generation, content, index * EXTENT_BYTES, (index + 1) * EXTENT_BYTES)
    await generation.settle()
    assert.ok(store.stats.usedBytes <= 4 * EXTENT_BYTES)
  }
  assert.ok(generation.present.covers(2 * EXTENT_BYTES, 3 * EXTENT_BYTES), 'the window is there')
  assert.ok(generation.present.covers(5 * EXTENT_BYTES, 6 * EXTENT_BYTES), 'the newest is there')
  assert.equal(extentFiles(dir.path).length, 4)
  assert.ok(store.stats.evictedBytes > 0)
  for (const range of generation.present) await assertBytes(generation, content, range.start, range.end)
  await store.close()
})

test("a film's head and its index at the end, also over a border of extents, outlast what was played since", async () => {
  await using dir = await tempDir()
  const indexStart = 4 * EXTENT_BYTES - 200_000
  const content = patternContent(4 * EXTENT_BYTES + 300_000)
  const store = await openStore(dir.path, { maxSizeBytes: 5 * EXTENT_BYTES })
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content, indexStart)
  fill(generation, content, 0, CHUNK_BYTES)
  await generation.settle()
  fill(generation, content, EXTENT_BYTES, 2 * EXTENT_BYTES)
  await generation.settle()
  const other = patternContent(6 * EXTENT_BYTES, 2)
  const film = await newGeneration(store, other.sizeBytes)
  for (let index = 0; index < 6; index++) {
    fill(film, other, index * EXTENT_BYTES, (index + 1) * EXTENT_BYTES)
    await film.settle()
  }
  assert.equal(generation.present.has(EXTENT_BYTES), false, 'room was needed')
  assert.ok(generation.present.covers(0, CHUNK_BYTES), 'the head is there')
  assert.ok(generation.present.covers(4 * EXTENT_BYTES - CHUNK_BYTES, content.sizeBytes), 'the index is there')
  await store.close()
})

test('an open file of an evicted extent keeps its bytes', async () => {
  await using dir = await tempDir()
  const content = patternContent(2 * EXTENT_BYTES)
  const store = await openStore(dir.path)
  const generation = await newGeneration(store, content.sizeBytes)
  fill(generation, content)
  await generation.settle()
  const { path } = (await generation.locate(0)) as Extract<Location, { kind: 'file' }>
  const { openSync, readSync, closeSync } = await import('node:fs')
  const fd = openSync(path, 'r')
  await store.removeResource(generation.id)
  assert.throws(() => statSync(path))
  const bytes = Buffer.alloc(1000)
  readSync(fd, bytes, 0, 1000, 5000)
  closeSync(fd)
  assert.ok(bytes.equals(content.read(5000, 6000)))
  assert.equal(await generation.read(5000, 10), undefined)
  await store.close()
})

test('a disk that fails costs the caching, not the bytes, and is used again when it works', async () => {
  await using dir = await tempDir()
  const messages: string[] = []
  const content = patternContent(2 * EXTENT_BYTES)
  const store = await openStore(dir.path, { diskRetryMs: 0, onDiskState: (message) => messages.push(message) })
  const generation = await newGeneration(store, content.sizeBytes)
  const obstacle = join(dir.path, 'extents', generation.id)
  rmSync(obstacle, { recursive: true, force: true })
  writeFileSync(obstacle, 'a file where a directory should be')
  fill(generation, content, 0, EXTENT_BYTES / 2)
  await generation.settle()
  assert.match(messages[0]!, /without caching/)
  assert.ok(store.stats.degraded !== undefined)
  await assertBytes(generation, content, 0, EXTENT_BYTES / 2)
  const location = await generation.locate(0)
  assert.equal(location?.kind, 'memory')

  unlinkSync(obstacle)
  fill(generation, content, EXTENT_BYTES, 2 * EXTENT_BYTES)
  await generation.settle()
  assert.equal(store.stats.degraded, undefined)
  assert.match(messages.at(-1)!, /goes on/)
  await assertBytes(generation, content, 0, EXTENT_BYTES / 2)
  assert.equal((await generation.locate(0))?.kind, 'file', 'what was kept in memory is on the disk now')
  await store.close()
})

test('one host a directory', async () => {
  await using dir = await tempDir()
  const store = await openStore(dir.path)
  await assert.rejects(openStore(dir.path), (error) => isCode(error, 'ERR_SEEKCACHE_CACHE_LOCKED'))
  await store.close()
  await (await openStore(dir.path)).close()
})

test('of many that begin on a new directory at once one gets it, and the others are told whose it is', async () => {
  for (let round = 0; round < 5; round++) {
    await using dir = await tempDir()
    const begun = await Promise.allSettled(Array.from({ length: 8 }, () => openStore(dir.file('new', 'cache'))))
    for (const one of begun) if (one.status === 'rejected') assert.equal((one.reason as { code?: string }).code, 'ERR_SEEKCACHE_CACHE_LOCKED', String(one.reason))
    const [store, ...more] = begun.filter((one) => one.status === 'fulfilled').map((one) => one.value)
    assert.deepEqual([store !== undefined, more.length], [true, 0])
    await store!.close()
  }
})

test('many that make one new path at once all get it', async () => {
  await using dir = await tempDir()
  for (let round = 0; round < 50; round++) {
    const path = dir.file(String(round), 'a', 'b', 'cache')
    const known = { files: ['format'], directories: ['index'], sockets: [] }
    await Promise.all(Array.from({ length: 16 }, () => claimDir(path, known)))
  }
})

test('a directory of another format is not touched', async () => {
  await using dir = await tempDir()
  await (await openStore(dir.path)).close()
  writeFileSync(dir.file('format'), 'seekcache cache directory, format 99\n')
  await assert.rejects(openStore(dir.path), (error) => isCode(error, 'ERR_SEEKCACHE_CACHE_FORMAT'))
})

test('a new generation makes the old one go, unless somebody reads it', async () => {
  await using dir = await tempDir()
  const content = patternContent(CHUNK_BYTES * 4)
  const store = await openStore(dir.path)
  const old = await newGeneration(store, content.sizeBytes)
  fill(old, content)
  await old.settle()
  await store.putResource(old.id, resourceRecord('1111111111111111', content.sizeBytes))
  await assertBytes(old, content, 0, content.sizeBytes)
  await store.releaseGeneration(old)
  assert.deepEqual(extentFiles(dir.path), [])
  await store.close()
})

test('victims: oldest first, headers and tails last, windows never', () => {
  const of = (name: string, lastUsedMs: number, facts: object = {}): { name: string; lengthBytes: number; lastUsedMs: number; isProtected: boolean; holdsIndex: boolean } =>
    ({ name, lengthBytes: 10, lastUsedMs, isProtected: false, holdsIndex: false, ...facts })
  const all = [of('new', 9), of('head', 0, { holdsIndex: true }), of('window', 1, { isProtected: true }), of('old', 2)]
  const names = (neededBytes: number): string[] => victims(all, neededBytes).map((victim) => victim.name)
  assert.deepEqual(names(0), [])
  assert.deepEqual(names(1), ['old'])
  assert.deepEqual(names(11), ['old', 'new'])
  assert.deepEqual(names(1000), ['old', 'new', 'head'])
})
