/**
 * What the index knows, as records, and their seals. Pure.
 *
 * A seal is a checksum over all that a record says and of what it says it: bits that flipped in the index must not make
 * presence of bytes that were never written, nor a place of another one. Records of the first code of this format have
 * none; what they say of chunks is believed only by the chunks' own checksums.
 */

import { crc32 } from 'node:zlib'

import { CHUNKS_PER_EXTENT } from '../bytes/ranges.ts'

export interface ResourceRecord {
  /** The URL without query string and credentials, for `ls`. */
  readonly displayUrl: string
  readonly fileName: string
  readonly generation: string
  readonly sizeBytes: number
  readonly contentType: string | undefined
  readonly etag: string | undefined
  readonly lastModified: string | undefined
  /** Whether the origin answered a range request with 206. */
  readonly isRangeable: boolean
  /** Until then (ms since the epoch) it is used without asking the origin first (RFC 9111 §4.2). */
  readonly freshUntilMs: number
  readonly lastUsedMs: number
}

export interface ExtentRecord {
  readonly fileName: string
  /** Bit i (LSB first) says that chunk i of the extent is complete in the file. */
  readonly presence: Uint8Array
  /** CRC-32 of each present chunk, little endian. */
  readonly crcs: Uint8Array
  /** The boot in which all these chunks were written or verified; empty where none may be believed. */
  readonly bootId: string
  /** The file when the record was made (`stampOf`). */
  readonly stamp?: string | undefined
  readonly lastUsedMs: number
}

/** The received parts of a chunk that was not complete when its resource was closed. */
export interface PartialRecord {
  readonly chunk: number
  /** Within the chunk: `[[start, end), …]`. */
  readonly ranges: readonly (readonly [number, number])[]
  /** The bytes of the ranges, one after another. */
  readonly bytes: Uint8Array
  /** Of the bytes and of where they belong (`partialCrc`). */
  readonly crc: number
}

export interface ExtentKey {
  readonly generation: string
  readonly index: number
}

export type Sealed<T> = T & { readonly seal?: number }

export function sealResource(key: string, record: ResourceRecord): Sealed<ResourceRecord> {
  return { ...record, seal: resourceSeal(key, record) }
}

/** The record, if it is what was written. */
export function openResource(key: string, stored: Sealed<ResourceRecord>): ResourceRecord | undefined {
  if (typeof stored !== 'object' || stored === null) return undefined
  const { seal, ...record } = stored
  if (!hasOnly(record, RESOURCE_FIELDS) || !isGeneration(record.generation) || !Number.isSafeInteger(record.sizeBytes)) return undefined
  return seal === undefined || seal === resourceSeal(key, record) ? record : undefined
}

export function sealExtent(key: ExtentKey, record: ExtentRecord): Sealed<ExtentRecord> {
  return { ...record, seal: extentSeal(key, record) }
}

/** The record, if it is what was written. */
export function openExtent(key: ExtentKey, stored: Sealed<ExtentRecord>): ExtentRecord | undefined {
  if (typeof stored !== 'object' || stored === null) return undefined
  const { seal, ...record } = stored
  if (!hasOnly(record, EXTENT_FIELDS) || record.presence?.byteLength !== CHUNKS_PER_EXTENT / 8 || record.crcs?.byteLength !== CHUNKS_PER_EXTENT * 4) return undefined
  if (!/^\d+-[0-9a-f]{16}$/.test(record.fileName) || !isGeneration(key.generation) || !Number.isSafeInteger(key.index)) return undefined
  if (seal === undefined) return { ...record, bootId: '' }
  return seal === extentSeal(key, record) ? record : undefined
}

const RESOURCE_FIELDS = new Set([
  'displayUrl', 'fileName', 'generation', 'sizeBytes', 'contentType', 'etag', 'lastModified', 'isRangeable', 'freshUntilMs', 'lastUsedMs',
])
const EXTENT_FIELDS = new Set(['fileName', 'presence', 'crcs', 'bootId', 'stamp', 'lastUsedMs'])

/** A flipped bit in the name of the seal would make a record of the first code of it. */
function hasOnly(record: object, fields: ReadonlySet<string>): boolean {
  return Object.keys(record).every((name) => fields.has(name))
}

/** It names a folder. */
function isGeneration(id: unknown): boolean {
  return typeof id === 'string' && /^[0-9a-f]+$/.test(id)
}

/** Those that are what was written. */
export function openPartials(generation: string, stored: unknown): PartialRecord[] {
  return Array.isArray(stored) ? stored.filter((record) => isPartial(generation, record)) : []
}

function isPartial(generation: string, stored: unknown): stored is PartialRecord {
  if (typeof stored !== 'object' || stored === null) return false
  const { chunk, ranges, bytes, crc } = stored as Partial<PartialRecord>
  if (!Number.isSafeInteger(chunk) || !Array.isArray(ranges) || !(bytes instanceof Uint8Array)) return false
  return crc === partialCrc(generation, chunk!, ranges, bytes)
}

export function partialCrc(generation: string, chunk: number, ranges: PartialRecord['ranges'], bytes: Uint8Array): number {
  return crc32(bytes, crc32(JSON.stringify([generation, chunk, ranges])))
}

function resourceSeal(key: string, record: ResourceRecord): number {
  const { displayUrl, fileName, generation, sizeBytes, contentType, etag, lastModified, isRangeable, freshUntilMs, lastUsedMs } = record
  return crc32(JSON.stringify([
    key, displayUrl, fileName, generation, sizeBytes, contentType, etag, lastModified, isRangeable, freshUntilMs, lastUsedMs,
  ]))
}

function extentSeal({ generation, index }: ExtentKey, { fileName, presence, crcs, bootId, stamp, lastUsedMs }: ExtentRecord): number {
  return crc32(crcs, crc32(presence, crc32(JSON.stringify([generation, index, fileName, bootId, stamp, lastUsedMs]))))
}
