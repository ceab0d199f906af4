/** What an index says of its own length, by LMDB's account of a real one. */

import assert from 'node:assert/strict'
import { copyFileSync, statSync, truncateSync } from 'node:fs'
import { test } from 'node:test'

import { open } from 'lmdb'

import { isCut } from '../src/cache/index-head.ts'
import { tempDir } from './support/temp-dir.ts'

const PAGE_BYTES = 4096

test('an index is cut where any page that LMDB uses is not whole, after each of its transactions', async () => {
  await using folder = await tempDir()
  const database = open({ path: folder.file('index'), noSubdir: false })
  const original = folder.file('index/data.mdb')
  const copy = folder.file('copy.mdb')
  for (let transaction = 1; transaction <= 4; transaction++) { // LMDB writes its two heads in turn
    for (let i = 0; i < 250; i++) database.put(`${transaction} ${i}`, 'x'.repeat(100))
    await database.flushed
    const { lastPageNumber } = database.getStats() as { lastPageNumber: number }
    const usedBytes = (lastPageNumber + 1) * PAGE_BYTES
    assert.ok(usedBytes > 8 * PAGE_BYTES && usedBytes <= statSync(original).size)
    copyFileSync(original, copy)
    truncateSync(copy, usedBytes)
    assert.equal(isCut(copy), false, `${usedBytes} bytes are all that it uses`)
    for (let lengthBytes = usedBytes - 1; lengthBytes > 0; lengthBytes -= 1023) {
      truncateSync(copy, lengthBytes)
      assert.equal(isCut(copy), true, `${lengthBytes} of ${usedBytes} bytes`)
    }
    truncateSync(copy, 0)
    assert.equal(isCut(copy), true)
  }
  await database.close()
})
