/**
 * One client of the control socket: its requests, its sessions, and their end with the connection.
 *
 * Every request gets exactly one final answer, in the order in which they are done; what needs no answer is done at once, in
 * the order of its messages. How messages travel is wire.ts.
 */

import type { Socket } from 'node:net'

import { cancelled, SeekCacheError } from '../errors.ts'
import type { MediaLibrary } from '../media.ts'
import type { Renewals, Renewed } from '../origin/renewals.ts'
import { validatorText } from '../origin/validator.ts'
import type { Media } from '../opening.ts'
import type { ProxyUrls } from '../proxy/urls.ts'
import { isElsewhere } from '../schedule/player-rules.ts'
import { Session } from '../session.ts'
import type { Telemetry } from '../telemetry.ts'
import { listPage, listWhole } from './listing.ts'
import { MAX_DATA_BYTES, type ClientMessage, type ClientRequest, type HostMessage, type ListEntry, type SeekIntent, type Status } from './protocol.ts'
import { ControlWire, errorMessage } from './wire.ts'

const MAX_SESSIONS = 256
const MAX_OUTSTANDING = 256
/** A client that does not ask for another deadline when it opens. */
const DEFAULT_OPEN_DEADLINE_MS = 30_000

export interface ControlParts {
  readonly library: MediaLibrary
  readonly urls: ProxyUrls
  readonly renewals: Renewals
  readonly telemetry: Telemetry
  readonly version: string
  status(): Status
  /** What is cached, each with its cursor, in the order of the cursors, behind the one given. */
  list(after: string): Iterable<readonly [cursor: string, entry: ListEntry]>
  stop(): void
}

/** A session, and what takes back its offer to renew. */
interface Held {
  readonly session: Session
  readonly withdraw: () => void
}

interface Outstanding {
  readonly request: ClientRequest
  readonly controller: AbortController
}

/** Answer fields without the id, which the sender adds. */
type Answer = HostMessage extends infer M ? (M extends { id: number } ? Omit<M, 'id'> : never) : never

export class ControlConnection {
  readonly #wire: ControlWire
  readonly #parts: ControlParts
  readonly #sessions = new Map<string, Held>()
  readonly #outstanding = new Map<number, Outstanding>()
  /** The questions for a fresh URL that the client has not answered. */
  readonly #renewals = new Map<number, (renewed: Renewed | undefined) => void>()
  #nextSession = 1
  #nextRenewal = 1

  constructor(socket: Socket, parts: ControlParts) {
    this.#parts = parts
    this.#wire = new ControlWire(socket, parts.version, {
      onHello: ({ client }) => parts.telemetry.log.debug({ client }, 'client connected'),
      onMessage: (message) => this.#onMessage(message),
      onClose: () => this.#end(),
    })
  }

  get sessionCount(): number {
    return this.#sessions.size
  }

  close(): void {
    this.#wire.close()
  }

  #end(): void {
    for (const { controller } of this.#outstanding.values()) controller.abort(cancelled('the request'))
    for (const name of this.#sessions.keys()) this.#closeSession(name)
    for (const answer of this.#renewals.values()) answer(undefined)
  }

  #onMessage(message: ClientMessage): void {
    switch (message.type) {
      case 'position':
        return this.#sessions.get(message.session)?.session.move(message.reader, message.position)
      case 'release':
        return this.#sessions.get(message.session)?.session.releaseReader(message.reader)
      case 'hint':
        return this.#announce(message.session, message.to)
      case 'close':
        return this.#closeSession(message.session)
      case 'cancel':
        return this.#outstanding.get(message.request)?.controller.abort(cancelled('the request'))
      case 'renewed': {
        const { url, headers } = message
        return this.#renewals.get(message.renewal)?.(url === undefined ? undefined : { url, headers })
      }
      default:
        void this.#onRequest(message)
    }
  }

  async #onRequest(request: ClientRequest): Promise<void> {
    const { id } = request
    if (this.#outstanding.has(id) || this.#outstanding.size >= MAX_OUTSTANDING) {
      return this.#wire.cut({ id, type: 'error', code: 'ERR_SEEKCACHE_PROTOCOL', message: 'this request id is in use, or too many are' })
    }
    const controller = new AbortController()
    this.#outstanding.set(id, { request, controller })
    try {
      const answer = await this.#perform(request, controller.signal)
      if (answer !== 'sent') this.#wire.send({ id, ...answer })
    } catch (error) {
      this.#wire.send(errorMessage(error, id))
    } finally {
      this.#outstanding.delete(id)
    }
  }

  async #perform(request: ClientRequest, signal: AbortSignal): Promise<Answer | 'sent'> {
    const { library, urls } = this.#parts
    switch (request.type) {
      case 'open':
        return await this.#open(request, signal)
      case 'locate':
        return await this.#locate(request, signal)
      case 'map':
        return this.#map(request)
      case 'url':
        library.keyOf(request)
        return { type: 'url', proxyUrl: urls.register(request) }
      case 'fetch-all': {
        const progress = (presentBytes: number, sizeBytes: number): void =>
          this.#wire.send({ id: request.id, type: 'progress', presentBytes, sizeBytes })
        await this.#session(request.session).fetchAll(progress, signal)
        return { type: 'ok' }
      }
      case 'status':
        return { type: 'status', ...this.#parts.status() }
      case 'list':
        return { type: 'list', ...(request.after === undefined ? listWhole(this.#parts.list('')) : listPage(this.#parts.list(request.after))) }
      case 'evict': {
        if (request.all === true) return { type: 'evicted', freedBytes: await library.evictAll() }
        if (request.url === undefined) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'evict needs a url or all')
        return { type: 'evicted', freedBytes: await library.evict({ url: request.url, headers: request.headers }) }
      }
      case 'stop':
        setImmediate(() => this.#parts.stop())
        return { type: 'ok' }
    }
  }

  async #open(request: Extract<ClientRequest, { type: 'open' }>, signal: AbortSignal): Promise<Answer> {
    const { library, urls } = this.#parts
    if (this.#sessions.size >= MAX_SESSIONS) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `this client has ${MAX_SESSIONS} files open: close some first`)
    const withdraw = request.canRenew === true ? this.#offerToRenew(request) : () => {}
    let media: Media
    try {
      media = await library.open(request, request.deadlineMs ?? DEFAULT_OPEN_DEADLINE_MS, signal)
    } catch (error) {
      withdraw()
      throw error
    }
    const name = `s${this.#nextSession++}`
    this.#sessions.set(name, { session: new Session(library, media), withdraw })
    if (this.#wire.isClosed) {
      this.#closeSession(name)
      throw cancelled('the opening')
    }
    const proxyUrl = urls.register(request)
    if (media.kind === 'passthrough') {
      const { contentType, fileName } = media
      return {
        type: 'opened', session: name, sizeBytes: null, contentType: contentType ?? null, validator: null,
        generation: '', isSeekable: false, proxyUrl, fileName,
      }
    }
    const { record } = media
    return {
      type: 'opened',
      session: name,
      sizeBytes: record.sizeBytes,
      contentType: record.contentType ?? null,
      validator: validatorText(record),
      generation: record.generation,
      isSeekable: true,
      proxyUrl,
      fileName: record.fileName,
    }
  }

  #offerToRenew(request: Extract<ClientRequest, { type: 'open' }>): () => void {
    const { library, renewals } = this.#parts
    return renewals.offer(library.keyOf(request), async ({ httpStatus }, signal) => {
      const renewal = this.#nextRenewal++
      try {
        return await new Promise((resolve) => {
          signal.addEventListener('abort', () => resolve(undefined), { once: true })
          this.#renewals.set(renewal, resolve)
          this.#wire.send({ type: 'renew', renewal, open: request.id, httpStatus })
        })
      } finally {
        this.#renewals.delete(renewal)
      }
    })
  }

  async #locate(request: Extract<ClientRequest, { type: 'locate' }>, signal: AbortSignal): Promise<Answer | 'sent'> {
    const session = this.#session(request.session)
    const maxBytes = Math.min(request.lengthBytes, MAX_DATA_BYTES)
    const options = { deadlineMs: request.deadlineMs, signal }
    const location = await session.locate(request.reader, request.start, maxBytes, { unreadablePath: request.unreadable, wantsData: request.wantsData === true }, options)
    if (location === 'end') return { type: 'end' }
    if (location.kind === 'file') {
      const { path, fileOffset, start, end, next } = location
      return { type: 'extent', path, fileOffset, start, end, ...(next.length > 0 && { next }) }
    }
    const bytes = location.bytes.subarray(0, maxBytes)
    this.#wire.send({ id: request.id, type: 'data', start: location.start, lengthBytes: bytes.length }, bytes)
    return 'sent'
  }

  /** What waits elsewhere was asked before: messages keep their order, unlike a player's connections. */
  #announce(name: string, intent: SeekIntent): void {
    for (const { request, controller } of this.#outstanding.values()) {
      const waits = request.type === 'locate' && request.session === name && isElsewhere(intent, request.start)
      if (waits) controller.abort(cancelled('the read that a seek has made useless'))
    }
    this.#sessions.get(name)?.session.announce(intent)
  }

  #map(request: Extract<ClientRequest, { type: 'map' }>): Answer {
    const toPairs = (ranges: Iterable<{ start: number; end: number }>): [number, number][] =>
      [...ranges].map((range) => [range.start, range.end])
    if (request.session !== undefined) {
      const { media } = this.#session(request.session)
      if (media.kind === 'passthrough') return { type: 'map', sizeBytes: null, present: [] }
      return { type: 'map', sizeBytes: media.record.sizeBytes, present: toPairs(media.generation.present) }
    }
    if (request.url === undefined) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'map needs a session or a url')
    const { sizeBytes, present } = this.#parts.library.map({ url: request.url, headers: request.headers })
    return { type: 'map', sizeBytes, present: toPairs(present) }
  }

  #session(name: string): Session {
    const held = this.#sessions.get(name)
    if (held === undefined) throw new SeekCacheError('ERR_SEEKCACHE_NOT_FOUND', `there is no session ${name}`)
    return held.session
  }

  #closeSession(name: string): void {
    const held = this.#sessions.get(name)
    this.#sessions.delete(name)
    held?.withdraw()
    held?.session.close()
  }
}
