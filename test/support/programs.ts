/**
 * Programs of this package and of GStreamer, run as a user runs them: as processes, in the environment of a test's host.
 */

import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { endWithThisProcess } from './children.ts'
import { CLI_FILE } from './host.ts'

const RELEASE_DIR = fileURLToPath(new URL('../../build/Release', import.meta.url))
export const GST_PLUGIN_DIR = path.join(RELEASE_DIR, 'gstreamer-1.0')
/** No step of a test's program takes longer; the bound is for what hangs. */
const LIMIT_MS = 180_000

export type Env = Readonly<Record<string, string>>

export interface Finished {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
  /** Of standard output. */
  readonly sha256: string
}

/** Runs a program to its end. Its standard output is kept as text up to 1 MiB, and hashed whole. */
export async function runProgram(words: readonly string[], env: Env = {}, limitMs = LIMIT_MS): Promise<Finished> {
  const child = spawn(words[0]!, words.slice(1), { stdio: ['ignore', 'pipe', 'pipe'], env: { ...gstEnv(), ...env } })
  endWithThisProcess(child)
  const hash = createHash('sha256')
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (bytes: Buffer) => {
    hash.update(bytes)
    if (stdout.length < 2 ** 20) stdout += bytes.toString('utf8')
  })
  child.stderr.on('data', (bytes: Buffer) => (stderr += bytes.toString('utf8')))
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs)
  try {
    const code = await new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve))
    return { code, stdout, stderr, sha256: hash.digest('hex') }
  } finally {
    clearTimeout(timer)
  }
}

function gstEnv(): NodeJS.ProcessEnv {
  const { SEEKCACHE_CACHE_DIR: _dir, SEEKCACHE_SOCKET: _socket, ...env } = process.env
  return {
    ...env,
    GST_PLUGIN_PATH: GST_PLUGIN_DIR,
    GST_REGISTRY: path.join(os.tmpdir(), 'seekcache-test-gst-registry.bin'),
    GST_REGISTRY_FORK: 'no',
  }
}

export async function runCli(args: readonly string[], env: Env = {}): Promise<Finished> {
  return await runProgram([process.execPath, CLI_FILE, ...args], env)
}

/** One of the programs in `test/native`. */
export async function runNative(name: string, args: readonly string[], env: Env = {}, limitMs?: number): Promise<Finished> {
  return await runProgram([path.join(RELEASE_DIR, name), ...args], env, limitMs)
}

export interface PlayerEvent {
  readonly event: 'open' | 'seek' | 'play' | 'eos' | 'error'
  readonly ms?: number
  readonly durationSeconds?: number
  readonly targetSeconds?: number
  readonly landedSeconds?: number
  readonly message?: string
}

/** The headless GStreamer player; throws with what it said when it fails. */
export async function play(args: readonly string[], env: Env = {}): Promise<PlayerEvent[]> {
  const { code, stdout, stderr } = await runNative('seekcache-player', args, env)
  const events = stdout.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as PlayerEvent)
  if (code === 0) return events
  throw new Error(`seekcache-player left with ${code}: ${events.find((e) => e.event === 'error')?.message ?? ''} ${stderr}`)
}

export async function sha256OfFile(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const bytes of createReadStream(file)) hash.update(bytes as Buffer)
  return hash.digest('hex')
}
