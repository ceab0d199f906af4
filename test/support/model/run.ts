/** Concurrent readers through the proxy, the Node API and the library itself, while the world changes under them. */
import assert from 'node:assert/strict'
import { Agent, request } from 'undici'

import { connect, type RemoteMedia } from 'seekcache'
import { layoutOf, prepareLayout } from '../../../src/cache/layout.ts'
import { Store } from '../../../src/cache/store.ts'
import { MediaLibrary } from '../../../src/media.ts'
import { Renewals } from '../../../src/origin/renewals.ts'
import { Transport } from '../../../src/origin/transport.ts'
import { createLogger, Telemetry } from '../../../src/telemetry.ts'
import { patternContent } from '../content.ts'
import { startFaultOrigin } from '../fault-origin.ts'
import { startHost, type TestHost } from '../host.ts'
import { randomOf } from '../random.ts'
import { tempDir } from '../temp-dir.ts'
import { FILM_BYTES, newLife, World, type Life, type ReadBytes } from './world.ts'

const SILENT = await createLogger({ level: 'silent' })

const MIB = 1024 * 1024
const MAX_READ_BYTES = 4096
const DEADLINE_MS = 20_000
/** Less than all films: room is made all the time. */
const BUDGET_BYTES = 12 * MIB

export interface ModelOptions {
  readonly seed: number
  /** Of them, a part goes through a host process, half each by the proxy and the Node API. */
  readonly reads: number
}

const HOST_SHARE = 0.22

/** One reader's session: reads of one version. */
interface Session {
  readonly name: string
  readonly life: Life
  /** @returns all of the bytes asked for */
  read(start: number, lengthBytes: number): Promise<ReadBytes>
  readonly version: number | undefined
  close(): Promise<void>
}

type Door = (world: World, name: string) => Promise<Session>

export async function runModel({ seed, reads }: ModelOptions): Promise<string> {
  await using origin = await startFaultOrigin({ content: patternContent(1), lastModified: undefined })
  await using folder = await tempDir()
  const args = ['--max-size', String(BUDGET_BYTES), '--stall', '1', '--revalidate', '15', '--log-level', 'silent']
  await using host = await startHost({ args })
  const world = new World(origin, randomOf(seed))
  const hostDoor = new HostDoor(host)
  await using library = await LibraryDoor.open(folder.file('cache'))
  const hostReads = Math.ceil(reads * HOST_SHARE)
  const readers = [
    ...split(reads - hostReads, 8).map((count) => performReads(world, library.door, count)),
    ...split(hostReads / 2, 5).map((count) => performReads(world, hostDoor.proxy, count)),
    ...split(hostReads / 2, 5).map((count) => performReads(world, hostDoor.api, count)),
  ]
  let isDone = false
  const done = Promise.all(readers).finally(() => (isDone = true))
  const events = perform(world, hostDoor, library, () => isDone, reads)
  await Promise.all([done, events])
  await hostDoor.close()
  const { counts } = world
  return Object.entries(counts).map(([what, count]) => `${count} ${what}`).join(', ') + `, ${hostReads} of the reads through a host process`
}

function split(count: number, parts: number): number[] {
  return Array.from({ length: parts }, () => Math.ceil(count / parts))
}

// ---- what readers do

async function performReads(world: World, door: Door, count: number): Promise<void> {
  const { random } = world
  for (let done = 0; done < count; ) {
    const name = world.someFilm()
    const session = await opened(world, door, name)
    if (session === undefined) continue
    let position = random.below(FILM_BYTES - MAX_READ_BYTES)
    for (let left = 1 + random.below(300); left > 0 && done < count; left--) {
      if (random.below(10) === 0) position = random.below(FILM_BYTES - MAX_READ_BYTES)
      const lengthBytes = 1 + random.below(MAX_READ_BYTES)
      const sinceMs = performance.now()
      try {
        world.check(name, position, lengthBytes, await session.read(position, lengthBytes))
        done++
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error
        world.checkError(error, session.life, name, sinceMs, session.version)
        break
      }
      position = (position + lengthBytes) % (FILM_BYTES - MAX_READ_BYTES)
    }
    await session.close()
  }
}

async function opened(world: World, door: Door, name: string): Promise<Session | undefined> {
  try {
    return await door(world, name)
  } catch (error) {
    if (error instanceof assert.AssertionError) throw error
    const { life, sinceMs, cause } = error as FailedOpening
    world.checkError(cause, life, name, sinceMs)
    await new Promise((resolve) => setTimeout(resolve, 5)) // not as fast as it can fail
    return undefined
  }
}

class FailedOpening extends Error {
  readonly life: Life
  readonly sinceMs: number

  constructor(cause: unknown, life: Life, sinceMs: number) {
    super('an opening has failed', { cause })
    this.life = life
    this.sinceMs = sinceMs
  }
}

/** @throws FailedOpening */
async function opening<T>(world: World, life: Life, name: string, action: () => Promise<T>): Promise<T> {
  const sinceMs = performance.now()
  world.noteOpening(life, name)
  return await action().catch((error: unknown) => Promise.reject(new FailedOpening(error, life, sinceMs)))
}

// ---- what happens meanwhile

async function perform(world: World, host: HostDoor, library: LibraryDoor, isDone: () => boolean, reads: number): Promise<void> {
  const steps = 60
  for (let step = 1; step <= steps; step++) {
    while (world.counts.reads < (step * reads) / (steps + 1)) {
      if (isDone()) return
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    const { random } = world
    if (step % 4 === 1) world.setFaultShare(random.pick([0, 0, 0.05, 0.3]))
    if (step % 3 === 0) world.change()
    if (step % 5 === 0) world.counts.evictions += (await host.evict(world, world.someFilm())) + (await library.evict(world, world.someFilm()))
    if (step % 20 === 10) await host.restart(world)
    if (step % 20 === 0) await host.kill(world)
    if (step % 15 === 7) await library.restart(world)
  }
  world.setFaultShare(0)
}

class HostDoor {
  readonly #host: TestHost
  #agent = new Agent({ connections: 8 })
  #life = newLife(0)

  constructor(host: TestHost) {
    this.#host = host
  }

  /** Each request opens the film anew, in the host that runs then: a session may outlive the host that it began with. */
  readonly proxy: Door = async (world, name) => {
    const session = {
      name,
      life: this.#life,
      version: undefined,
      read: async (start: number, lengthBytes: number) => {
        const life = (session.life = this.#life)
        world.noteOpening(life, name)
        const headers = { range: `bytes=${start}-${start + lengthBytes - 1}` }
        const answer = await request(this.#host.proxyUrl(world.url(name)), { headers, dispatcher: this.#agent })
        const bytes = Buffer.from(await answer.body.arrayBuffer())
        if (answer.statusCode >= 400) throw new Error(`${answer.statusCode}: ${bytes.toString()}`)
        assert.equal(answer.statusCode, 206)
        return { bytes, version: world.versionOf(life, name, answer.headers['etag'] as string) }
      },
      close: () => Promise.resolve(),
    }
    return await Promise.resolve(session)
  }

  readonly api: Door = async (world, name) => {
    const life = this.#life
    const cache = await opening(world, life, name, () => connect({ cacheDir: this.#host.cacheDir, socketPath: this.#host.socket, startHost: false }))
    let media: RemoteMedia
    try {
      media = await opening(world, life, name, () => cache.open(world.url(name), { deadlineMs: DEADLINE_MS }))
    } catch (error) {
      await cache.close()
      throw error
    }
    const version = world.versionOf(life, name, media.validator)
    return {
      name,
      life,
      version,
      read: async (start, lengthBytes) => {
        const parts: Buffer[] = []
        for await (const bytes of media.read(start, start + lengthBytes, { deadlineMs: DEADLINE_MS })) parts.push(bytes)
        return { bytes: Buffer.concat(parts), version }
      },
      close: async () => await cache.close(),
    }
  }

  async evict(world: World, name: string): Promise<number> {
    await using cache = await connect({ cacheDir: this.#host.cacheDir, socketPath: this.#host.socket, startHost: false })
    await cache.evict(world.url(name))
    return 1
  }

  async restart(world: World): Promise<void> {
    this.#life.endedMs = performance.now()
    await this.#host.halt()
    await this.#startNext()
    world.counts.restarts++
  }

  async kill(world: World): Promise<void> {
    this.#life.endedMs = performance.now()
    await this.#host.kill9()
    await this.#startNext()
    world.counts.kills++
  }

  async #startNext(): Promise<void> {
    this.#life = newLife()
    await this.#host.restart()
    this.#life.upMs = performance.now()
  }

  async close(): Promise<void> {
    await this.#agent.close()
  }
}

/** The same without a process between: the library on a store of its own. */
class LibraryDoor implements AsyncDisposable {
  readonly #dir: string
  #store: Store
  #transport: Transport
  #library: MediaLibrary
  #life = newLife(0)

  static async open(dir: string): Promise<LibraryDoor> {
    return new LibraryDoor(dir, await openStore(dir))
  }

  private constructor(dir: string, store: Store) {
    this.#dir = dir
    this.#store = store
    this.#transport = new Transport({ maxConnectionsPerOrigin: 8 })
    this.#library = libraryOn(store, this.#transport)
  }

  readonly door: Door = async (world, name) => {
    const life = this.#life
    const library = this.#library
    const sinceMs = performance.now()
    const spec = { url: world.url(name), headers: [] }
    const media = await opening(world, life, name, () => library.open(spec, DEADLINE_MS))
    if (media.kind !== 'cached') {
      library.release(media)
      throw new FailedOpening(new Error('its size is not told'), life, sinceMs) // as chunked, in one piece
    }
    const version = world.versionOf(life, name, media.record.etag)
    const reader = media.scheduler.openReader('play', 0)
    return {
      name,
      life,
      version,
      read: async (start, lengthBytes) => {
        const parts: Buffer[] = []
        for (let position = start; position < start + lengthBytes; ) {
          const bytes = await reader.read(position, start + lengthBytes - position, { deadlineMs: DEADLINE_MS })
          parts.push(bytes)
          position += bytes.length
        }
        return { bytes: Buffer.concat(parts), version }
      },
      close: async () => {
        reader.close()
        library.release(media)
        return await Promise.resolve()
      },
    }
  }

  async evict(world: World, name: string): Promise<number> {
    await this.#library.evict({ url: world.url(name), headers: [] })
    return 1
  }

  async restart(world: World): Promise<void> {
    this.#life.endedMs = performance.now()
    await this.#close()
    this.#store = await openStore(this.#dir)
    this.#transport = new Transport({ maxConnectionsPerOrigin: 8 })
    this.#library = libraryOn(this.#store, this.#transport)
    this.#life = newLife(performance.now())
    world.counts.restarts++
  }

  async #close(): Promise<void> {
    await this.#library.close()
    await this.#transport.close()
    await this.#store.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close()
  }
}

async function openStore(dir: string): Promise<Store> {
  await prepareLayout(layoutOf(dir))
  return await Store.open({ dir, maxSizeBytes: BUDGET_BYTES, reserveFreeBytes: 0, checkedShare: 1 / 64, syncData: false })
}

function libraryOn(store: Store, transport: Transport): MediaLibrary {
  const telemetry = new Telemetry(SILENT)
  return new MediaLibrary({
    store,
    transport,
    telemetry,
    limits: { maxFetches: 8, initialWindowBytes: 256 * 1024, maxWindowBytes: MIB, stall: { firstByteMs: 5_000, betweenBytesMs: 1_000 } },
    userAgent: 'seekcache-model',
    revalidateMs: 15_000,
    fill: false,
    renewals: new Renewals(telemetry, undefined),
    keyRules: { ignoredParameters: [], sharesCredentials: false },
  })
}
