/**
 * Reads what is left of an index that LMDB cannot read, from the pages of its file.
 *
 * A record is believed for its own seal and for nothing around it, so this needs neither LMDB's heads nor its tree: each leaf
 * page in the file is looked at, those that LMDB has freed too. What these tell is old, but not untrue: the page of the last
 * transaction says what a key holds, a file of extents that was evicted is not there any more (its name is never used
 * again), and each chunk is compared with its checksum before it is used. Nothing here is executed or followed by what the
 * file says, so no file can make more of it than a bounded loop.
 *
 * The pages are those of LMDB's mdb.c (`MDB_page`, `MDB_node`), little endian; keys and values are lmdb-js's, ordered-binary and
 * MessagePack.
 */

import { closeSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs'
import { join } from 'node:path'
import { Unpackr } from 'msgpackr'
import { fromBufferKey } from 'ordered-binary'

import type { IndexContent } from './index-db.ts'
import { indexFile, type Layout } from './layout.ts'
import { openExtent, openResource, type ExtentRecord, type ResourceRecord, type Sealed } from './records.ts'
import { readSalt, SALT_BYTES } from './salt.ts'

/** LMDB's are as large as the system's. */
const PAGE_SIZES_BYTES = [4096, 8192, 16_384, 32_768, 65_536]
const PAGE_HEAD_BYTES = 24
const NODE_HEAD_BYTES = 8
/** In the head of a page. */
const TRANSACTION_AT = 8
const FLAGS_AT = 18
const LOWER_AT = 20
const LEAF_PAGE = 0x02
/** Of a node: its value lies on pages of its own. */
const BIG_VALUE = 0x01
/** More than any record but those of incomplete chunks, which are fetched again. */
const MAX_VALUE_BYTES = 64 * 1024

const decoder = new Unpackr({ useRecords: false, copyBuffers: true }) // out of a page that is read over

/** As LMDB has them, encoded. */
interface Node {
  readonly key: Buffer
  readonly value: Buffer
  /** That wrote its page; LMDB counts them up. */
  readonly transaction: bigint
}

/** What was last put, by key. */
class Newest<T> {
  readonly #found = new Map<string, { readonly transaction: bigint; readonly record: T }>()

  offer(key: string, transaction: bigint, record: T): void {
    const known = this.#found.get(key)
    if (known === undefined || known.transaction < transaction) this.#found.set(key, { transaction, record })
  }

  get records(): T[] {
    return [...this.#found.values()].map(({ record }) => record)
  }
}

type Resource = IndexContent['resources'][number]
type Extent = IndexContent['extents'][number]

interface Found {
  readonly resources: Newest<Resource>
  readonly extents: Newest<Extent>
  readonly salts: Newest<Uint8Array>
}

/** Films of which something is there; the origin is asked before they are used, and each chunk is compared. */
export function salvage(layout: Layout): IndexContent {
  const found: Found = { resources: new Newest(), extents: new Newest(), salts: new Newest() }
  for (const node of nodesOf(indexFile(layout.indexDir))) {
    try {
      take(node, found)
    } catch {
      // it cannot be decoded
    }
  }
  const { resources, extents, salts } = found
  const filesOf = new Map(resources.records.map(([, { generation }]) => [generation, new Set(fileNames(join(layout.extentsDir, generation)))]))
  const kept = extents.records.filter(([{ generation }, { fileName }]) => filesOf.get(generation)?.has(fileName) === true)
  const keptGenerations = new Set(kept.map(([{ generation }]) => generation))
  return {
    salt: readSalt(layout.indexDir) ?? salts.records[0],
    resources: resources.records.filter(([, { generation }]) => keptGenerations.has(generation)),
    extents: kept,
  }
}

function take({ key, value, transaction }: Node, found: Found): void {
  const place = fromBufferKey(key)
  const stored: unknown = decoder.unpack(value)
  if (Array.isArray(place)) {
    const [generation, index] = place as [string, number]
    const record = openExtent({ generation, index }, stored as Sealed<ExtentRecord>)
    if (record !== undefined) found.extents.offer(`${generation} ${index}`, transaction, [{ generation, index }, { ...record, bootId: '' }])
  } else if (place === 'salt') {
    if (stored instanceof Uint8Array && stored.length === SALT_BYTES) found.salts.offer(place, transaction, stored)
  } else if (typeof place === 'string') {
    const record = openResource(place, stored as Sealed<ResourceRecord>)
    if (record !== undefined) found.resources.offer(place, transaction, [place, { ...record, freshUntilMs: 0 }])
  }
}

function fileNames(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}

// ---- pages

function* nodesOf(path: string): Generator<Node> {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch {
    return
  }
  try {
    const sizeBytes = fstatSync(fd).size
    const pageBytes = pageSizeOf(fd, sizeBytes)
    const page = Buffer.alloc(pageBytes)
    for (let start = 0; start + pageBytes <= sizeBytes; start += pageBytes) {
      if (isRead(fd, page, start) && page.readUInt16LE(FLAGS_AT) === LEAF_PAGE) yield* nodesOn(page, fd)
    }
  } finally {
    closeSync(fd)
  }
}

/** Each page names its own number: most of them do in a file of pages of the right size, hardly any in another. */
function pageSizeOf(fd: number, sizeBytes: number): number {
  const head = Buffer.alloc(8)
  const counts = PAGE_SIZES_BYTES.map((pageBytes) => {
    let count = 0
    for (let number = 0; (number + 1) * pageBytes <= sizeBytes; number++) {
      if (isRead(fd, head, number * pageBytes) && head.readBigUInt64LE() === BigInt(number)) count++
    }
    return count
  })
  return PAGE_SIZES_BYTES[counts.indexOf(Math.max(...counts))]!
}

/** A page that the disk does not give is damaged like any other. */
function isRead(fd: number, buffer: Buffer, position: number): boolean {
  try {
    return readSync(fd, buffer, 0, buffer.length, position) === buffer.length
  } catch {
    return false
  }
}

function* nodesOn(page: Buffer, fd: number): Generator<Node> {
  const transaction = page.readBigUInt64LE(TRANSACTION_AT)
  const count = page.readUInt16LE(LOWER_AT) / 2
  for (let i = 0; i < count && PAGE_HEAD_BYTES + 2 * i + 2 <= page.length; i++) {
    try {
      const [key, value] = partsOf(page, PAGE_HEAD_BYTES + page.readUInt16LE(PAGE_HEAD_BYTES + 2 * i), fd)
      yield { key, value, transaction }
    } catch {
      // it does not lie in the page
    }
  }
}

/** @throws RangeError where it does not lie in the page */
function partsOf(page: Buffer, start: number, fd: number): [Buffer, Buffer] {
  const valueBytes = page.readUInt32LE(start)
  const flags = page.readUInt16LE(start + 4)
  const keyStart = start + NODE_HEAD_BYTES
  const valueStart = keyStart + page.readUInt16LE(start + 6)
  if (valueBytes > MAX_VALUE_BYTES || (flags & ~BIG_VALUE) !== 0) throw new RangeError('no record')
  const key = page.subarray(keyStart, valueStart)
  if (flags !== BIG_VALUE) return [key, page.subarray(valueStart, valueStart + valueBytes)]
  const value = Buffer.alloc(valueBytes)
  const position = Number(page.readBigUInt64LE(valueStart)) * page.length + PAGE_HEAD_BYTES
  if (!isRead(fd, value, position)) throw new RangeError('no page')
  return [key, value]
}
