/**
 * The whole schedule, simulated: its rules over random scenarios (test/support/simulation/watch.ts says which), the scenarios
 * that once broke one, by name, and a storm of seeks.
 */

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { SEEK_BYTES } from '../src/schedule/plan.ts'
import { GATHER_MS } from '../src/schedule/reader.ts'
import { apart } from './support/apart.ts'
import { randomOf, seedOfRun } from './support/random.ts'
import type { checkScenarios } from './support/simulation/check.ts'
import { PlayerSession, simulate, Simulation } from './support/simulation/run.ts'
import { CALM, type ReaderScript, type Scenario, type Step } from './support/simulation/scenario.ts'
import { OTHERS, oneSeek, oneSkip, ROUND_TRIP_BYTES, stormOfSeeks } from './support/simulation/storm.ts'

const KIB = 1024
const SCENARIOS = 10_000
const STORMS = 10
const SEED = seedOfRun()

function player(steps: readonly Step[], facts: Partial<ReaderScript> = {}): ReaderScript {
  return { kind: 'play', startMs: 0, at: 0, steps, ...facts }
}

const read = (lengthBytes: number): Step => ({ kind: 'read', lengthBytes, pieceBytes: 16 * KIB, bytesPerMs: 1e9 })
const seek = (to: number): Step => ({ kind: 'seek', to })
const pause = (durationMs: number): Step => ({ kind: 'pause', durationMs })

/** What once broke a rule, shrunk; each is a test. */
const ONCE_BROKEN: Readonly<Record<string, Partial<Scenario>>> = {
  'connections that break together are one failure, and the next try is at once': {
    sizeBytes: 13_313,
    outages: [{ kind: 'down', fromMs: 1, durationMs: 0 }],
    readers: [player([read(1)])],
  },
  'a short time without an origin does not double the time that a silent one has': {
    sizeBytes: 1,
    link: { ...CALM.link, rttMs: 1 },
    outages: [
      { kind: 'silent', fromMs: 0, durationMs: 15_000 },
      { kind: 'down', fromMs: 0, durationMs: 2_000 },
    ],
    readers: [player([read(1)])],
  },
  'a Retry-After holds, whatever else breaks meanwhile': {
    sizeBytes: 13_313,
    maxRequests: 1,
    refusal: { status: 503, retryAfterSeconds: 1 },
    faults: [[0, { kind: 'status', status: 503, retryAfterSeconds: 0 }]],
    readers: [player([read(1)]), player([pause(0)])],
  },
  'a fetch that is drained ends also while the disk is behind': {
    sizeBytes: 13_313,
    congestions: [{ fromMs: 0, durationMs: 5_000 }],
    readers: [player([seek(0)])],
  },
  'nothing is begun while the disk is behind, and all of it once it has caught up': {
    congestions: [{ fromMs: 100, durationMs: 5_000 }],
    readers: [player([{ kind: 'impatient', lengthBytes: 1024 * KIB, patienceMs: 200 }, seek(500), read(64 * KIB)])],
  },
  'who gives up waiting gives way to those who wait': {
    sizeBytes: 3,
    maxFetches: 1,
    readers: [
      player([{ kind: 'impatient', lengthBytes: 1, patienceMs: 0 }, pause(0), { kind: 'impatient', lengthBytes: 1, patienceMs: 0 }], { at: 500 }),
      player([read(1)]),
    ],
  },
  'with fewer connections than readers that wait, each gets its turn': {
    maxFetches: 1,
    faults: [[0, { kind: 'status', status: 503, retryAfterSeconds: undefined }]],
    readers: [
      player([seek(2), read(245_368)]),
      player([read(1)]),
      player([read(241_178), { kind: 'reopen', afterMs: 0 }, read(21_095), read(1)], { startMs: 1, at: 38 }),
    ],
  },
  'a fill goes on while a seek is expected of a player that has what it needs': {
    link: { ...CALM.link, rttMs: 10 },
    maxFetches: 1,
    outages: [{ kind: 'down', fromMs: 0, durationMs: 0 }],
    readers: [
      player([read(39_936), read(1), seek(37), { kind: 'read', lengthBytes: 21_181, pieceBytes: 16 * KIB, bytesPerMs: 1250 }]),
      player([seek(162), read(1), seek(0)], { kind: 'fill' }),
      player([seek(0)]),
    ],
  },
  'of two that fill over one connection, in small answers, each gets its turn': {
    sizeBytes: 1_661_756,
    link: { ...CALM.link, rttMs: 200 },
    maxRangeBytes: 10 * KIB,
    maxFetches: 1,
    losses: [{ kind: 'evicted', atMs: 0, start: 0, lengthBytes: 1 }],
    readers: [
      player([read(358_401)], { kind: 'fill' }),
      player([seek(228), read(1), seek(0)], { kind: 'fill' }),
      player([seek(229), read(1)], { startMs: 177 }),
    ],
  },
  'a failure that another try does not mend does not put off the first try after a later one': {
    maxRangeBytes: 10 * KIB,
    faults: [[0, { kind: 'status', status: 404, retryAfterSeconds: undefined }]],
    outages: [
      { kind: 'down', fromMs: 123, durationMs: 0 },
      { kind: 'down', fromMs: 92, durationMs: 0 },
    ],
    readers: [player([read(1), seek(0)], { startMs: 122 }), player([read(1)])],
  },
  'the rest of a shorter answer is asked for as soon as its head tells': {
    sizeBytes: 636_054,
    maxRangeBytes: 64 * KIB,
    maxFetches: 1,
    readers: [
      player([read(1), pause(0)]),
      player([seek(227), { kind: 'impatient', lengthBytes: 1, patienceMs: 308 }]),
      player([{ kind: 'reopen', afterMs: 1 }, read(29_697)], { kind: 'fill' }),
    ],
  },
  'who waits for room at an origin is told when one more may be tried there': {
    sizeBytes: 4_204_830,
    link: { rttMs: 200, bytesPerMs: 1000, connectionBytesPerMs: 1e9, handshakeRoundTrips: 2, queueMs: 100 },
    maxRequests: 1,
    refusal: { status: 503, retryAfterSeconds: 5 },
    maxWindowBytes: 1024 * KIB,
    outages: [{ kind: 'down', fromMs: 501, durationMs: 0 }],
    congestions: [{ fromMs: 0, durationMs: 10 }],
    readers: [
      player([pause(500), seek(235), read(765_755)], { startMs: 1 }),
      player([pause(0), { kind: 'reopen', afterMs: 0 }], { kind: 'fill' }),
      player([{ kind: 'reopen', afterMs: 207 }, read(340_234), read(649_953), { kind: 'reopen', afterMs: 0 }], { startMs: 394, at: 432 }),
      player([read(64_874), read(890_531), read(30_740)]),
    ],
  },
  'a seek upon a seek makes a plan of its own in the same turn': {
    link: { ...CALM.link, bytesPerMs: 1000 },
    maxWindowBytes: 1024 * KIB,
    readers: [
      player([{ kind: 'reopen', afterMs: 0 }, seek(180), read(1)], { kind: 'fill' }),
      player([seek(29), read(448_513), pause(670), seek(25), seek(0)]),
    ],
  },
  'a fetch that has left a window shorter than it is given up': {
    sizeBytes: 1_936_287,
    link: { ...CALM.link, rttMs: 200 },
    readers: [
      player([read(1), pause(1_228), seek(0)], { startMs: 98, at: 56 }),
      player([{ kind: 'reopen', afterMs: 0 }, read(1)], { kind: 'fill' }),
      player([seek(1), seek(0)]),
    ],
  },
  'who was held back for a seek is fetched for once the seek has its window, also where the fetch goes on beyond it': {
    sizeBytes: 601_099,
    maxFetches: 2,
    initialWindowBytes: 64 * KIB,
    maxWindowBytes: 1024 * KIB,
    readers: [player([pause(247)], { at: 10 }), player([read(1)], { kind: 'fill', startMs: 60 })],
  },
  'what is filled in a window that is not being filled itself has no precedence': {
    sizeBytes: 84_783,
    outages: [{ kind: 'down', fromMs: 92, durationMs: 0 }],
    readers: [player([seek(883), pause(124), seek(0)], { at: 773 }), player([read(1)], { kind: 'fill', startMs: 123 })],
  },
  'the same over holes on both sides of that window': {
    sizeBytes: 10_082_501,
    link: { ...CALM.link, rttMs: 10 },
    maxFetches: 2,
    maxWindowBytes: 1024 * KIB,
    readers: [
      player([{ kind: 'reopen', afterMs: 74 }, { kind: 'reopen', afterMs: 11 }, seek(26), pause(13)]),
      player([read(1), seek(19), { kind: 'read', lengthBytes: 25_014, pieceBytes: 16 * KIB, bytesPerMs: 1250 }, read(1)]),
      player([seek(29), { kind: 'impatient', lengthBytes: 62_465, patienceMs: 53 }]),
      player([{ kind: 'reopen', afterMs: 98 }, seek(0)], { kind: 'fill' }),
    ],
  },
  'what was asked for just before a silence ends has the patience that the silence had taught': {
    sizeBytes: 4,
    maxWindowBytes: 1024 * KIB,
    faults: [[7, { kind: 'stalled', afterBytes: 0 }], [0, { kind: 'status', status: 503, retryAfterSeconds: undefined }]],
    outages: [{ kind: 'silent', fromMs: 0, durationMs: 15_000 }],
    losses: [{ kind: 'evicted', atMs: 0, start: 0, lengthBytes: 1 }],
    readers: [player([seek(334), { kind: 'reopen', afterMs: 0 }, read(1)], { startMs: 60 }), player([read(1), { kind: 'step', byBytes: 0 }], { startMs: 1061 })],
  },
  'what a player beyond whose seek nothing is asked for has in its window is filled like all the rest': {
    sizeBytes: 359_739,
    link: { ...CALM.link, rttMs: 1 },
    maxRangeBytes: 10_240,
    maxFetches: 2,
    initialWindowBytes: 64 * KIB,
    maxWindowBytes: 1024 * KIB,
    readers: [
      player([pause(24), { kind: 'read', lengthBytes: 1, pieceBytes: 16 * KIB, bytesPerMs: 1250 }, seek(0)], { kind: 'fill' }),
      player([seek(575), pause(21), { kind: 'read', lengthBytes: 95_040, pieceBytes: 256 * KIB, bytesPerMs: 1e9 }, { kind: 'read', lengthBytes: 11_085, pieceBytes: 16 * KIB, bytesPerMs: 1250 }]),
    ],
  },
  'who waits for a handshake that fails waits no longer than it': {
    sizeBytes: 35_883,
    maxFetches: 1,
    outages: [
      { kind: 'silent', fromMs: 0, durationMs: 15_000 },
      { kind: 'down', fromMs: 1_001, durationMs: 0 },
    ],
    readers: [player([read(1)], { kind: 'fill', at: 371 }), player([{ kind: 'impatient', lengthBytes: 1, patienceMs: 0 }])],
  },
  'of many that wait too long over one connection, the longest wait ends first': {
    sizeBytes: 8_388_608,
    link: { ...CALM.link, rttMs: 200, handshakeRoundTrips: 2 },
    maxFetches: 1,
    initialWindowBytes: 1024 * KIB,
    maxWindowBytes: 1024 * KIB,
    readers: [player([read(209_921)], { at: 10 }), player([read(96_257)], { at: 37 }), player([read(79_873)]), player([read(1)], { at: 52 })],
  },
}

for (const [name, facts] of Object.entries(ONCE_BROKEN)) {
  test(name, async () => {
    await simulate({ ...CALM, ...facts })
  })
}

for (const maxFetches of [1, 8]) {
  test(`what the origin refuses at one place is told to who waits there, and to nobody else (${maxFetches} at a time)`, async () => {
    const refused: Scenario['faults'][number] = [0, { kind: 'status', status: 416, retryAfterSeconds: undefined }]
    const simulation = new Simulation({ ...CALM, maxFetches, faults: [refused] })
    const readAt = async (position: number): Promise<void> => {
      const session = new PlayerSession(simulation, 'play', position)
      await session.read(1, 1, 1e9).finally(() => session.close())
    }
    const places = [0, 6 * 1024 * KIB]
    await simulation.run(places.map((position) => async () => {
      if (position === 0) await assert.rejects(readAt(position), { httpStatus: 416 })
      else await readAt(position)
    }))
  })
}

test('a reader that is closed between two looks waits no more', async () => {
  const simulation = new Simulation(CALM)
  await simulation.run([async () => {
    const reader = simulation.scheduler.openReader('play', 0)
    reader.close()
    await assert.rejects(reader.read(0, 1, { deadlineMs: 1_000 }), { code: 'ERR_SEEKCACHE_CANCELLED' })
  }])
})

test(`the schedule keeps its rules in random scenarios (SEEKCACHE_SEED=${SEED})`, async (t) => {
  t.diagnostic(await apart<typeof checkScenarios>(new URL('./support/simulation/check.ts', import.meta.url), 'checkScenarios', SCENARIOS, SEED))
})

test(`the last of a hundred seeks in ten seconds takes as long as one alone (SEEKCACHE_SEED=${SEED})`, async (t) => {
  const random = randomOf(SEED)
  const ratios: number[] = []
  for (let i = 0; i < STORMS; i++) {
    const alone = await oneSeek(random)
    const { last, othersBytes } = await stormOfSeeks(random)
    t.diagnostic(
      `alone ${alone.firstByteMs.toFixed()} ms to the first byte, ${alone.wholeMs.toFixed()} ms to the last; ` +
        `in the storm ${last.firstByteMs.toFixed()} and ${last.wholeMs.toFixed()}; ${(othersBytes / 1e6).toFixed(1)} MB for the others`,
    )
    ratios.push(last.wholeMs / alone.wholeMs)
    assert.ok(othersBytes <= OTHERS * (ROUND_TRIP_BYTES + 256 * KIB), `${othersBytes} bytes for seeks that were given up`)
  }
  ratios.sort((a, b) => a - b)
  assert.ok(ratios[Math.floor(STORMS / 2)]! <= 1.2, `${ratios.join(' ')} times as long as alone`)
  // One that finds all connections fresh or about to end waits for a handshake and a first window more.
  assert.ok(ratios.at(-1)! <= 1.5, `${ratios.join(' ')} times as long as alone`)
})

test('what one connection does not bring while the others go on is asked for over another one, long before that is a stall', async () => {
  const readMs = async (faults: Scenario['faults']): Promise<number> => {
    let endedMs = 0
    const simulation = new Simulation({ ...CALM, sizeBytes: 64 * 1024 * KIB, initialWindowBytes: 16 * 1024 * KIB, maxWindowBytes: 64 * 1024 * KIB, faults })
    await simulation.run([async () => {
      const session = new PlayerSession(simulation, 'play', 0)
      await session.read(32 * 1024 * KIB, 64 * KIB, 1e9).finally(() => session.close())
      endedMs = simulation.clock.nowMs()
    }])
    return endedMs
  }
  const calmMs = await readMs([])
  for (const number of [30, 60, 90]) {
    const ms = await readMs([[number, { kind: 'stalled', afterBytes: 10 * KIB }]])
    assert.ok(ms - calmMs < 5 * CALM.link.rttMs, `${ms} ms where request ${number} falls silent, ${calmMs} where none does`)
  }
})

test('what a seek needs is read as it comes, what follows as it gathers', async () => {
  const simulation = new Simulation({ ...CALM, sizeBytes: 64 * 1024 * KIB, initialWindowBytes: 16 * 1024 * KIB, maxWindowBytes: 64 * 1024 * KIB })
  const gapsMs = { seek: [] as number[], later: [] as number[] }
  await simulation.run([async () => {
    const reader = simulation.scheduler.openReader('play', 0)
    const player = { kind: 'play' as const, reader, wait: undefined }
    simulation.watch.players.add(player)
    let atMs = 0
    for (let position = 0; position < 8 * 1024 * KIB; ) {
      const isThere = simulation.generation.arrived.has(position)
      const { length } = await reader.read(position, 1024 * KIB, { deadlineMs: 10_000 })
      const nowMs = simulation.clock.nowMs()
      if (!isThere) gapsMs[position < SEEK_BYTES ? 'seek' : 'later'].push(nowMs - atMs)
      atMs = nowMs
      position += length
    }
    simulation.watch.players.delete(player)
    reader.close()
  }])
  assert.ok(gapsMs.later.length > 10 && Math.min(...gapsMs.later) >= GATHER_MS, `${gapsMs.later.length} reads, ${Math.min(...gapsMs.later)} ms apart`)
  assert.ok(gapsMs.seek.some((gapMs) => gapMs < GATHER_MS), `${Math.min(...gapsMs.seek)} ms apart`)
})

test('short pieces for a seek teach nothing of how much readahead may ask for', async () => {
  const simulation = new Simulation({ ...CALM, sizeBytes: 128 * 1024 * KIB, initialWindowBytes: 64 * 1024 * KIB, maxWindowBytes: 64 * 1024 * KIB })
  await simulation.run([async () => {
    const session = new PlayerSession(simulation, 'play', 0)
    await session.read(SEEK_BYTES / 2, 64 * KIB, 1e9) // and stays there, as a player that is paused
    await simulation.clock.sleep(6_000)
    const { askedBytes } = simulation.origin.path
    assert.ok(askedBytes <= 1.5 * ROUND_TRIP_BYTES, `${askedBytes} bytes, a full link holds ${ROUND_TRIP_BYTES}`)
    session.close()
  }])
})

test('a skip ahead within the window is as fast as any other seek', async () => {
  const random = randomOf(SEED)
  const alone = await oneSeek(random)
  for (const skipMib of [2, 5, 12]) {
    const skip = await oneSkip(random, skipMib * 1024 * KIB)
    assert.ok(skip.wholeMs <= 1.3 * alone.wholeMs, `${skip.wholeMs} ms over ${skipMib} MiB; ${alone.wholeMs} for a far seek`)
  }
})
