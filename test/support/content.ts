/**
 * What a test origin serves: bytes that can be read anywhere, from memory, from a file or made up.
 *
 * `patternContent` is a film of any size that needs no memory: each byte follows from its position and a seed, so a test
 * can check any answer, and two seeds are two versions of one size that differ everywhere.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs'

export interface Content {
  readonly sizeBytes: number
  /** The bytes of `[start, end)`. */
  read(start: number, end: number): Buffer
}

export function bufferContent(bytes: Uint8Array): Content {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return { sizeBytes: buffer.length, read: (start, end) => buffer.subarray(start, end) }
}

export function fileContent(file: string): Content {
  const sizeBytes = statSync(file).size
  return {
    sizeBytes,
    read: (start, end) => {
      const bytes = Buffer.alloc(end - start)
      const handle = openSync(file, 'r')
      try {
        readSync(handle, bytes, 0, bytes.length, start)
      } finally {
        closeSync(handle)
      }
      return bytes
    },
  }
}

export function patternContent(sizeBytes: number, seed = 1): Content {
  return { sizeBytes, read: (start, end) => patternBytes(start, end, seed) }
}

/** Bytes `[start, end)` of the pattern: every four of them are a hash of their position and the seed. */
export function patternBytes(start: number, end: number, seed = 1): Buffer {
  const firstWord = Math.floor(start / 4)
  const words = new Uint32Array(Math.ceil(end / 4) - firstWord)
  for (let i = 0; i < words.length; i++) words[i] = mixed(firstWord + i, seed)
  const skip = start - firstWord * 4
  return Buffer.from(words.buffer, skip, end - start)
}

function mixed(word: number, seed: number): number {
  let x = Math.imul(word ^ Math.imul(seed, 0x9e3779b1), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}
