/**
 * A program under the disk shim: `fault-scenario.ts CONTROL DIR CODE STRIDE OFFSET [KIND]`. A film is cached while the n-th
 * operation on the directory (of that kind) fails, once and from then on, for every STRIDE-th n that the work has, from OFFSET on.
 *
 * Every byte must be readable all the time, the disk works again by itself when the failures end, and then all of the film
 * is on it, and right, for the next store too. Prints what it did as JSON; fails at the first thing that is not so.
 */
import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

import { CHUNK_BYTES, EXTENT_BYTES } from '../../src/bytes/ranges.ts'
import type { Generation } from '../../src/cache/generation.ts'
import type { Store } from '../../src/cache/store.ts'
import { patternContent } from './content.ts'
import { type FaultCode, Faults, type Kind, KINDS_OF } from './disk-shim.ts'
import { fill, newGeneration, openStore } from './stores.ts'

const CONTENT = patternContent(EXTENT_BYTES + 3 * CHUNK_BYTES + 500)
/** Of the film these parts are played: in two extents, and an incomplete chunk. */
const COMPLETE = [[0, 3 * CHUNK_BYTES], [EXTENT_BYTES - CHUNK_BYTES, CONTENT.sizeBytes]] as const
const PARTS = [...COMPLETE, [5 * CHUNK_BYTES, 5 * CHUNK_BYTES + 700]] as const
const ONCE = 1
const FROM_THEN_ON = 1e9
/** The disk is tried again after some 0.1 s. */
const RESUME_LIMIT_MS = 60_000

interface Told {
  runs: number
  /** Runs in which a failure was met and told. */
  tellings: number
  /** As a host would have to, this program ends by force. */
  hasHungThread: boolean
}

async function main(control: string, dir: string, code: FaultCode, stride: number, offset: number, kind: Kind | undefined): Promise<void> {
  const faults = new Faults(control)
  const told: Told = { runs: 0, tellings: 0, hasHungThread: false }
  for (const count of [ONCE, FROM_THEN_ON]) {
    for (let nth = offset; await run({ faults, code, nth, count, kinds: kind === undefined ? KINDS_OF[code] : [kind] }, dir, told).catch((cause: unknown) => {
      throw new Error(`${code} at operation ${nth}, ${count === ONCE ? 'once' : 'from then on'}`, { cause })
    }); nth += stride);
  }
  process.stdout.write(JSON.stringify(told))
  if (told.hasHungThread) process.kill(process.pid, 'SIGKILL')
}

interface Fault {
  readonly faults: Faults
  readonly code: FaultCode
  readonly nth: number
  readonly count: number
  readonly kinds: readonly Kind[]
}

/** @returns whether there was an n-th operation */
async function run({ faults, code, nth, count, kinds }: Fault, dir: string, told: Told): Promise<boolean> {
  const messages: string[] = []
  let store = await openStore(dir, { diskRetryMs: 1, onDiskState: (message) => messages.push(message) })
  faults.arm(code, nth, count, kinds)
  const generation = await newGeneration(store, CONTENT.sizeBytes)
  for (const [start, end] of PARTS) fill(generation, CONTENT, start, end)
  await generation.locate(5 * CHUNK_BYTES) // another process reads the incomplete chunk
  await generation.settle()
  await assertAll(generation)
  await store.releaseGeneration(store.openGeneration(generation.id, CONTENT.sizeBytes))
  const wasMet = faults.seen > nth
  faults.disarm()
  if (messages.length > 0) assert.match(messages[0]!, /cannot be written .*: playing on without caching/)
  if (messages.length > 0) told.tellings++
  await resumed(store, generation)
  await assertAll(generation)
  await store.close()
  told.hasHungThread ||= store.hasHungThread

  store = await openStore(dir, { checkedShare: 1 })
  const again = store.openGeneration(generation.id, CONTENT.sizeBytes)
  for (const [start, end] of COMPLETE) assert.ok(again.present.covers(start, end), `${start} to ${end} is known to the next store`)
  await assertAll(again)
  assert.equal(store.stats.damagedChunks, 0)
  await store.close()
  rmSync(dir, { recursive: true })
  told.runs++
  return wasMet
}

/** What is lost to readers for a moment is fetched again, as a host would. */
async function assertAll(generation: Generation): Promise<void> {
  for (const [start, end] of PARTS) {
    for (const { start: from, end: to } of generation.arrived.missing(start, end)) fill(generation, CONTENT, from, to)
    for (let at = start; at < end; ) {
      const bytes = await generation.read(at, end - at)
      if (bytes === undefined) fill(generation, CONTENT, at, Math.min((Math.floor(at / CHUNK_BYTES) + 1) * CHUNK_BYTES, end))
      else assert.ok(bytes.equals(CONTENT.read(at, at + bytes.length)), `bytes from ${at} are right`)
      at += bytes?.length ?? 0
    }
  }
}

async function resumed(store: Store, generation: Generation): Promise<void> {
  for (const limit = performance.now() + RESUME_LIMIT_MS; ; ) {
    const location = await generation.locate(0)
    if (store.stats.degraded === undefined && location?.kind === 'file') return
    assert.ok(performance.now() < limit, `caching did not resume: ${store.stats.degraded ?? location?.kind}`)
    await delay(10)
  }
}

const [control, dir, code, stride, offset, kind] = process.argv.slice(2)
await main(control!, dir!, code as FaultCode, Number(stride), Number(offset), kind as Kind | undefined)
