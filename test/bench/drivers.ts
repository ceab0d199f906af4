/**
 * The ways from a player to the origin: each starts with an empty cache, gives the URL to play, and can restart its cache
 * with what it has stored.
 */
import { spawn, spawnSync } from 'node:child_process'
import net from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'

import { endWithThisProcess } from '../support/children.ts'
import { PATIENCE_MS } from '../support/deadline.ts'
import { startHost } from '../support/host.ts'
import { tempDir } from '../support/temp-dir.ts'
import type { DriverName } from './matrix.ts'
import { type Nginx, slicesOf, startNginx } from './nginx.ts'
import { type Usage, usageOf } from './usage.ts'

export interface Driver extends AsyncDisposable {
  readonly uri: string
  readonly env: Readonly<Record<string, string>>
  /** How mpv is started to play it. */
  readonly mpvArgs: readonly string[]
  /** Of the running cache process; undefined where there is none. */
  usage(): Usage | undefined
  restart(): Promise<void>
  /** What the cache has logged. */
  log(): string
}

export interface DriverOptions {
  /** Of the film at the origin. */
  readonly url: string
  /** The same film here. */
  readonly file?: string
  readonly logLevel?: string
  /** Of seekcache to the origin, at most. */
  readonly connections?: number
  /** Whether a host has rehearsed before its player comes, as one does that is not in use; default true. */
  readonly rehearses?: boolean
  /** Whom seekcache shall trust besides the authorities that everybody trusts. */
  readonly authorityFile?: string
}

type StartDriver = (options: DriverOptions) => Promise<Driver>

const MPV_SCRIPT = fileURLToPath(new URL('../../native/mpv/seekcache.lua', import.meta.url))
const NOTHING = { env: {}, mpvArgs: [], log: () => '' }

export const START: Readonly<Record<DriverName, StartDriver>> = {
  local: async ({ file }) => withoutCache(pathToFileURL(file!).href),
  direct: async ({ url }) => withoutCache(url),
  'seekcache-script': async (options) => await startSeekcache(options, 'script'),
  'seekcache-proxy': async (options) => await startSeekcache(options, 'proxy'),
  'seekcache-element': async (options) => await startSeekcache(options, 'element'),
  'nginx-slice': startSlices,
  rclone: startRclone,
}

function withoutCache(uri: string): Driver {
  return { ...NOTHING, uri, usage: () => undefined, restart: async () => {}, [Symbol.asyncDispose]: async () => {} }
}

/** Of the caches of others, those that are not here. */
export function missingDrivers(): DriverName[] {
  return spawnSync('rclone', ['version'], { stdio: 'ignore' }).status === 0 ? [] : ['rclone']
}

async function startSeekcache(options: DriverOptions, face: 'proxy' | 'script' | 'element'): Promise<Driver> {
  const { url, logLevel = 'warn', connections = 8, authorityFile, rehearses = true } = options
  const env = authorityFile === undefined ? {} : { NODE_EXTRA_CA_CERTS: authorityFile }
  const host = await startHost({ args: ['--log-level', logLevel, '--connections', String(connections)], env, rehearses })
  if (rehearses) await host.rehearsed
  return {
    get uri() {
      return { proxy: host.proxyUrl(url), script: url, element: `seekcache+${url}` }[face]
    },
    mpvArgs: face === 'script' ? [`--script=${MPV_SCRIPT}`, `--script-opts=seekcache-cache_dir=${host.cacheDir}`] : [],
    get env() {
      return host.clientEnv
    },
    usage: () => usageOf(host.pid),
    restart: async () => {
      await host.restart()
      if (rehearses) await host.rehearsed
    },
    log: () => host.stderr,
    [Symbol.asyncDispose]: async () => await host.stop(),
  }
}

async function startSlices({ url }: DriverOptions): Promise<Driver> {
  const { origin, pathname } = new URL(url)
  const folder = await tempDir('seekcache-bench-slices')
  const start = async (): Promise<Nginx> =>
    await startNginx({ address: '127.0.0.1', port: await freePort(), ...slicesOf(origin, folder.file('cache')) })
  let nginx = await start()
  return {
    ...NOTHING,
    get uri() {
      return nginx.url + pathname
    },
    usage: () => usageOf(nginx.pid),
    restart: async () => {
      await nginx[Symbol.asyncDispose]()
      nginx = await start()
    },
    [Symbol.asyncDispose]: async () => {
      await nginx[Symbol.asyncDispose]()
      await folder.remove()
    },
  }
}

async function startRclone({ url }: DriverOptions): Promise<Driver> {
  const { origin, pathname } = new URL(url)
  const folder = await tempDir('seekcache-bench-rclone')
  const address = `127.0.0.1:${await freePort()}`
  const start = async () => {
    const remote = ['--http-url', origin, ':http:', '--vfs-cache-mode', 'full', '--cache-dir', folder.path]
    const child = spawn('rclone', ['serve', 'http', '--addr', address, '--config', '/dev/null', ...remote], { stdio: 'ignore' })
    endWithThisProcess(child)
    const exited = new Promise<void>((resolve) => child.once('close', () => resolve()))
    await untilListening(address)
    return { child, exited }
  }
  let rclone = await start()
  const stop = async (): Promise<void> => {
    rclone.child.kill('SIGTERM')
    await rclone.exited
  }
  return {
    ...NOTHING,
    uri: `http://${address}${pathname}`,
    usage: () => usageOf(rclone.child.pid!),
    restart: async () => {
      await stop()
      rclone = await start()
    },
    [Symbol.asyncDispose]: async () => {
      await stop()
      await folder.remove()
    },
  }
}

/** rclone does not tell when it listens. */
async function untilListening(address: string): Promise<void> {
  const [host, port] = address.split(':')
  const deadline = performance.now() + PATIENCE_MS
  while (performance.now() < deadline) {
    const isListening = await new Promise<boolean>((resolve) => {
      const probe = net.connect(Number(port), host, () => {
        probe.destroy()
        resolve(true)
      })
      probe.once('error', () => resolve(false))
    })
    if (isListening) return
    await setTimeout(20)
  }
  throw new Error('rclone does not listen')
}

export async function freePort(): Promise<number> {
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as net.AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}
