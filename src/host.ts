/**
 * The host: opens a cache directory, wires all parts together, and closes them in order.
 *
 * It owns the lifecycle: the directory's lock (in the store), the socket, the proxy's port, the state file by which
 * clients find them, and the clock that ends a host that nobody needs.
 */

import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { layoutOf, prepareLayout, unwritable } from './cache/layout.ts'
import { whyThreads } from './cache/page-cache.ts'
import { replaceFile } from './cache/private-dir.ts'
import { Store } from './cache/store.ts'
import type { HostOptions } from './config.ts'
import type { ListEntry, Status } from './control/protocol.ts'
import { PROTOCOL_VERSION } from './control/protocol.ts'
import { checkSocketPath, ControlServer } from './control/server.ts'
import { MediaLibrary } from './media.ts'
import { renewByCommand } from './origin/renew-command.ts'
import { Renewals } from './origin/renewals.ts'
import { OriginMemory } from './origin/origin-memory.ts'
import { Transport } from './origin/transport.ts'
import { Proxy } from './proxy/server.ts'
import { ProxyUrls } from './proxy/urls.ts'
import type { ScheduleLimits } from './schedule/parts.ts'
import { Telemetry, type Logger } from './telemetry.ts'
import { VERSION } from './version.ts'

/** What was learned of origins is kept so often, for a host that crashes. */
const REMEMBER_MS = 60_000

/** Closing takes some 10 ms, and some seconds where the disk refuses; one that never answers is not waited for. */
const STOP_LIMIT_MS = 10_000

/** What stands in `host.json`. */
export interface HostState {
  readonly pid: number
  readonly version: string
  readonly protocol: number
  readonly socket: string
  readonly proxy: string
}

export class Host {
  readonly options: HostOptions
  readonly #store: Store
  readonly #transport: Transport
  readonly #memory: OriginMemory
  readonly #memoryTimer: NodeJS.Timeout
  readonly #library: MediaLibrary
  readonly #telemetry: Telemetry
  readonly #urls: ProxyUrls
  readonly #proxy: Proxy
  readonly #control: ControlServer
  readonly #startedMs = Date.now()
  readonly #onBusy: (isBusy: boolean) => void
  #activity = 0
  #idleTimer: NodeJS.Timeout | undefined
  #stopping: Promise<void> | undefined
  #isLeftOpen = false
  #resolveStopped: () => void = () => {}
  /** Resolves when the host has left. */
  readonly stopped: Promise<void>

  /**
   * The log is opened once the directory is there: it may lie in it.
   * @param onBusy told whether anybody is connected, when it is ready and whenever that changes; leaving is being busy
   * @throws ERR_SEEKCACHE_CACHE_LOCKED where the directory has a host, _CACHE_UNWRITABLE, _CACHE_FORMAT, and _USAGE for a
   * socket path or a port that cannot be had
   */
  static async start(options: HostOptions, openLog: () => Promise<Logger>, onBusy: (isBusy: boolean) => void = () => {}): Promise<Host> {
    checkSocketPath(options.socketPath)
    await prepareLayout(layoutOf(options.cacheDir))
    const log = await openLog()
    if (whyThreads !== undefined) log[whyThreads.isFault ? 'warn' : 'debug'](`each read of a cached file takes a thread: ${whyThreads.reason}`)
    const telemetry = new Telemetry(log)
    const store = await Store.open({
      dir: options.cacheDir,
      maxSizeBytes: options.maxSizeBytes,
      reserveFreeBytes: options.reserveFreeBytes,
      checkedShare: options.checkedShare,
      syncData: options.syncData,
      onDiskState: (message, isFailing) => log[isFailing ? 'warn' : 'info'](message),
      onDamage: (message) => {
        telemetry.damagedChunks.inc()
        log.warn(message)
      },
    })
    const token = await ensureToken(options.cacheDir).catch(async (error: unknown) => {
      await store.close()
      throw error
    })
    const host = new Host(options, store, telemetry, token, onBusy)
    try {
      await host.#listen()
    } catch (error) {
      await host.stop()
      throw error
    }
    return host
  }

  private constructor(options: HostOptions, store: Store, telemetry: Telemetry, token: string, onBusy: (isBusy: boolean) => void) {
    this.options = options
    this.#onBusy = onBusy
    this.#store = store
    this.#telemetry = telemetry
    this.stopped = new Promise((resolve) => (this.#resolveStopped = resolve))
    this.#urls = new ProxyUrls(token)
    const renewals = new Renewals(telemetry, options.renewCommand === undefined ? undefined : renewByCommand(options.renewCommand))
    this.#memory = new OriginMemory(store.salt, store.origins, Date.now())
    this.#transport = new Transport({ maxConnectionsPerOrigin: options.connectionsPerOrigin, memory: this.#memory })
    this.#memoryTimer = setInterval(() => void this.#remember(), REMEMBER_MS).unref()
    this.#library = new MediaLibrary({
      store,
      transport: this.#transport,
      telemetry,
      limits: scheduleLimits(options),
      revalidateMs: options.revalidateMs,
      userAgent: `seekcache/${VERSION}`,
      keyRules: options,
      fill: options.fill,
      renewals,
    })
    const onActivity = (delta: 1 | -1): void => this.#onActivity(delta)
    this.#proxy = new Proxy(
      {
        port: options.port === 0 ? lastPort(options.cacheDir) : options.port,
        isPortRequired: options.port !== 0,
        waitMs: options.waitMs,
        bodyWaitMs: options.bodyWaitMs,
      },
      { library: this.#library, urls: this.#urls, renewals, telemetry, onActivity },
    )
    this.#control = new ControlServer(
      {
        library: this.#library,
        urls: this.#urls,
        renewals,
        telemetry,
        version: VERSION,
        status: () => this.#status(),
        list: (after) => this.#list(after),
        stop: () => void this.stop(),
      },
      onActivity,
    )
    telemetry.usedBytesNow = () => store.stats.usedBytes
  }

  async #listen(): Promise<void> {
    const port = await this.#proxy.listen()
    this.#urls.base = `http://127.0.0.1:${port}/${this.#urls.token}`
    await writePrivate(join(this.options.cacheDir, 'port'), `${port}\n`)
    await this.#control.listen(this.options.socketPath)
    await writePrivate(this.#stateFile, `${JSON.stringify(this.state)}\n`)
    this.#onActivity(0)
  }

  get #stateFile(): string {
    return join(this.options.cacheDir, 'host.json')
  }

  get state(): HostState {
    const { socketPath: socket } = this.options
    return { pid: process.pid, version: VERSION, protocol: PROTOCOL_VERSION, socket, proxy: this.#urls.base }
  }

  /** Whether `process.exit` would not end: it waits for all threads. */
  get hasHungThread(): boolean {
    return this.#isLeftOpen || this.#store.hasHungThread
  }

  /** Finishes writes, commits, and leaves the directory to the next host; in a bounded time, or as a crash does. */
  async stop(): Promise<void> {
    this.#stopping ??= this.#stop()
    await this.#stopping
  }

  async #stop(): Promise<void> {
    clearTimeout(this.#idleTimer)
    this.#onBusy(true)
    let timer: NodeJS.Timeout | undefined
    const expiry = new Promise<'expired'>((resolve) => (timer = setTimeout(() => resolve('expired'), STOP_LIMIT_MS)))
    const isExpired = (await Promise.race([this.#close(), expiry])) === 'expired'
    clearTimeout(timer)
    if (isExpired) {
      this.#isLeftOpen = true
      this.#telemetry.log.warn('not all could be written in time: leaving without it')
    }
    this.#resolveStopped()
  }

  /** What fails does not keep the rest from being closed. */
  async #close(): Promise<void> {
    clearInterval(this.#memoryTimer)
    const steps = [
      () => rm(this.#stateFile, { force: true }),
      () => this.#control.close(),
      () => this.#proxy.close(),
      () => this.#library.close(),
      () => this.#remember(),
      () => this.#transport.close(),
      () => this.#store.close(),
    ]
    for (const step of steps) await step().catch((error: unknown) => this.#telemetry.log.warn(`in leaving: ${(error as Error).message}`))
  }

  /** What was learned of origins is found again by the next host. */
  async #remember(): Promise<void> {
    this.#transport.remember(Date.now())
    if (this.#memory.records.length > 0) await this.#store.putOrigins(this.#memory.records)
  }

  #onActivity(delta: 1 | -1 | 0): void {
    this.#activity += delta
    clearTimeout(this.#idleTimer)
    if (this.#stopping !== undefined) return
    const isBusy = this.#activity > 0
    if (this.#activity === Math.max(delta, 0)) this.#onBusy(isBusy)
    const { idleExitMs } = this.options
    if (isBusy || idleExitMs === undefined) return
    this.#idleTimer = setTimeout(() => {
      this.#telemetry.log.info('nobody is connected: leaving')
      void this.stop()
    }, idleExitMs)
  }

  // ---- what it tells of itself

  #status(): Status {
    const { usedBytes, degraded } = this.#store.stats
    const open = this.#library.all
    return {
      version: VERSION,
      pid: process.pid,
      uptimeSeconds: Math.round((Date.now() - this.#startedMs) / 1000),
      cacheDir: this.options.cacheDir,
      socket: this.options.socketPath,
      proxy: this.#urls.base,
      maxSizeBytes: this.options.maxSizeBytes,
      usedBytes,
      resources: [...this.#store.resources()].length,
      sessions: this.#control.sessionCount,
      readers: open.reduce((sum, media) => sum + media.scheduler.readerCount, 0),
      fetchesInFlight: open.reduce((sum, media) => sum + media.scheduler.fetchCount, 0),
      originBytes: this.#telemetry.counted.originBytes,
      degraded: degraded ?? null,
    }
  }

  *#list(after: string): Generator<[cursor: string, entry: ListEntry]> {
    for (const [key, record] of this.#store.resources(after)) {
      let presentBytes = 0
      for (const range of this.#store.presentRanges(record.generation, record.sizeBytes)) presentBytes += range.end - range.start
      const { displayUrl: url, sizeBytes, contentType, lastUsedMs } = record
      yield [key, { url, sizeBytes, presentBytes, contentType: contentType ?? null, lastUsedMs }]
    }
  }
}

/**
 * What a player may take at a place without moving on: GStreamer's queues hold 2 s, 2.5 MB of a 10 Mbit/s film; between the
 * proxy and a paused mpv the sockets took 1 to 8 MB, more of a cached place than of one that was just being fetched.
 */
const INITIAL_WINDOW_BYTES = 16 * 1024 * 1024

function scheduleLimits(options: HostOptions): ScheduleLimits {
  return {
    maxFetches: options.connectionsPerOrigin,
    initialWindowBytes: INITIAL_WINDOW_BYTES,
    maxWindowBytes: options.maxWindowBytes,
    stall: { firstByteMs: Math.max(options.firstByteMs, options.stallMs), betweenBytesMs: options.stallMs },
  }
}

/** The last port again, so that a player that was told it finds a restarted host there. */
function lastPort(cacheDir: string): number {
  try {
    const port = Number(readFileSync(join(cacheDir, 'port'), 'utf8'))
    return Number.isInteger(port) && port > 0 && port < 65_536 ? port : 0
  } catch {
    return 0
  }
}

async function ensureToken(cacheDir: string): Promise<string> {
  const path = join(cacheDir, 'token')
  const known = (await readFile(path, 'utf8').catch(() => '')).trim()
  if (/^[\w-]{43}$/.test(known)) return known
  const token = randomBytes(32).toString('base64url')
  await writePrivate(path, `${token}\n`)
  return token
}

async function writePrivate(path: string, text: string): Promise<void> {
  try {
    await replaceFile(path, text)
  } catch (cause) {
    throw unwritable(dirname(path), cause)
  }
}
