/**
 * Fresh URLs in place of expired ones: who can give one for which resource, and how they are asked.
 *
 * Whoever opens a resource may offer to renew its URL; the host's own command comes last. A URL under which somebody else
 * has opened the same resource is as good, and is taken before anybody is asked. URLs and headers are credentials: they are
 * in memory only, and no message holds one.
 */

import { displayUrl, parseUrl, type ResourceSpec } from '../resource-spec.ts'
import type { Telemetry } from '../telemetry.ts'

export interface RenewalRequest {
  /** The URL as the resource was first opened with it. */
  readonly url: string
  /** What the origin says to it now. */
  readonly httpStatus: number
}

export interface Renewed {
  readonly url: string
  /** Instead of the ones before; without them those stay, for the origin that they were for. */
  readonly headers?: ResourceSpec['headers'] | undefined
}

/** Gives a fresh URL, or undefined to refuse. The signal ends the wait for it. */
export type Renew = (request: RenewalRequest, signal: AbortSignal) => Promise<Renewed | undefined>

/** Logging in, or a page that has to be taken apart, may take its time; the reader's own deadline runs meanwhile. */
const ANSWER_MS = 30_000
/** Of the URLs under which a resource was opened, the last ones. */
const MAX_TOLD = 8

export class Renewals {
  readonly #telemetry: Telemetry
  readonly #command: Renew | undefined
  readonly #offers = new Map<string, Set<Renew>>()
  readonly #told = new Map<string, Map<string, ResourceSpec>>()

  constructor(telemetry: Telemetry, command: Renew | undefined) {
    this.#telemetry = telemetry
    this.#command = command
  }

  /** @returns what takes the offer back */
  offer(key: string, renew: Renew): () => void {
    const offers = this.#offers.get(key) ?? new Set()
    this.#offers.set(key, offers.add(renew))
    return () => {
      offers.delete(renew)
      if (offers.size === 0 && this.#offers.get(key) === offers) this.#offers.delete(key)
    }
  }

  /** Somebody opens an open resource under this URL. */
  tell(key: string, spec: ResourceSpec): void {
    const told = this.#told.get(key) ?? new Map<string, ResourceSpec>()
    told.delete(spec.url)
    told.set(spec.url, spec)
    if (told.size > MAX_TOLD) told.delete(told.keys().next().value!)
    this.#told.set(key, told)
  }

  /** The resource is not open any more. */
  forget(key: string): void {
    this.#told.delete(key)
  }

  /** @returns a URL that has not expired yet as far as is known, or undefined where nobody gives one */
  async renew(key: string, request: RenewalRequest, isExpired: (url: string) => boolean): Promise<Renewed | undefined> {
    const log = this.#telemetry.log.child({ resource: displayUrl(parseUrl(request.url)) })
    const other = [...(this.#told.get(key)?.values() ?? [])].findLast(({ url }) => !isExpired(url))
    if (other !== undefined) return other
    const offers = [...(this.#offers.get(key) ?? [])].reverse()
    if (this.#command !== undefined) offers.push(this.#command)
    for (const renew of offers) {
      try {
        const renewed = await answerOf(renew, request)
        if (renewed === undefined) continue
        parseUrl(renewed.url)
        log.info(`the origin answered ${request.httpStatus}: going on with a fresh URL`)
        return renewed
      } catch (error) {
        log.warn(`no fresh URL: ${(error as Error).message}`)
      }
    }
    return undefined
  }
}

async function answerOf(renew: Renew, request: RenewalRequest): Promise<Renewed | undefined> {
  const signal = AbortSignal.timeout(ANSWER_MS)
  return await new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(new Error(`none came within ${ANSWER_MS / 1000} s`)), { once: true })
    renew(request, signal).then(resolve, reject)
  })
}
