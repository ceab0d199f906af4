/**
 * The control socket: listens, private to its user, and makes a ControlConnection of each client.
 */

import { lstat, rm } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'

import { SeekCacheError } from '../errors.ts'
import { ControlConnection, type ControlParts } from './connection.ts'

/** sockaddr_un.sun_path with its final NUL: 108 on Linux, 104 on macOS. */
const MAX_SOCKET_PATH_BYTES = process.platform === 'linux' ? 107 : 103

/** Every player, script and command line of a user has one. */
const MAX_CONNECTIONS = 256

export class ControlServer {
  readonly #server: Server
  readonly #connections = new Set<ControlConnection>()

  constructor(parts: ControlParts, onActivity: (delta: 1 | -1) => void) {
    this.#server = createServer((socket) => {
      const connection = new ControlConnection(socket, parts)
      this.#connections.add(connection)
      onActivity(1)
      socket.on('close', () => {
        this.#connections.delete(connection)
        onActivity(-1)
      })
    })
    this.#server.maxConnections = MAX_CONNECTIONS
  }

  get sessionCount(): number {
    let count = 0
    for (const connection of this.#connections) count += connection.sessionCount
    return count
  }

  /** @throws ERR_SEEKCACHE_USAGE where the path is too long or another host's */
  async listen(path: string): Promise<void> {
    checkSocketPath(path)
    await removeStaleSocket(path)
    const isListening = new Promise<void>((resolve, reject) => {
      this.#server.once('listening', resolve).once('error', reject)
    })
    const umask = process.umask(0o177)
    this.#server.listen(path) // binds in this very turn
    process.umask(umask)
    await isListening.catch((cause: Error) => {
      throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `cannot listen on ${path} (${cause.message}): choose another with --socket`, { cause })
    })
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const connection of this.#connections) connection.close()
    await closed
  }
}

export function checkSocketPath(path: string): void {
  if (Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES) return
  throw new SeekCacheError(
    'ERR_SEEKCACHE_USAGE',
    `the socket path is longer than the system's ${MAX_SOCKET_PATH_BYTES} bytes: choose a shorter one with --socket (${path})`,
  )
}

/** A socket that nobody listens on is left over from a host that died. What is no socket is not ours to remove. */
async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined)
  if (found === undefined) return
  if (!found.isSocket()) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `${path} is no socket: remove it, or choose another with --socket`)
  const problem = await new Promise<string | undefined>((resolve) => {
    const probe = connect(path, () => {
      probe.destroy()
      resolve(undefined)
    })
    probe.on('error', (error: NodeJS.ErrnoException) => resolve(error.code))
  })
  // Anything else, a full backlog say, is somebody who is there.
  if (problem !== 'ECONNREFUSED') throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `the socket ${path} is another host's: choose another with --socket`)
  await rm(path, { force: true })
}
