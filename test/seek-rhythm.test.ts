/** When the next seek is expected. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { SeekRhythm } from '../src/schedule/seek-rhythm.ts'

function after(...seeksMs: readonly number[]): SeekRhythm {
  const rhythm = new SeekRhythm()
  for (const atMs of seeksMs) rhythm.onSeek(atMs)
  return rhythm
}

test('three fast seeks let the next one be expected, about as long after the last as the longer of the two pauses', () => {
  assert.equal(Math.round(after(1_000, 1_100, 1_150).nextExpectedMs), 1_260)
  assert.equal(Math.round(after(1_000, 1_050, 1_150).nextExpectedMs), 1_260)
})

test('one seek, two, and seeks with time to look between them are followed by none', () => {
  for (const seeksMs of [[1_000], [1_000, 1_001], [1_000, 1_400, 1_800], [1_000, 1_100, 1_200, 1_600]]) {
    assert.equal(after(...seeksMs).nextExpectedMs, seeksMs.at(-1), `${seeksMs.join(' ')} ms`)
  }
})
