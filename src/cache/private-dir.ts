/**
 * A cache directory is its user's alone: it is made so, or refused with a word that says what is wrong with it.
 *
 * Looked at once, before anything in it is opened: a directory of another user, or one that others may write to, can hold
 * anything; a link, a FIFO or a device in the place of one of our files would have us write, delete or wait elsewhere. After
 * that nobody else gets in (0700). A directory with somebody's own files in it is never taken for a cache.
 */

import type { Stats } from 'node:fs'
import { chmod, lstat, mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { SeekCacheError } from '../errors.ts'

/** What stands in the directory, as what; what is not named here is not ours to judge. */
export interface KnownNames {
  /** The first one tells a cache directory from any other. */
  readonly files: readonly string[]
  readonly directories: readonly string[]
  readonly sockets: readonly string[]
}

/** A file system's own, in the root of a disk that is a cache as a whole. */
const SYSTEM_NAMES = new Set(['lost+found'])

/**
 * Makes the directory, or makes sure that it is a cache directory of this user's alone.
 * @throws ERR_SEEKCACHE_CACHE_UNWRITABLE for one that is not safe, the system's error for one that cannot be made
 */
export async function claimDir(dir: string, known: KnownNames): Promise<void> {
  await makeDir(dir)
  await checkDir(dir)
  await checkContents(dir, known)
  await chmod(dir, 0o700)
  for (const name of known.files) await claimFile(join(dir, name))
  for (const name of known.directories) await claimSubdir(join(dir, name))
  for (const name of known.sockets) {
    const found = await lstatOf(join(dir, name))
    if (found !== undefined && !found.isSocket()) throw unsafe(`${join(dir, name)} is ${kindOf(found)}, not a socket: remove it`)
  }
}

/** A directory of ours, in ours: not a link to one. */
export async function claimSubdir(path: string): Promise<void> {
  await makeDir(path)
  const found = await lstat(path)
  if (!found.isDirectory()) throw unsafe(`${path} is ${kindOf(found)}, not a directory: remove it`)
  if (!isOwn(found)) throw unsafe(`${path} belongs to another user: remove it`)
}

/** A file of ours, if it is there. */
export async function claimFile(path: string): Promise<void> {
  const found = await lstatOf(path)
  if (found === undefined) return
  if (!found.isFile()) throw unsafe(`${path} is ${kindOf(found)}, not a file: remove it`)
  if (!isOwn(found)) throw unsafe(`${path} belongs to another user: remove it`)
  if ((found.mode & 0o077) !== 0) await chmod(path, 0o600)
}

/** In one step, never through a link. @throws the system's error */
export async function replaceFile(path: string, data: string | Uint8Array): Promise<void> {
  await rm(`${path}.new`, { force: true })
  await writeFile(`${path}.new`, data, { mode: 0o600, flag: 'wx' })
  await rename(`${path}.new`, path)
}

/**
 * Like `mkdir -p`, private to the user. Not Node's own `recursive`: that never returns where a file system answers ENOENT to
 * a mkdir in a directory that exists (seen in /proc).
 */
async function makeDir(path: string): Promise<void> {
  const first = await mkdirProblem(path)
  if (first === undefined) return
  if (first.code !== 'ENOENT') throw first
  const parent = dirname(path)
  if (parent !== path && (await stat(parent).catch(() => undefined)) === undefined) await makeDir(parent)
  const problem = await mkdirProblem(path) // another host that is being started may have made the parent meanwhile
  if (problem !== undefined) throw problem
}

async function mkdirProblem(path: string): Promise<NodeJS.ErrnoException | undefined> {
  const problem = await mkdir(path, { mode: 0o700 }).then(() => undefined, (error: NodeJS.ErrnoException) => error)
  return problem?.code === 'EEXIST' ? undefined : problem
}

/** The user may keep the cache on another disk behind a link of his own; anybody else's link is a trap. */
async function checkDir(dir: string): Promise<void> {
  const link = await lstat(dir)
  if (link.isSymbolicLink() && !isOwn(link)) throw unsafe(`the cache directory ${dir} is another user's link: ${REMEDY}`)
  const found = await stat(dir)
  if (!found.isDirectory()) throw unsafe(`the cache directory ${dir} is ${kindOf(found)}: ${REMEDY}`)
  if (found.uid !== process.geteuid!()) throw unsafe(`the cache directory ${dir} belongs to another user: ${REMEDY}`)
  if ((found.mode & 0o022) !== 0) {
    throw unsafe(`other users can write to the cache directory ${dir}: forbid it ("chmod go-w"), or ${REMEDY}`)
  }
}

async function checkContents(dir: string, { files, directories, sockets }: KnownNames): Promise<void> {
  const names = await readdir(dir)
  const [mark] = files
  if (names.includes(mark!)) return
  const own = new Set([...files, ...files.map((name) => `${name}.new`), ...directories, ...directories.map((name) => `${name}.damaged`), ...sockets])
  const foreign = names.find((name) => !own.has(name) && !SYSTEM_NAMES.has(name))
  if (foreign !== undefined) throw unsafe(`${dir} is not empty and no cache directory (it holds ${JSON.stringify(foreign)}): ${REMEDY}`)
}

async function lstatOf(path: string): Promise<Stats | undefined> {
  return await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
}

function isOwn({ uid }: Stats): boolean {
  return uid === process.geteuid!() || uid === 0
}

function kindOf(found: Stats): string {
  if (found.isSymbolicLink()) return 'a symbolic link'
  if (found.isDirectory()) return 'a directory'
  if (found.isFIFO()) return 'a FIFO'
  if (found.isSocket()) return 'a socket'
  return found.isFile() ? 'a file' : 'a device'
}

const REMEDY = 'choose another with --cache-dir'

function unsafe(message: string): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_CACHE_UNWRITABLE', message)
}
