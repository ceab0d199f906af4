/**
 * What a player's script says to the host, under the path of what it plays: `POST …/hint/…`, that it is about to seek, and
 * `…/renewal/…`, by which it gives fresh URLs (docs/PROTOCOL.md, "What a player's script can say").
 *
 * A script has no socket of its own: it starts a process for each message. So the host's question for a fresh URL is the
 * answer to a request that the script keeps open, and an offer to renew stays for a moment between two of them.
 */

import type { IncomingMessage, ServerResponse } from 'node:http'
import os from 'node:os'
import * as v from 'valibot'

import { SeekIntent } from '../control/protocol.ts'
import { SeekCacheError } from '../errors.ts'
import type { MediaLibrary } from '../media.ts'
import type { Renewals, Renewed, RenewalRequest } from '../origin/renewals.ts'
import { HEADER_NAME, HEADER_VALUE, HTTP_URL } from '../resource-spec.ts'
import type { Players } from './players.ts'
import { problem } from './problem.ts'
import type { PlayerRequest } from './urls.ts'

/** A URL with its headers is a few KiB. */
const MAX_BODY_BYTES = 64 * 1024
/** A script that was killed leaves its request behind; so it ends by itself, and the script asks again. */
const POLL_MS = 25_000
/** From the end of one such request to the next one. */
const BETWEEN_POLLS_MS = 3_000

/** With the time of the seek, by the machine's clock since its boot: scripts have no finer one that is the host's too. */
const Hint = v.intersect([SeekIntent, v.object({ uptimeSeconds: v.optional(v.pipe(v.number(), v.minValue(0))) })])
/** Of that clock's readings. */
const UPTIME_STEP_MS = 10

const RenewalAnswer = v.object({
  renewal: v.pipe(v.number(), v.safeInteger()),
  url: v.optional(v.pipe(v.string(), v.regex(HTTP_URL))),
  headers: v.optional(v.array(v.tuple([v.pipe(v.string(), v.regex(HEADER_NAME)), v.pipe(v.string(), v.regex(HEADER_VALUE))]))),
})

export class PlayerMessages {
  readonly #library: MediaLibrary
  readonly #renewals: Renewals
  readonly #players: Players
  /** By resource and player. */
  readonly #renewers = new Map<string, ScriptRenewer>()

  constructor(library: MediaLibrary, renewals: Renewals, players: Players) {
    this.#library = library
    this.#renewals = renewals
    this.#players = players
  }

  async answer(kind: string, request: IncomingMessage, response: ServerResponse, asked: PlayerRequest, signal: AbortSignal): Promise<void> {
    if (kind === 'hint' && request.method === 'POST') return await this.#hint(request, response, asked)
    if (kind === 'renewal' && request.method === 'POST') return await this.#onRenewed(request, response, asked)
    if (kind === 'renewal' && request.method === 'GET') return await this.#poll(response, asked, signal)
    const { status, headers, body } = problem(405, 'a hint is posted; a renewal is asked for with GET and given with POST')
    response.writeHead(status, headers).end(body)
  }

  async #hint(request: IncomingMessage, response: ServerResponse, { spec, player }: PlayerRequest): Promise<void> {
    const { uptimeSeconds, ...intent } = parsed(Hint, await bodyOf(request))
    const media = this.#library.opened(spec)
    if (media !== undefined) this.#players.announce(media, player, intent, msSince(uptimeSeconds))
    response.writeHead(204).end()
  }

  async #poll(response: ServerResponse, asked: PlayerRequest, signal: AbortSignal): Promise<void> {
    const key = this.#library.keyOf(asked.spec)
    const question = await this.#renewer(key, asked).next(AbortSignal.any([signal, AbortSignal.timeout(POLL_MS)]))
    if (question === undefined) return void response.writeHead(204).end()
    response.writeHead(200, { 'content-type': 'application/json', 'cache-control': 'no-store' }).end(JSON.stringify(question))
  }

  async #onRenewed(request: IncomingMessage, response: ServerResponse, asked: PlayerRequest): Promise<void> {
    const { renewal, url, headers } = parsed(RenewalAnswer, await bodyOf(request))
    this.#renewers.get(nameOf(this.#library.keyOf(asked.spec), asked))?.settle(renewal, url === undefined ? undefined : { url, headers })
    response.writeHead(204).end()
  }

  #renewer(key: string, asked: PlayerRequest): ScriptRenewer {
    const name = nameOf(key, asked)
    let renewer = this.#renewers.get(name)
    if (renewer === undefined) {
      const made = new ScriptRenewer(() => {
        withdraw()
        this.#renewers.delete(name)
      })
      const withdraw = this.#renewals.offer(key, (question, signal) => made.ask(question, signal))
      this.#renewers.set(name, (renewer = made))
    }
    return renewer
  }
}

interface Question {
  readonly renewal: number
  readonly httpStatus: number
}

/** A script that can renew: questions wait for its next request, answers come with another one. */
class ScriptRenewer {
  readonly #onGone: () => void
  readonly #asked: Question[] = []
  readonly #unanswered = new Map<number, (renewed: Renewed | undefined) => void>()
  #wake: (() => void) | undefined
  #goneTimer: NodeJS.Timeout | undefined
  #lastNumber = 0

  constructor(onGone: () => void) {
    this.#onGone = onGone
  }

  /** The next question; undefined when the signal comes first. One waits at a time: a newer one takes its place. */
  async next(signal: AbortSignal): Promise<Question | undefined> {
    clearTimeout(this.#goneTimer)
    this.#wake?.()
    if (this.#asked.length === 0) await this.#somethingAsked(signal)
    const question = signal.aborted ? undefined : this.#asked.shift()
    this.#leaveSoon()
    return question
  }

  async #somethingAsked(signal: AbortSignal): Promise<void> {
    let wake: (() => void) | undefined
    await new Promise<void>((resolve) => {
      this.#wake = wake = resolve
      signal.addEventListener('abort', () => resolve(), { once: true })
    })
    if (this.#wake === wake) this.#wake = undefined
  }

  async ask({ httpStatus }: RenewalRequest, signal: AbortSignal): Promise<Renewed | undefined> {
    const renewal = ++this.#lastNumber
    try {
      return await new Promise((resolve) => {
        signal.addEventListener('abort', () => resolve(undefined), { once: true })
        this.#unanswered.set(renewal, resolve)
        this.#asked.push({ renewal, httpStatus })
        this.#wake?.()
      })
    } finally {
      this.#unanswered.delete(renewal)
      this.#leaveSoon()
    }
  }

  settle(renewal: number, renewed: Renewed | undefined): void {
    this.#unanswered.get(renewal)?.(renewed)
  }

  /** Unless it asks again, or still owes an answer. */
  #leaveSoon(): void {
    clearTimeout(this.#goneTimer)
    this.#goneTimer = setTimeout(() => {
      if (this.#wake !== undefined) return
      for (const refuse of this.#unanswered.values()) refuse(undefined)
      this.#onGone()
    }, BETWEEN_POLLS_MS).unref()
  }
}

/** Undefined without a time, or with one that is not of this clock: it is still to come. */
function msSince(uptimeSeconds: number | undefined): number | undefined {
  if (uptimeSeconds === undefined) return undefined
  const ms = (os.uptime() - uptimeSeconds) * 1000
  return ms < -UPTIME_STEP_MS ? undefined : Math.max(0, ms)
}

function nameOf(key: string, { player }: PlayerRequest): string {
  return `${key} ${player ?? ''}`
}

function parsed<T>(schema: v.GenericSchema<unknown, T>, text: string): T {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'the body is no JSON')
  }
  const result = v.safeParse(schema, value)
  if (!result.success) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'the body does not say what is meant: see docs/PROTOCOL.md')
  return result.output
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = []
  let lengthBytes = 0
  for await (const bytes of request as AsyncIterable<Buffer>) {
    lengthBytes += bytes.length
    if (lengthBytes > MAX_BODY_BYTES) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'the body is too long')
    parts.push(bytes)
  }
  return Buffer.concat(parts).toString('utf8')
}
