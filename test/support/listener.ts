/**
 * A server of a test's own that says whatever it likes: `await using server = await listen(0, (socket) => …)`.
 *
 * Gone with its connections when the test is over, however it ends: one that stayed would keep the test process alive.
 */
import net from 'node:net'

import { PATIENCE_MS } from './deadline.ts'

export interface Listener extends AsyncDisposable {
  readonly port: number
}

/** A port that was left for a moment may be somebody's local end of a connection meanwhile: it is asked for until it is free. */
export async function listenAgain(server: net.Server, port: number, host = '127.0.0.1'): Promise<void> {
  const deadlineMs = performance.now() + PATIENCE_MS
  for (;;) {
    const error = await new Promise<NodeJS.ErrnoException | undefined>((resolve) => {
      server.once('error', resolve)
      server.listen(port, host, () => {
        server.off('error', resolve)
        resolve(undefined)
      })
    })
    if (error === undefined) return
    if (error.code !== 'EADDRINUSE' || performance.now() > deadlineMs) throw error
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** @param at a port, 0 for a free one; or the path of a socket */
export async function listen(at: number | string, onConnection: (socket: net.Socket) => void, host = '127.0.0.1'): Promise<Listener> {
  const sockets = new Set<net.Socket>()
  const server = net.createServer((socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
    onConnection(socket)
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(typeof at === 'string' ? { path: at } : { port: at, host }, resolve)
  })
  const address = server.address()
  return {
    port: address === null || typeof address === 'string' ? 0 : address.port,
    [Symbol.asyncDispose]: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}
