/**
 * A rehearsal: a host that nobody needs yet plays a small file to itself, so that the first film finds its code compiled.
 *
 * V8 compiles a function at its first call and learns the shapes of its objects at its first calls: over a link of 60 ms, the
 * first film that a host opened took a player 370 to 405 ms until its picture, 272 to 350 after a rehearsal (medians, Node 20, a
 * slow processor). It takes 0.4 s of one processor, once. The file comes from an origin in this process, through a host of its
 * own with a cache directory inside the real one, which goes with it: nothing of it is seen in the cache, the metrics or what
 * is known of origins.
 *
 * Who comes meanwhile does not wait for it: it is broken off at once, and made up for when the host is left alone again.
 */

import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'

import { formatContentRange, formatRange, parseRange } from './bytes/http-range.ts'
import { layoutOf, rehearsalDir } from './cache/layout.ts'
import type { Cache } from './client/cache.ts'
import type { RemoteMedia } from './client/remote-media.ts'
import type { HostOptions } from './config.ts'
import { cancelled } from './errors.ts'
import { Host } from './host.ts'
import { createLogger } from './telemetry.ts'

/** A client that has started the host, or that comes back, is there sooner. */
const REST_MS = 500

/** Of the film; a few of the pieces that fetches are made of. */
const FILM_BYTES = 2 * 1024 * 1024
/** What a player reads of a place before it goes to another. */
const SIP_BYTES = 256 * 1024
/** A player's places: the head, the index at the end, the head again, and a seek. */
const PLACES = [0, FILM_BYTES - SIP_BYTES / 4, 0, FILM_BYTES / 2]
const FILL = 0x5c
const BLOCK = Buffer.alloc(FILM_BYTES / 8, FILL)

export interface RehearsalOptions {
  /** Of the host that it is for. */
  readonly host: HostOptions
  readonly onRehearsed: (tookMs: number) => void
  /** The first film then opens as without a rehearsal. */
  readonly onFailure: (error: Error) => void
  /** How long nobody has been connected when it begins; default 500. */
  readonly restMs?: number
}

export class Rehearsal {
  readonly #options: RehearsalOptions
  #timer: NodeJS.Timeout | undefined
  #controller = new AbortController()
  /** They do not overlap. */
  #ended = Promise.resolve()
  /** Of the last one. */
  #host: Host | undefined
  #isOver = false

  constructor(options: RehearsalOptions) {
    this.#options = options
  }

  /** Whether anybody is connected to the real host, told at its start and whenever that changes. */
  onBusy(isBusy: boolean): void {
    clearTimeout(this.#timer)
    if (isBusy) this.#controller.abort(cancelled('the rehearsal'))
    else this.#timer = setTimeout(() => this.#begin(), this.#options.restMs ?? REST_MS).unref()
  }

  /** Resolves when the last one that has begun is over. */
  get ended(): Promise<void> {
    return this.#ended
  }

  async close(): Promise<void> {
    this.#isOver = true
    this.onBusy(true)
    await this.#ended
  }

  /** As that of a host. */
  get hasHungThread(): boolean {
    return this.#host?.hasHungThread === true
  }

  #begin(): void {
    const { signal } = (this.#controller = new AbortController())
    this.#ended = this.#ended.then(async () => await this.#perform(signal))
  }

  async #perform(signal: AbortSignal): Promise<void> {
    if (this.#isOver || signal.aborted) return
    const startedMs = performance.now()
    try {
      await this.#playAll(signal)
      signal.throwIfAborted()
      this.#options.onRehearsed(performance.now() - startedMs)
    } catch (error) {
      if (signal.aborted) return // it is made up for
      this.#options.onFailure(error as Error)
    }
    this.#isOver = true
  }

  async #playAll(signal: AbortSignal): Promise<void> {
    const cacheDir = rehearsalDir(layoutOf(this.#options.host.cacheDir))
    const options: HostOptions = {
      ...this.#options.host,
      cacheDir,
      socketPath: join(cacheDir, 'control.sock'),
      port: 0,
      idleExitMs: undefined,
      fill: false,
      renewCommand: undefined,
    }
    await using origin = await startOrigin()
    await rm(cacheDir, { recursive: true, force: true })
    try {
      await this.#play(options, origin.filmUrl, signal) // all of it is fetched
      await this.#play(options, origin.filmUrl, signal) // all of it is cached
    } finally {
      await rm(cacheDir, { recursive: true, force: true })
    }
  }

  async #play(options: HostOptions, filmUrl: string, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    const log = await createLogger({ level: 'silent' })
    const host = (this.#host = await Host.start(options, () => Promise.resolve(log)))
    try {
      await using cache = await connectTo(options)
      await playByProxy(await cache.proxyUrl(filmUrl), signal)
      await playByControl(await cache.open(filmUrl, { signal }), signal)
    } finally {
      await host.stop()
    }
  }
}

async function connectTo({ cacheDir, socketPath }: HostOptions): Promise<Cache> {
  const { connect } = await import('./client/cache.ts') // which a host has no other use for
  return await connect({ cacheDir, socketPath, startHost: false })
}

/** As a player does that goes from place to place: each time in a connection of its own, left when it has enough. */
async function playByProxy(proxyUrl: string, signal: AbortSignal): Promise<void> {
  for (const start of PLACES) {
    const asked = get(proxyUrl, { agent: false, headers: { range: formatRange(start) }, signal })
    const [answer] = (await once(asked, 'response')) as [IncomingMessage]
    if (answer.statusCode !== 206) throw new Error(`the proxy answered ${answer.statusCode}`)
    await take(answer, Math.min(SIP_BYTES, FILM_BYTES - start))
  }
}

/** As the element does, and at last all of it. */
async function playByControl(media: RemoteMedia, signal: AbortSignal): Promise<void> {
  for (const start of PLACES) await take(media.read(start, FILM_BYTES, { signal }), Math.min(SIP_BYTES, FILM_BYTES - start))
  await take(media.read(0, FILM_BYTES, { signal }), FILM_BYTES)
}

/** @throws where it ends before that, or is something else */
async function take(bytes: AsyncIterable<Buffer>, lengthBytes: number): Promise<void> {
  let takenBytes = 0
  for await (const piece of bytes) {
    for (let at = 0; at < piece.length; at += BLOCK.length) {
      const part = piece.subarray(at, at + BLOCK.length)
      if (!part.equals(BLOCK.subarray(0, part.length))) throw new Error('what was played is not what the origin has')
    }
    takenBytes += piece.length
    if (takenBytes >= lengthBytes) return
  }
  throw new Error(`${takenBytes} bytes came, ${lengthBytes} were asked for`)
}

/** Has one film, all of whose bytes are the same. */
async function startOrigin(): Promise<AsyncDisposable & { readonly filmUrl: string }> {
  const server = createServer(serveFilm)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    filmUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/film.mkv`,
    [Symbol.asyncDispose]: async () => {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

function serveFilm(request: IncomingMessage, response: ServerResponse): void {
  const asked = parseRange(request.headers.range, FILM_BYTES)
  if (asked.kind !== 'range') return void response.writeHead(416).end() // a host asks for ranges
  const { range } = asked
  response.writeHead(206, {
    'content-type': 'video/x-matroska',
    'content-length': range.end - range.start,
    'content-range': formatContentRange(range, FILM_BYTES),
    etag: '"film"',
  })
  for (let at = range.start; at < range.end; at += BLOCK.length) response.write(BLOCK.subarray(0, range.end - at))
  response.end()
}
