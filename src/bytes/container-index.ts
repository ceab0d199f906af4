/**
 * Where a media file's index is, and what else a demuxer reads next of a file it has just opened, told by its first bytes. Pure.
 *
 * ISO base media files (ISO/IEC 14496-12 §4.2) are a row of boxes: `moov`, the index, stands in front of the media or begins
 * where they end. A Matroska segment (RFC 9559 §5.1.1, §6.3) begins with a SeekHead that names the place of its Cues. These are
 * hints for what to fetch early; a wrong one costs a few bytes.
 */

import type { Range } from './ranges.ts'

/** A larger index is fetched by whoever reads it. */
const MAX_INDEX_BYTES = 16 * 1024 * 1024
/** Cues that other elements follow: their length stands at their own place. */
const CUES_BYTES = 256 * 1024
/** What it takes at a time. */
const DEMUXER_BLOCK_BYTES = 64 * 1024

/** @returns undefined where these bytes do not tell */
export function containerIndex(head: Buffer, sizeBytes: number): Range | undefined {
  const start = cuesStart(head)
  const index = start === undefined ? movieBox(head, sizeBytes) : { start, end: indexEnd(start, sizeBytes) }
  return index !== undefined && index.start >= 0 && index.start < index.end && index.end <= sizeBytes ? index : undefined
}

function indexEnd(start: number, sizeBytes: number): number {
  return sizeBytes - start <= MAX_INDEX_BYTES ? sizeBytes : start + CUES_BYTES
}

/**
 * GStreamer's Matroska demuxer, where it pulls, reads the second cluster's first block before it plays the first cluster.
 * @returns undefined where these bytes do not tell
 */
export function secondCluster(head: Buffer, sizeBytes: number): Range | undefined {
  const segment = matroskaSegment(head)
  const start = segment && elements(head, segment.dataStart, segment.dataEnd).find(({ id }) => id === CLUSTER)?.nextStart
  return start === undefined || start >= sizeBytes ? undefined : { start, end: Math.min(start + DEMUXER_BLOCK_BYTES, sizeBytes) }
}

// ---- ISO base media

const BOXES = new Set(['ftyp', 'free', 'skip', 'wide', 'pnot', 'mdat', 'moov', 'uuid', 'pdin', 'styp', 'sidx', 'meta'])
const MAX_BOXES = 16

function movieBox(head: Buffer, sizeBytes: number): Range | undefined {
  let start = 0
  for (let count = 0; count < MAX_BOXES && start + 16 <= head.length; count++) {
    const type = head.toString('latin1', start + 4, start + 8)
    if (!BOXES.has(type)) return undefined
    const told = head.readUInt32BE(start)
    const lengthBytes = told === 1 ? Number(head.readBigUInt64BE(start + 8)) : told === 0 ? sizeBytes - start : told
    if (lengthBytes < 8 || start + lengthBytes > sizeBytes) return undefined
    if (type === 'moov') return { start, end: start + Math.min(lengthBytes, MAX_INDEX_BYTES) }
    start += lengthBytes
  }
  // The box after the media: nothing else of use stands there.
  const isBeyond = start + 16 > head.length && start > 0
  return isBeyond && sizeBytes - start <= MAX_INDEX_BYTES ? { start, end: sizeBytes } : undefined
}

// ---- Matroska

const EBML = 0x1a45dfa3
const SEGMENT = 0x18538067
const SEEK_HEAD = 0x114d9b74
const SEEK = 0x4dbb
const SEEK_ID = 0x53ab
const SEEK_POSITION = 0x53ac
const CUES = 0x1c53bb6b
const CLUSTER = 0x1f43b675

interface Element {
  readonly id: number
  readonly dataStart: number
  /** Clipped to the bytes at hand. */
  readonly dataEnd: number
  /** Where its length says that the next one begins; beyond any file where that is not told. */
  readonly nextStart: number
}

function matroskaSegment(head: Buffer): Element | undefined {
  if (head.length < 4 || head.readUInt32BE(0) !== EBML) return undefined
  return elements(head, 0, head.length).find(({ id }) => id === SEGMENT)
}

function cuesStart(head: Buffer): number | undefined {
  const segment = matroskaSegment(head)
  if (segment === undefined) return undefined
  const seekHead = elements(head, segment.dataStart, segment.dataEnd).find(({ id }) => id === SEEK_HEAD)
  if (seekHead === undefined) return undefined
  for (const seek of elements(head, seekHead.dataStart, seekHead.dataEnd).filter(({ id }) => id === SEEK)) {
    const fields = elements(head, seek.dataStart, seek.dataEnd)
    const id = fields.find((field) => field.id === SEEK_ID)
    const position = fields.find((field) => field.id === SEEK_POSITION)
    if (id !== undefined && position !== undefined && unsigned(head, id) === CUES) return segment.dataStart + unsigned(head, position)
  }
  return undefined
}

/** The elements that begin in a range, as far as they can be followed. */
function elements(head: Buffer, start: number, end: number): Element[] {
  const found: Element[] = []
  while (start < end) {
    const id = variableInt(head, start, false)
    const length = id === undefined ? undefined : variableInt(head, start + id.lengthBytes, true)
    if (id === undefined || length === undefined) break
    const dataStart = start + id.lengthBytes + length.lengthBytes
    start = dataStart + length.value
    found.push({ id: id.value, dataStart, dataEnd: Math.min(start, end), nextStart: start })
  }
  return found
}

/** RFC 8794 §4: as many leading zero bits as there are further bytes; a length without its marker, an ID with it. */
function variableInt(head: Buffer, start: number, isLength: boolean): { value: number; lengthBytes: number } | undefined {
  const first = head[start]
  if (first === undefined || first === 0) return undefined
  const lengthBytes = Math.clz32(first) - 23
  if (start + lengthBytes > head.length) return undefined
  let value = isLength ? first & (0xff >> lengthBytes) : first
  let isUnknown = isLength && value === 0xff >> lengthBytes
  for (const byte of head.subarray(start + 1, start + lengthBytes)) {
    value = value * 256 + byte
    isUnknown &&= byte === 0xff
  }
  return { value: isUnknown ? Number.MAX_SAFE_INTEGER : value, lengthBytes }
}

function unsigned(head: Buffer, { dataStart, dataEnd }: Element): number {
  let value = 0
  for (const byte of head.subarray(dataStart, Math.min(dataEnd, dataStart + 8))) value = value * 256 + byte
  return value
}
