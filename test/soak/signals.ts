/**
 * Ends hosts with SIGTERM at any instant, from before their first line of code to work at full load, on a busy machine.
 *
 * Each must be gone in a bounded time, by the signal or in order, and leave a directory that the next one takes at once:
 * the hosts follow one another on one directory without a pause. The last one must get to its greeting. Some of them have
 * readers when the signal comes, of an origin that answers and of one that never does.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'

import { connect } from '../../src/client/cache.ts'
import { endWithThisProcess } from '../support/children.ts'
import { patternContent } from '../support/content.ts'
import { within } from '../support/deadline.ts'
import { type FaultOrigin, startFaultOrigin } from '../support/fault-origin.ts'
import { CLI_FILE, startHost } from '../support/host.ts'
import { type Random, randomOf, seedOfRun } from '../support/random.ts'
import { tempDir } from '../support/temp-dir.ts'

const CONTENT = patternContent(6_000_000)
/** Ten times what a stop may take; on a busy machine. */
const END_LIMIT_MS = 60_000
/** A host that has greeted lives so long at most. */
const MAX_LIFE_MS = 300
const SHARE_IN_START = 0.6
const SHARE_WITH_READERS = 0.7

export interface SignalSummary {
  rounds: number
  /** Ended before they had greeted, by the signal itself. */
  inStart: number
  /** Ended in order. */
  inOrder: number
  slowestEndMs: number
}

export default async function signals(): Promise<string> {
  const seed = seedOfRun()
  const rounds = Number(process.env.SEEKCACHE_SIGNALS ?? 300)
  const busy = Array.from({ length: Number(process.env.SEEKCACHE_BUSY ?? 8) }, () => spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }))
  for (const child of busy) endWithThisProcess(child)
  try {
    return `seed ${seed}: ${JSON.stringify(await signalCampaign(rounds, seed, Number(process.env.SEEKCACHE_LIMIT_SECONDS ?? 1e6) * 1000))}`
  } finally {
    for (const child of busy) child.kill('SIGKILL')
  }
}

/** @throws at the first host that stays, that cannot be started, or that leaves with a failure */
export async function signalCampaign(rounds: number, seed: number, limitMs = Number.POSITIVE_INFINITY): Promise<SignalSummary> {
  const random = randomOf(seed)
  await using dir = await tempDir()
  await using origin = await startFaultOrigin({ content: CONTENT, script: ({ target }) => (target.includes('silent') ? { kind: 'head-held' } : undefined) })
  const cacheDir = dir.file('c')
  const summary = { rounds: 0, inStart: 0, inOrder: 0, slowestEndMs: 0 }
  const beganMs = performance.now()
  let startMs = 1_000
  while (summary.rounds < rounds && performance.now() - beganMs < limitMs) {
    startMs = await liveAndLeave(cacheDir, origin, random, startMs, summary).catch((cause: unknown) => {
      throw new Error(`seed ${seed}, round ${summary.rounds}`, { cause })
    })
    summary.rounds++
  }
  await using last = await startHost({ cacheDir })
  await last.halt()
  return summary
}

/** @returns how long a start takes, as is known now */
async function liveAndLeave(cacheDir: string, origin: FaultOrigin, random: Random, startMs: number, summary: SignalSummary): Promise<number> {
  const isInStart = random.next() < SHARE_IN_START
  const spawnedMs = performance.now()
  const child = spawn(process.execPath, [CLI_FILE, 'serve', '--json', '--cache-dir', cacheDir, '--log-level', 'warn'], { stdio: ['ignore', 'pipe', 'pipe'] })
  endWithThisProcess(child)
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => child.once('close', (code, signal) => resolve({ code, signal })))
  let greetedMs: number | undefined
  const greeted = new Promise<void>((resolve) => child.stdout.once('data', () => {
    greetedMs = performance.now() - spawnedMs
    resolve()
  }))
  const gone = new AbortController()
  let readers: Promise<unknown> = Promise.resolve()
  if (isInStart) await delay(random.next() * 1.3 * startMs)
  else {
    await within('the greeting of a host', Promise.race([greeted, exited]))
    if (random.next() < SHARE_WITH_READERS) readers = Promise.allSettled(startReaders(cacheDir, origin, gone.signal))
    await delay(random.next() * MAX_LIFE_MS)
  }
  const wasGreeted = greetedMs !== undefined
  const toldMs = performance.now()
  if (!child.kill('SIGTERM')) throw new Error(`the host was gone before it was told: ${stderr}`)
  const { code, signal } = await within('the end of a host', exited, END_LIMIT_MS).catch((cause: unknown) => {
    throw new Error(`a host that ${wasGreeted ? 'had greeted' : 'had not greeted'} stays:\n${stateOf(child)}\n${stderr}`, { cause })
  })
  gone.abort()
  await within('the end of its readers', readers)
  if (!(code === 0 || (signal === 'SIGTERM' && !wasGreeted))) throw new Error(`it left with ${code ?? signal}: ${stderr}`)
  if (code === 0) summary.inOrder++
  else summary.inStart++
  summary.slowestEndMs = Math.max(summary.slowestEndMs, Math.round(performance.now() - toldMs))
  return greetedMs ?? startMs
}

function startReaders(cacheDir: string, origin: FaultOrigin, signal: AbortSignal): Promise<unknown>[] {
  const read = async (name: string): Promise<void> => {
    await using cache = await connect({ cacheDir, startHost: false })
    const url = await cache.proxyUrl(origin.url(name))
    await Promise.all([fetch(url, { signal }).then((response) => response.arrayBuffer()), cache.open(origin.url(name), { signal }).then((media) => media.fetchAll({ signal }))])
  }
  return ['film.mkv', 'silent.mkv'].map(read)
}

/** What the system says of a process that should be gone. */
function stateOf({ pid }: ChildProcess): string {
  const tell = (file: string): string => {
    try {
      return readFileSync(`/proc/${pid}/${file}`, 'utf8').trim()
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? ''
    }
  }
  try {
    const status = tell('status').split('\n').filter((line) => /^(State|Threads|Sig|Shd)/.test(line))
    const threads = readdirSync(`/proc/${pid}/task`).map((task) => `${task} ${tell(`task/${task}/comm`)} ${tell(`task/${task}/wchan`)} ${tell(`task/${task}/syscall`)} ${tell(`task/${task}/stack`)}`)
    return [...status, ...threads].join('\n')
  } catch {
    return 'the process is gone; somebody holds its output'
  }
}
