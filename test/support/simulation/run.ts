/** Runs a scenario: the real schedule on a virtual clock, its players, and a watch over all of it. */
import assert from 'node:assert/strict'

import { isCode, SeekCacheError } from '../../../src/errors.ts'
import type { Reader } from '../../../src/schedule/reader.ts'
import type { ScheduleLimits } from '../../../src/schedule/parts.ts'
import { Scheduler } from '../../../src/schedule/scheduler.ts'
import { createLogger, Telemetry } from '../../../src/telemetry.ts'
import { contentBytes } from './content.ts'
import { MemoryGeneration, MemoryStore } from './memory.ts'
import { SimulatedOrigin, VALIDATOR } from './origin.ts'
import type { ReaderScript, Scenario, Step } from './scenario.ts'
import { VirtualClock } from './virtual-clock.ts'
import { Watch, type Player } from './watch.ts'

/** Longer than anything that a scenario can do to a wait: none may end by its deadline. */
const DEADLINE_MS = 3_600_000
/** After the last reader has gone: time for whatever should not come any more. */
const AFTERWARDS_MS = 120_000
const MAX_SIZE_BYTES = 20 * 2 ** 30
const MAX_EVENTS = 300_000

const TELEMETRY = new Telemetry(await createLogger({ level: 'silent' }))

function limitsOf(scenario: Scenario): ScheduleLimits {
  const { maxFetches, initialWindowBytes, maxWindowBytes } = scenario
  return {
    maxFetches,
    initialWindowBytes,
    maxWindowBytes,
    stall: { firstByteMs: 10_000, betweenBytesMs: 3_000 },
  }
}

export async function simulate(scenario: Scenario): Promise<Watch['counts']> {
  const simulation = new Simulation(scenario)
  await simulation.run(scenario.readers.map((script) => () => simulation.perform(script)))
  return simulation.watch.counts
}

export class Simulation {
  readonly clock = new VirtualClock()
  readonly scheduler: Scheduler
  readonly generation: MemoryGeneration
  readonly origin: SimulatedOrigin
  readonly watch: Watch
  readonly #scenario: Scenario
  readonly #scheduleClock = this.clock.facet()
  readonly #store = new MemoryStore(MAX_SIZE_BYTES)
  #fault: unknown

  constructor(scenario: Scenario) {
    this.#scenario = scenario
    const limits = limitsOf(scenario)
    this.generation = new MemoryGeneration(scenario.sizeBytes)
    const timerCount = (): number => this.#scheduleClock.running
    const isPassing = (reader: Reader): boolean => this.scheduler.isPassing(reader)
    this.watch = new Watch({ scenario, clock: this.clock, generation: this.generation, store: this.#store, limits, timerCount, isPassing })
    const troubles = { faults: new Map(scenario.faults), outages: scenario.outages }
    this.origin = new SimulatedOrigin(this.clock, scenario.link, scenario, troubles, scenario.maxFetches, this.watch)
    this.watch.origin = this.origin
    this.scheduler = new Scheduler({
      store: this.#store,
      generation: this.generation,
      source: this.origin,
      clock: this.#scheduleClock,
      validator: VALIDATOR,
      isRangeable: scenario.isRangeable,
      limits,
      telemetry: TELEMETRY,
      onSuperseded: () => {},
    })
    this.#plan()
  }

  /** What happens of itself. */
  #plan(): void {
    for (const { kind, fromMs, durationMs } of this.#scenario.outages) {
      this.clock.startTimer(fromMs, () => this.watch.onSpan(durationMs, kind))
    }
    for (const { fromMs, durationMs } of this.#scenario.congestions) {
      this.clock.startTimer(fromMs, () => {
        this.#store.congest()
        this.watch.onSpan(durationMs, 'behind')
      })
      this.clock.startTimer(fromMs + durationMs, () => {
        this.watch.onRelief()
        this.#store.relieve()
      })
    }
    for (const { kind, atMs, start, lengthBytes } of this.#scenario.losses) {
      const range = { start: this.#position(start), end: this.#position(start) + lengthBytes }
      this.clock.startTimer(atMs, () => (kind === 'evicted' ? this.generation.evict(range) : this.generation.lose(range)))
    }
  }

  /** Runs all that the players do, and then looks whether everything has come to rest. */
  async run(players: readonly (() => Promise<void>)[]): Promise<void> {
    const done = Promise.all(players.map(async (player) => await player())).then(
      async () => {
        await this.clock.sleep(AFTERWARDS_MS)
        assert.equal(this.watch.runningCount, 0, 'a fetch runs, and all readers are closed')
        this.scheduler.close()
        assert.equal(this.#scheduleClock.running, 0, 'a timer runs, and the schedule is closed')
      },
    )
    let isDone = false
    done.then(() => (isDone = true), (error: unknown) => (this.#fault = error))
    await this.clock.run(() => {
      if (this.#fault !== undefined) throw this.#fault
      this.watch.afterEvent()
      assert.ok(this.watch.counts.events < MAX_EVENTS, 'it goes on without end')
    })
    assert.ok(isDone, 'a player waits for ever')
  }

  // ---- players

  async perform(script: ReaderScript): Promise<void> {
    await this.clock.sleep(script.startMs)
    const session = new PlayerSession(this, script.kind, this.#position(script.at))
    try {
      for (const step of script.steps) await this.#step(session, step)
    } catch (error) {
      if (!this.#isAllowed(error)) throw error
    } finally {
      session.close()
    }
  }

  async #step(session: PlayerSession, step: Step): Promise<void> {
    if (step.kind === 'read') await session.read(step.lengthBytes, step.pieceBytes, step.bytesPerMs)
    else if (step.kind === 'impatient') await session.readImpatiently(step.lengthBytes, step.patienceMs)
    else if (step.kind === 'seek') session.seek(this.#position(step.to))
    else if (step.kind === 'step') session.seek(Math.min(Math.max(0, session.position + step.byBytes), this.#scenario.sizeBytes - 1))
    else if (step.kind === 'pause') await this.clock.sleep(step.durationMs)
    else await session.reopen(step.afterMs)
  }

  #position(thousandths: number): number {
    return Math.floor((thousandths * (this.#scenario.sizeBytes - 1)) / 1000)
  }

  /** What a reader may be told, given what happened. */
  #isAllowed(error: unknown): boolean {
    const { faults } = this.#scenario
    if (isCode(error, 'ERR_SEEKCACHE_ORIGIN_CHANGED')) return faults.some(([, { kind }]) => kind === 'changed')
    if (isCode(error, 'ERR_SEEKCACHE_ORIGIN_STATUS')) return faults.some(([, fault]) => fault.kind === 'status' && fault.status === 404)
    return false
  }
}

/** One player's reader, opened and opened again. */
export class PlayerSession {
  position: number
  readonly #simulation: Simulation
  readonly #kind: 'play' | 'fill'
  #player: Player

  constructor(simulation: Simulation, kind: 'play' | 'fill', position: number) {
    this.#simulation = simulation
    this.#kind = kind
    this.position = position
    this.#player = this.#open()
  }

  #open(): Player {
    const player = { kind: this.#kind, reader: this.#simulation.scheduler.openReader(this.#kind, this.position), wait: undefined }
    this.#simulation.watch.players.add(player)
    return player
  }

  close(): void {
    this.#simulation.watch.players.delete(this.#player)
    this.#player.reader.close()
  }

  async reopen(afterMs: number): Promise<void> {
    this.close()
    await this.#simulation.clock.sleep(afterMs)
    this.#player = this.#open()
  }

  /** As a native reader tells it; the next read is there. */
  seek(position: number): void {
    this.position = position
    this.#player.reader.moveTo(position)
  }

  async read(lengthBytes: number, pieceBytes: number, bytesPerMs: number, signal?: AbortSignal): Promise<void> {
    const { sizeBytes } = this.#simulation.generation
    const end = Math.min(this.position + lengthBytes, sizeBytes)
    while (this.position < end) {
      const start = this.position
      const wantedBytes = Math.min(pieceBytes, end - start)
      const gotBytes = this.#kind === 'play' ? await this.#take(start, wantedBytes, signal) : await this.#fill(start, signal)
      this.position = start + gotBytes
      const paceMs = gotBytes / bytesPerMs
      if (paceMs >= 1) await this.#simulation.clock.sleep(paceMs)
    }
  }

  /** @returns how many bytes came */
  async #take(position: number, maxBytes: number, signal: AbortSignal | undefined): Promise<number> {
    const bytes = await this.#waiting(position, (reader) => reader.read(position, maxBytes, { deadlineMs: DEADLINE_MS, signal }))
    assert.ok(bytes.length >= 1 && bytes.length <= maxBytes, `${bytes.length} bytes where at most ${maxBytes} were asked for`)
    assert.ok(bytes.equals(contentBytes(position, position + bytes.length)), `the bytes read at ${position} are not those of the film`)
    return bytes.length
  }

  async #fill(position: number, signal: AbortSignal | undefined): Promise<number> {
    const { generation, scheduler } = this.#simulation
    await this.#waiting(position, async (reader) => {
      reader.moveTo(position)
      await scheduler.arrival(reader, position, { deadlineMs: DEADLINE_MS, signal })
    })
    return generation.arrived.endOfRun(position) - position
  }

  async #waiting<T>(position: number, action: (reader: Reader) => Promise<T>): Promise<T> {
    const player = this.#player
    player.wait = { position, sinceMs: this.#simulation.clock.nowMs() }
    try {
      return await action(player.reader)
    } finally {
      this.#simulation.watch.onWaitEnd(player)
      player.wait = undefined
    }
  }

  async readImpatiently(lengthBytes: number, patienceMs: number): Promise<void> {
    const impatience = new AbortController()
    const timer = this.#simulation.clock.startTimer(patienceMs, () => impatience.abort())
    try {
      await this.read(lengthBytes, 64 * 1024, 1e9, impatience.signal)
    } catch (error) {
      const isOwn = impatience.signal.aborted && (!(error instanceof SeekCacheError) || error.code === 'ERR_SEEKCACHE_CANCELLED')
      if (!isOwn) throw error
    } finally {
      timer.clear()
    }
  }
}
