/**
 * The body of a response: bytes go to the player as they come, and what its socket does not take yet is not read either.
 */

import type { ServerResponse } from 'node:http'

import type { Range } from '../bytes/ranges.ts'

/** One read of the store; two are in flight. 1 MiB took 0.5 CPU s/GB, 64 KiB 1.4 (measured on loopback). */
export const READ_BYTES = 1024 * 1024

/** Reads from `position` on; into what `target` gives, unless the bytes are in memory anyway. */
export type ReadBytes = (position: number, maxBytes: number, target: () => Buffer) => Promise<Buffer>

export interface RangeParts {
  readonly response: ServerResponse
  readonly range: Range
  readonly buffers: ReadBuffers
  readonly read: ReadBytes
  readonly signal: AbortSignal
  /** The first bytes are there: the head can be written. */
  readonly onFirst: () => void
  readonly onSent: (lengthBytes: number) => void
}

/** Two buffers in turn: one is read into while the other one is on its way to the socket. */
export async function sendRange({ response, range, buffers, read, signal, onFirst, onSent }: RangeParts): Promise<void> {
  const slots = [new Slot(response, buffers), new Slot(response, buffers)]
  let position = range.start
  for (let turn = 0; position < range.end; turn++) {
    const slot = slots[turn % 2]!
    await slot.isFree
    signal.throwIfAborted()
    const bytes = await read(position, Math.min(READ_BYTES, range.end - position), () => slot.buffer)
    if (turn === 0) onFirst()
    slot.write(bytes)
    onSent(bytes.length)
    position += bytes.length
  }
  await Promise.all(slots.map((slot) => slot.isFree))
  if (!response.destroyed) for (const slot of slots) slot.giveBack()
}

/** Resolves when the socket has taken the bytes, or is closed. */
export async function sendPiece(response: ServerResponse, bytes: Buffer): Promise<void> {
  await new Promise<void>((resolve) => response.write(bytes, () => resolve()))
}

/** More are seldom in use at the same time; 8 MiB. */
const MAX_IDLE_BUFFERS = 8

/**
 * The buffers of all responses, used again: made anew for each request they had the whole heap collected every 0.4 s at 320
 * requests a second, for 3 to 10 ms.
 */
export class ReadBuffers {
  readonly #idle: Buffer[] = []

  take(): Buffer {
    return this.#idle.pop() ?? Buffer.allocUnsafeSlow(READ_BYTES)
  }

  /** Nobody reads from it or writes to it any more. */
  giveBack(buffer: Buffer): void {
    if (this.#idle.length < MAX_IDLE_BUFFERS) this.#idle.push(buffer)
  }
}

/** A buffer that may be filled again when the socket has taken what it held. */
class Slot {
  #buffer: Buffer | undefined
  readonly #response: ServerResponse
  readonly #buffers: ReadBuffers
  /** Resolves when the socket has taken the last write, or is closed. */
  isFree: Promise<void> = Promise.resolve()

  constructor(response: ServerResponse, buffers: ReadBuffers) {
    this.#response = response
    this.#buffers = buffers
  }

  get buffer(): Buffer {
    return (this.#buffer ??= this.#buffers.take())
  }

  write(bytes: Buffer): void {
    this.isFree = sendPiece(this.#response, bytes)
  }

  /** Only where the socket has taken all: of one that is closed it is not known. */
  giveBack(): void {
    if (this.#buffer !== undefined) this.#buffers.giveBack(this.#buffer)
    this.#buffer = undefined
  }
}
