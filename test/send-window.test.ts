/** What a receiver believes of its sender's window. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { FIRST_WINDOW_BYTES, SendWindow } from '../src/origin/send-window.ts'

const KIB = 1024

/** After answers of these lengths, one after another. */
function after(...answersBytes: readonly number[]): SendWindow {
  const window = new SendWindow()
  for (const lengthBytes of answersBytes) {
    window.onHead()
    window.onBytes(lengthBytes / 2, 1_000)
    window.onBytes(lengthBytes / 2, 1_000)
  }
  return window
}

test('a window begins with ten segments and doubles, as long as delay does not end that', () => {
  assert.equal(after().bytesAt(1_000), FIRST_WINDOW_BYTES)
  assert.equal(after(13 * KIB).bytesAt(1_000), 26 * KIB)
  assert.equal(after(13 * KIB, 26 * KIB).bytesAt(1_000), 39 * KIB)
  assert.equal(after(13 * KIB, 26 * KIB, 39 * KIB).bytesAt(1_000), 39 * KIB)
})

test('what an answer did not fill is not believed', () => {
  assert.equal(after(9 * KIB).bytesAt(1_000), 18 * KIB)
  assert.equal(after(2 * KIB, 2 * KIB, 2 * KIB).bytesAt(1_000), FIRST_WINDOW_BYTES)
})

test('what has carried much has a larger one, up to a bound', () => {
  assert.equal(after(200 * KIB).bytesAt(1_000), 50 * KIB)
  assert.equal(after(9_000 * KIB).bytesAt(1_000), 64 * KIB)
  assert.ok(Number.isInteger(after(200 * KIB + 2).bytesAt(1_000)))
})

test('who idles begins anew', () => {
  const window = after(9_000 * KIB)
  assert.equal(window.bytesAt(1_200), 64 * KIB)
  assert.equal(window.bytesAt(1_201), FIRST_WINDOW_BYTES)
  window.onHead()
  window.onBytes(1 * KIB, 2_000)
  assert.equal(window.bytesAt(2_000), FIRST_WINDOW_BYTES)
})
