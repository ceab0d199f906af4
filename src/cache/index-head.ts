/**
 * What LMDB's file says of itself in its two head pages (data version 2, as lmdb-js writes it), without LMDB.
 *
 * LMDB maps its file and believes it: reading a page behind the file's end ends the process with SIGBUS, so that must be
 * known before. Costs two reads, however large the index is.
 */

import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

const PAGE_BYTES = 4096
const MAGIC = 0xbeefc0de
/** In a head page: the magic, the size of a page, the number of the last one, and the transaction that wrote it. */
const AT = { magic: 24, pageBytes: 48, lastPage: 144, transaction: 152 } as const

/** Whether pages that are in use lie behind the end of the file, or it cannot be told. */
export function isCut(dataFile: string): boolean {
  const fd = openSync(dataFile, 'r')
  try {
    const head = Buffer.alloc(2 * PAGE_BYTES)
    if (readSync(fd, head, 0, head.length, 0) < head.length) return true
    const heads = [head.subarray(0, PAGE_BYTES), head.subarray(PAGE_BYTES)].filter((page) => page.readUInt32LE(AT.magic) === MAGIC)
    const [newest] = heads.sort((a, b) => Number(b.readBigUInt64LE(AT.transaction) - a.readBigUInt64LE(AT.transaction)))
    if (newest === undefined) return true
    const usedBytes = (newest.readBigUInt64LE(AT.lastPage) + 1n) * BigInt(newest.readUInt32LE(AT.pageBytes))
    return usedBytes > fstatSync(fd).size
  } finally {
    closeSync(fd)
  }
}
