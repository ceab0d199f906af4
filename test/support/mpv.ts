/**
 * A headless mpv, driven over its JSON IPC: what a person would do at the player, with the times it took.
 *
 * The IPC runs over an inherited socket pair, so there is nothing to wait for before the first command, and mpv leaves by
 * itself when this process does. Waits are for mpv's own events.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import type { Duplex } from 'node:stream'

import { within } from './deadline.ts'
import { tempDir } from './temp-dir.ts'

export type MpvValue = string | number | boolean | null | readonly MpvValue[] | { readonly [key: string]: MpvValue }

export interface MpvEvent {
  readonly event: string
  readonly [key: string]: MpvValue
}

export interface MpvOptions {
  /** Further command line arguments. */
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
}

export interface Mpv extends AsyncDisposable {
  /** What mpv has printed so far, its scripts' messages included. */
  readonly output: string
  command(...words: readonly MpvValue[]): Promise<MpvValue>
  get(property: string): Promise<MpvValue>
  set(property: string, value: MpvValue): Promise<void>
  /** Opens a URL and waits until it plays; ms until then. Throws what mpv said if it cannot be played. */
  open(url: string, options?: Readonly<Record<string, string>>): Promise<number>
  /** Seeks and waits until it plays on from there; ms until then. */
  seekPercent(percent: number): Promise<number>
  /** The next event of that name. */
  next(event: string): Promise<MpvEvent>
  quit(): Promise<void>
}

export async function startMpv(options: MpvOptions = {}): Promise<Mpv> {
  const home = await tempDir('seekcache-mpv')
  const messages = '--msg-level=all=warn,seekcache=debug'
  const args = ['--no-config', '--idle=yes', '--vo=null', '--ao=null', '--quiet', '--input-terminal=no', '--msg-color=no']
  const child = spawn('mpv', [...args, messages, '--input-ipc-client=fd://3', ...(options.args ?? [])], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    // Without a home of its own mpv would read and write the person's watch-later files.
    env: { ...process.env, HOME: home.path, XDG_CONFIG_HOME: home.file('config'), ...options.env },
  })
  const exited = new Promise<void>((resolve) => {
    child.once('error', () => resolve())
    child.once('close', () => resolve())
  })
  const mpv = new HeadlessMpv(child, async () => {
    child.kill('SIGKILL')
    await exited
    await home.remove()
  }, exited)
  try {
    await mpv.get('mpv-version')
  } catch (error) {
    await mpv[Symbol.asyncDispose]()
    throw error
  }
  return mpv
}

interface Reply {
  readonly request_id?: number
  readonly error?: string
  readonly data?: MpvValue
  readonly event?: string
}

interface Waiting {
  readonly resolve: (value: MpvValue) => void
  readonly reject: (error: Error) => void
}

class HeadlessMpv implements Mpv {
  output = ''
  readonly #ipc: Duplex
  readonly #exited: Promise<void>
  readonly #end: () => Promise<void>
  readonly #waiting = new Map<number, Waiting>()
  readonly #listeners = new Set<(event: MpvEvent) => void>()
  #lastId = 0
  #hasExited = false

  constructor(child: ChildProcess, end: () => Promise<void>, exited: Promise<void>) {
    this.#ipc = child.stdio[3] as Duplex
    this.#end = end
    this.#exited = exited
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text))
    }
    let unread = ''
    this.#ipc.setEncoding('utf8')
    this.#ipc.on('data', (text: string) => {
      const lines = (unread + text).split('\n')
      unread = lines.pop() ?? ''
      for (const line of lines) this.#receive(JSON.parse(line) as Reply)
    })
    this.#ipc.on('error', () => {}) // mpv is gone; `exited` tells
    void exited.then(() => {
      this.#hasExited = true
      for (const { reject } of this.#waiting.values()) reject(new Error(`mpv left: ${this.output.slice(-2000)}`))
      this.#waiting.clear()
    })
  }

  async command(...words: readonly MpvValue[]): Promise<MpvValue> {
    if (this.#hasExited) throw new Error(`mpv has left: ${this.output.slice(-2000)}`)
    const id = ++this.#lastId
    const answer = new Promise<MpvValue>((resolve, reject) => this.#waiting.set(id, { resolve, reject }))
    this.#ipc.write(JSON.stringify({ command: words, request_id: id }) + '\n')
    return await within(`mpv's answer to ${String(words[0])}`, answer)
  }

  async get(property: string): Promise<MpvValue> {
    return await this.command('get_property', property)
  }

  async set(property: string, value: MpvValue): Promise<void> {
    await this.command('set_property', property, value)
  }

  async open(url: string, options: Readonly<Record<string, string>> = {}): Promise<number> {
    const started = performance.now()
    // Of this file, not of the one before, whose last events may still be on their way.
    let hasBegun = false
    const outcome = this.#first(({ event, reason }) => {
      hasBegun ||= event === 'start-file'
      return hasBegun && (event === 'playback-restart' || (event === 'end-file' && reason === 'error'))
    })
    const list = Object.entries(options).map(([name, value]) => `${name}=%${Buffer.byteLength(value)}%${value}`)
    await this.command('loadfile', url, 'replace', list.join(','))
    const { event, file_error } = await within('mpv opening a file', outcome)
    if (event === 'end-file') throw new Error(`mpv could not play: ${String(file_error)}`)
    return performance.now() - started
  }

  async seekPercent(percent: number): Promise<number> {
    const started = performance.now()
    // The restart that counts is the one behind this seek, not one that is still on its way.
    let hasSought = false
    const restarted = this.#first(({ event }) => {
      hasSought ||= event === 'seek'
      return hasSought && event === 'playback-restart'
    })
    await this.command('seek', percent, 'absolute-percent')
    await within(`mpv playing on after a seek to ${percent} %`, restarted)
    return performance.now() - started
  }

  async next(event: string): Promise<MpvEvent> {
    return await within(`mpv's event ${event}`, this.#first((candidate) => candidate.event === event))
  }

  async quit(): Promise<void> {
    // mpv may be gone before it has answered.
    if (!this.#hasExited) await Promise.race([this.command('quit').catch(() => {}), this.#exited])
    await within('mpv leaving', this.#exited)
    await this.#end()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end()
  }

  #first(matches: (event: MpvEvent) => boolean): Promise<MpvEvent> {
    return new Promise((resolve) => {
      const listener = (event: MpvEvent) => {
        if (!matches(event)) return
        this.#listeners.delete(listener)
        resolve(event)
      }
      this.#listeners.add(listener)
    })
  }

  #receive(reply: Reply): void {
    if (reply.event !== undefined) {
      const event = reply as MpvEvent
      for (const listener of [...this.#listeners]) listener(event)
      return
    }
    const waiting = this.#waiting.get(reply.request_id ?? 0)
    if (waiting === undefined) return
    this.#waiting.delete(reply.request_id ?? 0)
    if (reply.error === 'success') waiting.resolve(reply.data ?? null)
    else waiting.reject(new Error(`mpv: ${reply.error}`))
  }
}
