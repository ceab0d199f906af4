/**
 * Seeks on the link of DESIGN.md §7: one at rest, and a hundred in ten seconds, of which the last one counts.
 *
 * A seek is done when its player has what it reads until the first picture.
 */
import type { Random } from '../random.ts'
import { PlayerSession, Simulation } from './run.ts'
import { CALM, type Scenario } from './scenario.ts'

const KIB = 1024
const MIB = 1024 * KIB
const SEEK_BYTES = 1 * MIB
const PIECE_BYTES = 64 * KIB
const SEEKS = 100
const SPAN_MS = 10_000
/** The window is full by then, and connections have idled. */
const REST_MS = 10_000
/** Neither what is there since the start, nor the end. */
const START_BYTES = 64 * MIB

/** The host's own limits. */
const FILM: Scenario = { ...CALM, sizeBytes: 1500 * MIB, initialWindowBytes: 16 * MIB, maxWindowBytes: 64 * MIB }

export interface SeekTimes {
  readonly firstByteMs: number
  readonly wholeMs: number
}

export interface Storm {
  readonly last: SeekTimes
  /** What the origin sent for all the others. */
  readonly othersBytes: number
}

export const ROUND_TRIP_BYTES = FILM.link.rttMs * FILM.link.bytesPerMs
export const OTHERS = SEEKS - 1

export async function oneSeek(random: Random): Promise<SeekTimes> {
  return await play(async (simulation, session) => {
    return await timedSeek(simulation, session, somewhere(random))
  })
}

export async function stormOfSeeks(random: Random): Promise<Storm> {
  return await play(async (simulation, session) => {
    const sentBefore = simulation.origin.link.sentBytes
    for (let i = 0; i < OTHERS; i++) {
      session.seek(somewhere(random))
      await session.readImpatiently(SEEK_BYTES, SPAN_MS / SEEKS)
    }
    const othersBytes = simulation.origin.link.sentBytes - sentBefore
    return { last: await timedSeek(simulation, session, somewhere(random)), othersBytes }
  })
}

/** As a player's key for some seconds ahead: within the window, over what is not there. */
export async function oneSkip(random: Random, skipBytes: number): Promise<SeekTimes> {
  return await play(async (simulation, session) => {
    session.seek(somewhere(random))
    await session.read(SEEK_BYTES / 4, PIECE_BYTES, 1e9)
    return await timedSeek(simulation, session, session.position + skipBytes)
  })
}

async function play<T>(action: (simulation: Simulation, session: PlayerSession) => Promise<T>): Promise<T> {
  const simulation = new Simulation(FILM)
  let result: T | undefined
  await simulation.run([
    async () => {
      const session = new PlayerSession(simulation, 'play', 0)
      await session.read(SEEK_BYTES, PIECE_BYTES, 1e9)
      await simulation.clock.sleep(REST_MS)
      result = await action(simulation, session)
      session.close()
    },
  ])
  return result!
}

async function timedSeek(simulation: Simulation, session: PlayerSession, position: number): Promise<SeekTimes> {
  const startMs = simulation.clock.nowMs()
  session.seek(position)
  await session.read(1, 1, 1e9)
  const firstByteMs = simulation.clock.nowMs() - startMs
  await session.read(SEEK_BYTES - 1, PIECE_BYTES, 1e9)
  return { firstByteMs, wholeMs: simulation.clock.nowMs() - startMs }
}

function somewhere(random: Random): number {
  return START_BYTES + random.below(FILM.sizeBytes - 2 * START_BYTES)
}
