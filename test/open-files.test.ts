/** The files under the store, on a real file system: what is in the kernel's page cache, and what is not. */

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { open, statfs, writeFile } from 'node:fs/promises'
import { platform } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

import { OpenFiles } from '../src/cache/open-files.ts'
import { readCached, whyThreads } from '../src/cache/page-cache.ts'
import { until } from './support/deadline.ts'
import { tempDir } from './support/temp-dir.ts'

const FILE_BYTES = 300_000
/** statfs(2) */
const TMPFS = 0x01021994

async function cachedFile(dir: string): Promise<{ readonly path: string; readonly bytes: Buffer }> {
  const file = { path: join(dir, 'file'), bytes: randomBytes(FILE_BYTES) }
  await writeFile(file.path, file.bytes)
  return file
}

/** GNU dd writes it out and asks the kernel to forget it (posix_fadvise, POSIX_FADV_DONTNEED). */
function evictFromPageCache(path: string): void {
  execFileSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none'])
}

const isLinux = platform() === 'linux'

test('what is in the page cache is read without a thread, what is not is left to one', { skip: !isLinux && 'Linux only' }, async () => {
  await using dir = await tempDir()
  const { path, bytes } = await cachedFile(dir.path)
  assert.equal(whyThreads, undefined)
  await using file = await open(path)
  const target = Buffer.alloc(65_536)
  assert.equal(readCached(file.fd, target, 70_001), target.length)
  assert.deepEqual(target, bytes.subarray(70_001, 70_001 + target.length))
  assert.equal(readCached(file.fd, target, FILE_BYTES - 100), 100, 'the last bytes')
  assert.deepEqual(target.subarray(0, 100), bytes.subarray(-100))
  assert.equal(readCached(file.fd, target, FILE_BYTES), 0, 'the end of the file')
  assert.equal(readCached(-1, target, 0), 0, 'no file')
  if ((await statfs(path)).type === TMPFS) return // there it is nowhere else
  await until('it is on the disk only', () => {
    evictFromPageCache(path) // the kernel keeps pages that it is busy with
    return readCached(file.fd, target, 70_001) === 0
  })
})

test('a read gives the same bytes from the page cache, from the disk, and from both', async () => {
  await using dir = await tempDir()
  const { path, bytes } = await cachedFile(dir.path)
  const files = new OpenFiles()
  const read = async (position: number, lengthBytes: number): Promise<Buffer> => {
    const target = Buffer.alloc(lengthBytes)
    return target.subarray(0, await files.read(path, target, position))
  }
  const spans = [[0, 1], [4_095, 100_000], [200_000, 200_000], [FILE_BYTES - 1, 10], [FILE_BYTES, 10], [1_000_000, 10]] as const
  const compare = async (): Promise<void> => {
    for (const [start, lengthBytes] of spans) assert.deepEqual(await read(start, lengthBytes), bytes.subarray(start, start + lengthBytes))
  }
  await compare()
  if (isLinux) {
    evictFromPageCache(path)
    assert.deepEqual(await read(131_072, 1), bytes.subarray(131_072, 131_073)) // and what the kernel reads ahead, no more
    await compare()
  }
  await files.close()
})

test('who reads on and on what is in the page cache lets other things happen', async () => {
  await using dir = await tempDir()
  const { path } = await cachedFile(dir.path)
  const files = new OpenFiles()
  let reads = 0
  let readsUntilTurn: number | undefined
  const target = Buffer.alloc(10)
  await files.read(path, target, 0) // opens it
  setImmediate(() => (readsUntilTurn = reads))
  for (; reads < 1_000; reads++) await files.read(path, target, 0)
  assert.ok(readsUntilTurn !== undefined && readsUntilTurn < 100, `${readsUntilTurn} reads`)
  await files.close()
})
