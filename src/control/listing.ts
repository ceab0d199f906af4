/**
 * What is cached, in answers that fit into messages. Pure.
 *
 * Pages are cut by a cursor that is the entry's own and never changes: what is there all the time is told exactly once,
 * whatever is added, removed or used between two pages.
 */

import type { ListEntry, ListPage } from './protocol.ts'

/** A quarter of a message: the host does nothing else while it makes one. */
const PAGE_BYTES = 256 * 1024

/** For clients that do not ask for pages: the last used first. */
export function listWhole(listed: Iterable<readonly [string, ListEntry]>): ListPage {
  const entries = [...listed].map(([, entry]) => entry)
  return { entries: entries.sort((a, b) => b.lastUsedMs - a.lastUsedMs) }
}

/** As many as a page takes, at least one. */
export function listPage(listed: Iterable<readonly [cursor: string, entry: ListEntry]>): ListPage {
  const entries: ListEntry[] = []
  let next = ''
  let lengthBytes = 0
  for (const [cursor, entry] of listed) {
    lengthBytes += Buffer.byteLength(JSON.stringify(entry)) + 1
    if (entries.length > 0 && lengthBytes > PAGE_BYTES) return { entries, next }
    entries.push(entry)
    next = cursor
  }
  return { entries }
}
