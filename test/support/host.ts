/**
 * A host as a process of its own, the built `dist/cli/main.js serve`, on a cache directory in a temporary folder.
 *
 * `kill9` and `restart` are what happens to hosts: the directory stays, and its next host goes on with what was committed.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { access } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

import { endWithThisProcess } from './children.ts'
import { within } from './deadline.ts'
import { type TempDir, tempDir } from './temp-dir.ts'

export const CLI_FILE = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface HostOptions {
  /** Further flags of `serve`, such as `['--max-size', '64M']`. */
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** A cache directory that stays; otherwise one of its own that goes with the host. */
  readonly cacheDir?: string
  /** Whether it rehearses when nobody is connected; else it does only what a test asks of it. */
  readonly rehearses?: boolean
  /** As `ulimit -n` sets it, soft and hard. */
  readonly descriptorLimit?: number
}

export interface TestHost extends AsyncDisposable {
  readonly cacheDir: string
  readonly proxy: string
  readonly socket: string
  readonly pid: number
  /** What this and earlier hosts of the object have logged. */
  readonly stderr: string
  /** Resolves when the running host has rehearsed. */
  readonly rehearsed: Promise<void>
  /** Resolves with the exit code when the running host has left, by itself or not. */
  readonly exited: Promise<number | null>
  /** The environment in which clients find this host. */
  readonly clientEnv: Readonly<Record<string, string>>
  /** A proxy URL as clients make it from the state file. */
  proxyUrl(url: string, headers?: readonly (readonly [string, string])[]): string
  /** Starts a host on the directory again, after the running one has left in order. */
  restart(args?: readonly string[]): Promise<void>
  /** Ends the host at once, as a crash does. */
  kill9(): Promise<void>
  /** Ends the host in order; the directory stays until the object is disposed of. */
  halt(): Promise<void>
  /** Ends the host in order and removes its directory. */
  stop(): Promise<void>
}

interface Ready {
  readonly event: 'ready'
  readonly proxy: string
  readonly socket: string
}

export async function startHost(options: HostOptions = {}): Promise<TestHost> {
  await access(CLI_FILE).catch(() => {
    throw new Error(`${CLI_FILE} is not built: "npm run build"`)
  })
  const temp = options.cacheDir === undefined ? await tempDir() : undefined
  const host = new HostProcess(options.cacheDir ?? temp?.file('cache') ?? '', options, temp)
  try {
    await host.start(options.args ?? [])
  } catch (error) {
    await host.stop()
    throw error
  }
  return host
}

class HostProcess implements TestHost {
  readonly cacheDir: string
  stderr = ''
  readonly #options: HostOptions
  readonly #temp: TempDir | undefined
  #child: ChildProcess | undefined
  #exited: Promise<number | null> = Promise.resolve(0)
  #rehearsed: Promise<unknown> = Promise.resolve()
  #ready: Ready = { event: 'ready', proxy: '', socket: '' }

  constructor(cacheDir: string, options: HostOptions, temp: TempDir | undefined) {
    this.cacheDir = cacheDir
    this.#options = options
    this.#temp = temp
  }

  get proxy(): string {
    return this.#ready.proxy
  }

  get socket(): string {
    return this.#ready.socket
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  get rehearsed(): Promise<void> {
    return within('a rehearsal', this.#rehearsed.then(() => undefined))
  }

  get exited(): Promise<number | null> {
    return within('the end of a host', this.#exited)
  }

  get clientEnv(): Readonly<Record<string, string>> {
    return { SEEKCACHE_CACHE_DIR: this.cacheDir, SEEKCACHE_SOCKET: this.socket, SEEKCACHE_COMMAND: `node ${CLI_FILE}` }
  }

  proxyUrl(url: string, headers: readonly (readonly [string, string])[] = []): string {
    const spec = Buffer.from(JSON.stringify({ url, headers })).toString('base64url')
    return `${this.proxy}/u/${spec}/${new URL(url).pathname.split('/').at(-1)}`
  }

  async start(args: readonly string[]): Promise<void> {
    // A host of this directory alone, whatever the environment says of the person's own one.
    const { SEEKCACHE_SOCKET: _socket, SEEKCACHE_CACHE_DIR: _dir, ...env } = process.env
    const words = [CLI_FILE, 'serve', '--json', '--cache-dir', this.cacheDir, '--port', '0', ...args]
    const limit = this.#options.descriptorLimit
    const [program = '', ...rest] = [...(limit === undefined ? [] : ['prlimit', `--nofile=${limit}:${limit}`]), process.execPath, ...words]
    const child = spawn(program, rest, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...env, ...(this.#options.rehearses === true ? {} : { SEEKCACHE_NO_REHEARSAL: '1' }), ...this.#options.env },
    })
    endWithThisProcess(child)
    this.#child = child
    this.#exited = new Promise((resolve) => child.once('close', resolve))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (this.stderr += text))
    const failed = new Promise<never>((_resolve, reject) => {
      child.once('error', reject)
      void this.#exited.then((code) => reject(new Error(`the host left with ${code}: ${this.stderr.trim()}`)))
    })
    const lines = createInterface(child.stdout)
    const told = async (event: string): Promise<unknown> => {
      const is = (line: string): boolean => (JSON.parse(line) as Ready).event === event
      return await new Promise((resolve) => lines.on('line', (line) => is(line) && resolve(JSON.parse(line))))
    }
    this.#rehearsed = Promise.race([told('rehearsed'), failed])
    this.#rehearsed.catch(() => {})
    this.#ready = await within('the start of a host', Promise.race([told('ready') as Promise<Ready>, failed]))
  }

  async restart(args: readonly string[] = this.#options.args ?? []): Promise<void> {
    await this.halt()
    await this.start(args)
  }

  async kill9(): Promise<void> {
    this.#child?.kill('SIGKILL')
    await this.#exited
    this.#child = undefined
  }

  async halt(): Promise<void> {
    this.#child?.kill('SIGTERM')
    try {
      await within('the end of a host', this.#exited)
    } finally {
      await this.kill9()
    }
  }

  async stop(): Promise<void> {
    try {
      await this.halt()
    } finally {
      await this.#temp?.remove()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }
}
