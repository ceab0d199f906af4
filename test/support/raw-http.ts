/**
 * HTTP as no library would send it: bytes on a socket, and what comes back of them.
 */
import net from 'node:net'

import { within } from './deadline.ts'

export interface RawConnection extends Disposable {
  readonly socket: net.Socket
  /** What has come so far, a character a byte. */
  readonly received: string
  write(text: string): void
  /** Resolves with all that came when the peer has closed, in whatever way. */
  closed(limitMs?: number): Promise<string>
  /** Resolves when what came fulfils the condition; fails where the peer closes before. */
  until(condition: (received: string) => boolean): Promise<string>
}

export async function connectRaw(port: number): Promise<RawConnection> {
  const socket = net.connect({ port, host: '127.0.0.1' })
  let received = ''
  const watchers = new Set<() => void>()
  const happened = (): void => {
    for (const watcher of [...watchers]) watcher()
  }
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.setEncoding('latin1').on('data', (text: string) => {
    received += text
    happened()
  })
  await within('a connection', new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject)))
  socket.on('error', () => {}) // 'close' follows
  return {
    socket,
    get received() {
      return received
    },
    write: (text) => void socket.write(text, 'latin1'),
    closed: async (limitMs) => {
      await within('the end of a connection', closed, limitMs)
      return received
    },
    until: async (condition) => {
      const met = new Promise<void>((resolve, reject) => {
        const watcher = (): void => {
          if (condition(received)) resolve()
        }
        watchers.add(watcher)
        void closed.then(() => reject(new Error(`the connection was closed after "${received.slice(0, 200)}"`)))
        watcher()
      })
      await within('an answer', met)
      return received
    },
    [Symbol.dispose]: () => socket.destroy(),
  }
}

/** Sends it all at once, and all that comes until the peer closes. */
export async function exchange(port: number, text: string): Promise<string> {
  using connection = await connectRaw(port)
  connection.write(text)
  return await connection.closed()
}

export function statusesOf(received: string): number[] {
  return [...received.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => Number(match[1]))
}
