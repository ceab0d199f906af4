/**
 * Reads what is left of an index that LMDB cannot read, from the pages of its file.
 *
 * A record is believed for its own seal and for nothing around it, so this needs neither LMDB's heads nor its tree: each leaf
 * page in the file is looked at, those that LMDB has freed too. What these tell is old, but not untrue: the page of the last
 * transaction says what a key holds, a file of extents that was evicted is not there any more (its name is never used
 * again), and each chunk is compared with its checksum before it is used. Nothing here is executed or followed by what the
 * file says, so no file can make more of it than a bounded loop. Bytes of an origin that look like a page, in an incomplete
 * chunk, name nothing: keys, generations and file names are random or hashed with the salt, and no origin is told them.
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
import { openExtent, openPartials, openResource, type ExtentRecord, type PartialRecord, type ResourceRecord, type Sealed } from './records.ts'
import { isSalt, readSalt } from './salt.ts'

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
/** More than any record but those of incomplete chunks, which are read at the end. */
const MAX_RECORD_BYTES = 64 * 1024
/** More than those take of a film. */
const MAX_VALUE_BYTES = 8 * 1024 * 1024

const decoder = new Unpackr({ useRecords: false, copyBuffers: true }) // out of a page that is read over

/** What lies outside of its page. */
interface BigValue {
  readonly position: number
  readonly lengthBytes: number
}

/** As LMDB has them, encoded. */
interface Node {
  readonly key: Buffer
  readonly value: Buffer | BigValue
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

  get(key: string): T | undefined {
    return this.#found.get(key)?.record
  }

  get records(): T[] {
    return [...this.#found.values()].map(({ record }) => record)
  }
}

type Resource = IndexContent['resources'][number]
type Extent = IndexContent['extents'][number]

interface Found {
  readonly resources: Newest<Resource>
  /** Those that have a file. */
  readonly extents: Newest<Extent>
  /** Of incomplete chunks, by generation, as they were stored. */
  readonly partials: Newest<unknown>
  readonly salts: Newest<Uint8Array>
  readonly files: ExtentFiles
}

/** Which there are, looked up once. */
class ExtentFiles {
  readonly #dir: string
  readonly #names = new Map<string, ReadonlySet<string>>()

  constructor(dir: string) {
    this.#dir = dir
  }

  has(generation: string, fileName: string): boolean {
    let names = this.#names.get(generation)
    if (names === undefined) this.#names.set(generation, (names = new Set(fileNames(join(this.#dir, generation)))))
    return names.has(fileName)
  }
}

export interface Salvaged {
  /** Films of which something is there; the origin is asked before they are used, and each chunk is compared. */
  readonly content: IndexContent
  /** Of their incomplete chunks, by generation; read while they are iterated. */
  readonly partials: Iterable<readonly [string, readonly PartialRecord[]]>
}

export function salvage(layout: Layout): Salvaged {
  const path = indexFile(layout.indexDir)
  const files = new ExtentFiles(layout.extentsDir)
  const found: Found = { resources: new Newest(), extents: new Newest(), partials: new Newest(), salts: new Newest(), files }
  withFile(path, (fd) => {
    for (const node of nodesOf(fd)) {
      try {
        take(node, found, fd)
      } catch {
        // it cannot be decoded
      }
    }
  })
  const generations = new Set(found.resources.records.map(([, { generation }]) => generation))
  const extents = found.extents.records.filter(([{ generation }]) => generations.has(generation))
  const cached = new Set(extents.map(([{ generation }]) => generation))
  const resources = found.resources.records.filter(([, { generation }]) => cached.has(generation)) // the others may have been removed
  const content = { salt: readSalt(layout.indexDir) ?? found.salts.records[0], resources, extents }
  return { content, partials: partialsOf(path, resources, found) }
}

function take({ key, value, transaction }: Node, found: Found, fd: number): void {
  const place = fromBufferKey(key)
  if (!Buffer.isBuffer(value) && value.lengthBytes > MAX_RECORD_BYTES) return found.partials.offer(String(place), transaction, value)
  const stored: unknown = decoder.unpack(Buffer.isBuffer(value) ? value : readBig(fd, value))
  if (Array.isArray(place)) {
    const [generation, index] = place as [string, number]
    const record = openExtent({ generation, index }, stored as Sealed<ExtentRecord>)
    if (record === undefined || !found.files.has(generation, record.fileName)) return
    found.extents.offer(`${generation} ${index}`, transaction, [{ generation, index }, { ...record, bootId: '' }])
  } else if (place === 'salt') {
    if (isSalt(stored)) found.salts.offer(place, transaction, stored)
  } else if (typeof place === 'string') {
    if (Array.isArray(stored)) return found.partials.offer(place, transaction, stored)
    const record = openResource(place, stored as Sealed<ResourceRecord>)
    if (record !== undefined) found.resources.offer(place, transaction, [place, { ...record, freshUntilMs: 0 }])
  }
}

function* partialsOf(path: string, resources: readonly Resource[], { partials }: Found): Generator<[string, PartialRecord[]]> {
  for (const [, { generation }] of resources) {
    const stored = partials.get(generation)
    if (stored === undefined) continue
    const read = (fd: number): unknown => decoder.unpack(readBig(fd, stored as BigValue))
    const records = openPartials(generation, Array.isArray(stored) ? stored : orUndefined(() => withFile(path, read)))
    if (records.length > 0) yield [generation, records]
  }
}

function fileNames(dir: string): string[] {
  return orUndefined(() => readdirSync(dir)) ?? []
}

// ---- pages

function withFile<T>(path: string, use: (fd: number) => T): T | undefined {
  const fd = orUndefined(() => openSync(path, 'r'))
  if (fd === undefined) return undefined
  try {
    return use(fd)
  } finally {
    closeSync(fd)
  }
}

function orUndefined<T>(get: () => T): T | undefined {
  try {
    return get()
  } catch {
    return undefined
  }
}

function* nodesOf(fd: number): Generator<Node> {
  const sizeBytes = fstatSync(fd).size
  const pageBytes = pageSizeOf(fd, sizeBytes)
  const page = Buffer.alloc(pageBytes)
  for (let start = 0; start + pageBytes <= sizeBytes; start += pageBytes) {
    if (isRead(fd, page, start) && page.readUInt16LE(FLAGS_AT) === LEAF_PAGE) yield* nodesOn(page)
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

function* nodesOn(page: Buffer): Generator<Node> {
  const transaction = page.readBigUInt64LE(TRANSACTION_AT)
  const count = page.readUInt16LE(LOWER_AT) / 2
  for (let i = 0; i < count && PAGE_HEAD_BYTES + 2 * i + 2 <= page.length; i++) {
    const parts = orUndefined(() => partsOf(page, PAGE_HEAD_BYTES + page.readUInt16LE(PAGE_HEAD_BYTES + 2 * i)))
    if (parts !== undefined) yield { ...parts, transaction }
  }
}

/** @throws RangeError where it does not lie in the page */
function partsOf(page: Buffer, start: number): Pick<Node, 'key' | 'value'> {
  const lengthBytes = page.readUInt32LE(start)
  const flags = page.readUInt16LE(start + 4)
  const keyStart = start + NODE_HEAD_BYTES
  const valueStart = keyStart + page.readUInt16LE(start + 6)
  if (lengthBytes > MAX_VALUE_BYTES || (flags & ~BIG_VALUE) !== 0) throw new RangeError('no record')
  const key = page.subarray(keyStart, valueStart)
  if (flags !== BIG_VALUE) return { key, value: page.subarray(valueStart, valueStart + lengthBytes) }
  return { key, value: { position: Number(page.readBigUInt64LE(valueStart)) * page.length + PAGE_HEAD_BYTES, lengthBytes } }
}

/** @throws RangeError where it does not lie in the file */
function readBig(fd: number, { position, lengthBytes }: BigValue): Buffer {
  const value = Buffer.alloc(lengthBytes)
  if (!isRead(fd, value, position)) throw new RangeError('no page')
  return value
}
