/**
 * The proxy's connections, bounded so that the process never runs out of descriptors for extent files and origins.
 *
 * When one more comes than there may be, the oldest of those that have never sent a request makes way: strangers that
 * connect and say nothing lose their connections to each other. A player is let in, and keeps its connection between two
 * requests; one whose request is refused is closed, so no stranger gets that far.
 */

import { readFileSync } from 'node:fs'
import type { Socket } from 'node:net'

/** Above a listening socket's backlog (511): who was just accepted is not put out by one burst before it could speak. */
const MAX_CONNECTIONS = 1024
/** Extent files, the index, control clients, origins. */
const OTHER_DESCRIPTORS = 512
const MIN_CONNECTIONS = 64

/** How many connections a process with so many descriptors can afford. */
export function maxConnections(descriptorLimit: number): number {
  return Math.max(MIN_CONNECTIONS, Math.min(MAX_CONNECTIONS, Math.floor(descriptorLimit - OTHER_DESCRIPTORS)))
}

/** Node has raised the soft limit to the hard one at its start. Where /proc is not there, the limit is far above our need. */
export function descriptorLimit(): number {
  try {
    const limit = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
    return limit === null ? Number.POSITIVE_INFINITY : Number(limit[1])
  } catch {
    return Number.POSITIVE_INFINITY
  }
}

export class Connections {
  readonly #limit: number
  /** Have had no request yet, the oldest first. */
  readonly #silent = new Set<Socket>()
  /** How many requests have come and not ended; 0 for one that a player keeps for its next one. */
  readonly #used = new Map<Socket, number>()

  constructor(limit: number) {
    this.#limit = limit
  }

  /** A new connection; it, or an older one, may be closed at once. */
  add(socket: Socket): void {
    socket.once('close', () => {
      this.#silent.delete(socket)
      this.#used.delete(socket)
    })
    this.#silent.add(socket)
    if (this.#silent.size + this.#used.size <= this.#limit) return
    const [oldest] = this.#silent
    this.#silent.delete(oldest!)
    oldest!.destroy()
  }

  /** @returns how many requests of the connection are now under way */
  begin(socket: Socket): number {
    if (socket.destroyed) return 0
    const count = (this.#used.get(socket) ?? 0) + 1
    this.#silent.delete(socket)
    this.#used.set(socket, count)
    return count
  }

  end(socket: Socket): void {
    const count = this.#used.get(socket)
    if (count !== undefined) this.#used.set(socket, count - 1)
  }
}
