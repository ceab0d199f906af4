/**
 * The Node API's door: a connection to the host of a cache directory, started when there is none.
 */

import { join } from 'node:path'

import { defaultCacheDir, socketPathOf } from '../config.ts'
import { protocolError, type Header, type ListEntry, type ListPage, type Status } from '../control/protocol.ts'
import { isCode, SeekCacheError } from '../errors.ts'
import { HEADER_NAME, HEADER_VALUE, parseUrl } from '../resource-spec.ts'
import { ControlClient, type Renewer } from './control-client.ts'
import { launchHost } from './host-launch.ts'
import { RemoteMedia } from './remote-media.ts'

export interface ConnectOptions {
  /** Default: SEEKCACHE_CACHE_DIR, else the user's cache directory. */
  readonly cacheDir?: string
  /** Default: SEEKCACHE_SOCKET, else `control.sock` in the cache directory. */
  readonly socketPath?: string
  /** Whether a host is started when none answers; default true. */
  readonly startHost?: boolean
}

export type HeadersInput = Readonly<Record<string, string>> | readonly Header[]

/** A URL in place of an expired one; without headers those of the opening stay, for the origin that they were for. */
export type FreshUrl = string | URL | { readonly url: string | URL; readonly headers?: HeadersInput }

export interface RenewInfo {
  /** As it was opened. */
  readonly url: string
  /** What the origin says to it now: 401, 403 or 410. */
  readonly httpStatus: number
}

export interface OpenOptions {
  /** Sent to the origin with every request; part of what tells resources apart. */
  readonly headers?: HeadersInput
  readonly signal?: AbortSignal
  /** How long the origin may take to answer, ms; default 30 000. */
  readonly deadlineMs?: number
  /**
   * Asked for a fresh URL when the origin does not take the present one any more; whoever reads waits meanwhile. What it
   * gives must be the same version of the same file. Undefined, or throwing, refuses.
   */
  readonly renew?: (info: RenewInfo) => Promise<FreshUrl | undefined> | FreshUrl | undefined
}

/**
 * Connects to the host of a cache directory.
 * @throws ERR_SEEKCACHE_HOST_UNAVAILABLE, ERR_SEEKCACHE_PROTOCOL for a host of another version, and why a host cannot start:
 * ERR_SEEKCACHE_CACHE_UNWRITABLE, ERR_SEEKCACHE_CACHE_FORMAT, ERR_SEEKCACHE_USAGE
 */
export async function connect(options: ConnectOptions = {}): Promise<Cache> {
  const cache = new Cache(options)
  await cache.client()
  return cache
}

export class Cache implements AsyncDisposable {
  readonly #cacheDir: string
  readonly #socketPath: string
  readonly #startHost: boolean
  readonly #media = new Set<RemoteMedia>()
  #client: Promise<ControlClient> | undefined
  #isClosed = false

  /** @internal Use `connect`. */
  constructor(options: ConnectOptions) {
    this.#cacheDir = options.cacheDir ?? defaultCacheDir()
    this.#socketPath = options.socketPath ?? socketPathOf(this.#cacheDir)
    this.#startHost = options.startHost ?? true
  }

  /** @internal Where the host's extent files are; undefined where only a socket was told, which may be any directory's. */
  get extentRoot(): string | undefined {
    return this.#socketPath === join(this.#cacheDir, 'control.sock') ? this.#cacheDir : undefined
  }

  /** @internal The live connection; a new one, and a new host if need be, after the last one was lost. */
  async client(): Promise<ControlClient> {
    if (this.#isClosed) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'this cache is closed')
    const current = await this.#client?.catch(() => undefined)
    if (current?.isOpen === true) return current
    this.#client = this.#connect()
    return await this.#client
  }

  async #connect(): Promise<ControlClient> {
    try {
      return await ControlClient.connect(this.#socketPath)
    } catch (error) {
      if (!this.#startHost || !isCode(error, 'ERR_SEEKCACHE_HOST_UNAVAILABLE')) throw error
    }
    const { socket } = await launchHost(this.#cacheDir, this.#socketPath)
    return await ControlClient.connect(socket)
  }

  /**
   * Opens a resource; resolves when its size and version are known.
   * @throws ERR_SEEKCACHE_USAGE for what is no http(s) URL, ERR_SEEKCACHE_ORIGIN_* for what the origin did, _TIMEOUT, _CANCELLED
   */
  async open(url: string | URL, options: OpenOptions = {}): Promise<RemoteMedia> {
    const { href } = parseUrl(String(url))
    const media = new RemoteMedia(this, href, toHeaders(options.headers), options.deadlineMs, renewerOf(href, options.renew))
    await media.reopen(options.signal)
    this.#media.add(media)
    return media
  }

  /** The proxy URL for any HTTP player; nothing is asked of the origin yet. */
  async proxyUrl(url: string | URL, headers?: HeadersInput): Promise<string> {
    const client = await this.client()
    return (await client.request({ type: 'url', url: parseUrl(String(url)).href, headers: toHeaders(headers) }, ['url'])).answer.proxyUrl
  }

  /** What of a resource is in the cache, without asking the origin. @throws ERR_SEEKCACHE_NOT_FOUND */
  async map(url: string | URL, headers?: HeadersInput): Promise<{ sizeBytes: number; present: [number, number][] }> {
    const client = await this.client()
    const { answer } = await client.request({ type: 'map', url: parseUrl(String(url)).href, headers: toHeaders(headers) }, ['map'])
    return { sizeBytes: answer.sizeBytes ?? 0, present: answer.present.map(([start, end]) => [start, end]) }
  }

  /** What is cached, the last used first. */
  async list(): Promise<readonly ListEntry[]> {
    const client = await this.client()
    const all: ListEntry[] = []
    for (let after: string | undefined = ''; after !== undefined; ) {
      const { entries, next }: ListPage = (await client.request({ type: 'list', after }, ['list'])).answer
      if (next !== undefined && (next <= after || entries.length === 0)) throw protocolError('the host lists the same again and again')
      all.push(...entries)
      after = next
    }
    return all.sort((a, b) => b.lastUsedMs - a.lastUsedMs)
  }

  async status(): Promise<Status> {
    const { id: _, type: __, ...status } = (await (await this.client()).request({ type: 'status' }, ['status'])).answer
    return status
  }

  /** Removes a resource, or all of them, from the cache. @returns the bytes freed */
  async evict(url: string | URL | { readonly all: true }, headers?: HeadersInput): Promise<number> {
    const isAll = typeof url === 'object' && 'all' in url
    const what = isAll ? { all: true, headers: [] } : { url: parseUrl(String(url)).href, headers: toHeaders(headers) }
    return (await (await this.client()).request({ type: 'evict', ...what }, ['evicted'])).answer.freedBytes
  }

  /** Ends the host. */
  async stopHost(): Promise<void> {
    await (await this.client()).request({ type: 'stop' }, ['ok'])
  }

  /** @internal */
  forget(media: RemoteMedia): void {
    this.#media.delete(media)
  }

  /** Closes what is open and the connection; the host goes on by itself. */
  async close(): Promise<void> {
    for (const media of [...this.#media]) await media.close()
    this.#isClosed = true
    const client = await this.#client?.catch(() => undefined)
    client?.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

function renewerOf(url: string, renew: OpenOptions['renew']): Renewer | undefined {
  if (renew === undefined) return undefined
  return async (httpStatus) => {
    const fresh = await renew({ url, httpStatus })
    if (fresh === undefined) return undefined
    if (typeof fresh === 'string' || fresh instanceof URL) return { url: parseUrl(String(fresh)).href }
    const headers = fresh.headers === undefined ? undefined : toHeaders(fresh.headers)
    return { url: parseUrl(String(fresh.url)).href, headers }
  }
}

function toHeaders(input: HeadersInput | undefined): [string, string][] {
  if (input === undefined) return []
  const pairs = Array.isArray(input) ? (input as readonly Header[]) : Object.entries(input as Readonly<Record<string, string>>)
  for (const [name, value] of pairs) {
    if (!HEADER_NAME.test(name) || !HEADER_VALUE.test(value)) {
      throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `the header ${JSON.stringify(name)} cannot be sent: its name or value is not allowed in HTTP`)
    }
  }
  return pairs.map(([name, value]) => [name, value])
}
