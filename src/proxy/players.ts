/**
 * The players behind the proxy's requests: whose demand a connection is, and for how long.
 *
 * Requests of one player for one resource are known by a name in their URL (the mpv script gives one), else taken for one
 * player's by their User-Agent. With a name the newest connection is the demand at once, and older ones, which the player
 * is about to close, get what is there but ask for nothing until it is clear that they stay. Without a name two players may
 * be taken for one: then a connection loses its demand only by taking nothing for a while as another one reads, and has it
 * back as soon as it moves. Every connection is always served.
 */

import type { Range } from '../bytes/ranges.ts'
import type { SeekIntent } from '../control/protocol.ts'
import { cancelled, isCode } from '../errors.ts'
import type { CachedMedia } from '../opening.ts'
import { Bookmark } from '../schedule/bookmark.ts'
import { continuesRun, endsInMs, INTENT_MS, isElsewhere, isLeft, isProbe, mayBeOwnRequest, targetOf } from '../schedule/player-rules.ts'
import type { Reader, Run } from '../schedule/reader.ts'
import type { WaitOptions } from '../schedule/waits.ts'

/** Of a player's ended requests, the last ones can be gone on with. */
const MAX_RUNS = 4
/** Of one resource; every file that mpv loads has a name of its own, and whoever knows the token may give any. */
const MAX_PLAYERS = 64
/** The player closes what it has left about when the new connection has answered; what stays longer is wanted. */
const SETTLE_MS = 500
/** Between two requests of a player that reads in ranges: its readahead goes on so long. */
const BETWEEN_REQUESTS_MS = 2_000
/** A player whose read was ended for a seek tries to go on at the same place, at once. */
const REFUSAL_MS = 2_000

export class Players {
  readonly #players = new WeakMap<CachedMedia, Map<string, Player>>()

  /** The player that a request comes from. */
  of(media: CachedMedia, name: string | undefined, userAgent: string): Player {
    const players = this.#players.get(media) ?? new Map<string, Player>()
    this.#players.set(media, players)
    const key = name === undefined ? `agent ${userAgent}` : `name ${name}`
    let player = players.get(key)
    if (player === undefined) player = new Player(media, name)
    players.delete(key)
    players.set(key, player) // as the newest
    if (players.size > MAX_PLAYERS) forgetOldest(players)
    return player
  }

  /**
   * The player of that name is about to go there; without a name, all that have none.
   * @param soughtMsAgo undefined: nobody knows
   */
  announce(media: CachedMedia, name: string | undefined, intent: SeekIntent, soughtMsAgo: number | undefined): void {
    for (const player of this.#players.get(media)?.values() ?? []) if (player.name === name) player.announce(intent, soughtMsAgo)
  }
}

/** One that reads at this moment stays: there are never more of those than requests. */
function forgetOldest(players: Map<string, Player>): void {
  for (const [key, player] of players) {
    if (player.isConnected) continue
    player.leave()
    players.delete(key)
    return
  }
}

export class Player {
  readonly name: string | undefined
  readonly #media: CachedMedia
  /** Oldest first. */
  readonly #connections = new Set<PlayerConnection>()
  #runs: Run[] = []
  /** Where its next request is expected. */
  readonly #next: Bookmark
  #refused: { readonly position: number; readonly untilMs: number }[] = []

  constructor(media: CachedMedia, name: string | undefined) {
    this.#media = media
    this.#next = new Bookmark(media.scheduler)
    this.name = name
  }

  get isConnected(): boolean {
    return this.#connections.size > 0
  }

  /** Nothing more is expected of it. */
  leave(): void {
    this.#next.drop()
  }

  /**
   * @param cut ends the response at once
   * @throws ERR_SEEKCACHE_CANCELLED for a try to go on where the player has just said that it leaves
   */
  connect(range: Range, cut: () => void): PlayerConnection {
    this.#refuseLeft(range.start)
    const run = this.#takeRun(range.start)
    const isLook = isProbe(range, run !== undefined)
    const connection = new PlayerConnection(this.#media, range, {
      run, isLook, cut,
      onRead: (by) => this.#onRead(by),
      onClose: (by, isDone) => this.#onClose(by, isDone),
    })
    if (this.name !== undefined && !isLook) for (const older of this.#connections) older.yieldTo(connection)
    this.#connections.add(connection)
    this.#next.drop()
    return connection
  }

  /** A try to go on comes at once. After any other request the player may be back by a seek of its own. */
  #refuseLeft(start: number): void {
    const nowMs = performance.now()
    const index = this.#refused.findIndex(({ position, untilMs }) => position === start && untilMs > nowMs)
    if (index === -1) {
      this.#refused = []
      return
    }
    this.#refused.splice(index, 1)
    throw cancelled('the read that a seek has made useless')
  }

  #takeRun(start: number): Run | undefined {
    const index = this.#runs.findLastIndex(({ demand }) => continuesRun(demand, start))
    if (index !== -1) return this.#runs.splice(index, 1)[0]
    return [...this.#connections].map(({ run }) => run).findLast((run) => run !== undefined && continuesRun(run.demand, start))
  }

  #onRead(by: PlayerConnection): void {
    if (this.#connections.size === 1) return
    for (const other of this.#connections) if (other !== by && isLeft(other.blockedForMs)) other.suspend()
  }

  /** @param isDone whether all that was asked for has been sent */
  #onClose(connection: PlayerConnection, isDone: boolean): void {
    this.#connections.delete(connection)
    const { run } = connection
    if (run !== undefined) this.#runs = [...this.#runs, run].slice(-MAX_RUNS)
    const newest = [...this.#connections].at(-1)
    if (newest !== undefined) newest.resume()
    else if (isDone && run !== undefined && connection.isContinuing) {
      this.#next.keep(run.demand.position, BETWEEN_REQUESTS_MS, { continues: run }) // its window is filled between them too
    }
  }

  /**
   * Reads that wait elsewhere end, and what is there begins to be fetched: not where the seek's own request has come already,
   * for that tells the place, and a guessed one would be fetched in its way. Who ends the seek's own read has a player that
   * loses the index it was looking up, or takes the place for the film's end.
   */
  announce(intent: SeekIntent, soughtMsAgo: number | undefined): void {
    let hasCome = false
    for (const connection of this.#connections) {
      if (mayBeOwnRequest(connection.ageMs, soughtMsAgo)) hasCome = true
      else connection.endIfStalled(intent, (position) => this.#refused.push({ position, untilMs: performance.now() + REFUSAL_MS }))
    }
    if (!hasCome) this.#next.keep(targetOf(intent, this.#media.record.sizeBytes), INTENT_MS)
  }
}

interface ConnectionParts {
  readonly run: Run | undefined
  readonly isLook: boolean
  readonly cut: () => void
  readonly onRead: (by: PlayerConnection) => void
  readonly onClose: (by: PlayerConnection, isDone: boolean) => void
}

/** One request's reads. It has a reader, and so is demand, only as long as its player seems to be there. */
export class PlayerConnection {
  readonly isContinuing: boolean
  readonly #media: CachedMedia
  readonly #parts: ConnectionParts
  readonly #openedAtMs = performance.now()
  readonly #end: number | undefined
  /** Resolves when it is clear whether the player stays with this connection. */
  readonly #settled: Promise<void>
  #settle: () => void = () => {}
  #settleTimer: NodeJS.Timeout | undefined
  #reader: Reader | undefined
  #run: Run | undefined
  #position: number
  #isLook: boolean
  #isClosed = false
  #waitingSinceMs: number | undefined
  #blockedSinceMs: number | undefined
  #yieldingTo: PlayerConnection | undefined

  constructor(media: CachedMedia, range: Range, parts: ConnectionParts) {
    this.#media = media
    this.#parts = parts
    this.#position = range.start
    this.#isLook = parts.isLook
    this.#end = parts.isLook ? range.end : undefined
    this.isContinuing = parts.run !== undefined
    this.#run = parts.run
    this.#settled = new Promise((resolve) => (this.#settle = resolve))
    this.#open()
  }

  #open(): Reader {
    return (this.#reader ??= this.#media.scheduler.openReader('play', this.#position, { continues: this.#run, end: this.#end }))
  }

  /** Undefined of what is no run: a look at a few bytes. */
  get run(): Run | undefined {
    return this.#isLook ? undefined : (this.#reader?.run ?? this.#run)
  }

  /** Since when its socket takes nothing; 0 while it reads or waits for bytes. */
  get blockedForMs(): number {
    return this.#blockedSinceMs === undefined ? 0 : performance.now() - this.#blockedSinceMs
  }

  async read(position: number, maxBytes: number, options: WaitOptions & { readonly signal: AbortSignal }, target?: () => Buffer): Promise<Buffer> {
    this.#position = position
    this.#blockedSinceMs = undefined
    this.#waitingSinceMs = performance.now()
    try {
      const bytes = await this.#readLive(position, maxBytes, options, target)
      this.#settleTimer ??= setTimeout(this.#settle, SETTLE_MS).unref()
      this.#blockedSinceMs = performance.now()
      this.#parts.onRead(this)
      return bytes
    } finally {
      this.#waitingSinceMs = undefined
    }
  }

  async #readLive(position: number, maxBytes: number, options: WaitOptions & { readonly signal: AbortSignal }, target?: () => Buffer): Promise<Buffer> {
    for (;;) {
      options.signal.throwIfAborted()
      if (this.#yieldingTo !== undefined) {
        const bytes = await this.#media.generation.read(position, maxBytes, target)
        if (bytes !== undefined) return bytes
        await this.#untilSettled(this.#yieldingTo, options.signal)
        continue
      }
      try {
        return await this.#open().read(position, maxBytes, options, target)
      } catch (error) {
        const hasYielded = isCode(error, 'ERR_SEEKCACHE_CANCELLED') && this.#reader === undefined && !this.#isClosed
        if (!hasYielded) throw error
      }
    }
  }

  async #untilSettled(newer: PlayerConnection, signal: AbortSignal): Promise<void> {
    let onAbort: () => void = () => {}
    const aborted = new Promise<void>((resolve) => (onAbort = resolve))
    signal.addEventListener('abort', onAbort, { once: true })
    await Promise.race([newer.#settled, aborted])
    signal.removeEventListener('abort', onAbort)
    if (this.#yieldingTo === newer) this.#yieldingTo = undefined
  }

  /** A newer connection of the same player is where it reads now. */
  yieldTo(newer: PlayerConnection): void {
    this.#yieldingTo = newer
    this.suspend()
  }

  /** No demand until it moves again. */
  suspend(): void {
    if (this.#reader === undefined) return
    this.#run = this.#reader.run
    const reader = this.#reader
    this.#reader = undefined
    reader.close()
  }

  resume(): void {
    this.#yieldingTo = undefined
    if (!this.#isClosed) this.#open()
  }

  get ageMs(): number {
    return performance.now() - this.#openedAtMs
  }

  /** The player goes elsewhere; a read that waits is not needed any more, if it waits for long. */
  endIfStalled(intent: SeekIntent, onEnd: (position: number) => void): void {
    const sinceMs = this.#waitingSinceMs
    if (sinceMs === undefined || !isElsewhere(intent, this.#position)) return
    const end = (): void => {
      if (this.#isClosed || this.#waitingSinceMs !== sinceMs) return
      onEnd(this.#position)
      this.#parts.cut()
    }
    setTimeout(end, endsInMs(performance.now() - sinceMs)).unref()
  }

  close(isDone: boolean): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#settleTimer)
    this.suspend()
    this.#settle()
    this.#parts.onClose(this, isDone)
  }
}
