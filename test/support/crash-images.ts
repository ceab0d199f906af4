/**
 * What a power cut may leave of a recorded directory: a model of a file system that keeps only what was synced.
 *
 * A cut comes after any operation. What a file's last finished sync covers is there (and with it, as journals do, every
 * change of names before it); of what came later each write may be there, not, in part (torn at 512 or 4096 bytes), or as
 * a longer file with zeros, in any order; names are changed in their order up to some point, or, as the worst, each by itself.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'

import type { Random } from './random.ts'

const HEAD_BYTES = 32
const TYPES = ['', 'create', 'write', 'truncate', 'sync', 'rename', 'unlink', 'mkdir', 'rmdir'] as const

export interface Operation {
  readonly type: (typeof TYPES)[number]
  /** The file, told apart from an earlier one of the same inode number. */
  readonly file: number
  readonly offset: number
  readonly path: string
  readonly data: Buffer
  /** It was durable when it returned. */
  readonly isSynced: boolean
}

export function readRecording(logFile: string, dir: string): Operation[] {
  const bytes = readFileSync(logFile)
  const files = new Map<bigint, number>()
  const operations: Operation[] = []
  for (let at = 0; at < bytes.length; ) {
    const type = TYPES[bytes.readUInt32LE(at)]!
    const inode = bytes.readBigUInt64LE(at + 8)
    const nameLength = bytes.readUInt32LE(at + 24)
    const length = bytes.readUInt32LE(at + 28)
    const name = bytes.toString('utf8', at + HEAD_BYTES, at + HEAD_BYTES + nameLength)
    const data = bytes.subarray(at + HEAD_BYTES + nameLength, at + HEAD_BYTES + nameLength + length)
    if (type === 'create') files.set(inode, operations.length)
    operations.push({
      type, data, path: name === '' ? '' : relative(dir, name), file: files.get(inode) ?? -1,
      offset: Number(bytes.readBigInt64LE(at + 16)), isSynced: bytes.readUInt32LE(at + 4) !== 0,
    })
    at += HEAD_BYTES + nameLength + length
  }
  return operations
}

export type Loss = 'nothing' | 'unsynced' | 'some' | 'torn' | 'names'
export const LOSSES: readonly Loss[] = ['nothing', 'unsynced', 'some', 'torn', 'names']

/** Writes to `target` what is left after a cut behind the first `count` operations. */
export function writeImage(operations: readonly Operation[], count: number, loss: Loss, random: Random, target: string): void {
  const before = operations.slice(0, count)
  const names = namesLeft(before, loss, random)
  for (const directory of names.directories) mkdirSync(join(target, directory), { recursive: true })
  for (const [path, file] of names.files) {
    mkdirSync(dirname(join(target, path)), { recursive: true })
    writeFileSync(join(target, path), bytesLeft(before, file, loss, random), { mode: 0o600 })
  }
}

function namesLeft(before: readonly Operation[], loss: Loss, random: Random): { files: Map<string, number>; directories: Set<string> } {
  const files = new Map<string, number>()
  const directories = new Set<string>([''])
  const forced = before.findLastIndex(({ type, isSynced }) => type === 'sync' || isSynced)
  const end = loss === 'nothing' ? before.length : loss === 'unsynced' ? forced + 1 : forced + 1 + random.below(before.length - forced)
  for (const [index, operation] of before.entries()) {
    const isKept = index <= forced || (loss === 'names' ? random.next() < 0.5 : index < end)
    if (isKept) change(files, directories, operation)
  }
  return { files, directories }
}

function change(files: Map<string, number>, directories: Set<string>, { type, path, data, file }: Operation): void {
  if (type === 'mkdir') directories.add(path)
  else if (type === 'rmdir') directories.delete(path)
  else if (type === 'unlink') files.delete(path)
  else if (type === 'create') files.set(path, file)
  else if (type === 'rename') {
    const to = relativeTo(path, data.toString())
    const moved = [...files].filter(([name]) => name === path || name.startsWith(`${path}/`))
    for (const [name, moving] of moved) {
      files.delete(name)
      files.set(to + name.slice(path.length), moving)
    }
    if (directories.delete(path)) directories.add(to)
  }
}

/** The new name is recorded whole; both lie in the recorded directory. */
function relativeTo(path: string, absolute: string): string {
  const tail = absolute.split('/')
  for (let depth = 1; depth <= tail.length; depth++) {
    const candidate = tail.slice(-depth).join('/')
    if (depth === path.split('/').length) return candidate
  }
  return absolute
}

function bytesLeft(before: readonly Operation[], file: number, loss: Loss, random: Random): Buffer {
  const own = before.map((operation, index) => ({ operation, index })).filter(({ operation }) => operation.file === file)
  const synced = own.findLast(({ operation }) => operation.type === 'sync')?.index ?? -1
  let bytes = Buffer.alloc(0)
  const longer = (length: number): void => {
    if (bytes.length < length) bytes = Buffer.concat([bytes, Buffer.alloc(length - bytes.length)])
  }
  const write = (offset: number, data: Buffer): void => {
    longer(offset + data.length)
    data.copy(bytes, offset)
  }
  for (const { operation, index } of own) {
    const { type, offset, data, isSynced } = operation
    const isDurable = index <= synced || isSynced || loss === 'nothing'
    if (type === 'truncate' && (isDurable || random.next() < 0.5)) {
      longer(offset)
      bytes = Buffer.from(bytes.subarray(0, offset))
    }
    if (type !== 'write') continue
    if (isDurable) write(offset, data)
    else if (loss !== 'unsynced') writeInPart(offset, data, loss, random, write, longer)
  }
  return bytes
}

function writeInPart(
  offset: number, data: Buffer, loss: Loss, random: Random, write: (offset: number, data: Buffer) => void, longer: (length: number) => void,
): void {
  const fate = random.below(loss === 'torn' ? 5 : 2)
  if (fate === 0) return
  if (fate === 1) return write(offset, data)
  if (fate === 2) return longer(offset + data.length)
  const grain = fate === 3 ? 512 : 4096
  for (let at = 0; at < data.length; at += grain) {
    if (random.next() < 0.5) write(offset + at, data.subarray(at, at + grain))
  }
}
