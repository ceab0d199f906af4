/**
 * Proxy URLs: `…/TOKEN/s/ID/NAME` for requests that the host was told of, `…/TOKEN/u/SPEC/NAME` that carry the request
 * themselves (docs/PROTOCOL.md, "The state file").
 *
 * NAME is for players that look at a URL's ending; nothing here depends on it.
 */

import { randomBytes } from 'node:crypto'
import * as v from 'valibot'

import { cacheKey } from '../origin/cache-key.ts'
import { fileNameOf, parseUrl, type ResourceSpec } from '../resource-spec.ts'

const SpecText = v.object({
  url: v.pipe(v.string(), v.regex(/^https?:\/\/[^\s]+$/i)),
  headers: v.optional(v.array(v.tuple([v.pipe(v.string(), v.regex(/^[!#$%&'*+\-.^_`|~0-9a-z]+$/i)), v.pipe(v.string(), v.regex(/^[^\r\n\0]*$/))])), []),
})

/** Requests that the host remembers; the oldest is forgotten beyond. */
const MAX_REMEMBERED = 10_000

export class ProxyUrls {
  readonly token: string
  readonly #salt = randomBytes(16)
  readonly #specs = new Map<string, ResourceSpec>()
  /** `http://127.0.0.1:PORT/TOKEN`, known once the proxy listens. */
  base = ''

  constructor(token: string) {
    this.token = token
  }

  /** The same request has the same URL for as long as the host lives. */
  register(spec: ResourceSpec): string {
    const id = cacheKey({ url: spec.url, headers: spec.headers }, this.#salt).slice(0, 24)
    this.#specs.delete(id)
    this.#specs.set(id, spec)
    if (this.#specs.size > MAX_REMEMBERED) this.#specs.delete(this.#specs.keys().next().value!)
    return `${this.base}/s/${id}/${encodeURIComponent(fileNameOf(parseUrl(spec.url)))}`
  }

  /** The request that a path's parts stand for, or undefined. */
  resolve(kind: string | undefined, text: string | undefined): ResourceSpec | undefined {
    if (text === undefined) return undefined
    if (kind === 's') return this.#specs.get(text)
    if (kind !== 'u') return undefined
    try {
      const parsed = v.safeParse(SpecText, JSON.parse(Buffer.from(text, 'base64url').toString('utf8')))
      return parsed.success ? parsed.output : undefined
    } catch {
      return undefined
    }
  }
}
