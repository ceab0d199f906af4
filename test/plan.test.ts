/** The plan and a reader's demand: properties over random facts, and the decisions that matter by name. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'

import { intersect, RangeSet, type Range } from '../src/bytes/ranges.ts'
import { PathEstimate } from '../src/origin/path-estimate.ts'
import { MAX_WINDOW_BYTES } from '../src/origin/send-window.ts'
import { demandAt, leadStartOf, moveDemand, nextFilling, NOT_FILLING, stepBack } from '../src/schedule/demand.ts'
import { planLimits } from '../src/schedule/limits.ts'
import { plan, planSequential, type Action, type PlanFetch, type PlanLimits, type PlanReader, type PlanState } from '../src/schedule/plan.ts'
import { seedOfRun } from './support/random.ts'

const KIB = 1024
const MIB = 1024 * KIB
const SIZE = 64 * MIB
/** Eight connections that idled. */
const COLD = Array<number>(8).fill(13 * KIB)
const LIMITS: PlanLimits = { maxFetches: 8, yieldCount: 0, isMultiplexed: false, linkBytes: 3 * 512 * KIB, readaheadPieceBytes: 512 * KIB, drainBytes: 64 * KIB, readyWindowsBytes: COLD, connectingConnections: 0, bandwidthDelayBytes: 600 * KIB }

function reader(position: number, facts: Partial<PlanReader> = {}): PlanReader {
  return { id: 1, kind: 'play', position, windowStart: position, windowEnd: Math.min(position + MIB, SIZE), consumedBytes: 0, isWaiting: true, isOverdue: false, isPassing: false, isFilling: true, ...facts }
}

function state(facts: Partial<PlanState>): PlanState {
  return { arrived: new RangeSet(), readers: [], inFlight: [], limits: LIMITS, ...facts }
}

const starts = (actions: readonly Action[]): Range[] => actions.filter((action) => action.type === 'fetch')
const cancels = (actions: readonly Action[]): number[] =>
  actions.flatMap((action) => (action.type === 'cancel' ? [action.fetchId] : []))

test('without readers nothing is fetched, and what runs is cancelled', () => {
  assert.deepEqual(plan(state({ inFlight: [{ id: 7, start: 0, end: MIB }] })), [{ type: 'cancel', fetchId: 7 }])
})

test('a small rest without a reader is drained: its connection is worth more', () => {
  assert.deepEqual(plan(state({ inFlight: [{ id: 7, start: 0, end: 10 * KIB }] })), [{ type: 'drain', fetchId: 7 }])
})

test('a seek during readahead drains its pieces, though the rate was measured too low; much longer ones it cancels', () => {
  const path = new PathEstimate({ rttMs: 60, bytesPerMs: 8_500, roundTripsAsked: 1.45 })
  const connections = { windowsBytes: [], connectingCount: 0, limit: 8, yieldCount: 0, isPaused: false, isMultiplexed: false }
  const limits = planLimits({ path, connections, maxFetches: 8, inFlightCount: 8 })
  const actionsOf = (pieceBytes: number): string[] => {
    const inFlight = Array.from({ length: 8 }, (_, i) => ({ id: i, start: i * pieceBytes, end: (i + 1) * pieceBytes }))
    return plan(state({ readers: [reader(32 * MIB)], inFlight, limits })).slice(0, 8).map(({ type }) => type)
  }
  assert.deepEqual(actionsOf(limits.readaheadPieceBytes), Array(8).fill('drain'))
  assert.deepEqual(actionsOf(3 * limits.readaheadPieceBytes), Array(8).fill('cancel'))
})

test('a seek is striped over all connections in pieces of a first window, in order', () => {
  const actions = plan(state({ readers: [reader(10 * MIB)] }))
  assert.equal(actions.length, 8)
  assert.deepEqual(starts(actions)[0], { type: 'fetch', start: 10 * MIB, end: 10 * MIB + 13 * KIB, isUrgent: true })
  assert.equal(starts(actions).at(-1)!.end, 10 * MIB + 8 * 13 * KIB)
})

test('over one connection for all, a seek is not striped: its pieces are as long as the stripes', () => {
  const striped = starts(plan(state({ readers: [reader(10 * MIB)] })))
  const whole = starts(plan(state({ readers: [reader(10 * MIB)], limits: { ...LIMITS, isMultiplexed: true } })))
  assert.deepEqual(whole[0], { ...striped[0], end: striped.at(-1)!.end })
})

test('a piece of a seek is what arrives in one round trip on its connection, at most one of readahead', () => {
  const limits = { ...LIMITS, readyWindowsBytes: [2 * MIB, 100 * KIB, 13 * KIB], bandwidthDelayBytes: 2 * MIB }
  const lengths = starts(plan(state({ readers: [reader(10 * MIB)], limits }))).map((piece) => piece.end - piece.start)
  assert.deepEqual(lengths.slice(0, 3), [512 * KIB, 100 * KIB, 13 * KIB])
})

test('a piece of a seek waits for a connection, not for a handshake; the byte that is waited for does not', () => {
  const started = (limits: Partial<PlanLimits>): number =>
    starts(plan(state({ readers: [reader(10 * MIB)], limits: { ...LIMITS, ...limits } }))).length
  assert.equal(started({ readyWindowsBytes: COLD.slice(3), connectingConnections: 3 }), 5)
  assert.equal(started({ readyWindowsBytes: [], connectingConnections: 8 }), 1)
  assert.equal(started({ readyWindowsBytes: [], connectingConnections: 0 }), 8, 'nothing is under way: each makes its own')
})

test('while seeks follow one another fast, a reader is fetched what its seek needs, and beyond it only what it waits for, in whole pieces', () => {
  const urgentBytes = 360 * KIB
  const wanted = (position: number, isWaiting: boolean, isPassing = true): Range[] => {
    const arrived = new RangeSet()
    arrived.add(10 * MIB, position)
    const passing = reader(position, { consumedBytes: position - 10 * MIB, isWaiting, isPassing, windowEnd: 20 * MIB })
    return starts(plan(state({ readers: [passing], arrived, limits: { ...LIMITS, readyWindowsBytes: Array<number>(8).fill(64 * KIB) } })))
  }
  const end = (ranges: readonly Range[]): number | undefined => ranges.at(-1)?.end
  assert.equal(end(wanted(10 * MIB, true)), 10 * MIB + urgentBytes)
  assert.equal(end(wanted(10 * MIB + 100 * KIB, true)), 10 * MIB + urgentBytes, 'nothing is added while it waits for that')
  assert.deepEqual(wanted(10 * MIB + urgentBytes, false), [], 'it may be gone in a moment')
  assert.ok(wanted(10 * MIB + urgentBytes, false, false).length > 0)
  const [beyond, ...more] = wanted(10 * MIB + urgentBytes, true)
  assert.deepEqual([beyond!.start, beyond!.end, more.length], [10 * MIB + urgentBytes, 10 * MIB + urgentBytes + 39 * KIB, 0])
  const [rest] = wanted(beyond!.end - 1, true)
  assert.equal(rest!.end, beyond!.end, 'what it takes of that piece adds nothing')
})

test('beyond what a passing seek needs, a file that is filled has its own turn, and no urgency', () => {
  const position = 10 * MIB + 100 * KIB
  const arrived = new RangeSet()
  arrived.add(0, 10 * MIB + 360 * KIB)
  const passing = reader(position, { consumedBytes: 100 * KIB, isWaiting: false, isPassing: true, windowEnd: 20 * MIB })
  const fill = reader(0, { id: 2, kind: 'fill', windowEnd: SIZE, isWaiting: false })
  const fetches = plan(state({ readers: [passing, fill], arrived })).filter((action) => action.type === 'fetch')
  assert.equal(fetches[0]?.start, 10 * MIB + 360 * KIB)
  assert.ok(fetches.every(({ isUrgent }) => !isUrgent))
})

test('a seek takes the connections of the old position', () => {
  const inFlight = [1, 2, 3].map((id) => ({ id, start: id * MIB, end: id * MIB + 512 * KIB }))
  const actions = plan(state({ readers: [reader(40 * MIB)], inFlight }))
  assert.deepEqual(cancels(actions), [1, 2, 3])
  assert.equal(starts(actions).length, 8)
})

test('an urgent byte takes the place of the farthest readahead when all connections are busy', () => {
  const far = Array.from({ length: 8 }, (_, i) => ({ id: i, start: (20 + i) * MIB, end: (20 + i) * MIB + 512 * KIB }))
  const readers = [reader(40 * MIB), reader(10 * MIB, { id: 2, windowEnd: 60 * MIB, consumedBytes: 8 * MIB, isWaiting: false })]
  const actions = plan(state({ readers, inFlight: far }))
  assert.equal(cancels(actions)[0], 7)
  assert.equal(starts(actions)[0]!.start, 40 * MIB)
})

test('a reader that waits takes a connection from what others are about to need', () => {
  const tail = reader(60 * MIB, { id: 2 })
  const inFlight = Array.from({ length: 8 }, (_, i) => ({ id: i, start: 60 * MIB + i * 128 * KIB, end: 60 * MIB + (i + 1) * 128 * KIB }))
  const actions = plan(state({ readers: [reader(20 * MIB), tail], inFlight, limits: { ...LIMITS, readyWindowsBytes: [] } }))
  assert.deepEqual(cancels(actions), [7])
  assert.deepEqual(starts(actions).map((piece) => piece.start), [20 * MIB])
})

test('a connection that is about to be free is waited for, but not for long', () => {
  const inFlight = Array.from({ length: 8 }, (_, i) => ({ id: i, start: 60 * MIB + i * 32 * KIB, end: 60 * MIB + (i + 1) * 32 * KIB }))
  const facts = { inFlight, limits: { ...LIMITS, readyWindowsBytes: [] } }
  assert.deepEqual(plan(state({ ...facts, readers: [reader(20 * MIB), reader(60 * MIB, { id: 2 })] })), [])
  const overdue = plan(state({ ...facts, readers: [reader(20 * MIB, { isOverdue: true }), reader(60 * MIB, { id: 2 })] }))
  assert.deepEqual(cancels(overdue), [7])
})

test('readahead asks for as much at a time as the link holds', () => {
  const going = reader(0, { consumedBytes: 8 * MIB, windowEnd: 16 * MIB, isWaiting: false })
  const limits = { ...LIMITS, readyWindowsBytes: Array<number>(8).fill(MAX_WINDOW_BYTES) }
  const actions = plan(state({ arrived: RangeSet.of({ start: 0, end: MIB }), readers: [going], limits }))
  assert.equal(starts(actions).length, 3)
  assert.deepEqual(starts(actions)[0], { type: 'fetch', start: MIB, end: MIB + 512 * KIB, isUrgent: false })
})

test('over connections that idled, readahead too comes in pieces of one round trip: who has come to a hole does not wait for several', () => {
  const atHole = reader(MIB, { consumedBytes: 8 * MIB, windowEnd: 16 * MIB })
  const arrived = RangeSet.of({ start: 0, end: MIB })
  const lengths = (limits: Partial<PlanLimits>): number[] =>
    starts(plan(state({ arrived, readers: [atHole], limits: { ...LIMITS, ...limits } }))).map((piece) => piece.end - piece.start)
  assert.deepEqual(lengths({}), Array<number>(8).fill(13 * KIB))
  assert.deepEqual(lengths({ readyWindowsBytes: [MAX_WINDOW_BYTES, 39 * KIB] }).slice(0, 2), [512 * KIB, 39 * KIB])
  assert.equal(lengths({ isMultiplexed: true })[0], 512 * KIB, 'one connection has one window, however many pieces')
})

test('filling yields to reading', () => {
  const fill = reader(0, { id: 2, kind: 'fill', windowEnd: SIZE, isWaiting: true })
  const going = reader(30 * MIB, { consumedBytes: 8 * MIB, windowEnd: 40 * MIB, isWaiting: false })
  const first = starts(plan(state({ readers: [fill, going] })))
  assert.ok(first.slice(1).every((piece) => piece.start >= 30 * MIB), 'after the byte that the fill waits for, the player comes first')
})

const aRange = fc.tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 4 * MIB })).map(([start, length]) => ({
  start,
  end: Math.min(start + length, SIZE),
}))
const aReader = fc.record({
  position: fc.nat(SIZE - 1),
  leadBytes: fc.oneof(fc.constant(0), fc.nat(256 * KIB)),
  windowBytes: fc.integer({ min: 1, max: 32 * MIB }),
  consumedBytes: fc.oneof(fc.constant(0), fc.nat(32 * MIB)),
  isWaiting: fc.boolean(),
  isOverdue: fc.boolean(),
  isPassing: fc.boolean(),
  isFilling: fc.constant(true),
  kind: fc.constantFrom('play' as const, 'fill' as const),
})
const aState = fc
  .record({
    arrived: fc.array(aRange, { maxLength: 12 }),
    readers: fc.array(aReader, { maxLength: 4 }),
    inFlight: fc.array(aRange, { maxLength: 10 }),
    maxFetches: fc.integer({ min: 1, max: 16 }),
    yieldCount: fc.oneof(fc.constant(0), fc.nat(4)),
    readyWindowsBytes: fc.array(fc.integer({ min: 13 * KIB, max: 256 * KIB }), { maxLength: 16 }),
    connectingConnections: fc.nat(16),
    bandwidthDelayBytes: fc.double({ min: 1000, max: 4 * MIB, noNaN: true }),
  })
  .map((facts): PlanState => {
    const arrived = RangeSet.of(...facts.arrived)
    const taken = RangeSet.of(...facts.arrived)
    const inFlight: PlanFetch[] = []
    for (const range of facts.inFlight) {
      const free = taken.missing(range.start, range.end)[0]
      if (free === undefined) continue
      inFlight.push({ id: inFlight.length, ...free })
      taken.add(free.start, free.end)
    }
    return {
      arrived,
      inFlight,
      readers: facts.readers.map((r, id) => ({ ...r, id, windowStart: Math.max(0, r.position - r.leadBytes), windowEnd: Math.min(r.position + r.windowBytes, SIZE) })),
      limits: {
        ...LIMITS,
        maxFetches: facts.maxFetches,
        yieldCount: Math.max(0, Math.min(facts.yieldCount, inFlight.length - facts.maxFetches)),
        linkBytes: 3 * 512 * KIB,
        readyWindowsBytes: facts.readyWindowsBytes,
        connectingConnections: facts.connectingConnections,
        bandwidthDelayBytes: facts.bandwidthDelayBytes,
      },
    }
  })

test('no byte is fetched twice, limits hold, and whoever waits is served', () => {
  fc.assert(
    fc.property(aState, (facts) => {
      const actions = plan(facts)
      const cancelled = new Set(cancels(actions))
      const running = facts.inFlight.filter((fetch) => !cancelled.has(fetch.id))
      const taken = new RangeSet()
      for (const range of facts.arrived) taken.add(range.start, range.end)
      for (const fetch of running) taken.add(fetch.start, fetch.end)
      for (const piece of starts(actions)) {
        assert.ok(Number.isInteger(piece.start) && Number.isInteger(piece.end) && piece.start < piece.end && piece.end <= SIZE)
        assert.deepEqual(taken.missing(piece.start, piece.end), [{ start: piece.start, end: piece.end }], 'fetched once')
        taken.add(piece.start, piece.end)
        assert.ok(facts.readers.some((r) => intersect(piece, { start: r.windowStart, end: r.windowEnd }) !== undefined), 'wanted by somebody')
      }
      assert.ok(running.length + starts(actions).length <= Math.max(facts.limits.maxFetches, facts.inFlight.length))
      const soonDone = running.filter((fetch) => fetch.end - fetch.start <= facts.limits.drainBytes)
      assert.ok(running.length <= facts.inFlight.length - facts.limits.yieldCount)
      const order = actions.flatMap((action) => (action.type === 'fetch' ? [action.isUrgent] : []))
      assert.deepEqual(order, [...order].sort((a, b) => Number(b) - Number(a)), 'urgent first')
      const waiting = facts.readers.filter((r) => r.isWaiting && r.kind === 'play' && r.position < r.windowEnd)
      const isServed = (r: PlanReader): boolean => taken.has(r.position) || (soonDone.length > 0 && !r.isOverdue)
      if (waiting.length <= facts.limits.maxFetches) assert.ok(waiting.every(isServed), 'whoever waits gets on')
    }),
    { numRuns: 10_000, seed: seedOfRun() },
  )
})

test('a plan carried out is a plan done: asked again it wants nothing new at once', () => {
  fc.assert(
    fc.property(aState, (facts) => {
      const actions = plan(facts)
      const cancelled = new Set(cancels(actions))
      const inFlight = facts.inFlight.filter((fetch) => !cancelled.has(fetch.id))
      let id = 1000
      for (const piece of starts(actions)) inFlight.push({ id: id++, start: piece.start, end: piece.end })
      const again = plan({ ...facts, inFlight, limits: { ...facts.limits, yieldCount: 0 } })
      assert.deepEqual(cancels(again).filter((fetchId) => fetchId >= 1000), [], 'what was just started is not cancelled')
    }),
    { numRuns: 5_000, seed: seedOfRun() },
  )
})

/** All is there. */
const ALL = RangeSet.of({ start: 0, end: 1000 * MIB })
const WINDOW = { initialBytes: MIB, maxBytes: 64 * MIB, sizeBytes: 1000 * MIB }

test('where a file’s readers step back after a seek, what is there is asked for with the seek', () => {
  const back = demandAt(10 * MIB, WINDOW)
  assert.equal(stepBack(back, 10 * MIB - 100 * KIB), 100 * KIB)
  assert.equal(stepBack(back, 10 * MIB - MIB), 0, 'a seek')
  assert.equal(leadStartOf(demandAt(40 * MIB, WINDOW), 100 * KIB), 40 * MIB - 100 * KIB)
  assert.equal(leadStartOf(moveDemand(demandAt(40 * MIB, WINDOW), 41 * MIB, WINDOW, ALL), 100 * KIB), 41 * MIB, 'later no more')
  const actions = plan(state({ readers: [reader(40 * MIB, { windowStart: 40 * MIB - 20 * KIB })] }))
  assert.deepEqual(starts(actions).map((piece) => (piece.start - 40 * MIB) / KIB), [0, 13, -20, -7, 26, 39, 52, 65])
})

test('a window doubles while its reader goes on, and starts over at a seek', () => {
  let demand = demandAt(0, WINDOW)
  assert.equal(demand.windowEnd, MIB)
  for (let position = 0; position <= 8 * MIB; position += 512 * KIB) demand = moveDemand(demand, position, WINDOW, ALL)
  assert.equal(demand.windowEnd - demand.position, 16 * MIB)
  demand = moveDemand(demand, 500 * MIB, WINDOW, ALL)
  assert.deepEqual([demand.runStart, demand.consumedBytes, demand.windowEnd], [500 * MIB, 0, 501 * MIB])
})

test('a skip over what is not there is a seek, however near; over what is there it goes on', () => {
  const demand = moveDemand(demandAt(10 * MIB, WINDOW), 11 * MIB, WINDOW, ALL)
  const arrived = RangeSet.of({ start: 10 * MIB, end: 11 * MIB + 512 * KIB })
  const runStartAt = (position: number): number => moveDemand(demand, position, WINDOW, arrived).runStart
  assert.deepEqual([runStartAt(11 * MIB + 512 * KIB), runStartAt(12 * MIB)], [10 * MIB, 12 * MIB])
  const evicted = RangeSet.of({ start: 10 * MIB + 512 * KIB, end: 11 * MIB })
  assert.equal(moveDemand(demand, 10 * MIB + 64 * KIB, WINDOW, evicted).runStart, 10 * MIB + 64 * KIB)
})

test('a small step back is no seek', () => {
  let demand = demandAt(10 * MIB, WINDOW)
  demand = moveDemand(demand, 11 * MIB, WINDOW, ALL)
  demand = moveDemand(demand, 10 * MIB - 4 * KIB, WINDOW, ALL)
  assert.equal(demand.runStart, 10 * MIB)
})

test('an origin without ranges is fetched once, from the start, and only again for what is gone', () => {
  const facts = { arrived: new RangeSet(), readers: [reader(0)], inFlight: [], sizeBytes: SIZE, maxAheadBytes: Number.POSITIVE_INFINITY }
  assert.deepEqual(planSequential(facts), [{ type: 'fetch', start: 0, end: SIZE, isUrgent: true }])
  const running = [{ id: 3, start: 20 * MIB, end: SIZE }]
  const seeking = { ...facts, inFlight: running, readers: [reader(30 * MIB)] }
  assert.deepEqual(planSequential(seeking), [{ type: 'resume', fetchId: 3 }], 'a seek ahead waits for it')
  const gone = { ...facts, inFlight: running, readers: [reader(5 * MIB)] }
  assert.deepEqual(cancels(planSequential(gone) as Action[]), [3])
  const ahead = { ...facts, inFlight: running, arrived: RangeSet.of({ start: 0, end: 20 * MIB }), maxAheadBytes: 4 * MIB }
  assert.deepEqual(planSequential({ ...ahead, readers: [reader(0, { isWaiting: false })] }), [{ type: 'pause', fetchId: 3 }])
})

test('a window is filled in runs: begun when a hole is near, until there is none', () => {
  const demand = moveDemand(moveDemand(demandAt(10 * MIB, WINDOW), 11 * MIB, WINDOW, ALL), 12 * MIB, WINDOW, ALL)
  assert.equal(demand.windowEnd, 16 * MIB)
  const waited = { hasWaited: true, isFilling: false }
  const fills = (holeBytes: number, before: { hasWaited: boolean; isFilling: boolean }, isWaiting = false): boolean =>
    nextFilling(demand, 12 * MIB + holeBytes, before, isWaiting).isFilling
  assert.ok(fills(0, NOT_FILLING, true), 'whoever waits')
  assert.ok(fills(1900 * KIB, waited), 'a hole in the nearer half')
  assert.ok(!fills(2100 * KIB, waited), 'a hole in the farther half can wait')
  assert.ok(fills(2100 * KIB, { hasWaited: true, isFilling: true }), 'what was begun is finished')
  assert.ok(!fills(4 * MIB, { hasWaited: true, isFilling: true }), 'no hole')
  assert.ok(!fills(1900 * KIB, NOT_FILLING), 'who lives on the cache is not fetched for until a hole is very near')
  assert.ok(fills(60 * KIB, NOT_FILLING))
})

test('the first window is filled for whoever stays, and stands still while a socket takes of it', () => {
  const limits = { initialBytes: 8 * MIB, maxBytes: 64 * MIB, sizeBytes: 200 * MIB }
  const begun = demandAt(10 * MIB, limits)
  assert.ok(!nextFilling(begun, 13 * MIB, NOT_FILLING, false).isFilling, 'a probe')
  const staying = moveDemand(begun, 12 * MIB, limits, ALL)
  assert.equal(staying.windowEnd, begun.windowEnd)
  assert.ok(nextFilling(staying, 13 * MIB, NOT_FILLING, false).isFilling)
  assert.ok(!nextFilling(staying, 15 * MIB, NOT_FILLING, false).isFilling, 'the farther half was perhaps given up half-way')
})

test('what a socket takes in a burst does not bring a hole nearer; a long run does', () => {
  const limits = { initialBytes: 8 * MIB, maxBytes: 64 * MIB, sizeBytes: 200 * MIB }
  const fills = (runBytes: number): boolean => {
    let demand = demandAt(10 * MIB, limits)
    for (let bytes = 0; bytes <= runBytes; bytes += MIB) demand = moveDemand(demand, 10 * MIB + bytes, limits, ALL)
    return nextFilling(demand, 10 * MIB + runBytes + MIB, NOT_FILLING, false).isFilling
  }
  assert.ok(!fills(10 * MIB))
  assert.ok(fills(24 * MIB))
})
