/** Waits for a byte, and what is done about failures: the two parts of the schedule that keep a reader's patience. */

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'

import { SeekCacheError } from '../src/errors.ts'
import { Failures } from '../src/schedule/failures.ts'
import { Waits } from '../src/schedule/waits.ts'
import { VirtualClock } from './support/simulation/virtual-clock.ts'

const DEADLINE_MS = 30_000
const broken = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', 'the connection broke')

function makeWaits() {
  const clock = new VirtualClock()
  const ends: string[] = []
  const telemetry = { waits: { inc: ({ outcome }: { outcome: string }) => void ends.push(outcome) }, waitSeconds: { observe: () => {} } }
  let changes = 0
  const waits = new Waits<string>({ clock, telemetry: telemetry as never, onChange: () => changes++, reasonOf: () => 'nothing was asked for' })
  /** How a wait ended, in a word. */
  const wait = async (who: string, position: number, signal?: AbortSignal): Promise<string> =>
    await waits.arrival(who, position, { deadlineMs: DEADLINE_MS, signal }).then(() => 'satisfied', (error: Error) => error.message)
  return { clock, waits, wait, ends, changesOf: () => changes }
}

describe('waits', () => {
  test('bytes wake who waits for one of them, and nobody else', async () => {
    const { clock, waits, wait, ends } = makeWaits()
    const [at9, at10, at19, at20] = [wait('a', 9), wait('a', 10), wait('b', 19), wait('c', 20)]
    waits.wake({ start: 10, end: 20 })
    assert.deepEqual(await Promise.all([at10, at19]), ['satisfied', 'satisfied'])
    assert.deepEqual([...waits.waiting], ['a', 'c'])
    await clock.run(() => {})
    assert.deepEqual(await Promise.all([at9, at20]), Array<string>(2).fill('no data within 30 s, for nothing was asked for: try again, or allow more time'))
    assert.deepEqual(ends, ['satisfied', 'satisfied', 'timeout', 'timeout'])
  })

  test('a wait is overdue after half a second, and the plan is told', async () => {
    const { clock, waits, wait, changesOf } = makeWaits()
    const waiting = wait('a', 0)
    const before = changesOf()
    await clock.run(() => {}, 499)
    assert.deepEqual([waits.overdue.size, changesOf()], [0, before])
    await clock.run(() => {}, 500)
    assert.deepEqual([[...waits.overdue], changesOf()], [['a'], before + 1])
    waits.wake({ start: 0, end: 1 })
    await waiting
    assert.deepEqual([waits.overdue.size, clock.nowMs()], [0, 500])
  })

  test('of all that are overdue, who waits longest comes first', async () => {
    const { clock, waits, wait } = makeWaits()
    const ends = [wait('a', 0), wait('b', 10)]
    waits.wake({ start: 0, end: 1 })
    ends.push(wait('a', 1))
    await clock.run(() => {}, 500)
    assert.deepEqual([...waits.overdue], ['b', 'a'])
    waits.wake({ start: 0, end: 20 })
    await Promise.all(ends)
  })

  test('a deadline tells what went wrong with this byte, whatever came elsewhere', async () => {
    const { clock, waits, wait } = makeWaits()
    const [here, there] = [wait('a', 5), wait('b', 50)]
    waits.blame({ start: 0, end: 10 }, broken)
    waits.wake({ start: 20, end: 30 }) // mends what was the matter in general
    await clock.run(() => {})
    assert.deepEqual(await Promise.all([here, there]), ['the connection broke', 'no data within 30 s, for nothing was asked for: try again, or allow more time'])
  })

  test('a failure elsewhere since bytes came last is told where nothing better is known', async () => {
    const { clock, waits, wait } = makeWaits()
    const there = wait('b', 50)
    waits.blame({ start: 0, end: 10 }, broken)
    await clock.run(() => {})
    assert.equal(await there, 'the connection broke')
  })

  test('what fails is told to who waits for it, and known to be waited for until then', async () => {
    const { waits, wait } = makeWaits()
    const [here, there] = [wait('a', 5), wait('b', 50)]
    assert.deepEqual([waits.isAwaited({ start: 0, end: 5 }), waits.isAwaited({ start: 5, end: 6 })], [false, true])
    waits.reject({ start: 5, end: 50 }, broken)
    assert.equal(await here, 'the connection broke')
    assert.deepEqual([waits.isAwaited({ start: 0, end: 50 }), [...waits.waiting]], [false, ['b']])
    waits.cancel('b')
    await there
  })

  test('an abort ends that wait alone, a reader that goes takes all of its own, and no timer stays', async () => {
    const { clock, waits, wait, ends, changesOf } = makeWaits()
    const controller = new AbortController()
    const all = [wait('a', 1, controller.signal), wait('a', 2), wait('b', 3)]
    const before = changesOf()
    controller.abort()
    waits.cancel('a')
    waits.rejectAll(broken)
    assert.equal(changesOf() - before, 3, 'who does not wait any more gives way')
    assert.deepEqual(await Promise.all(all), ['the read was cancelled', 'the read was cancelled', 'the connection broke'])
    assert.deepEqual(ends.sort(), ['cancelled', 'cancelled', 'failed'])
    await clock.run(() => assert.equal(clock.nowMs(), 0))
    assert.equal(waits.waiting.size, 0)
  })
})

describe('failures', () => {
  const refused = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_RESPONSE', 'another range')
  const gone = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', 'gone', { httpStatus: 404 })
  const later = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', 'later', { httpStatus: 503, retryAfterMs: 5_000 })
  const delayOf = (failures: Failures, error: SeekCacheError, startedMs: number, nowMs: number): number | string => {
    const remedy = failures.remedyFor(error, startedMs, nowMs)
    return remedy.kind === 'retry' ? (remedy.delayMs ?? 'with the one before') : remedy.kind
  }

  test('fetches that break together are one failure; in a row they wait longer, and bytes begin anew', () => {
    const failures = new Failures()
    assert.deepEqual([delayOf(failures, broken, 1, 100), delayOf(failures, broken, 100, 100)], [1, 'with the one before'])
    assert.equal(delayOf(failures, later, 2, 100), 5_000, 'a Retry-After holds, whatever broke with it')
    assert.deepEqual([delayOf(failures, broken, 101, 200), delayOf(failures, broken, 201, 300)], [250, 500])
    failures.onBytes()
    assert.equal(delayOf(failures, broken, 301, 400), 1)
  })

  test('a senseless answer is asked for twice more, a fetch that goes well begins anew', () => {
    const failures = new Failures()
    assert.deepEqual([delayOf(failures, refused, 1, 2), delayOf(failures, refused, 3, 4)], [1, 250])
    failures.onComplete()
    assert.deepEqual([5, 7, 9].map((at) => delayOf(failures, refused, at, at + 1)), [1, 250, 'give-up'])
  })

  test('what is final is given up, and is no failed try; the whole file for a range is read in order in the end', () => {
    const failures = new Failures()
    assert.deepEqual([delayOf(failures, gone, 1, 2), delayOf(failures, broken, 3, 4)], ['give-up', 1])
    const whole = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_NOT_RANGEABLE', 'the whole file')
    assert.equal([11, 13, 15].map((at) => delayOf(failures, whole, at, at + 1)).at(-1), 'read-in-order')
  })

  test('what was under way when a failure ended all ends nothing more: who waits has asked since', () => {
    const failures = new Failures()
    const muchLater = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', 'later', { httpStatus: 503, retryAfterMs: 120_000 })
    assert.deepEqual([gone, gone, muchLater].map((error) => delayOf(failures, error, 1, 2)), ['give-up', 'with the one before', 'with the one before'])
    assert.equal(delayOf(failures, gone, 3, 4), 'give-up')
  })

  test('what is final ends all also beside a failure that is tried again; what is about a range is told to each', () => {
    const failures = new Failures()
    const unsatisfiable = new SeekCacheError('ERR_SEEKCACHE_ORIGIN_STATUS', 'no such range', { httpStatus: 416 })
    assert.deepEqual([broken, gone].map((error) => delayOf(failures, error, 1, 2)), [1, 'give-up'])
    assert.deepEqual([unsatisfiable, unsatisfiable].map((error) => delayOf(failures, error, 3, 4)), ['give-up', 'give-up'])
    assert.equal(delayOf(failures, gone, 3, 4), 'give-up')
  })

  test('who never gets to a first byte gets twice the time, up to a minute; those in parallel count once', () => {
    const failures = new Failures()
    const times = [failures.firstByteMs(10_000)]
    for (let at = 1; at < 9; at += 2) {
      failures.onSilence(at, at + 1)
      failures.onSilence(at, at + 1)
      times.push(failures.firstByteMs(10_000))
    }
    assert.deepEqual(times, [10_000, 20_000, 40_000, 60_000, 60_000])
    failures.onBytes()
    assert.equal(failures.firstByteMs(10_000), 10_000)
  })
})
