/**
 * `seekcache play` and `seekcache run`: players in an environment in which they play through this cache.
 */

import { spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { connect } from '../client/cache.ts'
import { CLI_PATH } from '../client/host-launch.ts'
import { SeekCacheError } from '../errors.ts'
import { EXIT } from './exit-code.ts'
import { withCache, type ClientFlags } from './commands.ts'

/** The package's root; the same from `src/cli` and from `dist/cli`. */
const PACKAGE_ROOT = fileURLToPath(new URL('../../', import.meta.url))
export const GST_PLUGIN_DIR = join(PACKAGE_ROOT, 'build', 'Release', 'gstreamer-1.0')
/** Holds a `mpv` that starts the real one with the hook script. */
const MPV_SHIM_DIR = join(PACKAGE_ROOT, 'native', 'mpv', 'bin')

/** Opens the file first, so that a bad one gets one clear line, not a player's riddle. */
export async function play(url: string, flags: ClientFlags & { readonly with?: 'mpv' | 'gst'; readonly fill?: boolean }): Promise<number> {
  const player = flags.with ?? (isInstalled('mpv') ? 'mpv' : 'gst')
  if (player === 'gst' && !isInstalled('gst-launch-1.0')) {
    throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'neither mpv nor GStreamer (gst-launch-1.0) is installed: "npm run setup" installs the latter')
  }
  return await withCache(flags, true, async (cache) => {
    const media = await cache.open(url, { headers: flags.header ?? [] })
    if (flags.fill === true) media.fetchAll().catch(() => {}) // the player says what is wrong with the file
    const words = player === 'mpv' ? ['mpv', ...mpvWords(url, flags)] : ['gst-launch-1.0', ...gstWords(media.proxyUrl, media.gstUri, flags)]
    return await runWords(words, flags)
  })
}

/** mpv gets the file's own URL, and its script the proxy's: so mpv knows the file again, and resumes it. */
function mpvWords(url: string, flags: ClientFlags): string[] {
  const screen = hasDisplay() ? [] : ['--vo=null', '--ao=null']
  const headers = (flags.header ?? []).map(([name, value]) => `--http-header-fields-append=${name}: ${value}`)
  return [...screen, '--script-opts-append=seekcache-intercept_loopback=yes', ...headers, '--', url]
}

/** With headers, gst-launch cannot give them to the element inside playbin, so playbin goes through the proxy. */
function gstWords(proxyUrl: string, gstUri: string, flags: ClientFlags): string[] {
  const isNative = existsSync(join(GST_PLUGIN_DIR, pluginFile())) && (flags.header ?? []).length === 0
  const sinks = hasDisplay() ? [] : ['video-sink=fakesink sync=true', 'audio-sink=fakesink sync=true']
  return ['playbin', `uri=${isNative ? gstUri : proxyUrl}`, ...sinks]
}

function pluginFile(): string {
  return process.platform === 'darwin' ? 'libgstseekcache.dylib' : 'libgstseekcache.so'
}

function hasDisplay(): boolean {
  return process.platform === 'darwin' || Boolean(process.env.DISPLAY ?? process.env.WAYLAND_DISPLAY)
}

function isInstalled(program: string): boolean {
  return spawnSync('sh', ['-c', 'command -v "$0"', program], { stdio: 'ignore' }).status === 0
}

/** Any program, in an environment in which GStreamer knows the element and mpv has the script. */
export async function run(words: readonly string[], flags: ClientFlags): Promise<number> {
  const cache = await connect({ cacheDir: flags.cacheDir, socketPath: flags.socket })
  try {
    return await runWords(words, flags)
  } finally {
    await cache.close()
  }
}

function playerEnvironment(flags: ClientFlags): NodeJS.ProcessEnv {
  const { GST_PLUGIN_PATH, PATH } = process.env
  return {
    ...process.env,
    SEEKCACHE_CACHE_DIR: flags.cacheDir,
    SEEKCACHE_SOCKET: flags.socket,
    SEEKCACHE_COMMAND: `${process.execPath} ${CLI_PATH}`,
    GST_PLUGIN_PATH: [GST_PLUGIN_DIR, GST_PLUGIN_PATH].filter(Boolean).join(delimiter),
    PATH: [MPV_SHIM_DIR, PATH].filter(Boolean).join(delimiter),
  }
}

async function runWords([program, ...args]: readonly string[], flags: ClientFlags): Promise<number> {
  const child = spawn(program!, args, { stdio: 'inherit', env: playerEnvironment(flags) })
  const forward = (signal: NodeJS.Signals): void => void child.kill(signal)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, forward)
  return await new Promise((resolve, reject) => {
    child.once('error', () => reject(new SeekCacheError('ERR_SEEKCACHE_USAGE', `cannot run ${program}: is it installed?`)))
    child.once('exit', (code, signal) => resolve(code ?? (signal === 'SIGINT' ? EXIT.interrupted : 128 + constants.signals[signal!])))
  })
}
