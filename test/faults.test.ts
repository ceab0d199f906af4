/** Whatever an origin does wrong, through every face: the right bytes, or an error that says what came. */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { FAULT_CASES } from './support/fault-cases.ts'
import { runFaultMatrix } from './support/fault-matrix.ts'

/** Which third of the faults is met whole: 0, 1 or 2. */
const THIRD = Number(process.env.SEEKCACHE_TEST_THIRD ?? 0)

/** `all`, or a part of the name of a fault: all of its cells. */
const WANTED = process.env.SEEKCACHE_TEST_FAULTS

test('each fault at each place, cold, warm and after a restart, through proxy, API and element', async () => {
  const startedMs = performance.now()
  const result = await runFaultMatrix(({ fault, faultIndex, state, face }) => {
    if (WANTED !== undefined) return WANTED === 'all' || fault.name.includes(WANTED)
    return faultIndex % 3 === THIRD || (state === 'cold' && face === 'api') // all of them whole are for the soak
  })
  const { cells, byFace, byOutcome, faults, problems } = result
  console.log(`fault matrix: ${cells} cells in ${((performance.now() - startedMs) / 1000).toFixed(1)} s, third ${THIRD}, ${faults} faults, ${JSON.stringify(byFace)}, ${JSON.stringify(byOutcome)}`)
  assert.deepEqual(problems, [])
  if (WANTED !== undefined && WANTED !== 'all') return
  assert.ok(faults >= 35 && faults === FAULT_CASES.length)
  assert.ok(cells >= 945, `${cells} cells`)
})
