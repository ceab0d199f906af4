/**
 * Kills a working host at random instants, over and over on one directory, and looks at what it left.
 *
 * Readers of the proxy and of the Node API read and seek in films that are several times the budget, one of them seek after
 * seek without a pause, so the host writes, commits, gives up and evicts all the time. After each kill the directory is
 * compared with the content, byte by byte; then a store adopts it, and must find no orphan and be within the budget; now
 * and then a host serves all of it with the origin down.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'

import { EXTENT_BYTES } from '../../src/bytes/ranges.ts'
import { layoutOf, prepareLayout } from '../../src/cache/layout.ts'
import { Store } from '../../src/cache/store.ts'
import { connect } from '../../src/client/cache.ts'
import { checkCacheDir, extentDiskBytes } from '../support/cache-check.ts'
import { endWithThisProcess } from '../support/children.ts'
import { bufferContent, patternBytes, type Content } from '../support/content.ts'
import { within } from '../support/deadline.ts'
import { type FaultOrigin, startFaultOrigin } from '../support/fault-origin.ts'
import { CLI_FILE, startHost } from '../support/host.ts'
import { type Random, randomOf, seedOfRun } from '../support/random.ts'
import { tempDir } from '../support/temp-dir.ts'

const BUDGET_BYTES = 3 * EXTENT_BYTES
const FILM_BYTES = [40_000_123, 33_554_432, 20_000_001]
const HOST_FLAGS = ['--max-size', String(BUDGET_BYTES), '--reserve', '0', '--window', '4M', '--checked-share', '0', '--log-level', 'warn']
/**
 * A host is killed when its readers have got so many bytes at most, and a moment later; a tenth of them a moment after
 * they were started. Bytes, not time, so that a busy machine's hosts die at work as well.
 */
const MAX_LIFE_BYTES = 6_000_000
const MAX_MOMENT_MS = 50
const MAX_START_MS = 400
const SHARE_OF_KILLS_IN_START = 0.1
/** What a host that does not move lives. */
const LIFE_LIMIT_MS = 20_000
/** Every so many kills, a host without an origin serves what is left. */
const KILLS_PER_OFFLINE_READ = 20
/** What a player takes that is being dragged over its film. */
const MAX_LOOK_BYTES = 200_000

export interface KillOptions {
  readonly kills: number
  readonly seed: number
  /** No more kills begin after so long. */
  readonly limitMs?: number
}

export interface KillSummary {
  readonly kills: number
  /** Of those, before the host was ready. */
  readonly killsInStart: number
  readonly checkedChunks: number
  readonly offlineBytes: number
  readonly mostDiskBytes: number
  /** Files that a start had to remove: written and not yet committed, or cleared and not yet unlinked. */
  readonly leftOvers: number
}

interface Film {
  readonly origin: FaultOrigin
  readonly content: Content
  readonly name: string
}

export default async function kill(): Promise<string> {
  const seed = seedOfRun()
  const kills = Number(process.env.SEEKCACHE_KILLS ?? 1000)
  const summary = await killCampaign({ kills, seed, limitMs: Number(process.env.SEEKCACHE_LIMIT_SECONDS ?? 1e6) * 1000 })
  return `seed ${seed}: ${JSON.stringify(summary)}`
}

/** @throws at the first wrong byte, orphan or exceeded budget */
export async function killCampaign({ kills, seed, limitMs = Number.POSITIVE_INFINITY }: KillOptions): Promise<KillSummary> {
  const random = randomOf(seed)
  await using dir = await tempDir()
  await using films = new Films()
  await films.start()
  const cacheDir = dir.file('c')
  const summary = { kills: 0, killsInStart: 0, checkedChunks: 0, offlineBytes: 0, mostDiskBytes: 0, leftOvers: 0 }
  const startedMs = performance.now()
  while (summary.kills < kills && performance.now() - startedMs < limitMs) {
    const wasReady = await liveAndDie(cacheDir, films, random)
    summary.kills++
    if (!wasReady) summary.killsInStart++
    const where = `seed ${seed}, kill ${summary.kills}`
    await checkLeft(cacheDir, films, where, summary)
    if (summary.kills % KILLS_PER_OFFLINE_READ === 0) summary.offlineBytes += await readOffline(cacheDir, films, where)
  }
  return summary
}

class Films implements AsyncDisposable {
  readonly all: Film[] = []

  async start(): Promise<void> {
    for (const [index, sizeBytes] of FILM_BYTES.entries()) {
      const content = bufferContent(patternBytes(0, sizeBytes, index + 1))
      this.all.push({ content, origin: await startFaultOrigin({ content }), name: `film-${index}.mkv` })
    }
  }

  url({ origin, name }: Film): string {
    return origin.url(name)
  }

  contentOf(fileName: string): Content {
    return this.all.find(({ name }) => name === fileName)!.content
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { origin } of this.all) await origin.stop()
  }
}

/** A host under load until it is killed. @returns whether it was ready before */
async function liveAndDie(cacheDir: string, films: Films, random: Random): Promise<boolean> {
  const isInStart = random.next() < SHARE_OF_KILLS_IN_START
  const progress = new Progress(isInStart ? 0 : random.below(MAX_LIFE_BYTES))
  const child = spawn(process.execPath, [CLI_FILE, 'serve', '--json', '--cache-dir', cacheDir, '--port', '0', ...HOST_FLAGS], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, SEEKCACHE_SOCKET: undefined, SEEKCACHE_CACHE_DIR: undefined },
  })
  endWithThisProcess(child)
  let stderr = ''
  child.stderr.on('data', (bytes: Buffer) => (stderr += bytes.toString()))
  const exited = new Promise<number | null>((resolve) => child.once('close', resolve))
  const ready = readyLine(child)
  const dead = new AbortController()
  const load = ready.then(async (proxy) => {
    if (proxy !== undefined) await Promise.all(loaders(proxy, cacheDir, films, random, dead.signal, progress))
    return proxy !== undefined
  })
  load.catch(() => undefined) // looked at below
  if (!isInStart) {
    await within('the start of a host', ready)
    await Promise.race([progress.reached, delay(LIFE_LIMIT_MS, undefined, { signal: dead.signal }).catch(() => {})])
  }
  await delay(random.below(isInStart ? MAX_START_MS : MAX_MOMENT_MS))
  child.kill('SIGKILL')
  dead.abort()
  const code = await within('the end of a killed host', exited)
  if (code !== null) throw new Error(`the host left by itself with ${code}: ${stderr}`)
  return await within('the readers of a killed host', load)
}

/** The bytes that readers have got, and the moment when they are enough. */
class Progress {
  readonly reached: Promise<void>
  #missingBytes: number
  #reach: () => void = () => {}

  constructor(targetBytes: number) {
    this.#missingBytes = targetBytes
    this.reached = new Promise((resolve) => (this.#reach = resolve))
  }

  add(bytes: number): void {
    this.#missingBytes -= bytes
    if (this.#missingBytes <= 0) this.#reach()
  }
}

/** The proxy's base, or undefined where the host ended before it was ready. */
async function readyLine(child: ChildProcess): Promise<string | undefined> {
  return await new Promise((resolve) => {
    let text = ''
    child.stdout!.setEncoding('utf8').on('data', (piece: string) => {
      text += piece
      if (text.includes('\n')) resolve((JSON.parse(text.slice(0, text.indexOf('\n'))) as { proxy: string }).proxy)
    })
    child.once('close', () => resolve(undefined))
  })
}

function loaders(proxy: string, cacheDir: string, films: Films, random: Random, dead: AbortSignal, progress: Progress): Promise<void>[] {
  const untilDead = async (read: (film: Film, start: number, end: number) => Promise<void>): Promise<void> => {
    while (!dead.aborted) {
      const film = random.pick(films.all)
      const start = random.next() < 0.2 ? 0 : random.below(film.content.sizeBytes)
      const end = Math.min(film.content.sizeBytes, start + 1 + random.below(6_000_000))
      await read(film, start, end).catch((error: unknown) => {
        if (!dead.aborted || error instanceof WrongBytes) throw error
      })
    }
  }
  const throughProxy = async (film: Film, start: number, end: number): Promise<void> =>
    await readProxy(proxy, films, film, start, end, { signal: dead, progress })
  const seeking = async (film: Film, start: number): Promise<void> =>
    await readProxy(proxy, films, film, start, film.content.sizeBytes, { signal: dead, progress, leavesAfterBytes: random.below(MAX_LOOK_BYTES) })
  const asNative = async (film: Film, start: number, end: number): Promise<void> => {
    await using cache = await connect({ cacheDir, startHost: false })
    await using media = await cache.open(films.url(film), { signal: dead })
    let at = start
    for await (const bytes of media.read(start, end, { signal: dead })) {
      compare(film, at, bytes)
      progress.add(bytes.length)
      at += bytes.length
    }
  }
  return [untilDead(throughProxy), untilDead(throughProxy), untilDead(throughProxy), untilDead(seeking), untilDead(asNative)]
}

interface ReadOptions {
  readonly signal: AbortSignal
  readonly progress?: Progress
  /** As a player that seeks does. */
  readonly leavesAfterBytes?: number
}

async function readProxy(
  proxy: string, films: Films, film: Film, start: number, end: number, { signal, progress, leavesAfterBytes = Number.POSITIVE_INFINITY }: ReadOptions,
): Promise<void> {
  const spec = Buffer.from(JSON.stringify({ url: films.url(film), headers: [] })).toString('base64url')
  const response = await fetch(`${proxy}/u/${spec}/${film.name}`, { headers: { range: `bytes=${start}-${end - 1}` }, signal })
  if (response.status !== 206) throw new Error(`the proxy answered ${response.status}: ${await response.text()}`)
  let at = start
  for await (const piece of response.body!) {
    compare(film, at, Buffer.from(piece))
    progress?.add(piece.length)
    at += piece.length
    if (at - start > leavesAfterBytes) return
  }
  if (at !== end) throw new Error(`the proxy sent ${at - start} of ${end - start} bytes`)
}

class WrongBytes extends Error {}

function compare({ content, name }: Film, at: number, bytes: Buffer): void {
  if (!bytes.equals(content.read(at, at + bytes.length))) throw new WrongBytes(`wrong bytes of ${name} from ${at}`)
}

async function checkLeft(cacheDir: string, films: Films, where: string, summary: { -readonly [K in keyof KillSummary]: KillSummary[K] }): Promise<void> {
  await prepareLayout(layoutOf(cacheDir))
  const before = await checkCacheDir(cacheDir, (fileName) => films.contentOf(fileName))
  if (before.wrong.length > 0) throw new Error(`${where}: ${before.wrong.join(', ')}`)
  summary.checkedChunks += before.presentChunks
  summary.leftOvers += before.orphans.length
  const store = await Store.open({ dir: cacheDir, maxSizeBytes: BUDGET_BYTES, reserveFreeBytes: 0, checkedShare: 0, syncData: false })
  await store.settleRecovery()
  await store.close()
  const after = await checkCacheDir(cacheDir, (fileName) => films.contentOf(fileName))
  if (after.orphans.length > 0) throw new Error(`${where}: orphans after a start: ${after.orphans.join(', ')}`)
  if (after.presentChunks !== before.presentChunks) throw new Error(`${where}: a start has lost chunks`)
  summary.mostDiskBytes = Math.max(summary.mostDiskBytes, after.diskBytes, before.diskBytes)
  if (before.diskBytes > BUDGET_BYTES + 4 * EXTENT_BYTES) throw new Error(`${where}: ${before.diskBytes} bytes on the disk`)
}

/** All that a host says is present, from that host, with the origins down. */
async function readOffline(cacheDir: string, films: Films, where: string): Promise<number> {
  for (const { origin } of films.all) await origin.goDown()
  let readBytes = 0
  try {
    await using host = await startHost({ cacheDir, args: HOST_FLAGS })
    await using cache = await connect({ cacheDir, socketPath: host.socket, startHost: false })
    for (const film of films.all) {
      const { present } = await cache.map(films.url(film)).catch(() => ({ present: [] }))
      for (const [start, end] of present) {
        await readProxy(host.proxy, films, film, start, end, { signal: AbortSignal.timeout(60_000) }).catch((cause: unknown) => {
          throw new Error(`${where}: offline, ${film.name} [${start}, ${end})`, { cause })
        })
        readBytes += end - start
      }
    }
    if (extentDiskBytes(cacheDir) > BUDGET_BYTES + 4 * EXTENT_BYTES) throw new Error(`${where}: over the budget`)
  } finally {
    for (const { origin } of films.all) await origin.listen()
  }
  return readBytes
}
