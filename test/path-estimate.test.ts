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
  /** This process stands still again and again, as others have the processor; it knows of it. */
  readonly pauses?: Pauses
  /** The link stands still again and again, as a radio link does, and is as fast afterwards. */
  readonly linkPauses?: Pauses
}

interface Pauses {
  readonly everyMs: number
  readonly lastMs: number
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
  const come: { readonly transfer: Transfer; readonly bytes: number }[] = [] // and not yet read
  let [queueBytes, arrivedBytes, queueSumMs] = [0, 0, 0]
  const random = mulberry32(1)
  for (let nowMs = 0; nowMs < durationMs; nowMs++) {
    const [isPaused, wasPaused] = [isWithin(path.pauses, nowMs), isWithin(path.pauses, nowMs - 1)]
    const { askedBytes, pieceBytes } = estimate.readahead(path.limit)
    let comingBytes = [...transfers].reduce((sum, { unarrivedBytes }) => sum + unarrivedBytes, 0)
    while (!isPaused && comingBytes < askedBytes && transfers.size < path.limit) {
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
    let capacityBytes = isWithin(path.linkPauses, nowMs) ? 0 : path.linkBytesPerMs
    while (capacityBytes > 0 && queue.length > 0) {
      const [head] = queue
      const bytes = Math.min(capacityBytes, head!.bytes)
      come.push({ transfer: head!.transfer, bytes })
      head!.bytes -= bytes
      queueBytes -= bytes
      capacityBytes -= bytes
      if (nowMs >= durationMs / 2) arrivedBytes += bytes
      if (head!.bytes <= 0) queue.shift()
    }
    for (const { transfer, bytes } of isPaused ? [] : come.splice(0)) {
      if (!transfer.hasBytes) estimate.onFirstByte(nowMs - transfer.requestedAtMs, true, wasPaused)
      transfer.hasBytes = true
      estimate.onBytes(bytes, fromMs + nowMs)
      transfer.unarrivedBytes -= bytes
      if (transfer.unarrivedBytes <= 1e-6) transfers.delete(transfer)
    }
    if (nowMs >= durationMs / 2) queueSumMs += queueBytes / path.linkBytesPerMs
  }
  return { bytesPerMs: arrivedBytes / (durationMs / 2), queueMs: queueSumMs / (durationMs / 2) }
}

function isWithin(pauses: Pauses | undefined, nowMs: number): boolean {
  return pauses !== undefined && nowMs % pauses.everyMs < pauses.lastMs
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

test('an origin that takes its time, as long as the round trip and more, is no queue', () => {
  const near = { ...HOME, rttMs: 10, linkBytesPerMs: 37_500 }
  for (const path of [HOME, near]) {
    for (const thinkMs of [40, 60, 100, 200]) {
      const { bytesPerMs } = readAhead(new PathEstimate(), { ...path, thinkMs }, 30_000)
      assert.ok(bytesPerMs >= 0.75 * path.linkBytesPerMs, `${bytesPerMs} of ${path.linkBytesPerMs} bytes/ms, thinking up to ${thinkMs} ms`)
    }
  }
})

test('a link that stands still now and then, and a process that does, are no slower link', () => {
  const far = { ...HOME, rttMs: 200, linkBytesPerMs: 1_875 }
  for (const path of [HOME, far]) {
    for (const pauses of [{ everyMs: 300, lastMs: 60 }, { everyMs: 200, lastMs: 80 }, { everyMs: 700, lastMs: 120 }, { everyMs: 400, lastMs: 150 }]) {
      const moving = path.linkBytesPerMs * (1 - pauses.lastMs / pauses.everyMs)
      const ofLink = readAhead(new PathEstimate(), { ...path, linkPauses: pauses }, 30_000)
      assert.ok(ofLink.bytesPerMs >= 0.8 * moving, `${ofLink.bytesPerMs} of ${moving} bytes/ms, the link pausing for ${pauses.lastMs} ms`)
      const ofProcess = readAhead(new PathEstimate(), { ...path, pauses }, 30_000)
      assert.ok(ofProcess.bytesPerMs >= 0.85 * path.linkBytesPerMs, `${ofProcess.bytesPerMs} bytes/ms, pausing for ${pauses.lastMs} ms`)
    }
  }
})

test('a process that always stands still asks for little more than fills the link: no queue shows then', () => {
  const estimate = new PathEstimate({ rttMs: 60, bytesPerMs: 10_000, roundTripsAsked: 1 })
  for (let nowMs = 0; nowMs < 10_000; nowMs += 10) {
    estimate.onReadahead(true)
    estimate.onFirstByte(500, true, true)
    estimate.onBytes(100_000, nowMs)
  }
  const { askedBytes } = estimate
  assert.ok(askedBytes > 60 * 10_000 && askedBytes < 1.4 * 60 * 10_000, `${askedBytes} bytes`)
})

test('a few milliseconds more or less are no jitter: what they add to a queue would be every seek’s', () => {
  const estimate = new PathEstimate()
  readAhead(estimate, { ...HOME, thinkMs: 10 }, 30_000)
  assert.equal(estimate.facts!.jitterMs, 0)
})

test('what an origin takes is measured while no queue of ours is in between, and anew: one that thought is not waited for', () => {
  const estimate = new PathEstimate()
  readAhead(estimate, { ...HOME, thinkMs: 100 }, 15_000)
  const { jitterMs = 0 } = estimate.facts!
  assert.ok(jitterMs > 25 && jitterMs < 75, `${jitterMs} ms`)
  readAhead(estimate, HOME, 50_000, 15_000)
  assert.ok(estimate.facts!.jitterMs! < 10, `${estimate.facts!.jitterMs} ms`)
  const { queueMs } = readAhead(estimate, HOME, 10_000, 65_000)
  assert.ok(queueMs <= 0.5 * HOME.rttMs + 10, `a queue of ${queueMs} ms`)
})

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

test('connections that come in bursts, some behind others, do not make more asked for than fills the link', () => {
  // First bytes over eight connections after a seek, 80 Mbit/s and 60 ms: their windows grow by themselves.
  const bursts = [61, 61, 62, 62, 69, 71, 73, 74, 75, 76, 79, 79]
  const estimate = new PathEstimate({ rttMs: 60, bytesPerMs: 10_000, roundTripsAsked: 1 })
  for (let nowMs = 0; nowMs < 1_500; nowMs += 10) {
    estimate.onReadahead(true)
    estimate.onBytes(80_000, nowMs)
    estimate.onFirstByte(bursts[(nowMs / 10) % bursts.length]!, true)
  }
  assert.ok(estimate.askedBytes <= 1.3 * 60 * 10_000, `${estimate.askedBytes} bytes`)
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
