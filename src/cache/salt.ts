/**
 * The salt with which keys of resources are hashed, so that the index tells nothing of the credentials in them.
 *
 * Without it nothing in the cache is found again, so it stands in the index and, with its checksum, in a file beside it.
 */

import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'

import type { IndexDb } from './index-db.ts'
import { replaceFile } from './private-dir.ts'

const SALT_BYTES = 16

export function isSalt(stored: unknown): stored is Uint8Array {
  return stored instanceof Uint8Array && stored.length === SALT_BYTES
}

/** The file's, if it is what was written. */
export function readSalt(indexDir: string): Buffer | undefined {
  try {
    const stored = readFileSync(join(indexDir, 'salt'))
    const salt = stored.subarray(0, SALT_BYTES)
    return stored.length === SALT_BYTES + 4 && stored.readUInt32LE(SALT_BYTES) === crc32(salt) ? salt : undefined
  } catch {
    return undefined
  }
}

/** Made where there is none. On a disk that takes nothing what is cached now is not known again. */
export async function ensureSalt(indexDir: string, index: IndexDb): Promise<Buffer> {
  const inFile = readSalt(indexDir)
  const inIndex = index.salt
  const salt = inFile ?? (isSalt(inIndex) ? Buffer.from(inIndex) : randomBytes(SALT_BYTES))
  if (inFile === undefined) await writeSalt(indexDir, salt)
  if (!isSalt(inIndex) || !salt.equals(inIndex)) index.putSalt(salt).catch(() => {})
  return salt
}

async function writeSalt(indexDir: string, salt: Buffer): Promise<void> {
  const checksum = Buffer.alloc(4)
  checksum.writeUInt32LE(crc32(salt))
  try {
    await replaceFile(join(indexDir, 'salt'), Buffer.concat([salt, checksum]))
  } catch {
    // the index has it
  }
}
