/**
 * GStreamer as a child process, with the element that was built here and a registry of its own.
 *
 * `playGst` runs build/Release/seekcache-player, which opens, seeks and plays without screen or loudspeaker and prints its
 * events as lines of JSON. It ends by itself, or is ended by its bound.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { access } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { endWithThisProcess } from './children.ts'
import { within } from './deadline.ts'
import { MEDIA_DIR } from './media.ts'

export const RELEASE_DIR = fileURLToPath(new URL('../../build/Release', import.meta.url))
export const GST_PLUGIN_DIR = path.join(RELEASE_DIR, 'gstreamer-1.0')
const PLAYER_FILE = path.join(RELEASE_DIR, 'seekcache-player')
const RUN_LIMIT_MS = 180_000

/** In what a GStreamer program must run to find the element, and nothing older of it in a cached registry. */
export function gstEnv(more: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  // The first program fills it, the others are quick; GStreamer itself notices when a plugin was built anew.
  const registry = path.join(MEDIA_DIR, 'gst-registry.bin')
  return { ...process.env, GST_PLUGIN_PATH: GST_PLUGIN_DIR, GST_REGISTRY: registry, ...more }
}

export type GstEvent =
  | { readonly event: 'open'; readonly ms: number; readonly durationSeconds: number; readonly seekable: boolean }
  | { readonly event: 'seek'; readonly ms: number; readonly targetSeconds: number; readonly landedSeconds: number }
  | { readonly event: 'played'; readonly ms: number; readonly seconds: number }
  | { readonly event: 'eos'; readonly ms: number }
  | { readonly event: 'buffering'; readonly percent: number }
  | { readonly event: 'error'; readonly domain: string; readonly code: number; readonly message: string }

export interface GstRun {
  readonly exitCode: number | null
  readonly events: readonly GstEvent[]
  readonly stdout: string
  readonly stderr: string
}

export interface GstOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly signal?: AbortSignal
  /** Called with each event as it comes. */
  readonly onEvent?: (event: GstEvent) => void
}

/** Runs the player with the arguments that `seekcache-player` prints when it gets none. */
export async function playGst(args: readonly string[], options: GstOptions = {}): Promise<GstRun> {
  await access(PLAYER_FILE).catch(() => {
    throw new Error(`${PLAYER_FILE} is not built: "npm run build"`)
  })
  const child = spawn(PLAYER_FILE, args, { stdio: ['ignore', 'pipe', 'pipe'], env: gstEnv(options.env) })
  endWithThisProcess(child)
  const abort = () => child.kill('SIGKILL')
  options.signal?.addEventListener('abort', abort, { once: true })
  try {
    return await within(`${path.basename(PLAYER_FILE)} ${args.join(' ')}`, collected(child, options), RUN_LIMIT_MS)
  } finally {
    options.signal?.removeEventListener('abort', abort)
    child.kill('SIGKILL') // of no effect on one that has ended
  }
}

async function collected(child: ChildProcess, { onEvent }: GstOptions): Promise<GstRun> {
  let [stdout, stderr, unread] = ['', '', '']
  const events: GstEvent[] = []
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    const lines = (unread + text).split('\n')
    unread = lines.pop() ?? ''
    for (const line of lines.filter((candidate) => candidate.startsWith('{'))) {
      const event = JSON.parse(line) as GstEvent
      events.push(event)
      onEvent?.(event)
    }
  })
  const exitCode = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  return { exitCode, events, stdout, stderr }
}
