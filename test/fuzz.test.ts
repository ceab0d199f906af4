/** The parsers that strangers reach, against random input and naive oracles (support/fuzz.ts). */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Framer, MAX_HOST_LINE_BYTES } from '../src/control/protocol.ts'
import { FUZZ_TARGETS, LONG_TEXTS, parseWithAll } from './support/fuzz.ts'
import { seedOfRun } from './support/random.ts'

const RUNS = Number(process.env.SEEKCACHE_FUZZ_RUNS ?? 10_000)
const SEED = seedOfRun()
console.log(`fuzz: ${RUNS} runs of each, SEEKCACHE_SEED=${SEED}`)

for (const { name, run } of FUZZ_TARGETS) {
  test(name, async () => {
    await run({ numRuns: RUNS, seed: SEED })
  })
}

test('no text makes a parser work longer than its length is worth', () => {
  // Quadratic work on one of these would be 20 s and more; all of them together take one or two.
  const { user: before } = process.cpuUsage()
  for (const text of LONG_TEXTS) parseWithAll(text)
  const seconds = (process.cpuUsage().user - before) / 1e6
  assert.ok(seconds < 15, `${seconds} CPU s for ${LONG_TEXTS.length} texts`)
})

test('a peer that sends a long line byte by byte costs work in proportion', () => {
  const framer = new Framer(MAX_HOST_LINE_BYTES)
  const byte = Buffer.from('x')
  const { user: before } = process.cpuUsage()
  for (let i = 0; i < 500_000; i++) {
    framer.push(byte)
    assert.equal(framer.next(), undefined)
  }
  framer.push(Buffer.from('\n'))
  assert.deepEqual(framer.next(), { line: 'x'.repeat(500_000) })
  const seconds = (process.cpuUsage().user - before) / 1e6
  assert.ok(seconds < 10, `${seconds} CPU s`) // joined at each push it would be 125 GB copied
})
