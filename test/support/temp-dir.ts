/**
 * A folder of a test's own, gone when the test is over: `await using folder = await tempDir()`.
 *
 * The path is short, because a Unix socket's path may have no more than about 104 bytes and hosts put theirs in here.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'

export interface TempDir extends AsyncDisposable {
  readonly path: string
  file(...names: readonly string[]): string
  remove(): Promise<void>
}

export async function tempDir(name = 'seekcache'): Promise<TempDir> {
  const folder = await mkdtemp(path.join(os.tmpdir(), `${name}-`))
  // A process that is just leaving may still write a last file: rm tries again then, for half a minute in all.
  const remove = () => rm(folder, { recursive: true, force: true, maxRetries: 24, retryDelay: 100 })
  return {
    path: folder,
    file: (...names) => path.join(folder, ...names),
    remove,
    [Symbol.asyncDispose]: remove,
  }
}
