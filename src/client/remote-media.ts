/**
 * An opened resource as a Node program sees it: its facts, and its bytes, read from the extent files directly.
 *
 * The host tells where bytes stand, this process reads them itself; bytes cross the socket only where there is no file. A host
 * that dies is started again, and the read goes on at the same byte of the same version.
 */

import { protocolError, type Opened } from '../control/protocol.ts'
import { isCode, SeekCacheError } from '../errors.ts'
import type { Cache } from './cache.ts'
import type { AnswerOf, ControlClient, Renewer } from './control-client.ts'
import { ExtentReader } from './extent-reader.ts'

/** One read of a file; what `read` yields at most. */
const READ_BYTES = 1024 * 1024
/** Every wait for the origin ends. */
const READ_DEADLINE_MS = 60_000
/** Tries to read on with a new host before the loss is the caller's. */
const MAX_HOST_LOSSES = 3
/** The host repairs or replaces a file that could not be read; when that does not help it is this process that cannot. */
const MAX_UNREADABLE = 3
/** Answers without a byte that could be read: more of them are no accident. */
const MAX_ANSWERS = 2 * MAX_UNREADABLE + MAX_HOST_LOSSES

export interface ReadOptions {
  readonly signal?: AbortSignal
  /** How long to wait for each next byte, ms; default 60 000. */
  readonly deadlineMs?: number
}

export interface FetchAllOptions {
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: { readonly presentBytes: number; readonly sizeBytes: number }) => void
}

/** A resource that is open at a host, over the connection to it. */
interface HostSession {
  readonly client: ControlClient
  readonly opened: AnswerOf<'opened'>
}

export class RemoteMedia implements AsyncDisposable {
  readonly url: string
  readonly #cache: Cache
  readonly #headers: readonly [string, string][]
  readonly #deadlineMs: number | undefined
  readonly #renewer: Renewer | undefined
  #session: HostSession | undefined
  /** The cache's files are out of this process's reach (a sandbox, another user): bytes are asked for instead. */
  #wantsData = false
  #present: [number, number][] = []
  #nextReader = 1

  /** @internal Use `cache.open`. */
  constructor(
    cache: Cache,
    url: string,
    headers: readonly [string, string][],
    deadlineMs: number | undefined,
    renewer: Renewer | undefined,
  ) {
    this.#cache = cache
    this.url = url
    this.#headers = headers
    this.#deadlineMs = deadlineMs
    this.#renewer = renewer
  }

  get #current(): HostSession {
    if (this.#session === undefined) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'this media is closed')
    return this.#session
  }

  get #opened(): Opened {
    return this.#current.opened
  }

  /** Bytes, or undefined where the origin does not tell. */
  get size(): number | undefined {
    return this.#opened.sizeBytes ?? undefined
  }

  get contentType(): string | undefined {
    return this.#opened.contentType ?? undefined
  }

  /** The ETag or Last-Modified that identifies this version, or undefined. */
  get validator(): string | undefined {
    return this.#opened.validator ?? undefined
  }

  get isSeekable(): boolean {
    return this.#opened.isSeekable
  }

  get fileName(): string {
    return this.#opened.fileName
  }

  /** For any HTTP player. */
  get proxyUrl(): string {
    return this.#opened.proxyUrl
  }

  /** For GStreamer's seekcachesrc; headers are given to the element as properties. */
  get gstUri(): string {
    return `seekcache+${this.url}`
  }

  /** @internal Opens it with the host that is there now; the version must be the one before. */
  async reopen(signal?: AbortSignal): Promise<void> {
    const before = this.#session?.opened.generation
    const client = await this.#cache.client()
    const renewer = this.#renewer
    const message = {
      type: 'open' as const, url: this.url, headers: [...this.#headers], deadlineMs: this.#deadlineMs, canRenew: renewer !== undefined,
    }
    const { answer } = await client.request(message, ['opened'], { signal, renewer })
    if (before !== undefined && before !== answer.generation) {
      throw new SeekCacheError('ERR_SEEKCACHE_ORIGIN_CHANGED', 'the file has changed at the origin: open it again to get the new one')
    }
    this.#session = { client, opened: answer }
    await this.refresh()
  }

  /**
   * The bytes `[start, end)` as they become readable; to the end of the resource without `end`.
   * @throws ERR_SEEKCACHE_TIMEOUT, _CANCELLED, _ORIGIN_*: what the origin did instead
   */
  async *read(start = 0, end?: number, options: ReadOptions = {}): AsyncGenerator<Buffer, void, undefined> {
    const limit = Math.min(end ?? Number.MAX_SAFE_INTEGER, this.size ?? Number.MAX_SAFE_INTEGER)
    const file = new ExtentReader(this.#cache.extentRoot)
    const reader = this.#nextReader++
    try {
      for (let position = start; position < limit; ) {
        const bytes = await this.#readNext(file, reader, position, limit, options)
        if (bytes === undefined) return
        yield bytes
        position += bytes.length
      }
    } finally {
      await file.close()
      await this.#release(reader)
    }
  }

  #tell(note: { readonly type: 'position'; readonly reader: number; readonly position: number } | { readonly type: 'release'; readonly reader: number }): boolean {
    if (this.#session?.client.isOpen !== true) return false
    this.#session.client.note({ ...note, session: this.#session.opened.session })
    return true
  }

  async #release(reader: number): Promise<void> {
    if (!this.#tell({ type: 'release', reader })) return
    await this.refresh().catch(() => {}) // what was read is read, whatever has become of the host meanwhile
  }

  async #readNext(file: ExtentReader, reader: number, position: number, limit: number, options: ReadOptions): Promise<Buffer | undefined> {
    const wanted = Math.min(READ_BYTES, limit - position)
    for (let [losses, failures, answers] = [0, 0, 0]; ; answers++) {
      options.signal?.throwIfAborted()
      const known = await file.read(position, wanted)
      if (known !== undefined) {
        if (position + known.length < limit) this.#tell({ type: 'position', reader, position: position + known.length })
        return known
      }
      const failure = file.takeFailure()
      if (failure !== undefined && (failure.isRefused || ++failures > MAX_UNREADABLE)) this.#wantsData = true
      if (answers > MAX_ANSWERS) throw protocolError('the files of the cache that the host names cannot be read here: is the cache directory the same for both?')
      try {
        const located = await this.#locate(reader, position, wanted, failure?.path, options)
        if (located.answer.type === 'end') {
          if (this.size !== undefined) throw protocolError('the host sees an end in the middle')
          return undefined
        }
        const { answer, raw } = located
        const { start } = answer
        const end = answer.type === 'data' ? start + answer.lengthBytes : answer.end
        const lastEnd = answer.type === 'data' ? end : (answer.next?.at(-1)?.end ?? end)
        if (position < start || position >= end || lastEnd > (this.size ?? Number.MAX_SAFE_INTEGER)) {
          throw protocolError('the host answered with other bytes than those asked for')
        }
        if (answer.type === 'data') return raw!.subarray(position - start, position - start + wanted)
        await file.useExtent(answer)
      } catch (error) {
        if (!isCode(error, 'ERR_SEEKCACHE_HOST_UNAVAILABLE') || ++losses > MAX_HOST_LOSSES) throw error
        await this.reopen(options.signal)
      }
    }
  }

  async #locate(
    reader: number,
    start: number,
    lengthBytes: number,
    unreadable: string | undefined,
    options: ReadOptions,
  ): Promise<{ answer: AnswerOf<'extent' | 'data' | 'end'>; raw: Buffer | undefined }> {
    const { client, opened } = this.#current
    const message = {
      type: 'locate' as const, session: opened.session, reader, start, lengthBytes,
      deadlineMs: options.deadlineMs ?? READ_DEADLINE_MS, unreadable, ...(this.#wantsData ? { wantsData: true } : {}),
    }
    return await client.request(message, ['extent', 'data', 'end'], { signal: options.signal })
  }

  /**
   * Reading is about to go on there: a byte, or a time of the film, which only guesses at a byte. A `read` that waits
   * elsewhere fails with ERR_SEEKCACHE_CANCELLED, and what is there begins to be fetched.
   */
  announceSeek(to: number | { readonly timeSeconds: number; readonly durationSeconds: number }): void {
    const { client, opened } = this.#current
    client.note({ type: 'hint', session: opened.session, to: typeof to === 'number' ? { byte: to } : to })
  }

  /** Fetches all that is missing; resolves when the whole resource is in the cache. @throws ERR_SEEKCACHE_CACHE_FULL */
  async fetchAll(options: FetchAllOptions = {}): Promise<void> {
    const { client, opened } = this.#current
    const onProgress = ({ presentBytes, sizeBytes }: AnswerOf<'progress'>): void => options.onProgress?.({ presentBytes, sizeBytes })
    await client.request({ type: 'fetch-all', session: opened.session }, ['ok'], { signal: options.signal, onProgress })
    await this.refresh()
  }

  /**
   * What of it is in the cache: `[[start, end), …]`, ascending. As of the opening, the end of the last `read` or
   * `fetchAll` of this object, or the last `refresh`.
   */
  present(): [number, number][] {
    return this.#present.map(([start, end]) => [start, end])
  }

  /** Asks the host what is in the cache now: others may be reading the same resource. */
  async refresh(): Promise<void> {
    const { client, opened } = this.#current
    const { answer } = await client.request({ type: 'map', session: opened.session, headers: [] }, ['map'])
    this.#present = answer.present.map(([start, end]) => [start, end])
  }

  async close(): Promise<void> {
    const session = this.#session
    this.#session = undefined
    this.#cache.forget(this)
    session?.client.note({ type: 'close', session: session.opened.session })
    if (this.#renewer !== undefined) session?.client.forgetRenewer(this.#renewer)
    return Promise.resolve()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
