/**
 * Where things stand in a cache directory, and the version of that layout.
 *
 *     <dir>/format                 the layout's version, checked before anything else is touched
 *     <dir>/lock                   flock'ed by the host for its lifetime
 *     <dir>/index/                 LMDB: resources, extents, meta; state, salt; index.new, index.damaged: see index-file.ts, index-opening.ts
 *     <dir>/extents/GEN/N-RANDOM   the bytes of extent N of generation GEN, sparse, written at their own offsets
 *     <dir>/rehearsal/             a cache directory of the host's own, for a moment after its start (rehearsal.ts)
 *     <dir>/probe                  written to a disk that has failed, and removed at once
 *     <dir>/host.json, token, control.sock, host.log   the host's own (host.ts)
 *
 * An extent file's name is never used twice: its random part makes a reader that was told of an evicted extent get
 * ENOENT, never another version's bytes.
 */

import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { SeekCacheError } from '../errors.ts'
import { claimDir, claimFile, type KnownNames } from './private-dir.ts'

/** Raise it when a directory written by this code could not be read by the code before, and keep a golden directory. */
const FORMAT_VERSION = 1
const FORMAT_LINE = `seekcache cache directory, format ${FORMAT_VERSION}\n`

/** The format first: it tells a cache directory. */
const KNOWN_NAMES: KnownNames = {
  files: ['format', 'lock', 'port', 'token', 'host.json', 'host.log'],
  directories: ['index', 'extents'],
  sockets: ['control.sock'],
}

/** Neither through a link nor waiting for a FIFO's reader. */
export const LOCK_FLAGS = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK

export interface Layout {
  readonly dir: string
  readonly indexDir: string
  readonly extentsDir: string
  readonly lockFile: string
  readonly formatFile: string
}

export function layoutOf(dir: string): Layout {
  return { dir, indexDir: join(dir, 'index'), extentsDir: join(dir, 'extents'), lockFile: join(dir, 'lock'), formatFile: join(dir, 'format') }
}

/** LMDB's. */
export function indexFile(indexDir: string): string {
  return join(indexDir, 'data.mdb')
}

/** Of a new index, until it takes the place of one that is lost. */
export function freshIndexDir(indexDir: string): string {
  return `${indexDir}.new`
}

/** Written to a disk that has failed, and removed at once. */
export function probeFile(layout: Layout): string {
  return join(layout.dir, 'probe')
}

export function rehearsalDir(layout: Layout): string {
  return join(layout.dir, 'rehearsal')
}

export function extentPath(layout: Layout, generation: string, fileName: string): string {
  return join(layout.extentsDir, generation, fileName)
}

/** 64 random bits: two names collide once in 2^64, and O_EXCL would tell. */
export function newExtentFileName(index: number): string {
  return `${index}-${randomBytes(8).toString('hex')}`
}

export function newGenerationId(): string {
  return randomBytes(8).toString('hex')
}

/**
 * Makes the directory ready, private to its user.
 * @throws ERR_SEEKCACHE_CACHE_UNWRITABLE, ERR_SEEKCACHE_CACHE_FORMAT
 */
export async function prepareLayout(layout: Layout): Promise<void> {
  try {
    await claimDir(layout.dir, KNOWN_NAMES)
    for (const name of await readdir(layout.indexDir)) await claimFile(join(layout.indexDir, name))
    const probe = await open(layout.lockFile, LOCK_FLAGS, 0o600)
    await probe.close()
  } catch (cause) {
    throw cause instanceof SeekCacheError ? cause : unwritable(layout.dir, cause)
  }
  await isFormatKnown(layout)
}

export function unwritable(dir: string, cause: unknown): SeekCacheError {
  const reason = cause instanceof Error ? cause.message.replace(/,.*/, '') : String(cause)
  return new SeekCacheError(
    'ERR_SEEKCACHE_CACHE_UNWRITABLE',
    `cannot write to the cache directory ${dir} (${reason}): choose another with --cache-dir`,
    { cause },
  )
}

/** Writes the format where there is none yet, with the lock: two hosts at once would rename each other's file. @throws the same */
export async function ensureFormat(layout: Layout): Promise<void> {
  if (await isFormatKnown(layout)) return
  await writeFormat(layout.formatFile).catch((cause: unknown) => {
    throw unwritable(layout.dir, cause)
  })
}

/** @returns false where there is none yet. @throws ERR_SEEKCACHE_CACHE_FORMAT for another one */
export async function isFormatKnown(layout: Layout): Promise<boolean> {
  const found = await readFile(layout.formatFile, 'utf8').catch(() => undefined)
  if (found === FORMAT_LINE) return true
  const isTorn = found === undefined || /^\0*$/.test(found) // by a power cut
  if (!isTorn) {
    throw new SeekCacheError(
      'ERR_SEEKCACHE_CACHE_FORMAT',
      `${layout.dir} is "${found.trim().slice(0, 80)}", this seekcache reads format ${FORMAT_VERSION}: ` +
        'use another --cache-dir, or remove that one',
    )
  }
  return false
}

async function writeFormat(path: string): Promise<void> {
  await rm(`${path}.new`, { force: true })
  await writeFile(`${path}.new`, FORMAT_LINE, { mode: 0o600, flush: true, flag: 'wx' })
  await rename(`${path}.new`, path)
}
