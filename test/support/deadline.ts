/**
 * Bounds for waits that should end long before: a test that hangs says what it waited for instead of timing out as a
 * whole. The bounds are generous, since a slow machine is no failure.
 */

export const PATIENCE_MS = 60_000

/** `promise`, or an error that names `what` after `limitMs`. */
export async function within<T>(what: string, promise: Promise<T>, limitMs = PATIENCE_MS): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const expiry = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${limitMs} ms`)), limitMs)
  })
  try {
    return await Promise.race([promise, expiry])
  } finally {
    clearTimeout(timer)
  }
}

/** Resolves once `isSo`, which is asked again and again: for what nothing tells of, and only for that. */
export async function until(what: string, isSo: () => boolean | Promise<boolean>, limitMs = PATIENCE_MS): Promise<void> {
  const deadlineMs = performance.now() + limitMs
  while (!(await isSo())) {
    if (performance.now() > deadlineMs) throw new Error(`${what}: not so within ${limitMs} ms`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
