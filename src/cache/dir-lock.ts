/**
 * One host per cache directory, held by flock(2) on <dir>/lock.
 *
 * The kernel drops the lock with the process, however it dies: no stale lock, no pid guessing, no waiting after a crash.
 * Node has no flock, so on Linux the lock is taken by flock(1) of util-linux on *our* descriptor, which it inherits: a
 * flock belongs to the open file description, so it stays ours when that child is gone (2 ms). macOS takes it in open(2)
 * itself with O_EXLOCK. Rejected: lock files with a pid (a takeover races), an abstract socket (per network namespace).
 */

import { spawnSync } from 'node:child_process'
import { closeSync, constants, openSync } from 'node:fs'

import { SeekCacheError } from '../errors.ts'
import { LOCK_FLAGS, unwritable, type Layout } from './layout.ts'

/** O_EXLOCK of macOS's <fcntl.h>; Node does not export it. */
const DARWIN_O_EXLOCK = 0x20
/** What flock(1) exits with when somebody else has the lock. */
const FLOCK_CONFLICT = 1

export interface DirLock {
  release(): void
}

/** @throws ERR_SEEKCACHE_CACHE_LOCKED when another host has it, ERR_SEEKCACHE_CACHE_UNWRITABLE */
export function lockDir(layout: Layout): DirLock {
  const fd = process.platform === 'darwin' ? openLocked(layout) : openAndLock(layout)
  return { release: () => closeSync(fd) }
}

function openLocked(layout: Layout): number {
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK | DARWIN_O_EXLOCK
  try {
    return openSync(layout.lockFile, flags, 0o600)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EAGAIN') throw locked(layout)
    throw unwritable(layout.dir, error)
  }
}

function openAndLock(layout: Layout): number {
  let fd: number
  try {
    fd = openSync(layout.lockFile, LOCK_FLAGS, 0o600)
  } catch (error) {
    throw unwritable(layout.dir, error)
  }
  const result = spawnSync('flock', ['--nonblock', '--exclusive', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] })
  if (result.status === 0) return fd
  closeSync(fd)
  if (result.status === FLOCK_CONFLICT) throw locked(layout)
  throw new SeekCacheError(
    'ERR_SEEKCACHE_CACHE_UNWRITABLE',
    `cannot lock ${layout.dir}: flock(1) of util-linux is needed (${result.error?.message ?? `exit ${result.status}`})`,
    { cause: result.error },
  )
}

function locked(layout: Layout): SeekCacheError {
  return new SeekCacheError(
    'ERR_SEEKCACHE_CACHE_LOCKED',
    `another seekcache host is running on ${layout.dir}: use it, or stop it with "seekcache stop"`,
  )
}
