/**
 * What is in the cache, without a link: as fast as a file, or as nginx sending one? On loopback, origin and cache on the
 * same machine, both films cached whole, everything in the kernel's page cache; who is compared takes turns.
 */
import net from 'node:net'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'

import type { Film } from '../../src/demo/film.ts'
import { startHost, type TestHost } from '../support/host.ts'
import { runProgram } from '../support/programs.ts'
import type { Calm } from './calm.ts'
import { freePort } from './drivers.ts'
import { filesOf, startNginx } from './nginx.ts'
import { median, quantile } from './statistics.ts'
import { usageOf } from './usage.ts'

export interface Compared {
  /** One number a round. */
  readonly seekcache: readonly number[]
  readonly other: readonly number[]
  /** Of the medians, seekcache's ÷ the other's. */
  readonly ratio: number
}

export interface FirstByte {
  readonly p50Ms: number
  readonly p99Ms: number
  readonly requests: number
}

/** Of one round: the ten slowest of its 960 requests make its p99, and one pause of the machine meets as many at once. */
export interface FirstBytes {
  readonly seekcache: FirstByte
  readonly nginx: FirstByte
}

export interface LoopbackResult {
  /** MB/s, against filesrc. */
  readonly element: Compared
  /** MB/s, against nginx's sendfile. */
  readonly proxy: Compared
  /** Readers that pause between their requests. */
  readonly firstByte: readonly FirstBytes[]
  /** Readers that do not: both processors are busy all the time, and much of one with the readers. */
  readonly firstByteSaturated: readonly FirstBytes[]
  /** Of the host in all of this, the filling of its cache too. */
  readonly peakRssBytes: number
}

const BLOCK_BYTES = 256 * 1024
const READERS = 16
const REQUESTS_PER_READER = 60
const RANGE_BYTES = 64 * 1024
/** On the average, between two requests of a reader: 320 a second of all together. */
const PAUSE_MS = 50

export interface LoopbackOptions {
  readonly film: Film
  readonly rounds: number
  readonly calm: Calm
  /**
   * Keeps the processors from idling, for the first bytes alone. The rates leave them no time to idle, and a virtual machine whose
   * processors never do may be left with two that share a core, for minutes: what the kernel copies took it three times as long
   * then (the proxy brought 0.8 to 1.5 GB/s in five runs of nine, and 1.7 to 3.2 in all nine without, in turn).
   */
  readonly awake: () => Promise<AsyncDisposable | undefined>
  readonly onProgress: (line: string) => void
}

export async function runLoopback({ film, rounds, calm, awake, onProgress }: LoopbackOptions): Promise<LoopbackResult> {
  const files = [film.files.mkv, film.files.mp4]
  await using nginx = await startNginx({
    address: '127.0.0.1',
    port: await freePort(),
    locations: filesOf(path.dirname(film.files.mkv.path)),
  })
  await using host = await startHost({ args: ['--log-level', 'warn'] })
  const origin = files.map(({ name }) => `${nginx.url}/${name}`)
  const proxied = origin.map((url) => host.proxyUrl(url))
  await download(proxied)

  const element = await compare(rounds, calm, 'loopback, element', async () => await elementRate(host, origin[0]!, files[0]!.sizeBytes),
    async () => await filesrcRate(files[0]!.path, files[0]!.sizeBytes))
  onProgress(`loopback, MB/s: element ${rates(element.seekcache)}, filesrc ${rates(element.other)}`)
  const proxy = await compare(rounds, calm, 'loopback, proxy', async () => await download(proxied), async () => await download(origin))
  onProgress(`loopback, MB/s: proxy ${rates(proxy.seekcache)}, nginx ${rates(proxy.other)}`)
  await using _awake = await awake()
  const inTurn = async (what: string, pauseMs: number): Promise<FirstBytes[]> => {
    const results = await calm.measureRounds(rounds, `loopback, ${what}`, async () => ({
      nginx: await firstBytes(origin[0]!, files[0]!.sizeBytes, pauseMs),
      seekcache: await firstBytes(proxied[0]!, files[0]!.sizeBytes, pauseMs),
    }))
    for (const result of results) onProgress(`loopback, ${what} with ${READERS} readers: ${JSON.stringify(result)}`)
    return results
  }
  const firstByte = await inTurn('first byte', PAUSE_MS)
  const firstByteSaturated = await inTurn('first byte, saturated', 0)
  return { element, proxy, firstByte, firstByteSaturated, peakRssBytes: usageOf(host.pid).peakRssBytes }
}

function rates(samples: readonly number[]): string {
  return samples.map((sample) => sample.toFixed(0)).join(' ')
}

async function compare(rounds: number, calm: Calm, what: string, ours: () => Promise<number>, theirs: () => Promise<number>): Promise<Compared> {
  const results = await calm.measureRounds(rounds, what, async () => ({ ours: await ours(), theirs: await theirs() }))
  const [seekcache, other] = [results.map((result) => result.ours), results.map((result) => result.theirs)]
  return { seekcache, other, ratio: median(seekcache) / median(other) }
}

async function elementRate(host: TestHost, url: string, sizeBytes: number): Promise<number> {
  return await pipelineRate(['seekcachesrc', `location=${url}`, `blocksize=${BLOCK_BYTES}`], sizeBytes, host.clientEnv)
}

async function filesrcRate(file: string, sizeBytes: number): Promise<number> {
  return await pipelineRate(['filesrc', `location=${file}`, `blocksize=${BLOCK_BYTES}`], sizeBytes)
}

/** MB/s from the start of playing to the end of the stream, as gst-launch counts it: without the program's own start. */
async function pipelineRate(source: readonly string[], sizeBytes: number, env: Readonly<Record<string, string>> = {}): Promise<number> {
  const { code, stdout, stderr } = await runProgram(['gst-launch-1.0', ...source, '!', 'fakesink'], env)
  const [, hours, minutes, seconds] = /Execution ended after (\d+):(\d+):([\d.]+)/.exec(stdout) ?? []
  if (code !== 0 || seconds === undefined) throw new Error(`${source[0]} left with ${code}: ${stderr.trim()}`)
  return sizeBytes / 1e6 / (Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds))
}

/** MB/s of curl getting all of the URLs one after the other over one connection. */
async function download(urls: readonly string[]): Promise<number> {
  const words = urls.flatMap((url) => ['-o', '/dev/null', url])
  const { code, stdout, stderr } = await runProgram(['curl', '-sSf', '-w', '%{size_download} %{time_total}\\n', ...words])
  if (code !== 0) throw new Error(`curl left with ${code}: ${stderr.trim()}`)
  const sums = stdout.trim().split('\n').map((line) => line.split(' ').map(Number))
  const total = (column: number): number => sums.reduce((sum, numbers) => sum + (numbers[column] ?? 0), 0)
  return total(0) / 1e6 / total(1)
}

/** Ranges at random places, each reader on a connection of its own that it keeps. */
async function firstBytes(url: string, sizeBytes: number, pauseMs: number): Promise<FirstByte> {
  const random = randomNumbers()
  const samples: number[] = []
  const read = async (): Promise<void> => {
    using reader = new RangeReader(new URL(url))
    for (let i = 0; i < REQUESTS_PER_READER; i++) {
      if (pauseMs > 0) await setTimeout(2 * pauseMs * random())
      samples.push(await reader.firstByteMs(Math.floor(random() * (sizeBytes - RANGE_BYTES))))
    }
  }
  await Promise.all(Array.from({ length: READERS }, read))
  return { p50Ms: quantile(samples, 0.5), p99Ms: quantile(samples, 0.99), requests: samples.length }
}

/**
 * A player's connection that costs the measured ones as little as can be: with node:http, and a buffer for each read, this
 * process's garbage collector had both processors for 5 ms at a time.
 */
class RangeReader implements Disposable {
  readonly #url: URL
  readonly #socket: net.Socket
  /** What has come of the answer's head; undefined after its end. */
  #head: string | undefined
  #missingBytes = 0
  #startedMs = 0
  #firstByteMs: number | undefined
  #resolve: (ms: number) => void = () => {}
  #reject: (error: Error) => void = () => {}

  constructor(url: URL) {
    this.#url = url
    const onread = { buffer: Buffer.alloc(RANGE_BYTES), callback: (length: number, bytes: Uint8Array) => this.#take(length, bytes) }
    this.#socket = net.connect({ host: url.hostname, port: Number(url.port), noDelay: true, onread })
    this.#socket.on('error', (error) => this.#reject(error))
    this.#socket.on('close', () => this.#reject(new Error('the connection was closed')))
  }

  async firstByteMs(start: number): Promise<number> {
    this.#head = ''
    this.#missingBytes = RANGE_BYTES
    this.#firstByteMs = undefined
    const { pathname, host } = this.#url
    const request = `GET ${pathname} HTTP/1.1\r\nHost: ${host}\r\nRange: bytes=${start}-${start + RANGE_BYTES - 1}\r\n\r\n`
    return await new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
      this.#startedMs = performance.now()
      this.#socket.write(request)
    })
  }

  #take(length: number, bytes: Uint8Array): boolean {
    const bodyBytes = this.#head === undefined ? length : this.#takeHead(this.#head + Buffer.from(bytes.buffer, bytes.byteOffset, length).toString('latin1'))
    if (bodyBytes > 0) this.#firstByteMs ??= performance.now() - this.#startedMs
    this.#missingBytes -= bodyBytes
    if (this.#missingBytes === 0) this.#resolve(this.#firstByteMs!)
    return true
  }

  /** @returns how many bytes of the body follow it */
  #takeHead(text: string): number {
    const end = text.indexOf('\r\n\r\n')
    this.#head = end === -1 ? text : undefined
    if (end === -1) return 0
    if (!text.startsWith('HTTP/1.1 206 ')) this.#reject(new Error(`no range, but: ${text.slice(0, 80)}`))
    return text.length - end - 4
  }

  [Symbol.dispose](): void {
    this.#socket.destroy()
  }
}

/** The same places for both sides and in every run: a linear congruential generator (Numerical Recipes). */
function randomNumbers(): () => number {
  let state = 1
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
}
