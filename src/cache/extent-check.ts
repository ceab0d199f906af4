/**
 * Whether an extent's file is still the one that was written, as far as the file system can tell without reading it.
 *
 * A file that was replaced, cut or written to by somebody else has another stamp than its record; then every chunk is
 * compared with its checksum before it is used. What is no plain file of ours alone (a directory, a symbolic link, a file
 * with two names, into which a write would change the other) is never used at all.
 */

import type { BigIntStats } from 'node:fs'
import { lstat } from 'node:fs/promises'

import type { Extent } from './extent.ts'

export type FileVerdict =
  | { readonly kind: 'as-left' | 'changed'; readonly diskBytes: number }
  | { readonly kind: 'unusable'; readonly reason: string }

export function stampOf(stats: BigIntStats): string {
  return `${stats.ino} ${stats.size} ${stats.mtimeNs}`
}

/** @throws what the disk says, where it does not tell */
export async function checkFile(extent: Extent): Promise<FileVerdict> {
  let stats: BigIntStats
  try {
    stats = await lstat(extent.path, { bigint: true })
  } catch (error) {
    if (!isUnusable(error)) throw error
    return { kind: 'unusable', reason: 'is gone' }
  }
  if (!stats.isFile()) return { kind: 'unusable', reason: 'is no plain file any more' }
  if (stats.nlink !== 1n) return { kind: 'unusable', reason: 'has a second name' }
  const diskBytes = Number(stats.blocks) * 512
  return { kind: extent.stamp !== undefined && extent.stamp === stampOf(stats) ? 'as-left' : 'changed', diskBytes }
}

/** What `open` says of a path that is not a file of ours, as opposed to a disk that fails. */
export function isUnusable(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR', 'ENXIO', 'EACCES', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')
}
