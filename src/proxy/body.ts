/**
 * The body of a response: bytes go to the player as they come, and what its socket does not take yet is not read either.
 */

import type { ServerResponse } from 'node:http'

import type { Range } from '../bytes/ranges.ts'

/** One read of the store; two are in flight. 1 MiB took 0.5 CPU s/GB, 64 KiB 1.4 (measured on loopback). */
export const READ_BYTES = 1024 * 1024
/**
 * The first ones are short, what a player needs for its first picture: of a cached file the first 256 KiB were there in 2.4 ms
 * with them, in 3.7 with one short read before the long ones (from the connection's begin, nginx: 1.2).
 */
const SHORT_READ_BYTES = 128 * 1024
const SHORT_READS = 4
/**
 * Then it is given so long to leave: it opens a film by two or three requests that it leaves when it has seen a header or the
 * index, and what the sockets take of them beyond is copied for nothing, on the processors that prepare the picture. mpv had it
 * after 41 ms where it had been 45 (MP4), after 32 for 33 (Matroska; medians of 50 on two cores, nginx: 39 and 28).
 */
export const LEAVING_MS = 3

/** Reads from `position` on; into what `target` gives, unless the bytes are in memory anyway, and not any more when it has ended. */
export type ReadBytes = (position: number, maxBytes: number, target: () => Buffer) => Promise<Buffer>

export interface RangeParts {
  readonly response: ServerResponse
  readonly range: Range
  readonly buffers: ReadBuffers
  readonly read: ReadBytes
  readonly signal: AbortSignal
  /** Called once, when so much has been read that who wanted a header or the index has it; ends after `LEAVING_MS`, or with the signal. */
  readonly untilStaying: () => Promise<void>
  /** The first bytes are there: the head can be written. */
  readonly onFirst: () => void
  readonly onSent: (lengthBytes: number) => void
}

/**
 * Two buffers in turn: one is read into while the other one is on its way to the socket. Where a read fails, what had been
 * read has gone out: a response that is destroyed drops the rest, its head too. Nearly every response of a player is, for it
 * asks for more than it takes; its buffers go back as well, for its socket's descriptor is closed and nothing more is sent from
 * them.
 */
export async function sendRange({ response, range, buffers, read, signal, untilStaying, onFirst, onSent }: RangeParts): Promise<void> {
  const short = [new Slot(response, buffers.short), new Slot(response, buffers.short)]
  const long = [new Slot(response, buffers.long), new Slot(response, buffers.long)]
  const slots = [...short, ...long]
  let position = range.start
  let isStaying = false
  try {
    for (let turn = 0; position < range.end; turn++) {
      if (!isStaying && position - range.start >= SHORT_READS * SHORT_READ_BYTES) {
        await untilStaying()
        isStaying = true
      }
      const slot = (turn < SHORT_READS ? short : long)[turn % 2]!
      await slot.isFree
      signal.throwIfAborted()
      const bytes = await read(position, Math.min(slot.sizeBytes, range.end - position), () => slot.buffer)
      if (turn === 0) onFirst()
      slot.write(bytes)
      onSent(bytes.length)
      position += bytes.length
    }
  } finally {
    await Promise.all(slots.map((slot) => slot.isFree))
    for (const slot of slots) slot.giveBack()
  }
}

/** Resolves when the socket has taken the bytes, or is closed. */
export async function sendPiece(response: ServerResponse, bytes: Buffer): Promise<void> {
  await new Promise<void>((resolve) => response.write(bytes, () => resolve()))
}

/** Of each size; more are seldom in use at the same time. */
const MAX_IDLE_BYTES = 8 * 1024 * 1024

/**
 * The buffers of all responses, used again: made anew for each request they had the whole heap collected every 0.4 s at 320
 * requests a second, and at every second film that a player opened, for 3 to 10 ms.
 */
export class ReadBuffers {
  readonly short = new BufferPool(SHORT_READ_BYTES)
  readonly long = new BufferPool(READ_BYTES)
}

class BufferPool {
  readonly sizeBytes: number
  readonly #idle: Buffer[] = []

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes
  }

  take(): Buffer {
    return this.#idle.pop() ?? Buffer.allocUnsafeSlow(this.sizeBytes)
  }

  /** Nobody reads from it or writes to it any more. */
  giveBack(buffer: Buffer): void {
    if (this.#idle.length < MAX_IDLE_BYTES / this.sizeBytes) this.#idle.push(buffer)
  }
}

/** A buffer that may be filled again when the socket has taken what it held. */
class Slot {
  #buffer: Buffer | undefined
  readonly #response: ServerResponse
  readonly #buffers: BufferPool
  /** Resolves when the socket has taken the last write, or is closed. */
  isFree: Promise<void> = Promise.resolve()

  constructor(response: ServerResponse, buffers: BufferPool) {
    this.#response = response
    this.#buffers = buffers
  }

  get sizeBytes(): number {
    return this.#buffers.sizeBytes
  }

  get buffer(): Buffer {
    return (this.#buffer ??= this.#buffers.take())
  }

  /** At once: node:http would hold it back until this turn's work is done, and the next read is part of that. */
  write(bytes: Buffer): void {
    const { socket } = this.#response
    socket?.cork()
    this.isFree = sendPiece(this.#response, bytes)
    socket?.uncork()
  }

  /** When the socket has taken all, or is destroyed. */
  giveBack(): void {
    if (this.#buffer !== undefined) this.#buffers.giveBack(this.#buffer)
    this.#buffer = undefined
  }
}
