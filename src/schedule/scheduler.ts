/**
 * The loop of one open generation: takes the readers' moves, makes the plan, performs it, and wakes whoever waits.
 *
 * It owns the volatile state: the readers, the fetches in flight, the waits. All of it changes by events on one thread: a
 * reader moves, bytes arrive, a fetch ends, bytes are lost, a retry is due. After each the plan is made again, once per
 * turn. Bytes reach a reader as they arrive; nobody waits for a chunk. Every wait has a deadline.
 */

import { cancelled, SeekCacheError } from '../errors.ts'
import { isAboutRange } from '../origin/retry.ts'
import { intersect, type Range } from '../bytes/ranges.ts'
import { Alarm, type Clock } from './clock.ts'
import type { WindowLimits } from './demand.ts'
import { Failures } from './failures.ts'
import { InFlight, type InFlightEvents } from './in-flight.ts'
import { isAllOfReadahead, planLimits, windowBytes } from './limits.ts'
import type { ScheduledGeneration, SchedulerParts } from './parts.ts'
import { plan, planSequential, type PlanReader, type SequentialAction } from './plan.ts'
import { Reader, type ReaderOptions } from './reader.ts'
import { SeekRhythm } from './seek-rhythm.ts'
import { Waits, type WaitOptions } from './waits.ts'

export class Scheduler {
  readonly generation: ScheduledGeneration
  readonly #parts: SchedulerParts
  readonly #readers = new Set<Reader>()
  readonly #inFlight = new Map<number, InFlight>()
  readonly #waits: Waits<Reader>
  readonly #failures = new Failures()
  #nextId = 1
  #isPlanDue = false
  #isClosed = false
  /** The origin has another version; what is missing here will never come. */
  #superseded: SeekCacheError | undefined
  /** A failure that another try does not mend; cleared when a reader asks again. */
  #failure: SeekCacheError | undefined
  #isRangeable: boolean
  readonly #retry: Alarm
  #isPausedForDisk = false
  /** When the plan was made last, so much was under way as readahead may have. */
  #isFull = false
  #leadBytes = 0
  readonly #rhythm = new SeekRhythm()
  /** When the seek that is expected has not come. */
  readonly #seekMissed: Alarm

  constructor(parts: SchedulerParts) {
    this.#parts = parts
    this.generation = parts.generation
    this.#isRangeable = parts.isRangeable
    const { clock, telemetry } = parts
    this.#waits = new Waits({ clock, telemetry, onChange: () => this.requestPlan(), reasonOf: (position) => this.#reasonForWait(position) })
    this.#retry = new Alarm(clock, () => this.requestPlan())
    this.#seekMissed = new Alarm(clock, () => this.requestPlan())
    this.generation.protectedRanges = this.#protectedRanges
    this.generation.onLost = this.#onLost
    parts.source.watchConnections(() => this.requestPlan())
  }

  // ---- readers

  openReader(kind: 'play' | 'fill', position: number, options: ReaderOptions = {}): Reader {
    const reader = new Reader(this, this.#nextId++, kind, position, options)
    this.#readers.add(reader)
    this.#parts.telemetry.readers.inc()
    this.requestPlan()
    return reader
  }

  closeReader(reader: Reader): void {
    if (!this.#readers.delete(reader)) return
    this.#parts.telemetry.readers.dec()
    this.#waits.cancel(reader)
    this.requestPlan()
  }

  get clock(): Clock {
    return this.#parts.clock
  }

  get readerCount(): number {
    return this.#readers.size
  }

  get fetchCount(): number {
    return this.#inFlight.size
  }

  get isSuperseded(): boolean {
    return this.#superseded !== undefined
  }

  /** How far readers of this file have stepped back after a seek. */
  get leadBytes(): number {
    return this.#leadBytes
  }

  /** A player's reader has begun a new run. */
  noteSeek(atMs: number): void {
    this.#rhythm.onSeek(atMs)
  }

  learnLead(stepBytes: number): void {
    this.#leadBytes = Math.max(this.#leadBytes, stepBytes)
  }

  /** The window limits of a reader now. */
  get windowLimits(): WindowLimits {
    const { limits, store } = this.#parts
    const { initialWindowBytes, maxWindowBytes } = limits
    const { maxSizeBytes: budgetBytes, isDegraded } = store
    const room = { initialWindowBytes, maxWindowBytes, budgetBytes, isDegraded, readerCount: this.#readers.size }
    return { ...windowBytes(room), sizeBytes: this.generation.sizeBytes }
  }

  readonly #protectedRanges = (): Range[] => {
    const windows = [...this.#readers].filter((reader) => reader.kind === 'play').map((reader) => reader.window)
    return [...windows, ...this.#inFlight.values()]
  }

  readonly #onLost = (): void => this.requestPlan()

  // ---- waiting

  /**
   * Resolves when the byte at `position` has arrived.
   * @throws ERR_SEEKCACHE_TIMEOUT, _CANCELLED, or what the origin did instead
   */
  async arrival(reader: Reader, position: number, options: WaitOptions): Promise<void> {
    // Also of what has arrived: what is closed is told of no loss any more, and nobody fetches for a reader that is.
    if (this.#isClosed || !this.#readers.has(reader)) throw cancelled('the read')
    if (this.generation.arrived.has(position)) return
    if (this.#superseded !== undefined) throw this.#superseded
    options.signal?.throwIfAborted()
    this.#failure = undefined
    await this.#waits.arrival(reader, position, options)
  }

  #reasonForWait(position: number): string {
    if (this.#isPausedForDisk) return 'the disk of the cache does not keep up'
    if (this.#parts.source.connections.isPaused) return 'the origin has asked for a pause'
    for (const { start, end } of this.#inFlight.values()) if (start <= position && position < end) return 'the origin has not sent it yet'
    return 'all connections to the origin are busy with other reads'
  }

  // ---- the plan

  /**
   * Something changed: the plan is made again when what else has come has been told, so that bytes go to who waits for them
   * before anything is planned, and one plan serves for all. mpv opened a film in 300 ms so, in 342 with a plan after each read
   * (medians, 60 ms and 80 Mbit/s, a slow processor).
   */
  requestPlan(): void {
    if (this.#isPlanDue || this.#isClosed) return
    this.#isPlanDue = true
    this.#parts.clock.soon(() => {
      this.#isPlanDue = false
      if (!this.#isClosed) this.#performPlan()
    })
  }

  #performPlan(): void {
    for (const reader of this.#readers) reader.refreshWindow()
    for (const action of this.#makePlan()) this.#perform(action)
    this.#isFull = this.#isAskedEnough
    this.#parts.source.path.onReadahead(this.#isFull || this.#hasAllOfReadahead)
  }

  /** Whether so much is under way as readahead may have; asked at each read of the network. */
  get #isAskedEnough(): boolean {
    return this.#comingBytes >= this.#parts.source.path.askedBytes
  }

  get #comingBytes(): number {
    let bytes = 0
    for (const { start, end } of this.#inFlight.values()) bytes += end - start
    return bytes
  }

  get #hasAllOfReadahead(): boolean {
    if (this.#inFlight.size === 0) return false // all is there, as nearly always: the connections are no matter
    const { limits, source } = this.#parts
    return isAllOfReadahead([...this.#inFlight.values()], Math.min(limits.maxFetches, source.connections.limit), source.path)
  }

  #makePlan(): SequentialAction[] {
    const { store } = this.#parts
    const { waiting, overdue } = this.#waits
    const newestFirst = [...this.#readers].sort((a, b) => b.movedAtMs - a.movedAtMs)
    const inTurn = new Set([...overdue, ...newestFirst])
    this.#expectSeek()
    const readers: PlanReader[] = [...inTurn].map((reader) =>
      reader.facts({ isWaiting: waiting.has(reader), isOverdue: overdue.has(reader), isPassing: this.isPassing(reader) }))
    const inFlight = [...this.#inFlight.values()]
    const isWanting = inFlight.length > 0 || readers.some(({ isFilling }) => isFilling)
    this.#claim(readers.some(({ kind, isWaiting }) => kind === 'play' && isWaiting), isWanting)
    if (!isWanting) return [] // all is there, as nearly always: the origin is no matter
    const facts = { arrived: this.generation.arrived, readers, inFlight }
    if (!this.#isRangeable) {
      const maxAheadBytes = this.generation.sizeBytes <= store.maxSizeBytes / 2 ? Number.POSITIVE_INFINITY : this.windowLimits.maxBytes
      return planSequential({ ...facts, sizeBytes: this.generation.sizeBytes, maxAheadBytes }).filter((action) => this.#isAllowed(action))
    }
    const { path, connections } = this.#parts.source
    const maxFetches = Math.min(this.#parts.limits.maxFetches, connections.limit)
    const limits = planLimits({ path, connections, maxFetches, inFlightCount: inFlight.length })
    return plan({ ...facts, limits }).filter((action) => this.#isAllowed(action))
  }

  /** If it does not come, the plan is made again. */
  #expectSeek(): void {
    const leftMs = this.#rhythm.nextExpectedMs - this.clock.nowMs()
    if (leftMs > 0) this.#seekMissed.set(leftMs)
    else this.#seekMissed.clear()
  }

  /** Its player has sought again and again, and the next seek is expected: what is beyond this one's needs is not asked for. */
  isPassing(reader: Reader): boolean {
    return this.#seekMissed.isSet && reader.movedAtMs === this.#rhythm.lastSeekMs
  }

  /** Says what is needed here: what the origin takes at a time is shared by all that is fetched from there. */
  #claim(isWaiting: boolean, isWanting: boolean): void {
    const isHopeless = this.#superseded !== undefined || (this.#failure !== undefined && this.#waits.waiting.size === 0)
    this.#parts.source.claim(isHopeless ? 'none' : isWaiting ? 'urgent' : isWanting ? 'ahead' : 'none')
  }

  /** After a failure only what somebody waits for, elsewhere, and while the origin wants to be left alone nothing, is started. */
  #isAllowed(action: SequentialAction): boolean {
    if (action.type !== 'fetch') return true
    if (this.#parts.source.connections.isPaused) return false
    if (this.#superseded !== undefined || (this.#failure !== undefined && !this.#waits.isAwaited(action))) return false
    return !this.#retry.isSet && !this.#isPausedForDisk
  }

  #perform(action: SequentialAction): void {
    if (action.type === 'fetch') return this.#start(action)
    const fetch = this.#inFlight.get(action.fetchId)
    if (action.type === 'drain') fetch?.drain()
    else if (action.type === 'pause') fetch?.pause()
    else if (action.type === 'resume') this.#isPausedForDisk || fetch?.resume()
    else if (fetch !== undefined) this.#drop(fetch, 'cancelled')
  }

  #start({ start, end, isUrgent }: Range & { readonly isUrgent: boolean }): void {
    const { validator, limits, source } = this.#parts
    const known = { sizeBytes: this.generation.sizeBytes, validator }
    if (isUrgent) source.path.onUrgentFetch()
    const wasReady = source.connections.windowsBytes.length > 0
    const firstByteMs = this.#failures.firstByteMs(limits.stall.firstByteMs)
    const fetch = new InFlight(this.#nextId++, this.#parts, { start, end, known }, { ...limits.stall, firstByteMs }, this.#events(wasReady))
    this.#inFlight.set(fetch.id, fetch)
  }

  /** Takes over the request that opened the resource: the first fetch. */
  adopt(fetch: InFlight): void {
    fetch.adopt(this.#events(false))
    this.#inFlight.set(fetch.id, fetch)
  }

  #drop(fetch: InFlight, outcome: string): void {
    this.#inFlight.delete(fetch.id)
    if (this.#inFlight.size === 0) this.#parts.source.path.onIdle()
    fetch.cancel()
    this.#parts.telemetry.fetches.inc({ outcome })
  }

  // ---- what fetches tell

  #events(wasReady: boolean): InFlightEvents {
    return {
      onHead: () => this.requestPlan(), // the origin may send less than was asked for, lawfully
      onBytes: (fetch, position, bytes, isFirst) => {
        if (isFirst) this.#onFirstByte(this.clock.nowMs() - fetch.startedMs, wasReady)
        this.#onBytes(fetch, position, bytes)
      },
      onEnd: (fetch, error) => this.#onEnd(fetch, error),
      onStall: (fetch) => this.#onStall(fetch),
    }
  }

  /** Replaced by the next plan, where a reader wants what it did not bring. */
  #onStall(fetch: InFlight): void {
    this.#drop(fetch, fetch.isDraining ? 'cancelled' : 'stalled')
    if (!fetch.isDraining) {
      this.#waits.blame(fetch, new SeekCacheError('ERR_SEEKCACHE_TIMEOUT', 'the origin has stopped sending'))
      if (!fetch.hasBytes) this.#failures.onSilence(fetch.startedMs, this.clock.nowMs())
    }
    this.requestPlan()
  }

  #onFirstByte(durationMs: number, wasReady: boolean): void {
    this.#parts.source.path.onFirstByte(durationMs, wasReady, this.clock.hasStoodStill)
    this.#parts.telemetry.firstByteSeconds.observe(durationMs / 1000)
  }

  #onBytes(fetch: InFlight, position: number, bytes: Buffer): void {
    const { telemetry, store } = this.#parts
    telemetry.countOriginBytes(bytes.length)
    this.#parts.source.path.onBytes(bytes.length, this.clock.nowMs())
    this.#failures.onBytes()
    this.generation.write(position, bytes)
    this.#waits.wake({ start: position, end: position + bytes.length })
    this.#replaceBehind(fetch)
    if (store.isCongested) this.#pauseForDisk()
    if (this.#hasLeft(fetch, position) || (this.#isFull && !this.#isAskedEnough)) this.requestPlan()
  }

  /** A reader waits for what one connection does not bring, while this one goes on: another one is sooner there. */
  #replaceBehind(going: InFlight): void {
    for (const fetch of this.#inFlight.values()) {
      if (!fetch.isBehind(going) || !this.#waits.isAwaited({ start: fetch.start, end: fetch.start + 1 })) continue
      this.#drop(fetch, 'stalled')
      this.requestPlan()
    }
  }

  /**
   * Whether a fetch that came from `position` has passed the end of a window: nothing was begun ahead of others until that seek
   * had what it needs. A window may also have become shorter than a fetch that runs, by a seek. What opened the resource runs
   * before there is a reader.
   */
  #hasLeft(fetch: Range, position: number): boolean {
    let isWanted = this.#readers.size === 0
    for (const { window } of this.#readers) {
      if (position < window.end && window.end <= fetch.start) return true
      isWanted ||= intersect(fetch, window) !== undefined
    }
    return !isWanted
  }

  #onEnd(fetch: InFlight, error: SeekCacheError | undefined): void {
    if (this.#inFlight.get(fetch.id) === fetch) this.#inFlight.delete(fetch.id)
    if (this.#inFlight.size === 0) this.#parts.source.path.onIdle()
    this.#parts.telemetry.fetches.inc({ outcome: error === undefined ? 'complete' : 'failed' })
    if (error === undefined) this.#failures.onComplete()
    else this.#onFailure(fetch, error)
    this.requestPlan()
  }

  #onFailure(fetch: InFlight, error: SeekCacheError): void {
    this.#waits.blame(fetch, error)
    if (error.code === 'ERR_SEEKCACHE_ORIGIN_CHANGED') return this.supersede(error)
    const { log } = this.#parts.telemetry
    const resource = this.#parts.source.display
    const remedy = this.#failures.remedyFor(error, fetch.startedMs, this.clock.nowMs())
    if (remedy.kind === 'retry') {
      log.info({ resource, tries: remedy.tries }, error.message)
      // No sooner than any failure says: an origin's Retry-After holds, whatever else breaks.
      if (remedy.delayMs !== undefined) this.#retry.postpone(remedy.delayMs)
    } else if (remedy.kind === 'read-in-order') {
      log.warn({ resource }, `${error.message}: reading it in order`)
      this.#readInOrder()
    } else {
      log.warn({ resource }, error.message)
      this.#failure = error
      if (isAboutRange(error)) this.#waits.reject(fetch, error)
      else this.#waits.rejectAll(error)
    }
  }

  /** It gave ranges once and gives the whole file now: that is read, from byte 0, as from an origin without ranges. */
  #readInOrder(): void {
    this.#isRangeable = false
    for (const other of [...this.#inFlight.values()]) this.#drop(other, 'cancelled')
  }

  #pauseForDisk(): void {
    if (this.#isPausedForDisk) return
    this.#isPausedForDisk = true
    for (const fetch of this.#inFlight.values()) fetch.pause()
    this.#parts.store.whenUncongested(() => {
      this.#isPausedForDisk = false
      for (const fetch of this.#inFlight.values()) fetch.resume()
      this.requestPlan()
    })
  }

  /** The origin has another version of this resource: what is here is read on, what is missing fails. */
  supersede(error: SeekCacheError): void {
    if (this.#superseded !== undefined) return
    this.#superseded = error
    this.#parts.telemetry.log.warn({ resource: this.#parts.source.display }, error.message)
    for (const fetch of [...this.#inFlight.values()]) this.#drop(fetch, 'cancelled')
    this.#waits.rejectAll(error)
    this.#parts.onSuperseded()
  }

  close(): void {
    this.#isClosed = true
    this.#retry.clear()
    this.#seekMissed.clear()
    for (const fetch of [...this.#inFlight.values()]) this.#drop(fetch, 'cancelled')
    for (const reader of [...this.#readers]) this.closeReader(reader)
    this.#parts.source.watchConnections(undefined)
    this.#parts.source.claim('none')
    // The same version may have been opened anew meanwhile: then these are that scheduler's.
    if (this.generation.protectedRanges === this.#protectedRanges) this.generation.protectedRanges = () => []
    if (this.generation.onLost === this.#onLost) this.generation.onLost = () => {}
  }
}
