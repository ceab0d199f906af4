/**
 * `npm run bench`: opens and seeks of real players over an emulated link, side by side with and without seekcache, and
 * what is cached against files and nginx. Nothing is asserted: it prints tables, and a whole run writes docs/BENCH.md,
 * docs/bench.json and docs/bench.svg.
 */
import { spawnSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { makeFilm } from '../../src/demo/film.ts'
import { VERSION } from '../../src/version.ts'
import { MEDIA_DIR } from '../support/media.ts'
import { Calm, keepAwake } from './calm.ts'
import { chartOf } from './chart.ts'
import { missingDrivers } from './drivers.ts'
import { whyNoLink } from './link.ts'
import { runLoopback } from './loopback.ts'
import {
  combinationsOf, DRIVERS, type DriverName, FILM, FORMATS, type FormatName, FULL, type LinkName, LINKS, type PlayerName, PLAYERS, QUICK,
  type Selection,
} from './matrix.ts'
import { markdownOf, tablesOf } from './report.ts'
import { rowsOf, type Summary } from './summary.ts'
import { runCombinations, runDownloads, runHttp2, runStorms } from './turns.ts'

const PARTS = ['seeks', 'storm', 'http2', 'download', 'loopback'] as const

const USAGE = `usage: npm run bench -- [options]

  --quick              one link, one film, few seeks, about two minutes
  --link NAME          ${Object.keys(LINKS).join(', ')}
  --driver NAME        ${Object.keys(DRIVERS).join(', ')}
  --player NAME        ${Object.keys(PLAYERS).join(', ')} (the last one only if named)
  --format NAME        ${FORMATS.join(', ')}
  --part NAME          ${PARTS.join(', ')}
  --out FOLDER         write BENCH.md, bench.json and bench.svg there (a whole run writes docs/)
  --connections N      of seekcache to the origin, at most (8)
  --trace FOLDER       write what each turn asked of the origin, and when
  --patience MINUTES   for measuring again what the machine below has disturbed, in all (60; with --quick 5)

Options with NAME may be repeated.
`
const DOCS_DIR = fileURLToPath(new URL('../../docs', import.meta.url))
const QUICK_DRIVERS: readonly DriverName[] = ['direct', 'seekcache-proxy', 'seekcache-script', 'seekcache-element']

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
      out: { type: 'string' },
      trace: { type: 'string' },
      connections: { type: 'string' },
      patience: { type: 'string' },
      ...many('link', 'driver', 'player', 'format', 'part'),
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
    return
  }
  const { quick: isQuick } = values
  const effort = isQuick ? QUICK : FULL
  const selection: Selection = {
    links: chosen(values.link, Object.keys(LINKS) as LinkName[], isQuick ? ['main'] : undefined),
    drivers: chosen(values.driver, Object.keys(DRIVERS) as DriverName[], isQuick ? QUICK_DRIVERS : undefined)
      .filter((driver) => !missingDrivers().includes(driver)),
    players: chosen(values.player, Object.keys(PLAYERS) as PlayerName[], ['mpv', 'playbin']),
    formats: chosen(values.format, FORMATS, isQuick ? ['mkv'] : undefined),
  }
  const parts = chosen(values.part, PARTS, undefined)

  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  const film = await makeFilm(path.join(MEDIA_DIR, 'bench'), FILM)
  const sizeOf = (format: FormatName): number => film.files[format].sizeBytes
  const noLink = whyNoLink()
  if (noLink !== undefined) say(`no link is emulated: ${noLink}`)
  const awake = async (): Promise<AsyncDisposable | undefined> => (noLink === undefined ? await keepAwake() : undefined)
  const calm = new Calm(Number(values.patience ?? (isQuick ? 5 : 60)) * 60_000, say)
  const options = {
    film,
    effort,
    calm,
    onProgress: say,
    ...(values.trace === undefined ? {} : { traceDir: path.resolve(values.trace) }),
    ...(values.connections === undefined ? {} : { connections: Number(values.connections) }),
  }
  const isLinked = (part: (typeof PARTS)[number]): boolean => parts.includes(part) && noLink === undefined
  const loopback = parts.includes('loopback') ? await runLoopback({ film, rounds: effort.loopbackRounds, calm, awake, onProgress: say }) : undefined
  await using _awake = await awake()
  const download = isLinked('download') ? await runDownloads(options) : undefined
  const storm = isLinked('storm') ? await runStorms(options) : undefined
  const http2 = isLinked('http2') ? await runHttp2(options) : undefined
  const turns = isLinked('seeks') ? await runCombinations(combinationsOf(selection), options) : []

  const summary: Summary = {
    date: new Date().toISOString().slice(0, 10),
    isQuick,
    machine: machine(),
    versions: versions(),
    filmMegabytes: sizeOf('mkv') / 1e6,
    stolen: calm.stolen,
    rows: rowsOf(turns, sizeOf),
    ...(noLink === undefined ? {} : { whyNoLink: noLink }),
    ...(storm === undefined ? {} : { storm }),
    ...(http2 === undefined ? {} : { http2 }),
    ...(download === undefined ? {} : { download }),
    ...(loopback === undefined ? {} : { loopback }),
  }
  process.stdout.write(`\n${tablesOf(summary)}\n`)
  const isWhole = !isQuick && noLink === undefined && ['link', 'driver', 'player', 'format', 'part', 'connections'].every((name) => !Object.hasOwn(values, name))
  const out = values.out ?? (isWhole ? DOCS_DIR : undefined)
  if (out === undefined) return
  await mkdir(out, { recursive: true })
  await writeFile(path.join(out, 'bench.json'), `${JSON.stringify(summary, undefined, 1)}\n`)
  await writeFile(path.join(out, 'BENCH.md'), markdownOf(summary, effort))
  const chart = chartOf(summary.rows)
  if (chart !== undefined) await writeFile(path.join(out, 'bench.svg'), chart)
}

type Many = Readonly<Record<'link' | 'driver' | 'player' | 'format' | 'part', { type: 'string'; multiple: true }>>

function many(...names: readonly (keyof Many)[]): Many {
  return Object.fromEntries(names.map((name) => [name, { type: 'string', multiple: true }])) as unknown as Many
}

function chosen<T extends string>(names: readonly string[] | undefined, all: readonly T[], usual: readonly T[] | undefined): readonly T[] {
  const unknown = names?.find((name) => !all.includes(name as T))
  if (unknown !== undefined) throw new Error(`not understood: ${unknown} (one of ${all.join(', ')})`)
  return names === undefined ? (usual ?? all) : all.filter((name) => names.includes(name))
}

function machine(): string {
  const kernel = /^[\d.]+/.exec(os.release())?.[0]
  return `${os.availableParallelism()} × ${os.cpus()[0]?.model ?? os.arch()}, ${Math.round(os.totalmem() / 2 ** 30)} GiB, ${os.type()} ${kernel}`
}

function versions(): Readonly<Record<string, string>> {
  const first = (pattern: RegExp, ...words: readonly [string, ...string[]]): string => {
    const { stdout, stderr } = spawnSync(words[0], words.slice(1), { encoding: 'utf8' })
    return pattern.exec(`${stdout ?? ''}${stderr ?? ''}`)?.[1] ?? 'missing'
  }
  return {
    seekcache: VERSION,
    Node: process.versions.node,
    mpv: first(/mpv (\S+)/, 'mpv', '--version'),
    GStreamer: first(/GStreamer (\S+)/, 'gst-launch-1.0', '--version'),
    nginx: first(/nginx\/(\S+)/, 'nginx', '-v'),
    rclone: first(/rclone v(\S+)/, 'rclone', 'version'),
  }
}

await main().catch((error: unknown) => {
  process.stderr.write(`bench: ${(error as Error).message}\n`)
  process.exitCode = 1
})
