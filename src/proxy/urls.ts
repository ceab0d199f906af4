/**
 * Proxy URLs: `…/TOKEN/s/ID/NAME` for requests that the host was told of, `…/TOKEN/u/SPEC/NAME` that carry the request
 * themselves (docs/PROTOCOL.md, "The state file").
 *
 * NAME is for players that look at a URL's ending; nothing here depends on it.
 */

import { createHmac, randomBytes } from 'node:crypto'
import * as v from 'valibot'

import { fileNameOf, HEADER_NAME, HEADER_VALUE, HTTP_URL, parseUrl, type ResourceSpec } from '../resource-spec.ts'

const SpecText = v.object({
  url: v.pipe(v.string(), v.regex(HTTP_URL)),
  /** Tells one player's requests from another's. */
  player: v.optional(v.pipe(v.string(), v.maxLength(64))),
  headers: v.optional(v.array(v.tuple([v.pipe(v.string(), v.regex(HEADER_NAME)), v.pipe(v.string(), v.regex(HEADER_VALUE))])), []),
})

export interface PlayerRequest {
  readonly spec: ResourceSpec
  /** The name that its player has given itself. */
  readonly player: string | undefined
}

/** Requests that the host remembers; the oldest is forgotten beyond. */
const MAX_REMEMBERED = 10_000
/** Of those that carry themselves, what they say; each seek says it again. */
const MAX_READ = 64

export class ProxyUrls {
  readonly token: string
  readonly #salt = randomBytes(16)
  readonly #specs = new Map<string, ResourceSpec>()
  readonly #read = new Map<string, PlayerRequest>()
  /** `http://127.0.0.1:PORT/TOKEN`, known once the proxy listens. */
  base = ''

  constructor(token: string) {
    this.token = token
  }

  /** The same request has the same URL for as long as the host lives. */
  register(spec: ResourceSpec): string {
    const { url, headers } = spec
    const id = createHmac('sha256', this.#salt).update(JSON.stringify([url, headers])).digest('hex').slice(0, 24)
    this.#specs.delete(id)
    this.#specs.set(id, { url, headers })
    if (this.#specs.size > MAX_REMEMBERED) this.#specs.delete(this.#specs.keys().next().value!)
    return `${this.base}/s/${id}/${encodeURIComponent(fileNameOf(parseUrl(spec.url)))}`
  }

  /** The request that a path's parts stand for, or undefined. */
  resolve(kind: string | undefined, text: string | undefined): PlayerRequest | undefined {
    if (text === undefined) return undefined
    if (kind === 's') {
      const spec = this.#specs.get(text)
      return spec === undefined ? undefined : { spec, player: undefined }
    }
    if (kind !== 'u') return undefined
    const known = this.#read.get(text)
    if (known !== undefined) return known
    const read = readSpec(text)
    if (read === undefined) return undefined
    this.#read.set(text, read)
    if (this.#read.size > MAX_READ) this.#read.delete(this.#read.keys().next().value!)
    return read
  }
}

function readSpec(text: string): PlayerRequest | undefined {
  try {
    const parsed = v.safeParse(SpecText, JSON.parse(Buffer.from(text, 'base64url').toString('utf8')))
    if (!parsed.success) return undefined
    const { url, headers, player } = parsed.output
    return { spec: { url, headers }, player }
  } catch {
    return undefined
  }
}
