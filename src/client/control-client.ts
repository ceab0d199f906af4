/**
 * The client's end of the control socket: hello, requests and their answers.
 *
 * A lost connection rejects what is outstanding with ERR_SEEKCACHE_HOST_UNAVAILABLE; starting over is its user's.
 */

import { statSync } from 'node:fs'
import { connect, type Socket } from 'node:net'

import {
  formatMessage,
  Framer,
  MAX_HOST_LINE_BYTES,
  PROTOCOL_VERSION,
  protocolError,
  type ClientMessage,
  type ClientRequest,
  type HostHello,
  type HostMessage,
  type RenewQuestion,
} from '../control/protocol.ts'
import { cancelled, SeekCacheError } from '../errors.ts'
import { VERSION } from '../version.ts'
import { parseHostMessage } from './host-answers.ts'

type Answer = Extract<HostMessage, { id: number }>
export type AnswerOf<T extends Answer['type']> = Extract<Answer, { type: T }>
type WithoutId<T> = T extends { id: number } ? Omit<T, 'id'> : never

interface Pending {
  resolve(answer: Answer, raw: Buffer | undefined): void
  reject(error: Error): void
  readonly onProgress: ((answer: AnswerOf<'progress'>) => void) | undefined
}

export interface RequestOptions {
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: (answer: AnswerOf<'progress'>) => void
  /** Of an `open`: gives a fresh URL when the host asks for one, until `forgetRenewer`. */
  readonly renewer?: Renewer | undefined
}

export type Renewer = (httpStatus: number) => Promise<{ readonly url: string; readonly headers?: [string, string][] | undefined } | undefined>

const HELLO_DEADLINE_MS = 10_000
/** What the host does without asking an origin. */
const ANSWER_DEADLINE_MS = 30_000
/** How much later than the deadline that the host is told its client gives up: the host's own word says more. */
const GRACE_MS = 5_000

export class ControlClient {
  readonly #socket: Socket
  readonly #framer = new Framer(MAX_HOST_LINE_BYTES)
  readonly #pending = new Map<number, Pending>()
  /** By the id of the `open` that they came with. */
  readonly #renewers = new Map<number, Renewer>()
  #nextId = 1
  #helloTimer: NodeJS.Timeout | undefined
  #announced: Answer | undefined
  #onHello: { resolve(hello: HostHello): void; reject(error: Error): void } | undefined
  #closedBy: SeekCacheError | undefined

  /** @throws ERR_SEEKCACHE_HOST_UNAVAILABLE where nobody listens, ERR_SEEKCACHE_PROTOCOL where somebody else does */
  static async connect(socketPath: string): Promise<ControlClient> {
    const socket = connect(socketPath)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', (cause) => reject(unavailable(`no host is running at ${socketPath}`, cause)))
    })
    const client = new ControlClient(socket)
    try {
      refuseForeign(socketPath)
      await client.#greet()
    } catch (error) {
      client.close()
      throw error
    }
    return client
  }

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.removeAllListeners('error')
    socket.on('data', (bytes) => this.#receive(bytes))
    socket.on('error', () => {}) // 'close' follows
    socket.on('close', () => this.#fail(unavailable('the host has left')))
  }

  get isOpen(): boolean {
    return this.#closedBy === undefined
  }

  async #greet(): Promise<void> {
    const hello = await new Promise<HostHello>((resolve, reject) => {
      this.#onHello = { resolve, reject }
      const expired = (): void => reject(protocolError('what listens at the socket is no seekcache host, or one that hangs: end it, or choose another socket'))
      this.#helloTimer = setTimeout(expired, HELLO_DEADLINE_MS)
      this.#socket.write(formatMessage({ type: 'hello', protocol: PROTOCOL_VERSION, client: `node/${VERSION}` }))
    })
    if (hello.protocol === PROTOCOL_VERSION) return
    throw protocolError(
      `the host speaks protocol ${hello.protocol}, this client ${PROTOCOL_VERSION}: stop the host ("seekcache stop")`,
    )
  }

  /** A request and its one final answer. @throws what the host answers, ERR_SEEKCACHE_HOST_UNAVAILABLE, _CANCELLED */
  async request<T extends Answer['type']>(
    message: WithoutId<ClientRequest>,
    expected: readonly T[],
    options: RequestOptions = {},
  ): Promise<{ answer: AnswerOf<T>; raw: Buffer | undefined }> {
    if (this.#closedBy !== undefined) throw this.#closedBy
    if (options.signal?.aborted === true) throw cancelled('the request')
    const id = this.#nextId++
    if (options.renewer !== undefined) this.#renewers.set(id, options.renewer)
    const cancel = (): void => this.note({ type: 'cancel', request: id })
    options.signal?.addEventListener('abort', cancel, { once: true })
    let timer: NodeJS.Timeout | undefined
    try {
      return await new Promise((resolve, reject) => {
        const limitMs = answerLimitMs(message)
        const expired = (): void => {
          cancel()
          reject(new SeekCacheError('ERR_SEEKCACHE_TIMEOUT', `the host did not answer "${message.type}" in time`))
        }
        if (limitMs !== undefined) timer = setTimeout(expired, limitMs)
        this.#pending.set(id, {
          resolve: (answer, raw) => {
            if (expected.includes(answer.type as T)) resolve({ answer: answer as AnswerOf<T>, raw })
            else reject(protocolError(`the host answered "${answer.type}" to "${message.type}"`))
          },
          reject,
          onProgress: options.onProgress,
        })
        this.#socket.write(formatMessage({ ...message, id } as ClientRequest))
      })
    } catch (error) {
      this.#renewers.delete(id) // what is not open is not renewed
      throw error
    } finally {
      clearTimeout(timer)
      options.signal?.removeEventListener('abort', cancel)
      this.#pending.delete(id)
    }
  }

  /** What was opened with it is closed. */
  forgetRenewer(renewer: Renewer): void {
    for (const [id, known] of this.#renewers) if (known === renewer) this.#renewers.delete(id)
  }

  note(message: Exclude<ClientMessage, ClientRequest>): void {
    if (this.isOpen) this.#socket.write(formatMessage(message))
  }

  close(): void {
    this.#fail(unavailable('the connection was closed'))
    this.#socket.destroy()
  }

  #receive(bytes: Buffer): void {
    try {
      this.#framer.push(bytes)
      for (let frame = this.#framer.next(); frame !== undefined; frame = this.#framer.next()) {
        if ('line' in frame) this.#onLine(frame.line)
        else this.#settle(this.#announced!, frame.raw)
      }
    } catch (error) {
      this.#fail(error instanceof SeekCacheError ? error : protocolError((error as Error).message))
      this.#socket.destroy()
    }
  }

  #onLine(line: string): void {
    const message = parseHostMessage(line)
    if (message.type === 'hello') {
      clearTimeout(this.#helloTimer)
      return this.#onHello?.resolve(message)
    }
    if (message.type === 'renew') return void this.#renew(message)
    if (message.type === 'error' && message.id === undefined) throw errorOf(message)
    if (message.type === 'data') return this.#expectData(message)
    this.#settle(message as Answer, undefined)
  }

  /** Whatever goes wrong in the program's own code is a refusal: the host goes on to the next who can. */
  async #renew({ renewal, open, httpStatus }: RenewQuestion): Promise<void> {
    const fresh = await this.#renewers.get(open)?.(httpStatus).catch(() => undefined)
    this.note({ type: 'renewed', renewal, url: fresh?.url, headers: fresh?.headers })
  }

  #expectData(answer: AnswerOf<'data'>): void {
    this.#announced = answer
    this.#framer.expectRaw(answer.lengthBytes)
  }

  #settle(answer: Answer, raw: Buffer | undefined): void {
    const pending = this.#pending.get(answer.id)
    if (pending === undefined) return // cancelled meanwhile
    if (answer.type === 'progress') return pending.onProgress?.(answer)
    if ((answer as { type: string }).type === 'error') pending.reject(errorOf(answer))
    else pending.resolve(answer, raw)
  }

  #fail(error: SeekCacheError): void {
    clearTimeout(this.#helloTimer)
    this.#closedBy ??= error
    this.#onHello?.reject(error)
    for (const pending of this.#pending.values()) pending.reject(error)
  }
}

/** A socket in a place that others can write to may be anybody's; ours says where files are. */
function refuseForeign(socketPath: string): void {
  const { uid } = statSync(socketPath)
  if (uid !== process.geteuid!() && uid !== 0) throw protocolError(`the socket ${socketPath} belongs to another user`)
}

/** undefined where the host may take as long as a film does. */
function answerLimitMs(message: WithoutId<ClientRequest>): number | undefined {
  if (message.type === 'fetch-all') return undefined
  return (('deadlineMs' in message ? message.deadlineMs : undefined) ?? ANSWER_DEADLINE_MS) + GRACE_MS
}

function errorOf(message: object): SeekCacheError {
  const { code, message: text, httpStatus } = message as { code?: SeekCacheError['code']; message?: string; httpStatus?: number }
  return new SeekCacheError(code ?? 'ERR_SEEKCACHE_PROTOCOL', text ?? 'the host reported an error', { httpStatus })
}

function unavailable(message: string, cause?: unknown): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_HOST_UNAVAILABLE', message, { cause })
}
