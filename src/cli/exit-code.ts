/** What the process exits with. The numbers are an interface: they are in the manual and tested. */

import { SeekCacheError } from '../errors.ts'

export const EXIT = {
  ok: 0, failure: 1, usage: 2, notFound: 3, origin: 4, cacheFormat: 5, hostNotRunning: 6, damageFound: 7, cacheLocked: 8, interrupted: 130,
} as const

export function exitCodeOf(error: unknown): number {
  if (!(error instanceof SeekCacheError)) return EXIT.failure
  if (error.code === 'ERR_SEEKCACHE_USAGE') return EXIT.usage
  if (error.code === 'ERR_SEEKCACHE_NOT_FOUND') return EXIT.notFound
  if (error.code.startsWith('ERR_SEEKCACHE_ORIGIN_') || error.code === 'ERR_SEEKCACHE_TIMEOUT') return EXIT.origin
  if (error.code === 'ERR_SEEKCACHE_CACHE_FORMAT') return EXIT.cacheFormat
  if (error.code === 'ERR_SEEKCACHE_CACHE_LOCKED') return EXIT.cacheLocked
  if (error.code === 'ERR_SEEKCACHE_HOST_UNAVAILABLE') return EXIT.hostNotRunning
  if (error.code === 'ERR_SEEKCACHE_CANCELLED') return EXIT.interrupted
  return EXIT.failure
}
