/**
 * Plays a URL in GStreamer inside this Node process, through the cache: it opens, jumps to the middle and plays on.
 *
 *   npx tsx examples/node-player/player.ts [--seconds 10] https://example.net/film.mkv
 *
 * The addon registers the element seekcachesrc in this very process, so no GST_PLUGIN_PATH is needed, and every
 * pipeline made here knows URIs like seekcache+https://…. The pipeline is made with gst-kit, which is optional; without
 * it the script says so, reads the first bytes through the Node API and succeeds. Without a screen it plays into nothing.
 *
 * Leaves with 0, 1 for what went wrong, 2 for wrong arguments, 130 after Ctrl-C.
 */

import { createRequire } from 'node:module'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { connect, type RemoteMedia } from 'seekcache'

/** build/Release/seekcache.node */
interface Addon {
  /** Makes seekcachesrc known to the GStreamer of this process; calling it again does nothing. */
  register(): void
  gstVersion(): string
}

/** The parts of gst-kit that are used here. */
interface GstKit {
  readonly Pipeline: new (description: string) => Pipeline
}

interface Pipeline {
  play(timeoutMs: number): Promise<{ readonly result: string }>
  stop(): Promise<unknown>
  seek(seconds: number): boolean
  queryPosition(): number
  queryDuration(): number
  busPop(timeoutMs: number): Promise<{ readonly type: string; readonly errorMessage?: string } | null>
}

/** Opening or seeking may wait for a slow server, but not for ever. */
const STEP_LIMIT_MS = 60_000
/** How long Ctrl-C and errors may go unnoticed. */
const POLL_MS = 200
const FIRST_BYTES = 64 * 1024

const { values, positionals } = parseArgs({ options: { seconds: { type: 'string' } }, allowPositionals: true })
const [url] = positionals
const playSeconds = Number(values.seconds ?? Infinity)
if (url === undefined || positionals.length > 1 || !(playSeconds > 0)) {
  console.error('usage: player.ts [--seconds N] URL')
  process.exit(2)
}

const controller = new AbortController()
const { signal } = controller
process.once('SIGINT', () => controller.abort())

try {
  await main(url)
} catch (error) {
  console.error(signal.aborted ? 'stopped' : (error as Error).message)
  process.exitCode = signal.aborted ? 130 : 1
}

async function main(url: string): Promise<void> {
  const addon = loadAddon()
  addon.register()
  console.log(`seekcachesrc is registered in this process, GStreamer ${addon.gstVersion()}`)

  const cache = await connect() // starts the host when there is none
  try {
    // Opened here first, a URL that cannot be played is one clear error instead of a pipeline's.
    const media = await cache.open(url, { signal })
    console.log(`${media.fileName}: ${media.contentType ?? 'unknown type'}, ${media.size ?? 'unknown'} bytes`)
    const gstKit = await loadGstKit()
    if (gstKit === undefined) {
      console.log('gst-kit is not installed, so nothing is played: "npm install gst-kit" adds it')
      await readFirstBytes(media)
    } else {
      await play(gstKit, media)
    }
  } finally {
    await cache.close()
  }
}

function loadAddon(): Addon {
  const packageJson = createRequire(import.meta.url).resolve('seekcache/package.json')
  const nodeGypBuild = createRequire(packageJson)('node-gyp-build') as (folder: string) => Addon
  try {
    return nodeGypBuild(path.dirname(packageJson))
  } catch (cause) {
    throw new Error("seekcache's addon is not built: install GStreamer's headers and run \"npm run build\"", { cause })
  }
}

async function loadGstKit(): Promise<GstKit | undefined> {
  const name: string = 'gst-kit' // not a literal, so that this compiles where gst-kit is not installed
  try {
    return (await import(name)) as GstKit
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND') return undefined
    throw error
  }
}

async function readFirstBytes(media: RemoteMedia): Promise<void> {
  let lengthBytes = 0
  for await (const bytes of media.read(0, FIRST_BYTES, { signal })) lengthBytes += bytes.length
  console.log(`read the first ${lengthBytes} bytes through the Node API`)
}

async function play(gstKit: GstKit, media: RemoteMedia): Promise<void> {
  const pipeline = new gstKit.Pipeline(`playbin uri=${JSON.stringify(media.gstUri)} ${sinks()}`)
  try {
    await untilPlaying(pipeline)
    const duration = pipeline.queryDuration()
    console.log(`playing, ${duration.toFixed(1)} s long`)

    if (!pipeline.seek(duration / 2)) throw new Error('the pipeline refused to seek')
    await untilPlaying(pipeline) // a seek is done when the pipeline plays again
    console.log(`at ${pipeline.queryPosition().toFixed(1)} s after a jump to the middle`)

    await watch(pipeline)
  } finally {
    await pipeline.stop()
  }
}

function sinks(): string {
  const hasScreen = process.platform === 'darwin' || Boolean(process.env.DISPLAY || process.env.WAYLAND_DISPLAY)
  return hasScreen ? '' : 'video-sink="fakesink sync=true" audio-sink="fakesink sync=true"'
}

async function untilPlaying(pipeline: Pipeline): Promise<void> {
  const endMs = performance.now() + STEP_LIMIT_MS
  while (performance.now() < endMs) {
    signal.throwIfAborted()
    const { result } = await pipeline.play(POLL_MS)
    await hasEnded(pipeline) // what went wrong is on the bus
    if (result === 'failure') throw new Error('GStreamer cannot play this')
    if (result !== 'async') return
  }
  throw new Error(`nothing to play came within ${STEP_LIMIT_MS / 1000} s`)
}

/** Tells the position every second, until the end of the film, Ctrl-C or the given time. */
async function watch(pipeline: Pipeline): Promise<void> {
  for (let second = 0; second < playSeconds && !(await hasEnded(pipeline)); second++) {
    await sleep(1000, undefined, { signal })
    console.log(`at ${pipeline.queryPosition().toFixed(1)} s`)
  }
}

/** Empties the pipeline's bus. */
async function hasEnded(pipeline: Pipeline): Promise<boolean> {
  let isAtEnd = false
  for (let message = await pipeline.busPop(0); message !== null; message = await pipeline.busPop(0)) {
    if (message.type === 'error') throw new Error(`GStreamer: ${message.errorMessage}`)
    if (message.type === 'eos') isAtEnd = true
  }
  return isAtEnd
}
