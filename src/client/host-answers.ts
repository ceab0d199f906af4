/**
 * What a host may say, as its client believes it: everything else is ERR_SEEKCACHE_PROTOCOL. Pure.
 *
 * The client reads files that the host names, so a name is looked at twice: its shape is an extent's, and where the client
 * knows the host's cache directory, it lies in there.
 */

import { realpath } from 'node:fs/promises'
import * as v from 'valibot'

import { MAX_DATA_BYTES, protocolError, type HostMessage } from '../control/protocol.ts'

const position = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const id = v.pipe(v.number(), v.safeInteger(), v.minValue(1))
const text = v.nullable(v.string())
const place = { path: v.string(), fileOffset: position, start: position, end: position }
const range = v.pipe(v.tuple([position, position]), v.check(([start, end]) => start < end, 'an empty range'))

const ANSWERS: Readonly<Record<string, v.GenericSchema>> = {
  hello: v.object({ protocol: v.number() }),
  renew: v.object({ renewal: id, open: id, httpStatus: v.number() }),
  error: v.object({ id: v.optional(id), code: v.string(), message: v.string(), httpStatus: v.optional(v.number()) }),
  opened: v.object({
    id, session: v.pipe(v.string(), v.minLength(1)), sizeBytes: v.nullable(position), contentType: text, validator: text, generation: v.string(),
    isSeekable: v.boolean(), proxyUrl: v.string(), fileName: v.string(),
  }),
  extent: v.pipe(
    v.object({ id, ...place, next: v.optional(v.array(v.object(place))) }),
    v.check(({ start, end }) => start < end, 'an empty range'),
    v.check(({ end, next = [] }) => next.every((one, i) => one.start === (next[i - 1]?.end ?? end) && one.start < one.end), 'a gap'),
  ),
  data: v.object({ id, start: position, lengthBytes: v.pipe(position, v.minValue(1), v.maxValue(MAX_DATA_BYTES)) }),
  map: v.object({ id, sizeBytes: v.nullable(position), present: v.array(range) }),
  url: v.object({ id, proxyUrl: v.string() }),
  progress: v.object({ id, presentBytes: position, sizeBytes: position }),
  list: v.object({ id, entries: v.array(v.object({ url: v.string(), sizeBytes: position, presentBytes: position })), next: v.optional(v.pipe(v.string(), v.maxLength(64))) }),
  evicted: v.object({ id, freedBytes: position }),
}
const Other = v.object({ id })

/** @throws ERR_SEEKCACHE_PROTOCOL */
export function parseHostMessage(line: string): HostMessage {
  let message: unknown
  try {
    message = JSON.parse(line)
  } catch {
    throw protocolError('the host sent a line that is not JSON')
  }
  const type = v.safeParse(v.object({ type: v.string() }), message)
  if (!type.success) throw protocolError('the host sent a line that is no message')
  const schema = Object.hasOwn(ANSWERS, type.output.type) ? ANSWERS[type.output.type]! : Other
  const parsed = v.safeParse(schema, message)
  if (parsed.success) return message as HostMessage
  const issue = parsed.issues[0]
  throw protocolError(`the host sent a malformed "${type.output.type.slice(0, 40)}": ${v.getDotPath(issue) ?? ''} ${issue.message}`)
}

const EXTENT_PATH = /^(\/(?:[^\0]*[^\0/])?)\/extents\/[0-9a-f]{16}\/\d+-[0-9a-f]{16}$/

/**
 * @param cacheDir the host's, where the client knows it
 * @throws ERR_SEEKCACHE_PROTOCOL for what is no extent file of that directory
 */
export async function checkExtentPath(path: string, cacheDir: string | undefined): Promise<void> {
  const root = EXTENT_PATH.exec(path)?.[1]
  if (root === undefined || root.split('/').includes('..')) throw protocolError('the host named a file that is no extent')
  if (cacheDir === undefined || root === cacheDir) return
  const [named, known] = await Promise.all([root, cacheDir].map((dir) => realpath(dir).catch(() => undefined)))
  if (named === undefined || named !== known) throw protocolError('the host named a file outside of the cache directory')
}
