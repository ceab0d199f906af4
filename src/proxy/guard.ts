/**
 * Who may speak to the proxy's port: a request's head in, the refusal out. Pure.
 *
 * The port is on loopback, so what reaches it is a program of this machine, of whatever user, or a page in a browser. A page
 * gives itself away by Host (DNS rebinding), Origin or Sec-Fetch-Site; a program by not knowing the token. A page of another
 * port of this machine is another site's page too, although browsers call it "same-site".
 */

import { timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'

import { problem, type Problem } from './problem.ts'

export interface RequestHead {
  readonly method: string | undefined
  /** As it stands in the request line. */
  readonly target: string | undefined
  readonly headers: IncomingHttpHeaders
}

/** What a player's own request says, one that a person typed, and one of a page that the proxy itself sent. */
const OWN_SITES: ReadonlySet<string | undefined> = new Set([undefined, 'none', 'same-origin'])

/** What a player's script says (player-messages.ts): these have a body, and methods of their own. */
const MESSAGE_KINDS: ReadonlySet<string | undefined> = new Set(['hint', 'renewal'])

/** @returns why the request gets nothing, or undefined */
export function refusalOf({ method, target, headers }: RequestHead, port: number, token: string): Problem | undefined {
  const { host, origin } = headers
  if (host !== `127.0.0.1:${port}` && host !== `localhost:${port}`) return problem(403, 'the Host field names another server')
  if (origin !== undefined || !OWN_SITES.has(headers['sec-fetch-site'] as string | undefined)) {
    return problem(403, "another site's page gets nothing here")
  }
  if (!isEqual((target ?? '').split('/', 2)[1] ?? '', token)) return problem(404, 'there is nothing at this path')
  if (isMessage(target)) return undefined
  if (method !== 'GET' && method !== 'HEAD') {
    const refused = problem(405, 'only GET and HEAD are answered')
    return { ...refused, headers: { ...refused.headers, allow: 'GET, HEAD' } }
  }
  if (hasBody(headers)) return problem(413, 'a request has no body here')
  return undefined
}

/** What a player's script says, in place of what it reads. */
export function isMessage(target: string | undefined): boolean {
  return MESSAGE_KINDS.has((target ?? '').split('/', 3)[2])
}

function hasBody(headers: IncomingHttpHeaders): boolean {
  return headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) !== 0
}

/** Takes the same time wherever the two differ; how long a token is is no secret. */
function isEqual(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)]
  return left.length === right.length && timingSafeEqual(left, right)
}
