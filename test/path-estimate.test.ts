/** Readahead finds its own size: on simulated paths, in steps of 1 ms of a made time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { PathEstimate } from '../src/origin/path-estimate.ts'

interface Path {
  readonly rttMs: number
  /** Of all connections together; what comes faster stands in a queue. */
  readonly linkBytesPerMs: number
  readonly connectionBytesPerMs: number
  readonly limit: number
  /** What the origin itself takes for its first byte, ms, at most. */
  readonly thinkMs?: number
}

interface Transfer {
  readonly requestedAtMs: number
  readonly thinkMs: number
  hasBytes: boolean
  unsentBytes: number
  unarrivedBytes: number
}

/** Reads ahead for so long. @returns the rate of the last half, and the mean queue of it */
function readAhead(estimate: PathEstimate, path: Path, durationMs: number, fromMs = 0): { bytesPerMs: number; queueMs: number } {
  const transfers = new Set<Transfer>()
  const queue: { readonly transfer: Transfer; bytes: number }[] = []
  let [queueBytes, arrivedBytes, queueSumMs] = [0, 0, 0]
  const random = mulberry32(1)
  for (let nowMs = 0; nowMs < durationMs; nowMs++) {
    const { askedBytes, pieceBytes } = estimate.readahead(path.limit)
    let comingBytes = [...transfers].reduce((sum, { unarrivedBytes }) => sum + unarrivedBytes, 0)
    while (comingBytes < askedBytes && transfers.size < path.limit) {
      const thinkMs = random() * (path.thinkMs ?? 0)
      transfers.add({ requestedAtMs: nowMs, thinkMs, hasBytes: false, unsentBytes: pieceBytes, unarrivedBytes: pieceBytes })
      comingBytes += pieceBytes
    }
    estimate.onReadahead(true)
    // The origin sends into the queue in front of the link, half as fast again as the link; the reader sees what leaves it.
    const sending = [...transfers].filter((t) => nowMs >= t.requestedAtMs + path.rttMs + t.thinkMs && t.unsentBytes > 0)
    for (const transfer of sending) {
      const bytes = Math.min(path.connectionBytesPerMs, (path.linkBytesPerMs * 1.5) / sending.length, transfer.unsentBytes)
      transfer.unsentBytes -= bytes
      queueBytes += bytes
      queue.push({ transfer, bytes })
    }
    let capacityBytes = path.linkBytesPerMs
    while (capacityBytes > 0 && queue.length > 0) {
      const [head] = queue
      const bytes = Math.min(capacityBytes, head!.bytes)
      if (!head!.transfer.hasBytes) estimate.onFirstByte(nowMs - head!.transfer.requestedAtMs, true)
      head!.transfer.hasBytes = true
      estimate.onBytes(bytes, fromMs + nowMs)
      head!.bytes -= bytes
      head!.transfer.unarrivedBytes -= bytes
      queueBytes -= bytes
      capacityBytes -= bytes
      if (nowMs >= durationMs / 2) arrivedBytes += bytes
      if (head!.bytes <= 0) queue.shift()
      if (head!.transfer.unarrivedBytes <= 1e-6) transfers.delete(head!.transfer)
    }
    if (nowMs >= durationMs / 2) queueSumMs += queueBytes / path.linkBytesPerMs
  }
  return { bytesPerMs: arrivedBytes / (durationMs / 2), queueMs: queueSumMs / (durationMs / 2) }
}

function mulberry32(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const HOME = { rttMs: 60, linkBytesPerMs: 10_000, connectionBytesPerMs: Number.POSITIVE_INFINITY, limit: 8 }

for (const [name, path] of Object.entries({
  'a home link': HOME,
  'a fast one': { ...HOME, rttMs: 10, linkBytesPerMs: 62_500 },
  'a far one': { ...HOME, rttMs: 200, linkBytesPerMs: 1_875 },
  'an origin that thinks': { ...HOME, thinkMs: 20 },
})) {
  test(`readahead fills ${name} and leaves its queue short`, () => {
    const estimate = new PathEstimate()
    const { bytesPerMs, queueMs } = readAhead(estimate, path, 30_000)
    assert.ok(bytesPerMs >= 0.98 * path.linkBytesPerMs, `${bytesPerMs} of ${path.linkBytesPerMs} bytes/ms`)
    assert.ok(queueMs <= 0.5 * path.rttMs + 10, `a queue of ${queueMs} ms`)
  })
}

test('an origin that limits each connection gets as many as help, and 90 % of what they can bring', () => {
  for (const rttMs of [10, 60]) {
    const path = { rttMs, linkBytesPerMs: 62_500, connectionBytesPerMs: 2_000, limit: 8 }
    const estimate = new PathEstimate()
    const { bytesPerMs } = readAhead(estimate, path, 30_000)
    assert.ok(bytesPerMs >= 0.9 * 8 * 2_000, `${bytesPerMs} bytes/ms at ${rttMs} ms`)
  }
})

test('what was learned is where the next start begins', () => {
  const path = { rttMs: 60, linkBytesPerMs: 62_500, connectionBytesPerMs: 2_000, limit: 8 }
  const learned = new PathEstimate()
  readAhead(learned, path, 20_000)
  const again = new PathEstimate(learned.facts)
  assert.deepEqual(again.readahead(8), learned.readahead(8))
})

test('a path that got slower is believed', () => {
  const estimate = new PathEstimate()
  readAhead(estimate, HOME, 10_000)
  readAhead(estimate, { ...HOME, linkBytesPerMs: 1_000 }, 20_000, 10_000)
  assert.ok(estimate.facts!.bytesPerMs < 2_000, `${estimate.facts!.bytesPerMs} bytes/ms`)
})

test('what connections in slow start bring does not lower what is known of the link: their first bytes meet no queue', () => {
  const known = { rttMs: 60, bytesPerMs: 10_000, roundTripsAsked: 1.25 }
  const rateAfter = (firstByteMs: number): number => {
    const estimate = new PathEstimate(known)
    for (let nowMs = 0; nowMs < 4_000; nowMs += 10) {
      estimate.onReadahead(true)
      estimate.onBytes(40_000, nowMs)
      if (nowMs % 50 === 0) estimate.onFirstByte(firstByteMs, true)
    }
    return estimate.facts!.bytesPerMs
  }
  assert.equal(rateAfter(62), known.bytesPerMs)
  assert.ok(rateAfter(110) < 4_500, 'behind a queue it is the link')
})

test('a way that got longer is believed', () => {
  const estimate = new PathEstimate()
  readAhead(estimate, HOME, 10_000)
  const longer = { ...HOME, rttMs: 300 }
  readAhead(estimate, longer, 20_000, 10_000)
  const { bytesPerMs } = readAhead(estimate, longer, 20_000, 30_000)
  assert.ok(bytesPerMs >= 0.9 * longer.linkBytesPerMs, `${bytesPerMs} bytes/ms, ${estimate.facts!.rttMs} ms`)
})

test('what slow start brought first does not hold readahead back; what a queue held back is the link', () => {
  const askedAfter = (bytesPerMs: number, firstByteMs: number): number => {
    const estimate = new PathEstimate()
    estimate.onReadahead(true)
    estimate.onFirstByte(60, true)
    for (let nowMs = 0; nowMs <= 250; nowMs += 10) {
      estimate.onBytes(10 * bytesPerMs, nowMs)
      estimate.onFirstByte(firstByteMs, true)
    }
    return estimate.askedBytes
  }
  const before = new PathEstimate().askedBytes
  assert.ok(askedAfter(2_800, 62) > 0.75 * before && askedAfter(2_800, 62) <= before, `${askedAfter(2_800, 62)} bytes, ${before} before`)
  assert.ok(askedAfter(2_500, 90) < 0.3 * before, `${askedAfter(2_500, 90)} bytes behind a queue`)
  assert.ok(askedAfter(600, 62) <= 200 * 1024, `${askedAfter(600, 62)} bytes at 5 Mbit/s`)
})

test('a new link is full soon, though its player seeks at first; what is asked for is twice that at most', () => {
  // The first bytes of the pieces that opened a film, 80 Mbit/s and 60 ms: eight connections, each with its first window.
  const opening = [65, 66, 72, 75, 75, 77, 77, 77, 79, 80, 82, 84, 85, 86, 87, 90, 90]
  const linkBytesPerMs = 10_000
  const estimate = new PathEstimate()
  let [mostBytes, fullAtMs] = [0, Number.POSITIVE_INFINITY]
  for (let nowMs = 0; nowMs < 4_000; nowMs += 10) {
    const isOpening = nowMs <= 200
    const bytesPerMs = isOpening ? 1_500 : Math.min(estimate.askedBytes / 62, linkBytesPerMs)
    if (bytesPerMs === linkBytesPerMs) fullAtMs = Math.min(fullAtMs, nowMs)
    estimate.onReadahead(!isOpening)
    if (nowMs < 600) estimate.onUrgentFetch()
    estimate.onFirstByte(isOpening ? (opening[nowMs / 10] ?? 75) : Math.max(62, estimate.askedBytes / linkBytesPerMs), true)
    estimate.onBytes(10 * bytesPerMs, nowMs)
    mostBytes = Math.max(mostBytes, estimate.askedBytes)
  }
  assert.ok(fullAtMs <= 1_000, `full after ${fullAtMs} ms`)
  assert.ok(mostBytes <= 2 * 62 * linkBytesPerMs, `${mostBytes} bytes asked for`)
})

test('a seek’s small pieces do not shrink readahead', () => {
  const estimate = new PathEstimate({ rttMs: 60, bytesPerMs: 10_000, roundTripsAsked: 1.5 })
  const before = estimate.readahead(8).pieceBytes
  for (let nowMs = 0; nowMs < 400; nowMs += 10) {
    estimate.onReadahead(true)
    estimate.onUrgentFetch()
    estimate.onBytes(50_000, nowMs)
    estimate.onFirstByte(60, true)
  }
  assert.ok(estimate.readahead(8).pieceBytes >= 0.8 * before)
})
