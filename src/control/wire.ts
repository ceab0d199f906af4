/**
 * The host's end of one control connection: greeting, messages in and out, and how a connection ends that goes wrong.
 *
 * A client that does not follow the protocol is told so and cut. One that does not read is not written to without end: its
 * connection is cut when too much waits. What messages mean is for connection.ts.
 */

import type { Socket } from 'node:net'

import { isCode, SeekCacheError } from '../errors.ts'
import {
  formatMessage,
  Framer,
  MAX_CLIENT_LINE_BYTES,
  MAX_HOST_LINE_BYTES,
  parseClientMessage,
  parseHello,
  PROTOCOL_VERSION,
  type ClientMessage,
  type Hello,
  type HostMessage,
} from './protocol.ts'

/** Answers that a client has not read; beyond it is gone or hostile. */
const MAX_UNSENT_BYTES = 8 * 1024 * 1024
/** For the hello, and for reading why it is cut. */
const HELLO_DEADLINE_MS = 10_000
const FAREWELL_MS = 2_000

export interface WireEvents {
  onHello(hello: Hello): void
  /** Only after the hello. What it throws is told to the client, which is cut. */
  onMessage(message: ClientMessage): void
  /** Once, however it ended. */
  onClose(): void
}

export class ControlWire {
  readonly #socket: Socket
  readonly #version: string
  readonly #events: WireEvents
  readonly #framer = new Framer(MAX_CLIENT_LINE_BYTES)
  readonly #helloTimer: NodeJS.Timeout
  #isGreeted = false
  #isCut = false

  /** @param version of the host, for its hello */
  constructor(socket: Socket, version: string, events: WireEvents) {
    this.#socket = socket
    this.#version = version
    this.#events = events
    this.#helloTimer = setTimeout(() => socket.destroy(), HELLO_DEADLINE_MS)
    socket.on('data', (bytes) => this.#receive(bytes))
    socket.on('error', () => {}) // 'close' follows
    socket.on('close', () => {
      clearTimeout(this.#helloTimer)
      events.onClose()
    })
  }

  get isClosed(): boolean {
    return this.#socket.destroyed
  }

  close(): void {
    this.#socket.destroy()
  }

  /** @param raw the bytes that the message announces */
  send(message: HostMessage, raw?: Buffer): void {
    if (this.#socket.destroyed || this.#socket.writableEnded) return
    const line = formatMessage(message)
    if ('id' in message && message.id !== undefined && Buffer.byteLength(line) > MAX_HOST_LINE_BYTES) return this.send(tooLong(message.id))
    this.#socket.write(line)
    if (raw !== undefined) this.#socket.write(raw)
    if (this.#socket.writableLength > MAX_UNSENT_BYTES) this.#socket.destroy()
  }

  /** Says why, and takes nothing more from it; who does not read that is cut without. */
  cut(why: HostMessage): void {
    if (this.#isCut) return
    this.#isCut = true
    this.send(why)
    this.#socket.pause().removeAllListeners('data')
    this.#socket.destroySoon()
    setTimeout(() => this.#socket.destroy(), FAREWELL_MS).unref()
  }

  #receive(bytes: Buffer): void {
    try {
      this.#framer.push(bytes)
      for (let frame = this.#framer.next(); frame !== undefined; frame = this.#framer.next()) {
        if ('line' in frame) this.#onLine(frame.line)
        if (this.#socket.destroyed || this.#isCut) return
      }
    } catch (error) {
      this.cut(errorMessage(error))
    }
  }

  #onLine(line: string): void {
    if (this.#isGreeted) return this.#events.onMessage(parseClientMessage(line))
    const hello = parseHello(line)
    this.#isGreeted = true
    clearTimeout(this.#helloTimer)
    this.#events.onHello(hello)
    this.send({ type: 'hello', protocol: PROTOCOL_VERSION, version: this.#version, pid: process.pid })
  }
}

function tooLong(id: number): HostMessage {
  return { id, type: 'error', code: 'ERR_SEEKCACHE_USAGE', message: 'the answer is longer than a message may be' }
}

/** What a client is told of a failure: of its request `id`, or of its connection. */
export function errorMessage(error: unknown, id?: number): Extract<HostMessage, { type: 'error' }> {
  return { ...(id === undefined ? {} : { id }), type: 'error', ...factsOf(error) }
}

function factsOf(error: unknown): { code: SeekCacheError['code']; message: string; httpStatus?: number } {
  if (!(error instanceof SeekCacheError)) return { code: 'ERR_SEEKCACHE_USAGE', message: `the host failed: ${(error as Error).message}` }
  const { code, message, httpStatus } = error
  return isCode(error, 'ERR_SEEKCACHE_ORIGIN_STATUS') && httpStatus !== undefined ? { code, message, httpStatus } : { code, message }
}
