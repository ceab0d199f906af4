/** When a fetch is behind the others: on a virtual clock, its bytes given by hand. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import type { FetchObserver } from '../src/origin/source.ts'
import { InFlight } from '../src/schedule/in-flight.ts'
import { VirtualClock } from './support/simulation/virtual-clock.ts'

const ROUND_TRIP_MS = 60
const BEHIND_MS = 3 * ROUND_TRIP_MS

/** Two fetches whose first bytes came one round trip after they were asked for. */
async function afterFirstBytes(act: (one: InFlight, other: InFlight, bring: (fetch: InFlight) => void, pass: (ms: number) => Promise<void>) => Promise<void>): Promise<void> {
  const clock = new VirtualClock()
  const observers: FetchObserver[] = []
  const source = {
    fetch: (_: unknown, observer: FetchObserver) => {
      observers.push(observer)
      return { cancel: () => {}, pause: () => {}, resume: () => {} }
    },
  }
  const limits = { firstByteMs: 1e9, betweenBytesMs: 1e9 }
  const events = { onBytes: () => {}, onEnd: () => {}, onStall: () => {} }
  const fetches = [0, 1].map((id) => {
    const known = { sizeBytes: 2e6, validator: { etag: '"film"', lastModified: undefined } }
    return new InFlight(id, { source, clock }, { start: id * 1e6, end: (id + 1) * 1e6, known }, limits, events)
  })
  const bring = (fetch: InFlight): void => observers[fetch.id]!.onBytes(fetch.start, Buffer.alloc(1000))
  const done = (async () => {
    await clock.sleep(ROUND_TRIP_MS)
    for (const fetch of fetches) bring(fetch)
    await act(fetches[0]!, fetches[1]!, bring, async (ms) => await clock.sleep(ms))
    for (const fetch of fetches) fetch.cancel()
  })()
  await clock.run(() => {})
  await done
}

test('a fetch of which nothing comes for three of its round trips, while another one goes on, is behind', async () => {
  await afterFirstBytes(async (silent, going, bring, pass) => {
    let passedMs = 0
    do {
      await pass(10)
      bring(going)
      passedMs += 10
    } while (!silent.isBehind(going) && passedMs < 1_000)
    assert.ok(passedMs > BEHIND_MS && passedMs <= BEHIND_MS + 2 * ROUND_TRIP_MS, `after ${passedMs} ms`)
    assert.ok(!going.isBehind(silent))
    bring(silent)
    assert.ok(!silent.isBehind(going), 'it goes on')
  })
})

test('after a pause of this process nobody is behind: all bytes come at once, those of one connection first', async () => {
  await afterFirstBytes(async (last, first, bring, pass) => {
    await pass(10 * BEHIND_MS)
    for (const ms of [0, 1, 10, 20]) {
      await pass(ms)
      bring(first)
      assert.ok(!last.isBehind(first))
    }
  })
})

test('who was not listened to is not behind when that ends', async () => {
  await afterFirstBytes(async (paused, going, bring, pass) => {
    paused.pause()
    for (let i = 0; i < 2; i++) {
      await pass(BEHIND_MS)
      bring(going)
      assert.ok(!paused.isBehind(going))
    }
    paused.resume()
    for (let passedMs = 0; passedMs < BEHIND_MS; passedMs += 20) {
      await pass(20)
      bring(going)
      assert.ok(!paused.isBehind(going), `after ${passedMs} ms`)
    }
  })
})
