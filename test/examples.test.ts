/**
 * The examples, run as their users run them: as programs, against a real server and a real host, without a screen.
 *
 * Each test has a host and an nginx of its own, so what nginx sent and what the cache holds afterwards are that
 * example's doing.
 */

import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, copyFile, mkdir, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import type { FilmFile } from '../src/demo/film.ts'
import { endWithThisProcess } from './support/children.ts'
import { within } from './support/deadline.ts'
import { CLI_FILE, startHost, type TestHost } from './support/host.ts'
import { MEDIA_DIR, shortFilm } from './support/media.ts'
import { type Nginx, startNginx } from './support/nginx.ts'
import { runCli } from './support/programs.ts'
import { tempDir } from './support/temp-dir.ts'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const ADDON_FILE = path.join(ROOT, 'build/Release/seekcache.node')
const MIB = 1024 * 1024
const BLOCK_BYTES = 64 * 1024
/** Of each connection: the film takes half a minute over all that a host makes. */
const SLOW_BYTES_PER_SECOND = 40_000
/** No screen, and of GStreamer's plugins those of the system alone, in a registry of the tests. */
const HEADLESS = {
  DISPLAY: '',
  WAYLAND_DISPLAY: '',
  GST_PLUGIN_PATH: '',
  GST_REGISTRY: path.join(MEDIA_DIR, 'gst-registry.bin'),
}
/** Each takes seconds; the bound is for one that hangs. */
const LIMIT_MS = 120_000

const withoutMpv = isInstalled('mpv') ? false : 'mpv is not installed'
const withoutGst = isInstalled('gst-launch-1.0') ? false : 'gst-launch-1.0 is not installed'
const withoutAddon = existsSync(ADDON_FILE) ? false : 'the addon is not built'
const hasGstKit = existsSync(path.join(ROOT, 'node_modules/gst-kit'))

test('prefetch.ts brings head and tail into the cache and says so', async () => {
  await using stage = await setStage()
  const { sizeBytes } = stage.film
  const { code, stdout, stderr } = await stage.run(typescript('prefetch.ts', stage.url))
  assert.equal(code, 0, stderr)
  assert.match(stdout, new RegExp(`^${stage.film.name}: video/x-matroska, ${sizeBytes} bytes$`, 'm'))
  const present = await stage.present()
  // The tail may start in the middle of a block, and presence is told in blocks.
  const tailStart = sizeBytes - MIB + BLOCK_BYTES
  assert.ok(isIn(present, 0, 2 * MIB) && isIn(present, tailStart, sizeBytes), JSON.stringify(present))
  const told = [...stdout.matchAll(/^ {2}from (\d+) to (\d+)$/gm)].map(([, start, end]) => [Number(start), Number(end)])
  assert.ok(told.length > 0 && told.every(([start, end]) => isIn(present, start!, end!)), stdout)
  assert.ok(await stage.nginx.bytesSent() >= 3 * MIB)
})

test('prefetch.ts --all brings the whole file once, with progress', async () => {
  await using stage = await setStage({ limitRateBytesPerSecond: 4_000_000 })
  const { sizeBytes } = stage.film
  for (const attempt of ['first', 'second']) {
    const { code, stdout, stderr } = await stage.run(typescript('prefetch.ts', '--all', stage.url))
    assert.equal(code, 0, `${attempt}: ${stderr}`)
    if (attempt === 'first') assert.match(stdout, /^\d+ %$/m)
    assert.ok(stdout.endsWith(`in the cache: ${sizeBytes} bytes\n  from 0 to ${sizeBytes}\n`), stdout)
  }
  assert.deepEqual(await stage.present(), [[0, sizeBytes]])
  const sent = await stage.nginx.bytesSent()
  assert.ok(sent >= sizeBytes && sent < sizeBytes + MIB, `nginx sent ${sent} bytes of ${sizeBytes}`)
})

test('Ctrl-C stops prefetch.ts, and what has arrived stays', async () => {
  await using stage = await setStage({ limitRateBytesPerSecond: SLOW_BYTES_PER_SECOND })
  const prefetching = stage.start(typescript('prefetch.ts', '--all', stage.url))
  await within('progress', prefetching.hasSaid(/^[1-9]\d* %$/m))
  prefetching.child.kill('SIGINT')
  const { code, stdout, stderr } = await prefetching.finished
  const toldPercent = Number(/(\d+) %\n*$/.exec(stdout)?.[1])
  assert.deepEqual([code, stderr], [130, 'stopped\n'])
  const presentBytes = (await stage.present()).reduce((sum, [start, end]) => sum + end - start, 0)
  assert.ok(toldPercent >= 1 && presentBytes >= ((toldPercent - 1) / 100) * stage.film.sizeBytes, `${toldPercent} % told, ${presentBytes} bytes are there`)
  assert.ok(presentBytes < stage.film.sizeBytes)
})

test('the TypeScript examples say what went wrong in one line', async () => {
  await using stage = await setStage()
  const missing = stage.nginx.url('none.mkv')
  const cases: readonly (readonly [string, readonly string[], number, RegExp])[] = [
    ['prefetch.ts', [], 2, /^usage: /],
    ['prefetch.ts', [missing], 1, /^the origin answered 404/],
    ['node-player/player.ts', [], 2, /^usage: /],
    ...(withoutAddon === false ? [['node-player/player.ts', [missing], 1, /^the origin answered 404/] as const] : []),
  ]
  for (const [file, args, expected, message] of cases) {
    const { code, stderr } = await stage.run(typescript(file, ...args))
    assert.equal(code, expected, `${file} ${args.join(' ')}: ${stderr}`)
    assert.match(stderr, message)
    assert.equal(stderr.split('\n').length, 2, stderr)
  }
})

test('player.ts registers the element and plays, or reads where there is no gst-kit', { skip: withoutAddon }, async () => {
  await using stage = await setStage()
  const { code, stdout, stderr } = await stage.run(typescript('node-player/player.ts', '--seconds', '1', stage.url))
  assert.equal(code, 0, stderr)
  assert.match(stdout, /^seekcachesrc is registered in this process, GStreamer \d+\.\d+\.\d+$/m)
  if (hasGstKit) assert.match(stdout, /^at (29|30|31)\.\d s after a jump to the middle$/m)
  else assert.match(stdout, /gst-kit is not installed.*npm install gst-kit.*\nread the first 65536 bytes through /)
  assert.ok(isIn(await stage.present(), 0, BLOCK_BYTES))
})

test('player.ts, copied into a project with gst-kit, opens, seeks and plays on', { skip: withoutAddon }, async () => {
  await using stage = await setStage()
  await using project = await tempDir()
  await mkdir(project.file('node_modules/gst-kit'), { recursive: true })
  await symlink(ROOT, project.file('node_modules/seekcache'))
  await copyFile(path.join(ROOT, 'examples/node-player/player.ts'), project.file('player.ts'))
  await writeFile(project.file('package.json'), '{"type":"module"}')
  await writeFile(project.file('node_modules/gst-kit/package.json'), '{"type":"module","exports":"./index.js"}')
  await writeFile(project.file('node_modules/gst-kit/index.js'), GST_KIT_STAND_IN)
  const words = [...NODE_TSX, project.file('player.ts'), '--seconds', '1', stage.url]
  const { code, stdout, stderr } = await stage.run(words)
  assert.equal(code, 0, stderr)
  assert.ok(stdout.includes(`playbin uri="seekcache+${stage.url}" video-sink="fakesink sync=true"`), stdout)
  assert.match(stdout, /^playing, 60\.0 s long\nseek\nat 30\.0 s after a jump to the middle\nat 31\.0 s\nstop$/m)
  const failed = await stage.run(words, { STAND_IN_ERROR: 'no decoder' })
  assert.deepEqual([failed.code, failed.stderr], [1, 'GStreamer: no decoder\n'])
  assert.match(failed.stdout, /^stop$/m)
})

/** Says what it is told, needs two tries to play, and plays a second between two looks at the position. */
const GST_KIT_STAND_IN = `
  export class Pipeline {
    #position = 0
    #tries = 0
    #messages = [{ type: 'state-changed' }]
    constructor(description) { console.log(description) }
    async play() {
      if (process.env.STAND_IN_ERROR) this.#messages.push({ type: 'error', errorMessage: process.env.STAND_IN_ERROR })
      return { result: ++this.#tries < 2 ? 'async' : 'success' }
    }
    async stop() { console.log('stop') }
    seek(seconds) { console.log('seek'); this.#position = seconds; this.#tries = 0; return true }
    queryPosition() { return this.#tries < 2 ? -1 : this.#position++ }
    queryDuration() { return this.#tries < 2 ? -1 : 60 }
    async busPop() { return this.#messages.shift() ?? null }
  }
`

test('mpv.sh plays through the cache', { skip: withoutMpv }, async () => {
  await using stage = await setStage()
  // The script leaves servers on loopback alone otherwise; the rest of the package's defaults is what is run here.
  const args = ['--script-opts=seekcache-intercept_loopback=yes', '--no-config', '--length=1']
  const { code, stdout, stderr } = await stage.run([example('mpv.sh'), stage.url, ...args])
  assert.equal(code, 0, stdout + stderr)
  assert.match(stdout, /Video --vid=1/)
  await assertPlayedThroughCache(stage)
})

test('gst-launch.sh plays through the cache, to the end of the film', { skip: withoutGst }, async () => {
  await using stage = await setStage()
  await using bin = await tempDir()
  await writeFile(bin.file('seekcache'), `#!/bin/sh\nexec "${process.execPath}" "${CLI_FILE}" "$@"\n`)
  await chmod(bin.file('seekcache'), 0o755)
  const sinks = process.platform === 'darwin' ? ['video-sink=fakesink', 'audio-sink=fakesink'] : []
  const env = { PATH: `${bin.path}${path.delimiter}${process.env.PATH}` }
  const { code, stdout, stderr } = await stage.run([example('gst-launch.sh'), stage.url, ...sinks], env)
  assert.equal(code, 0, stdout + stderr)
  assert.match(stdout, /Got EOS/)
  assert.deepEqual(await stage.present(), [[0, stage.film.sizeBytes]])
  await assertPlayedThroughCache(stage)
})

test('the shell examples fail where there is nothing to play', async () => {
  await using stage = await setStage()
  for (const file of ['mpv.sh', 'gst-launch.sh']) {
    const { code, stderr } = await stage.run([example(file)])
    assert.equal(code, 2, stderr)
    assert.match(stderr, /^usage: /)
  }
  if (withoutGst === false) {
    const { code, stderr } = await stage.run([example('gst-launch.sh'), stage.nginx.url('none.mkv')])
    assert.notEqual(code, 0)
    assert.match(stderr, /404/)
  }
})

interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

interface Running {
  readonly child: ChildProcess
  readonly finished: Promise<Finished>
  hasSaid(pattern: RegExp): Promise<void>
}

/** A film at a server, a host, and programs that run beside them. */
class Stage implements AsyncDisposable {
  readonly film: FilmFile
  readonly nginx: Nginx
  readonly host: TestHost
  readonly url: string
  readonly #running = new Set<ChildProcess>()

  constructor(film: FilmFile, nginx: Nginx, host: TestHost) {
    this.film = film
    this.nginx = nginx
    this.host = host
    this.url = nginx.url(film.name)
  }

  async run(words: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Finished> {
    return await within(words.join(' '), this.start(words, env).finished, LIMIT_MS)
  }

  start(words: readonly string[], env: Readonly<Record<string, string>> = {}): Running {
    const child = spawn(words[0]!, words.slice(1), {
      cwd: ROOT,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...HEADLESS, ...this.host.clientEnv, ...env },
      detached: true, // in a group of its own: a script that hangs is ended together with its player
    })
    endWithThisProcess(child, 'SIGTERM')
    this.#running.add(child)
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    const finished = new Promise<Finished>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', (code) => {
        this.#running.delete(child)
        resolve({ code, stdout, stderr })
      })
    })
    const hasSaid = async (pattern: RegExp): Promise<void> =>
      await new Promise((resolve, reject) => {
        const look = (): void => void (pattern.test(stdout) && resolve())
        child.stdout.on('data', look)
        child.once('close', () => reject(new Error(`it left without saying ${pattern}: ${stdout}${stderr}`)))
        look()
      })
    return { child, finished, hasSaid }
  }

  /** What of the film is in the cache. */
  async present(): Promise<readonly (readonly [number, number])[]> {
    const { code, stdout, stderr } = await runCli(['map', this.url, '--json'], this.host.clientEnv)
    assert.equal(code, 0, stderr)
    return (JSON.parse(stdout) as { present: [number, number][] }).present
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { pid } of this.#running) if (pid !== undefined) process.kill(-pid, 'SIGKILL')
    await this.host.stop()
    await this.nginx.stop()
  }
}

async function setStage(options: { readonly limitRateBytesPerSecond?: number } = {}): Promise<Stage> {
  const film = (await shortFilm()).files.mkv
  const nginx = await startNginx(path.dirname(film.path), options)
  try {
    return new Stage(film, nginx, await startHost())
  } catch (error) {
    await nginx.stop()
    throw error
  }
}

/** A player that went to nginx itself would leave nothing in the cache, or have it sent twice. */
async function assertPlayedThroughCache(stage: Stage): Promise<void> {
  const present = await stage.present()
  assert.ok(isIn(present, 0, BLOCK_BYTES), JSON.stringify(present))
  const sent = await stage.nginx.bytesSent()
  assert.ok(sent > 0 && sent < stage.film.sizeBytes + MIB, `nginx sent ${sent} bytes of ${stage.film.sizeBytes}`)
}

function isIn(ranges: readonly (readonly [number, number])[], start: number, end: number): boolean {
  return ranges.some(([from, to]) => from <= start && end <= to)
}

const NODE_TSX = [process.execPath, '--import', 'tsx']

function example(file: string): string {
  return path.join(ROOT, 'examples', file)
}

function typescript(file: string, ...args: readonly string[]): readonly string[] {
  return [...NODE_TSX, example(file), ...args]
}

function isInstalled(program: string): boolean {
  return spawnSync('sh', ['-c', 'command -v "$0"', program], { stdio: 'ignore' }).status === 0
}
