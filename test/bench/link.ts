/**
 * The emulated link: two network namespaces of this run's own, joined by `link.c`, with real TCP (cubic, as most origins
 * run it) at both ends.
 *
 * Whatever happens to a run, its namespaces go: when the link is disposed of, when this process ends, and, for a run that
 * was killed, when the next one starts.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { accessSync, constants, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import { endWithThisProcess, isRunning } from '../support/children.ts'
import { within } from '../support/deadline.ts'
import { tempDir } from '../support/temp-dir.ts'

export interface LinkOptions {
  readonly rttMs: number
  readonly megabitsPerSecond: number
  /** A packet that would wait longer than that for its turn is dropped. */
  readonly queueMs: number
}

export interface Link extends AsyncDisposable {
  readonly originAddress: string
  /** The words of a command, made to run at that end of the link. */
  atClient(words: readonly string[]): readonly string[]
  atOrigin(words: readonly string[]): readonly string[]
}

const SOURCE = fileURLToPath(new URL('link.c', import.meta.url))
/** The same in every run: namespaces do not see each other's addresses. */
const ADDRESSES = { client: '10.77.0.1', origin: '10.77.0.2' }
const ENDS = ['client', 'origin'] as const
const DEVICE = 'wire'

/** Why no link can be emulated here, if so. */
export function whyNoLink(): string | undefined {
  if (process.platform !== 'linux') return 'it needs network namespaces, which only Linux has'
  if (process.getuid?.() !== 0) return 'it needs root, to make network namespaces'
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK)
  } catch {
    return 'it needs /dev/net/tun'
  }
  const missing = ['ip', 'cc', 'nginx'].find((program) => spawnSync('which', [program]).status !== 0)
  return missing === undefined ? undefined : `it needs the program ${missing}`
}

export async function startLink(options: LinkOptions): Promise<Link> {
  removeLeftNamespaces()
  const folder = await tempDir('seekcache-link')
  const program = folder.file('link')
  run('cc', '-O2', '-o', program, SOURCE)
  const names = { client: `sc-client-${process.pid}`, origin: `sc-origin-${process.pid}` }
  const remove = (): void => {
    for (const end of ENDS) spawnSync('ip', ['netns', 'del', names[end]])
  }
  process.once('exit', remove)
  let wire: ChildProcess | undefined
  const stop = async (): Promise<void> => {
    wire?.kill('SIGKILL')
    remove()
    process.off('exit', remove)
    await folder.remove()
  }
  try {
    for (const end of ENDS) run('ip', 'netns', 'add', names[end])
    wire = await startWire(program, [names.client, names.origin], options)
    for (const end of ENDS) setUpEnd(names[end], ADDRESSES[end])
  } catch (error) {
    await stop()
    throw error
  }
  return {
    originAddress: ADDRESSES.origin,
    atClient: (words) => ['ip', 'netns', 'exec', names.client, ...words],
    atOrigin: (words) => ['ip', 'netns', 'exec', names.origin, ...words],
    [Symbol.asyncDispose]: stop,
  }
}

async function startWire(program: string, namespaces: readonly string[], options: LinkOptions): Promise<ChildProcess> {
  const { rttMs, megabitsPerSecond, queueMs } = options
  const numbers = [rttMs, megabitsPerSecond, queueMs].map(String)
  const child = spawn(program, [...namespaces, ...numbers], { stdio: ['pipe', 'pipe', 'inherit'] })
  endWithThisProcess(child)
  const ready = new Promise<void>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => reject(new Error(`the link left with ${code}`)))
    child.stdout.once('data', () => resolve())
  })
  await within('the start of the link', ready)
  return child
}

function setUpEnd(namespace: string, address: string): void {
  const network = address.replace(/\d+$/, '0/24')
  const ip = (...words: string[]): void => run('ip', '-n', namespace, ...words)
  ip('link', 'set', 'lo', 'up')
  ip('addr', 'add', `${address}/24`, 'dev', DEVICE)
  ip('link', 'set', DEVICE, 'up')
  ip('route', 'change', network, 'dev', DEVICE, 'proto', 'kernel', 'scope', 'link', 'src', address, 'congctl', 'cubic')
}

/** Of runs that were killed before they could do it. */
function removeLeftNamespaces(): void {
  let names: string[] = []
  try {
    names = readdirSync('/run/netns')
  } catch {
    return // there has never been one
  }
  for (const name of names) {
    const pid = /^sc-(?:client|origin)-(\d+)$/.exec(name)?.[1]
    if (pid === undefined || isRunning(Number(pid))) continue
    for (const left of spawnSync('ip', ['netns', 'pids', name], { encoding: 'utf8' }).stdout.split('\n').filter(Boolean)) {
      process.kill(Number(left), 'SIGTERM')
    }
    spawnSync('ip', ['netns', 'del', name])
  }
}

function run(program: string, ...words: string[]): void {
  const { status, stderr, error } = spawnSync(program, words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${words.join(' ')}: ${(error?.message ?? stderr).trim()}`)
}
