/**
 * Waits that end: by a deadline, by somebody's signal, or by what was waited for.
 */

import { SeekCacheError } from '../errors.ts'

/** A signal that aborts with the given one, or with ERR_SEEKCACHE_TIMEOUT after so long. */
export function timeLimit(durationMs: number, signal?: AbortSignal): { signal: AbortSignal; clear: () => void } {
  const controller = new AbortController()
  const onAbort = (): void => controller.abort(signal?.reason)
  const timer = setTimeout(() => {
    controller.abort(new SeekCacheError('ERR_SEEKCACHE_TIMEOUT', `the origin has sent nothing within ${durationMs / 1000} s`))
  }, durationMs)
  if (signal?.aborted === true) onAbort()
  signal?.addEventListener('abort', onAbort, { once: true })
  return {
    signal: controller.signal,
    clear: () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    },
  }
}

export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return await new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error)
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

/** Waits; rejects with what was the matter when the signal comes first. */
export async function pause(durationMs: number, signal: AbortSignal, matter: Error): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, durationMs)
    const onAbort = (): void => {
      clearTimeout(timer)
      reject(matter)
    }
    signal.addEventListener('abort', onAbort, { once: true })
  })
}
