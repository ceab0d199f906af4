/**
 * Reads of what the kernel has in memory anyway, without a thread: `native/files/page-cache.cc`, where it is built and the
 * kernel can (Linux). Elsewhere every read goes through Node's thread pool, and a first byte comes later: with 16 readers the
 * slowest of a hundred took 5 to 6 ms so, 2 to 4 ms without the thread.
 */

import { createRequire } from 'node:module'

interface PageCache {
  /** @returns the bytes read; 0 where a read would have to wait for the disk, or for any other reason has to be done as ever */
  readonly readNow?: (fd: number, target: Uint8Array, position: number) => number
}

/** Copied in some 20 us; a longer read is left to a thread, which works beside this one. */
const MAX_BYTES = 128 * 1024
/**
 * In one turn of the event loop at most so much, less than 1 ms, and a short read counts as much as a chunk: who reads on and on
 * would else let nothing else happen, no timer and no socket (a process that did was taken for one that hangs).
 */
const MAX_TURN_BYTES = 2 * 1024 * 1024
const MIN_COUNTED_BYTES = 64 * 1024

const loaded = load()

/** Why every read takes a thread, and whether something is wrong with that; undefined where none of these does. */
export const whyThreads: { readonly reason: string; readonly isFault: boolean } | undefined = loaded.whyThreads

/** @returns the bytes read, perhaps none: the rest has to be read as ever */
export function readCached(fd: number, target: Buffer, position: number): number {
  if (loaded.readNow === undefined || target.length > MAX_BYTES || !takeOfTurn(target.length)) return 0
  return loaded.readNow(fd, target, position)
}

let turnBytes = 0

/** @returns whether so much may still be read in this turn */
function takeOfTurn(lengthBytes: number): boolean {
  if (turnBytes >= MAX_TURN_BYTES) return false
  if (turnBytes === 0) setImmediate(() => (turnBytes = 0))
  turnBytes += Math.max(lengthBytes, MIN_COUNTED_BYTES)
  return true
}

function load(): PageCache & { readonly whyThreads?: typeof whyThreads } {
  const require = createRequire(import.meta.url)
  try {
    const { readNow } = require('../../build/Release/seekcache_page_cache.node') as PageCache
    return readNow === undefined ? { whyThreads: { reason: 'this system has no reads without waiting', isFault: false } } : { readNow }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'MODULE_NOT_FOUND') return { whyThreads: { reason: 'the native part is not built', isFault: false } }
    return { whyThreads: { reason: `the native part cannot be loaded: ${message}`, isFault: true } }
  }
}
