/**
 * Starts a host when there is none (docs/PROTOCOL.md, "Starting a host").
 *
 * The host is a process of its own, in a session of its own: it outlives us, and no event loop of ours can stop it. Its
 * word comes over a pipe; two clients that start one at once are told of the same.
 */

import { spawn } from 'node:child_process'
import type { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import * as v from 'valibot'

import { SeekCacheError, type ErrorCode } from '../errors.ts'

/** Reading 100 GB worth of index takes 20 ms; a cold Node on a busy machine takes the rest. */
const READY_DEADLINE_MS = 15_000

const ReadyEvent = v.object({ event: v.literal('ready'), socket: v.string(), proxy: v.string(), pid: v.number() })
export type ReadyEvent = v.InferOutput<typeof ReadyEvent>
const FailedEvent = v.object({ event: v.literal('error'), code: v.string(), message: v.string() })

/** The CLI of this very package; the same path from `src` and from `dist`. */
export const CLI_PATH = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

/** @throws what the host says why it cannot start, or ERR_SEEKCACHE_HOST_UNAVAILABLE */
export async function launchHost(cacheDir: string, socketPath: string): Promise<ReadyEvent> {
  const args = [CLI_PATH, 'serve', '--background', '--ready-fd', '3', '--cache-dir', cacheDir, '--socket', socketPath]
  const child = spawn(process.execPath, args, { detached: true, stdio: ['ignore', 'ignore', 'ignore', 'pipe'] })
  const pipe = child.stdio[3] as Readable
  try {
    return parseReady(await firstLine(pipe, child.once.bind(child)))
  } finally {
    pipe.destroy()
    child.unref()
  }
}

async function firstLine(pipe: Readable, onceOfChild: (event: 'error', listener: (error: Error) => void) => unknown): Promise<string> {
  return await new Promise((resolve, reject) => {
    let text = ''
    const timer = setTimeout(() => reject(unavailable('it said nothing in time')), READY_DEADLINE_MS)
    const settle = (action: () => void): void => {
      clearTimeout(timer)
      action()
    }
    onceOfChild('error', (error) => settle(() => reject(unavailable(error.message))))
    pipe.on('error', (error) => settle(() => reject(unavailable(error.message))))
    pipe.on('data', (bytes: Buffer) => {
      text += bytes.toString('utf8')
      if (text.includes('\n')) settle(() => resolve(text.slice(0, text.indexOf('\n'))))
    })
    pipe.on('end', () => settle(() => reject(unavailable('it ended before it was ready'))))
  })
}

function parseReady(line: string): ReadyEvent {
  let event: unknown
  try {
    event = JSON.parse(line)
  } catch {
    throw unavailable('it said something else than JSON')
  }
  const ready = v.safeParse(ReadyEvent, event)
  if (ready.success) return ready.output
  const failed = v.safeParse(FailedEvent, event)
  if (failed.success) throw new SeekCacheError(failed.output.code as ErrorCode, failed.output.message)
  throw unavailable('it said something that this client does not understand')
}

function unavailable(reason: string): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_HOST_UNAVAILABLE', `the host did not start: ${reason}`)
}
