/**
 * `seekcache serve`: the host in the foreground, or, as clients start it, in the background.
 */

import { closeSync, statSync, truncateSync, writeSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

import { BACKGROUND_IDLE_EXIT_SECONDS, HOST_DEFAULTS, type HostOptions } from '../config.ts'
import { isCode, SeekCacheError } from '../errors.ts'
import { Host, type HostState } from '../host.ts'
import { Rehearsal } from '../rehearsal.ts'
import { createLogger, type Logger, type LogLevel } from '../telemetry.ts'
import { EXIT } from './exit-code.ts'

export interface ServeFlags {
  readonly cacheDir: string
  readonly socket: string
  readonly port?: number
  readonly maxSize?: number
  readonly reserve?: number
  readonly idleExit?: number
  readonly wait?: number
  readonly bodyWait?: number
  readonly checkedShare?: number
  readonly sync?: boolean
  readonly connections?: number
  readonly window?: number
  readonly stall?: number
  readonly firstByte?: number
  readonly revalidate?: number
  readonly fill?: boolean
  readonly renewCommand?: string
  readonly rehearsal?: boolean
  readonly ignoreParameter?: readonly string[]
  readonly shareCredentials?: boolean
  readonly logLevel: LogLevel
  readonly json?: boolean
  readonly background?: boolean
  readonly readyFd?: number
}

/** A background host's log is started anew beyond this. */
const MAX_LOG_BYTES = 8 * 1024 * 1024
const LEAVING_MS = 1_000
/** What threads of the process do for it, as `process.getActiveResourcesInfo` names it. */
const THREAD_WORK = ['FSReqCallback', 'FSReqPromise', 'GetAddrInfoReqWrap', 'GetNameInfoReqWrap']
/** How long a second host waits for the first one to listen. */
const OTHER_HOST_DEADLINE_MS = 10_000

export async function serve(flags: ServeFlags): Promise<number> {
  process.umask(0o077) // for what makes files without saying their mode, LMDB above all
  const options = hostOptions(flags)
  let log: Logger | undefined
  const openLog = async (): Promise<Logger> => {
    const file = flags.background === true ? logFile(options.cacheDir) : undefined
    return (log = await createLogger({ level: flags.logLevel, file }))
  }
  const rehearsal = new Rehearsal({
    host: options,
    onRehearsed: (tookMs) => {
      tell(flags, { event: 'rehearsed' })
      log?.debug(`rehearsed in ${Math.round(tookMs)} ms`)
    },
    onFailure: (error) => log?.info(`the first film opens slower, its rehearsal failed: ${error.message}`),
  })
  let host: Host
  try {
    host = await Host.start(options, openLog, flags.rehearsal === false ? undefined : (isBusy) => rehearsal.onBusy(isBusy))
  } catch (error) {
    return await reportFailure(flags, options, error)
  }
  const stopped = untilStopped(host, rehearsal, flags)
  tellReady(flags, host.state)
  return await stopped
}

function hostOptions(flags: ServeFlags): HostOptions {
  const idleExit = flags.idleExit ?? (flags.background === true ? BACKGROUND_IDLE_EXIT_SECONDS : undefined)
  return {
    cacheDir: flags.cacheDir,
    socketPath: flags.socket,
    port: flags.port ?? HOST_DEFAULTS.port,
    maxSizeBytes: flags.maxSize ?? HOST_DEFAULTS.maxSizeBytes,
    reserveFreeBytes: flags.reserve ?? HOST_DEFAULTS.reserveFreeBytes,
    idleExitMs: idleExit === undefined ? undefined : idleExit * 1000,
    waitMs: msOr(flags.wait, HOST_DEFAULTS.waitMs),
    bodyWaitMs: msOr(flags.bodyWait, HOST_DEFAULTS.bodyWaitMs),
    checkedShare: flags.checkedShare ?? HOST_DEFAULTS.checkedShare,
    syncData: flags.sync ?? HOST_DEFAULTS.syncData,
    connectionsPerOrigin: flags.connections ?? HOST_DEFAULTS.connectionsPerOrigin,
    maxWindowBytes: flags.window ?? HOST_DEFAULTS.maxWindowBytes,
    stallMs: msOr(flags.stall, HOST_DEFAULTS.stallMs),
    firstByteMs: msOr(flags.firstByte, HOST_DEFAULTS.firstByteMs),
    revalidateMs: msOr(flags.revalidate, HOST_DEFAULTS.revalidateMs),
    fill: flags.fill ?? HOST_DEFAULTS.fill,
    renewCommand: flags.renewCommand,
    ignoredParameters: flags.ignoreParameter ?? HOST_DEFAULTS.ignoredParameters,
    sharesCredentials: flags.shareCredentials ?? HOST_DEFAULTS.sharesCredentials,
  }
}

function msOr(seconds: number | undefined, defaultMs: number): number {
  return seconds === undefined ? defaultMs : seconds * 1000
}

function logFile(cacheDir: string): string | undefined {
  const path = join(cacheDir, 'host.log')
  try {
    if (statSync(path).size > MAX_LOG_BYTES) truncateSync(path)
  } catch {
    // there is none yet, or none can be: the host will say so
  }
  return path
}

function tellReady(flags: ServeFlags, { proxy, socket, pid }: HostState): void {
  const event = { event: 'ready', proxy, socket, pid }
  if (flags.readyFd !== undefined) tellStarter(flags.readyFd, event)
  tell(flags, event)
  if (flags.json !== true && flags.background !== true) process.stdout.write(`proxy   ${proxy}\nsocket  ${socket}\n`)
}

function tell(flags: ServeFlags, event: object): void {
  if (flags.json === true) process.stdout.write(`${JSON.stringify(event)}\n`)
}

/** A starter that is gone meanwhile is no reason to leave. */
function tellStarter(fd: number, event: object): void {
  try {
    writeSync(fd, `${JSON.stringify(event)}\n`)
    closeSync(fd)
  } catch {
    // nobody listens
  }
}

/** To a client that started us it is no failure that another host was faster: it is told of that one. */
async function reportFailure(flags: ServeFlags, options: HostOptions, error: unknown): Promise<number> {
  if (flags.readyFd === undefined) throw error
  if (isCode(error, 'ERR_SEEKCACHE_CACHE_LOCKED')) {
    const other = await otherHost(options.cacheDir)
    if (other !== undefined) {
      tellReady(flags, other)
      return EXIT.ok
    }
  }
  const { code, message } = error instanceof SeekCacheError ? error : { code: 'ERR_SEEKCACHE_HOST_UNAVAILABLE', message: String(error) }
  tellStarter(flags.readyFd, { event: 'error', code, message })
  return EXIT.failure
}

/** The host that has the directory, once it listens. It may be a moment before that, or on its way out. */
async function otherHost(cacheDir: string): Promise<HostState | undefined> {
  const deadline = performance.now() + OTHER_HOST_DEADLINE_MS
  while (performance.now() < deadline) {
    const state = await readFile(join(cacheDir, 'host.json'), 'utf8').then((text) => JSON.parse(text) as HostState, () => undefined)
    if (state !== undefined && (await isListening(state.socket))) return state
    await delay(20) // nothing tells when a stranger begins to listen
  }
  return undefined
}

async function isListening(socketPath: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const probe = connect(socketPath, () => {
      probe.destroy()
      resolve(true)
    })
    probe.on('error', () => resolve(false))
  })
}

/** The first signal stops in order, a second one at once. */
async function untilStopped(host: Host, rehearsal: Rehearsal, flags: ServeFlags): Promise<number> {
  let signals = 0
  const onSignal = (): void => {
    if (++signals > 1) leave([host, rehearsal], EXIT.interrupted)
    void host.stop()
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal)
  await host.stopped
  // Everything is closed; a connection to an origin that was just being made must not keep the process, nor a rehearsal on a disk that hangs.
  setTimeout(() => leave([host, rehearsal], EXIT.ok), LEAVING_MS).unref()
  await rehearsal.close()
  tell(flags, { event: 'stopped' })
  return EXIT.ok
}

/** `process.exit` waits for every thread: for a disk that never answers, for a name server that takes half a minute. */
function leave(parts: readonly { readonly hasHungThread: boolean }[], code: number): void {
  if (parts.some(({ hasHungThread }) => hasHungThread) || process.getActiveResourcesInfo().some((kind) => THREAD_WORK.includes(kind))) process.kill(process.pid, 'SIGKILL')
  process.exit(code)
}
