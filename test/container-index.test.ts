/** Where the index is, told by a file's first bytes: on real films, and on whatever bytes. */
import assert from 'node:assert/strict'
import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'

import { containerIndex, secondCluster } from '../src/bytes/container-index.ts'
import { shortFilm } from './support/media.ts'
import { seedOfRun } from './support/random.ts'

function headOf(path: string, lengthBytes: number): Buffer {
  const file = openSync(path, 'r')
  const head = Buffer.alloc(lengthBytes)
  readSync(file, head, 0, lengthBytes, 0)
  closeSync(file)
  return head
}

test('a moov at the end of a real MP4 is found from its first box headers', async () => {
  const { path, sizeBytes } = (await shortFilm()).files.mp4
  const index = containerIndex(headOf(path, 4096), sizeBytes)
  assert.equal(readFileSync(path).toString('latin1', index!.start + 4, index!.start + 8), 'moov')
  assert.equal(index!.end, sizeBytes)
})

test("a real Matroska file's Cues are found from its SeekHead", async () => {
  const { path, sizeBytes } = (await shortFilm()).files.mkv
  const index = containerIndex(headOf(path, 4096), sizeBytes)
  assert.equal(readFileSync(path).readUInt32BE(index!.start), 0x1c53bb6b)
})

test("a real Matroska file's second cluster begins where the first one ends", async () => {
  const { path, sizeBytes } = (await shortFilm()).files.mkv
  const { start, end } = secondCluster(headOf(path, 13 * 1024), sizeBytes)!
  assert.equal(readFileSync(path).readUInt32BE(start), 0x1f43b675)
  assert.equal(end, Math.min(start + 64 * 1024, sizeBytes))
})

test('a cluster of a length that is not told, or the last one, is followed by none', () => {
  const head = (...length: readonly number[]): Buffer =>
    Buffer.from([0x1a, 0x45, 0xdf, 0xa3, 0x80, 0x18, 0x53, 0x80, 0x67, 0xff, 0x1f, 0x43, 0xb6, 0x75, ...length, 0xe7, 0x81, 0])
  assert.deepEqual(secondCluster(head(0x43, 0xe8), 100_000), { start: 1_016, end: 66_552 })
  assert.equal(secondCluster(head(0x43, 0xe8), 1_016), undefined)
  assert.equal(secondCluster(head(0xff), 100_000), undefined)
})

function box(type: string, bodyBytes: number, told = bodyBytes + 8): Buffer {
  const bytes = Buffer.alloc(8 + bodyBytes)
  bytes.writeUInt32BE(told, 0)
  bytes.write(type, 4, 'latin1')
  return bytes
}

test('a moov in front is the range of its box; a file of 64-bit boxes is followed', () => {
  const front = Buffer.concat([box('ftyp', 16), box('free', 8), box('moov', 24, 5000)])
  assert.deepEqual(containerIndex(front, 100_000), { start: 40, end: 5040 })
  const large = box('mdat', 16, 1)
  large.writeBigUInt64BE(9_000_000_000n, 8)
  assert.deepEqual(containerIndex(Buffer.concat([box('ftyp', 16), large]), 9_000_100_000), { start: 9_000_000_024, end: 9_000_100_000 })
})

test('what is no such file, or lies of its lengths, has no index', () => {
  assert.equal(containerIndex(Buffer.from('RIFF....AVI LIST............'), 1_000_000), undefined)
  assert.equal(containerIndex(Buffer.alloc(0), 10), undefined)
  assert.equal(containerIndex(Buffer.concat([box('ftyp', 16), box('mdat', 16, 2_000_000)]), 1_000_000), undefined)
  assert.equal(containerIndex(Buffer.concat([box('ftyp', 16), box('mdat', 16, 0)]), 1_000_000), undefined, 'the media reach to the end')
})

test('any bytes give a range inside the file or none, soon', () => {
  const signatures = [Buffer.from([0x1a, 0x45, 0xdf, 0xa3, 0x80, 0x18, 0x53, 0x80, 0x67, 0xff, 0x11, 0x4d, 0x9b, 0x74]), box('ftyp', 0), Buffer.alloc(0)]
  fc.assert(
    fc.property(fc.constantFrom(...signatures), fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 1, max: 2 ** 40 }), (signature, rest, sizeBytes) => {
      const head = Buffer.concat([signature, rest])
      for (const range of [containerIndex(head, sizeBytes), secondCluster(head, sizeBytes)]) {
        if (range === undefined) continue
        assert.ok(Number.isSafeInteger(range.start) && Number.isSafeInteger(range.end))
        assert.ok(0 <= range.start && range.start < range.end && range.end <= sizeBytes)
      }
    }),
    { numRuns: 20_000, seed: seedOfRun() },
  )
})
