/**
 * A person's own command that gives fresh URLs: it reads the expired one from its standard input and prints another.
 *
 * No shell is in between, and no URL among the arguments, which every user of the machine can read. What it prints on
 * standard error is not passed on: nobody knows what it holds.
 */

import { spawn } from 'node:child_process'

import type { Renew, Renewed } from './renewals.ts'

/** A URL, and some words behind it that are not read. */
const MAX_OUTPUT_BYTES = 64 * 1024

/** @param command a program and its arguments, split at spaces */
export function renewByCommand(command: string): Renew {
  const [program, ...args] = command.split(' ').filter((word) => word !== '')
  return async ({ url, httpStatus }, signal) => {
    const env = { ...process.env, SEEKCACHE_RENEW_STATUS: String(httpStatus) }
    const child = spawn(program ?? '', args, { stdio: ['pipe', 'pipe', 'ignore'], env, detached: true })
    const end = (): void => killGroup(child.pid)
    signal.addEventListener('abort', end, { once: true })
    try {
      return await new Promise<Renewed | undefined>((resolve, reject) => {
        let output = ''
        child.once('error', (cause: NodeJS.ErrnoException) => reject(new Error(`the renew command cannot be run: ${cause.code ?? 'it failed'}`)))
        child.stdin.on('error', () => {}) // it need not read
        child.stdin.end(`${url}\n`)
        child.stdout.setEncoding('utf8').on('data', (text: string) => {
          output += text
          if (output.length > MAX_OUTPUT_BYTES) end()
        })
        child.once('close', (code) => {
          const [line = ''] = output.split('\n')
          if (code !== 0) reject(new Error(`the renew command failed (${code ?? 'killed'})`))
          else resolve(line.trim() === '' ? undefined : { url: line.trim() })
        })
      })
    } finally {
      signal.removeEventListener('abort', end)
    }
  }
}

/** With what it has started itself. */
function killGroup(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  } catch {
    // it has ended
  }
}
