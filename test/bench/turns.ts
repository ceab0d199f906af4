/**
 * Runs the combinations over their links: one link at a time, its drivers taking turns, each turn in a process of its own
 * at the client's end.
 */
import { spawn } from 'node:child_process'
import { writeFileSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import type { Film } from '../../src/demo/film.ts'
import { endWithThisProcess } from '../support/children.ts'
import { makeCertificate } from '../support/certificate.ts'
import { within } from '../support/deadline.ts'
import { tempDir } from '../support/temp-dir.ts'
import type { Calm } from './calm.ts'
import { type Link, startLink } from './link.ts'
import { type Combination, type DriverName, type Effort, LINKS, placesOf } from './matrix.ts'
import { filesOf, type Nginx, type NginxOptions, type OriginRequest, startNginx } from './nginx.ts'
import type { Step } from './players.ts'
import type { DownloadResult, DownloadTask } from './download.ts'
import type { Http2Result, Http2Task } from './http2.ts'
import type { StormResult, StormTask } from './storm.ts'
import type { TurnResult, TurnTask } from './worker.ts'

export interface Turn {
  readonly combination: Combination
  readonly driver: DriverName
  readonly result?: TurnResult
  readonly failure?: string
}

export interface TurnsOptions {
  readonly film: Film
  readonly effort: Effort
  readonly calm: Calm
  /** A folder for what each turn asked of the origin, and when. */
  readonly traceDir?: string
  /** Of seekcache to the origin, at most. */
  readonly connections?: number
  readonly onProgress: (line: string) => void
}

const PROGRAMS = { turn: 'worker.ts', download: 'download.ts', http2: 'http2.ts', storm: 'storm.ts' } as const
const DEVICE = 'wire'
/** Long enough that TCP's start does not matter, short enough to be repeated. */
const DOWNLOAD_BYTES = 100 * 2 ** 20
const ORIGIN_PORT = 8080
const SECURE_PORT = 8443
const TURN_LIMIT_MS = 300_000

export async function runCombinations(combinations: readonly Combination[], options: TurnsOptions): Promise<Turn[]> {
  const turns: Turn[] = []
  for (const name of new Set(combinations.map((combination) => combination.link))) {
    await using link = await startLink(LINKS[name])
    await using origin = await startOrigin(link, options.film)
    for (const combination of combinations.filter((candidate) => candidate.link === name)) {
      for (let round = 0; round < options.effort.rounds; round++) {
        for (const driver of combination.drivers) {
          const title = `${combination.link} ${combination.player} ${combination.format} ${driver} ${round + 1}/${options.effort.rounds}`
          turns.push(await options.calm.measure(title, async () => await runTurn(link, origin, combination, driver, round, title, options)))
        }
      }
    }
  }
  return turns
}

/** Over the main link. */
export async function runDownloads({ film, effort, calm }: TurnsOptions): Promise<DownloadResult[]> {
  await using link = await startLink(LINKS.main)
  await using origin = await startOrigin(link, film)
  const task: DownloadTask = { url: `${origin.url}/${film.files.mkv.name}`, device: DEVICE, sizeBytes: DOWNLOAD_BYTES }
  return await calm.measureRounds(effort.rounds, 'download', async () => await atClient<DownloadResult>(link, PROGRAMS.download, task))
}

/** Over the main link. */
export async function runStorms({ film, effort, calm }: TurnsOptions): Promise<StormResult[]> {
  await using link = await startLink(LINKS.main)
  await using origin = await startOrigin(link, film)
  const { name, sizeBytes } = film.files.mkv
  const task = (round: number): StormTask => ({ url: `${origin.url}/${name}`, device: DEVICE, sizeBytes, round })
  return await calm.measureRounds(effort.storms, 'storm', async (round) => await atClient<StormResult>(link, PROGRAMS.storm, task(round)))
}

/** Over the main link. */
export async function runHttp2({ film, effort, calm }: TurnsOptions): Promise<Http2Result[]> {
  await using link = await startLink(LINKS.main)
  await using certificate = await makeCertificate({ names: `IP:${link.originAddress}` })
  await using _origin = await startOrigin(link, film, { port: SECURE_PORT, ...certificate })
  const { name, sizeBytes } = film.files.mkv
  const url = `https://${link.originAddress}:${SECURE_PORT}/${name}`
  const { certFile: authorityFile } = certificate
  const { dwellSeconds } = effort
  const task = (round: number): Http2Task => ({ url, sizeBytes, authorityFile, placesPercent: placesOf(effort, round), dwellSeconds })
  return await calm.measureRounds(effort.rounds, 'http2', async (round) => await atClient<Http2Result>(link, PROGRAMS.http2, task(round)))
}

/** Of films in a memory file system of its own mount namespace, which goes with it. */
const FROM_MEMORY = 'mount -t tmpfs films "$1" && cp "$2" "$3" "$1" && shift 3 && exec "$@"'

/**
 * Its films are in memory: what its disk takes is not measured. On a virtual machine that gives its page cache back within
 * two minutes single seeks took 1.3 s.
 */
async function startOrigin(link: Link, { files }: Film, secure?: NginxOptions['secure']): Promise<Nginx> {
  const folder = await tempDir('seekcache-bench-films')
  const nginx = await startNginx({
    address: link.originAddress,
    port: ORIGIN_PORT,
    locations: filesOf(folder.path),
    at: (words) => link.atOrigin(['sh', '-c', FROM_MEMORY, 'sh', folder.path, files.mkv.path, files.mp4.path, ...words]),
    ...(secure === undefined ? {} : { secure }),
  }).catch(async (error: unknown) => {
    await folder.remove()
    throw error
  })
  return {
    ...nginx,
    [Symbol.asyncDispose]: async () => {
      await nginx[Symbol.asyncDispose]()
      await folder.remove()
    },
  }
}

async function runTurn(
  link: Link, origin: Nginx, combination: Combination, driver: DriverName, round: number, title: string, options: TurnsOptions,
): Promise<Turn> {
  const { effort, film, traceDir, connections, onProgress } = options
  const task: TurnTask = {
    driver,
    player: combination.player,
    url: `${origin.url}/${film.files[combination.format].name}`,
    file: film.files[combination.format].path,
    device: DEVICE,
    opens: effort.opens,
    placesPercent: placesOf(effort, round),
    dwellSeconds: effort.dwellSeconds,
    againDwellSeconds: effort.againDwellSeconds,
    ...(traceDir === undefined ? {} : { logLevel: 'debug' }),
    ...(connections === undefined ? {} : { connections }),
  }
  const startedAt = Date.now() / 1000
  try {
    const result = await atClient<TurnResult>(link, PROGRAMS.turn, task)
    onProgress(`${title}: open ${ms(result.opens.map(({ open }) => open))}, cold ${ms(result.cold.seeks)}, again ${ms(result.again.seeks)}`)
    if (traceDir !== undefined) writeTrace(traceDir, title, (await origin.requests()).filter((r) => r.startedAt >= startedAt), result)
    return { combination, driver, result }
  } catch (error) {
    const failure = (error as Error).message.trim().split('\n')[0] ?? ''
    onProgress(`${title}: ${failure}`)
    return { combination, driver, failure }
  }
}

async function atClient<T>(link: Link, program: string, task: object): Promise<T> {
  const file = fileURLToPath(new URL(program, import.meta.url))
  const words = link.atClient([process.execPath, '--import', 'tsx', file, JSON.stringify(task)])
  const child = spawn(words[0]!, words.slice(1), { stdio: ['ignore', 'pipe', 'pipe'] })
  endWithThisProcess(child, 'SIGTERM')
  let [output, complaint] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text))
  const exited = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
  try {
    const code = await within('a turn', exited, TURN_LIMIT_MS)
    if (code !== 0) throw new Error(/^\w*Error: .*$/m.exec(complaint)?.[0] ?? `a turn left with ${code}: ${complaint.slice(-300)}`)
    return JSON.parse(output) as T
  } finally {
    child.kill('SIGTERM') // its own children go with it
  }
}

function ms(steps: readonly Step[]): string {
  return steps.map((step) => step.ms.toFixed(0)).join(' ')
}

/** The player's steps and the origin's requests on one time line. */
function writeTrace(folder: string, title: string, requests: readonly OriginRequest[], result: TurnResult): void {
  mkdirSync(folder, { recursive: true })
  const zero = result.opens[0]?.open.startedAt ?? 0
  const steps = [...result.opens.map(({ open }) => open), ...result.cold.seeks, result.again.open, ...result.again.seeks,
    result.restarted.open, ...result.restarted.seeks]
  const lines = [
    ...steps.map((step) => ({ at: step.startedAt, text: `---- ${step.what} took ${step.ms.toFixed(0)} ms` })),
    ...requests.map((r) => ({
      at: r.startedAt,
      text: `${r.range} -> ${r.status} ${r.bytes} B${r.isComplete ? '' : ' (given up)'} in ${((r.endedAt - r.startedAt) * 1000).toFixed(0)} ms, connection ${r.connection} request ${r.request}`,
    })),
  ].sort((a, b) => a.at - b.at)
  const text = lines.map(({ at, text }) => `${((at - zero) * 1000).toFixed(0).padStart(7)} ${text}`).join('\n')
  writeFileSync(path.join(folder, `${title.replaceAll(/[ /]/g, '-')}.txt`), `${text}\n\n${result.log}\n`)
}
