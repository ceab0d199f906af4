/** The bytes of a simulated film: a function of the position, without a copy. */
import { patternBytes } from '../content.ts'

/** A prime, so that bytes that are off by any round number are other bytes. */
const PERIOD_BYTES = 1_048_583
export const MAX_SLICE_BYTES = 256 * 1024

const PATTERN = patternBytes(0, PERIOD_BYTES + MAX_SLICE_BYTES).map((byte, at, all) => (at < PERIOD_BYTES ? byte : all[at - PERIOD_BYTES]!))
const BYTES = Buffer.from(PATTERN.buffer, PATTERN.byteOffset, PATTERN.length)

/** Bytes `[start, end)`, at most `MAX_SLICE_BYTES` of them. */
export function contentBytes(start: number, end: number): Buffer {
  const at = start % PERIOD_BYTES
  return BYTES.subarray(at, at + end - start)
}
