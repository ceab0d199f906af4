/**
 * The demo: a film behind a slow link, played and sought by real players through seekcache, first on an empty cache, then
 * again after the host was restarted; and without seekcache, to compare.
 *
 * It uses what any user of the package has: the command, the public API, a player. Everything is made in a temporary
 * folder and is gone afterwards.
 */
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'

import { connect } from '../index.ts'
import { type FilmFormat, makeFilm } from './film.ts'
import { hasGstPlayer, hasMpv, type Measured, type Player, playWithGst, playWithMpv } from './players.ts'
import { type Link, serveSlowly, type SlowOrigin } from './slow-origin.ts'

export interface DemoOptions {
  /** The command's own file, `dist/cli/main.js`. */
  readonly cliFile: string
  readonly print: (line: string) => void
  readonly signal: AbortSignal
}

const LINK: Link = { roundTripMs: 60, megabitsPerSecond: 20 }
const FILM = { seconds: 60, kilobitsPerSecond: 4000, gopSeconds: 2 }
const SEEK_PERCENTS = [90, 10, 50]

interface Scene {
  readonly title: string
  readonly format: FilmFormat
  readonly player: Player
  /** What the player is given for the origin's URL; undefined plays it without seekcache. */
  readonly way?: 'element' | 'proxy'
}

export async function runDemo(options: DemoOptions): Promise<void> {
  const { print, signal } = options
  const folder = await mkdtemp(path.join(os.tmpdir(), 'seekcache-demo-'))
  try {
    print(`Making a film of ${FILM.seconds} s at ${FILM.kilobitsPerSecond / 1000} Mbit/s, as MKV and as MP4 …`)
    const film = await makeFilm(folder, { ...FILM, signal })
    await using origin = await serveSlowly(folder, LINK)
    const { mkv } = film.files
    print(`Its origin is ${LINK.roundTripMs} ms away, on a link of ${LINK.megabitsPerSecond} Mbit/s; it has ` +
      `${megabytes(mkv.sizeBytes)}. Milliseconds until the player plays:`)
    print('')
    print(row(['', 'open', ...SEEK_PERCENTS.map((percent) => `to ${percent} %`), 'from the origin']))
    for (const scene of scenes()) {
      const url = origin.url(film.files[scene.format].name)
      await perform(scene, url, origin, path.join(folder, `cache-${scene.way}-${scene.format}`), options)
    }
  } finally {
    await rm(folder, { recursive: true, force: true, maxRetries: 5 })
  }
}

function scenes(): readonly Scene[] {
  const list: Scene[] = []
  const [mpv, gst] = [hasMpv(), hasGstPlayer()]
  if (gst) {
    list.push({ title: 'GStreamer, MKV', format: 'mkv', player: playWithGst })
    list.push({ title: 'GStreamer, MKV, seekcachesrc', format: 'mkv', player: playWithGst, way: 'element' })
  }
  if (mpv) list.push({ title: 'mpv, MP4', format: 'mp4', player: playWithMpv })
  if (mpv || gst) {
    const player = mpv ? playWithMpv : playWithGst
    list.push({ title: `${mpv ? 'mpv' : 'GStreamer'}, MP4, proxy`, format: 'mp4', player, way: 'proxy' })
  }
  if (list.length === 0) throw new Error('there is no player: "npm run setup" builds one for GStreamer')
  return list
}

/** Plays a scene twice, with a new host the second time. */
async function perform(scene: Scene, url: string, origin: SlowOrigin, cacheDir: string, options: DemoOptions): Promise<void> {
  const { print, signal, cliFile } = options
  for (const title of [scene.title, scene.way === undefined ? '  again' : '  again, host restarted']) {
    await using host = scene.way === undefined ? undefined : await startHost(cliFile, cacheDir, signal)
    const before = origin.bytesSent
    const uri = host === undefined ? url : scene.way === 'element' ? `seekcache+${url}` : await host.proxyUrl(url)
    const task = { uri, seekPercents: SEEK_PERCENTS, env: host?.env ?? {}, signal }
    const measured = await scene.player(task)
    print(row([title, ...cells(measured), megabytes(origin.bytesSent - before)]))
    if (host !== undefined) print(`  ${await host.map(url)}`)
  }
  print('')
}

interface DemoHost extends AsyncDisposable {
  readonly env: Readonly<Record<string, string>>
  proxyUrl(url: string): Promise<string>
  map(url: string): Promise<string>
}

/** A host of the demo's own, so that its end can be waited for; clients usually let the API start one. */
async function startHost(cliFile: string, cacheDir: string, signal: AbortSignal): Promise<DemoHost> {
  const socket = path.join(cacheDir, 'control.sock')
  const where = ['--cache-dir', cacheDir, '--socket', socket]
  const words = [cliFile, 'serve', '--json', '--log-level', 'error', ...where]
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'], signal })
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()))
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject)
    child.stdout.once('data', () => resolve()) // its first line says that it is ready
    void exited.then(() => reject(new Error('the host did not start')))
  })
  return {
    env: { SEEKCACHE_CACHE_DIR: cacheDir, SEEKCACHE_SOCKET: socket, SEEKCACHE_COMMAND: `${process.execPath} ${cliFile}` },
    proxyUrl: async (url) => {
      await using cache = await connect({ cacheDir, socketPath: socket, startHost: false })
      return await cache.proxyUrl(url)
    },
    map: async (url) => {
      const { stdout } = await promisify(execFile)(process.execPath, [cliFile, 'map', url, ...where])
      return stdout.trim().replace('\n', ' ')
    },
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGTERM')
      await exited
    },
  }
}

function cells({ openMs, seekMs }: Measured): readonly string[] {
  return [openMs, ...seekMs].map((ms) => ms.toFixed(0))
}

function row([title = '', ...rest]: readonly string[]): string {
  return title.padEnd(30) + rest.map((cell, index) => cell.padStart(index === rest.length - 1 ? 17 : 9)).join('')
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`
}
