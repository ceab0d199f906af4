/** The parsers that strangers reach, against random input and naive oracles (support/fuzz.ts). */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Framer, MAX_HOST_LINE_BYTES } from '../src/control/protocol.ts'
import { FUZZ_TARGETS, longTexts, parseWithAll } from './support/fuzz.ts'
import { seedOfRun } from './support/random.ts'

const RUNS = Number(process.env.SEEKCACHE_FUZZ_RUNS ?? 10_000)
const SEED = seedOfRun()
console.log(`fuzz: ${RUNS} runs of each, SEEKCACHE_SEED=${SEED}`)

for (const { name, run } of FUZZ_TARGETS) {
  test(name, async () => {
    await run({ numRuns: RUNS, seed: SEED })
  })
}

/** Of this process, which may be slow and interrupted: only its own work counts. */
function cpuSeconds(work: () => void): number {
  const { user } = process.cpuUsage()
  work()
  return (process.cpuUsage().user - user) / 1e6
}

test('no text makes a parser work longer than its length is worth', () => {
  // Ten times the length is ten times the work; quadratic work is a hundred times as much, 20 s and more for one text.
  const [short, long] = [longTexts(20_000), longTexts(200_000)]
  const expected = short.map((text) => cpuSeconds(() => {
    for (let round = 0; round < 10; round++) parseWithAll(text)
  }))
  const allowance = expected.reduce((sum, seconds) => sum + seconds, 0) // all of them together, one or two seconds
  for (const [i, text] of long.entries()) {
    const seconds = cpuSeconds(() => parseWithAll(text))
    assert.ok(seconds < 4 * expected[i]! + allowance, `${seconds} CPU s for "${text.slice(0, 20)}…", ${expected[i]} for the same in ten parts`)
  }
})

test('a peer that sends a long line byte by byte costs work in proportion', () => {
  const byte = Buffer.from('x')
  const send = (lengthBytes: number): void => {
    const framer = new Framer(MAX_HOST_LINE_BYTES)
    for (let i = 0; i < lengthBytes; i++) {
      framer.push(byte)
      assert.equal(framer.next(), undefined)
    }
    framer.push(Buffer.from('\n'))
    assert.deepEqual(framer.next(), { line: 'x'.repeat(lengthBytes) })
  }
  const expected = cpuSeconds(() => {
    for (let line = 0; line < 10; line++) send(50_000)
  })
  const seconds = cpuSeconds(() => send(500_000))
  assert.ok(seconds < 4 * expected + 1, `${seconds} CPU s, ${expected} for as many bytes in ten lines`) // joined at each push it would be 125 GB copied
})
