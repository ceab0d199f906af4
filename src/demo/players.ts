/**
 * Real players without screen or loudspeaker, which open a film, seek in it and tell how long each step took: from the
 * command until the player plays on.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import type { Duplex } from 'node:stream'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export interface Measured {
  readonly openMs: number
  readonly seekMs: readonly number[]
}

export interface PlayerTask {
  readonly uri: string
  readonly seekPercents: readonly number[]
  readonly env: Readonly<Record<string, string>>
  readonly signal: AbortSignal
}

export type Player = (task: PlayerTask) => Promise<Measured>

const RELEASE_DIR = fileURLToPath(new URL('../../build/Release/', import.meta.url))
const GST_PLAYER = `${RELEASE_DIR}seekcache-player`
/** A step that takes longer has failed. */
const STEP_LIMIT_MS = 60_000
const WATCH_MS = 1000

export function hasGstPlayer(): boolean {
  return existsSync(GST_PLAYER)
}

export function hasMpv(): boolean {
  return spawnSync('mpv', ['--version'], { stdio: 'ignore' }).status === 0
}

interface GstEvent {
  readonly event: string
  readonly ms?: number
  readonly message?: string
}

/** GStreamer's playbin3, with seekcachesrc at hand. */
export const playWithGst: Player = async ({ uri, seekPercents, env, signal }) => {
  const args = [...seekPercents.flatMap((percent) => ['--seek', String(percent)]), uri]
  const child = spawn(GST_PLAYER, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, GST_PLUGIN_PATH: `${RELEASE_DIR}gstreamer-1.0`, ...env },
    signal,
  })
  const [output, complaint] = [textOf(child.stdout), textOf(child.stderr)]
  const code = await exitOf(child)
  const events = output().split('\n').filter(Boolean).map((line) => JSON.parse(line) as GstEvent)
  const msOf = (name: string) => events.filter(({ event }) => event === name).map(({ ms }) => ms ?? 0)
  const [openMs] = msOf('open')
  if (code !== 0 || openMs === undefined) {
    const reason = events.find(({ event }) => event === 'error')?.message ?? complaint().trim()
    throw new Error(`GStreamer could not play (exit ${code}): ${reason}`)
  }
  return { openMs, seekMs: msOf('seek') }
}

interface MpvLine {
  readonly event?: string
  readonly reason?: string
  readonly request_id?: number
}

/** mpv, driven over a socket pair: it leaves when this process does. */
export const playWithMpv: Player = async ({ uri, seekPercents, env, signal }) => {
  const quiet = ['--no-config', '--really-quiet', '--input-terminal=no', '--ytdl=no', '--vo=null', '--ao=null']
  const child = spawn('mpv', [...quiet, '--idle=yes', '--input-ipc-client=fd://3'], {
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...env },
    signal,
  })
  const exited = exitOf(child)
  exited.catch(() => {}) // whoever waits for a step hears of it
  const ipc = child.stdio[3] as Duplex
  const lines = new Lines(ipc)
  const step = async (command: readonly (string | number)[]): Promise<number> => {
    const startedMs = performance.now()
    ipc.write(`${JSON.stringify({ command })}\n`)
    // A restart counts from the moment that this step has begun: an earlier one may still be on its way.
    await lines.until(command[0] === 'loadfile' ? 'start-file' : 'seek', exited)
    await lines.until('playback-restart', exited)
    const tookMs = performance.now() - startedMs
    await watched(signal)
    return tookMs
  }
  try {
    const openMs = await step(['loadfile', uri])
    const seekMs: number[] = []
    for (const percent of seekPercents) seekMs.push(await step(['seek', percent, 'absolute-percent']))
    return { openMs, seekMs }
  } finally {
    child.kill()
    await exited.catch(() => {})
  }
}

/** mpv's events in their order, none lost between two waits. */
class Lines {
  readonly #unseen: MpvLine[] = []
  #wake: (() => void) | undefined

  constructor(ipc: Duplex) {
    let unread = ''
    ipc.setEncoding('utf8').on('data', (text: string) => {
      const lines = (unread + text).split('\n')
      unread = lines.pop() ?? ''
      this.#unseen.push(...lines.map((line) => JSON.parse(line) as MpvLine))
      this.#wake?.()
    })
    ipc.on('error', () => {}) // mpv has gone, which its exit tells
  }

  async until(event: string, exited: Promise<unknown>): Promise<void> {
    const left = exited.then(() => {
      throw new Error('mpv has left')
    })
    left.catch(() => {})
    for (;;) {
      for (let line = this.#unseen.shift(); line !== undefined; line = this.#unseen.shift()) {
        if (line.event === event) return
        if (line.event === 'end-file' && line.reason === 'error') throw new Error('mpv could not play')
      }
      const more = new Promise<void>((resolve) => (this.#wake = resolve))
      await Promise.race([more, left, limit(event)])
    }
  }
}

/** As a person does who looks where the film is now. */
async function watched(signal: AbortSignal): Promise<void> {
  await setTimeout(WATCH_MS, undefined, { signal })
}

function limit(what: string): Promise<never> {
  return new Promise((_resolve, reject) => {
    globalThis.setTimeout(() => reject(new Error(`mpv: no ${what} within ${STEP_LIMIT_MS / 1000} s`)), STEP_LIMIT_MS).unref()
  })
}

function textOf(stream: NodeJS.ReadableStream): () => string {
  let text = ''
  stream.setEncoding('utf8')
  stream.on('data', (piece: string) => (text += piece))
  return () => text
}

async function exitOf(child: ChildProcess): Promise<number | null> {
  return await new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
}
