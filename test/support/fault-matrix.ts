/**
 * The fault matrix: each case of `fault-cases.ts` at the head, in the middle and at the tail of a file; cold, partly cached, and
 * partly cached after a restart of the host; through the proxy, the Node API and the GStreamer element.
 *
 * Cells share hosts and run many at a time; each has an origin of its own. Before its fault begins a warm cell has read the
 * first half of its region, the second half being held back at the origin. A cell counts only if its fault was met.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'

import { connect, SeekCacheError } from 'seekcache'
import { within } from './deadline.ts'
import type { Content } from './content.ts'
import { ElementReader } from './element-reader.ts'
import {
  CONTENT, FACES, FAULT_CASES, REGIONS, SIZE_BYTES, STATES, type Face, type Failure, type FaultCase, type Outcome, type Region, type State,
} from './fault-cases.ts'
import { Cell, HOST_NAMES, type HostName } from './fault-cell.ts'
import { startHost, type TestHost } from './host.ts'
import { tempDir } from './temp-dir.ts'
import { makeCertificates } from './tls-front.ts'

type Cache = Awaited<ReturnType<typeof connect>>

/** Cells of a part at the same time. Those that wait for a deadline do little else. */
const CONCURRENCY = { patient: 8, brief: 36, silent: 12 } as const
const CELL_LIMIT_MS = 90_000
/**
 * Hosts whose clients wait long, for what must recover, and short, for what is tried until the deadline. Where each try is
 * answered no silence is minded: an answer that is late on a busy machine would pass for what the origin does wrong. Short is
 * longer than a busy machine stands still (4 s were not); many wait at a time instead.
 */
const HOSTS = {
  patient: { waitSeconds: 30, args: ['--stall', '0.4', '--first-byte', '0.8', '--revalidate', '2'] },
  brief: { waitSeconds: 12, args: ['--stall', '30', '--revalidate', '2'] },
  silent: { waitSeconds: 8, args: ['--stall', '0.3', '--first-byte', '0.5', '--revalidate', '0.3'] },
} as const

/** A pull gives whole blocks of 16 KiB or an error: so much of the cached half must come at least. */
const CACHED_BYTES = 60_000
const MAX_OPENINGS_AFTER_CHANGE = 4

/** GST_RESOURCE_ERROR_*. */
const GST_CODES = { NOT_FOUND: 3, OPEN_READ: 5, READ: 9, NOT_AUTHORIZED: 15 } as const

export interface MatrixResult {
  readonly cells: number
  readonly byFace: Readonly<Record<Face, number>>
  readonly byOutcome: Readonly<Record<Outcome['kind'], number>>
  readonly faults: number
  /** What went wrong, a line a cell. */
  readonly problems: readonly string[]
}

/** What a reader got: how much, its hash, and how it ended. */
interface Got {
  readonly count: number
  readonly sha256: string
  /** undefined: all that was asked for came. */
  readonly error: undefined | 'cut' | {
    readonly code: string
    readonly message: string
    readonly status?: number
    readonly httpStatus?: number
    readonly retryAfterSeconds?: number
    readonly gst?: { readonly phase: 'open' | 'read'; readonly code: number; readonly domain: string }
  }
}

export type Choice = (cell: { readonly fault: FaultCase; readonly faultIndex: number; readonly state: State; readonly face: Face }) => boolean

/** A host that has met hundreds of origins gets slower, and uses one core: each of so many parts of the faults has hosts of its own. */
const PARTS = 2

export async function runFaultMatrix(isChosen: Choice = () => true): Promise<MatrixResult> {
  const cells = cellsOf(isChosen)
  const faults = [...new Set(cells.map(({ fault }) => fault))]
  // Those of one kind stand together in the table, and wait alike: each part gets some of each.
  const parts = Array.from({ length: PARTS }, async (_, part) => {
    await using matrix = new Matrix(cells.filter(({ fault }) => faults.indexOf(fault) % PARTS === part))
    return await matrix.run()
  })
  const problems = (await Promise.all(parts)).flat()
  return {
    cells: cells.length,
    byFace: countBy(cells, ({ face }) => face),
    byOutcome: countBy(cells, ({ outcome }) => outcome.kind),
    faults: faults.length,
    problems,
  }
}

function cellsOf(isChosen: Choice): readonly Cell[] {
  const all = FAULT_CASES.flatMap((fault, faultIndex) =>
    (Object.keys(REGIONS) as Region[]).flatMap((region) => STATES.flatMap((state) => FACES.map((face) => ({ fault, faultIndex, region, state, face })))),
  )
  return all.filter(isChosen).map(({ fault, region, state, face }, index) => new Cell(fault, region, state, face, index))
}

async function forEach<T>(make: (name: HostName) => Promise<T>): Promise<Record<HostName, T>> {
  const [patient, brief, silent] = await Promise.all([make('patient'), make('brief'), make('silent')])
  return { patient, brief, silent }
}

function countBy<K extends string>(cells: readonly Cell[], keyOf: (cell: Cell) => K): Record<K, number> {
  const counts = {} as Record<K, number>
  for (const cell of cells) counts[keyOf(cell)] = (counts[keyOf(cell)] ?? 0) + 1
  return counts
}

class Matrix implements AsyncDisposable {
  readonly #owned: AsyncDisposable[] = []
  readonly #cells: readonly Cell[]
  readonly #problems: string[] = []
  #elements!: ElementReader
  #hosts!: Record<HostName, TestHost>
  #caches!: Record<HostName, Cache>

  constructor(cells: readonly Cell[]) {
    this.#cells = cells
  }

  #own<T extends AsyncDisposable>(owned: T): T {
    this.#owned.push(owned)
    return owned
  }

  /** @returns what went wrong, a line a cell */
  async run(): Promise<readonly string[]> {
    await this.#start()
    const early = this.#cells.filter(({ state }) => state !== 'restarted')
    const late = this.#cells.filter(({ state }) => state === 'restarted')
    await this.#forAll(this.#cells.filter(({ state }) => state !== 'cold'), (cell) => this.#prepare(cell))
    await this.#forAll(early, (cell) => this.#check(cell))
    await this.#restart()
    await this.#forAll(late, (cell) => this.#check(cell))
    return this.#problems
  }

  async #start(): Promise<void> {
    const dir = this.#own(await tempDir())
    const certificates = await makeCertificates(dir)
    await Promise.all(this.#cells.map(async (cell) => this.#own(await cell.startServer(certificates))))
    const env = { NODE_EXTRA_CA_CERTS: certificates.authorityFile }
    const start = async (name: HostName): Promise<TestHost> => {
      const wait = String(HOSTS[name].waitSeconds)
      return this.#own(await startHost({ args: ['--wait', wait, '--body-wait', wait, ...HOSTS[name].args, '--log-level', 'error'], env }))
    }
    this.#hosts = await forEach(start)
    this.#elements = this.#own(new ElementReader())
    await this.#connect()
  }

  async #connect(): Promise<void> {
    const to = async ({ cacheDir, socket }: TestHost): Promise<Cache> => await connect({ cacheDir, socketPath: socket, startHost: false })
    this.#caches = await forEach((name) => to(this.#hosts[name]))
  }

  async #restart(): Promise<void> {
    for (const name of HOST_NAMES) {
      await this.#caches[name].close()
      await this.#hosts[name].restart()
    }
    await this.#connect()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const cache of Object.values(this.#caches ?? {})) await cache.close()
    for (const owned of this.#owned.reverse()) await owned[Symbol.asyncDispose]()
  }

  async #forAll(cells: readonly Cell[], action: (cell: Cell) => Promise<void>): Promise<void> {
    const work = async (queue: Cell[]): Promise<void> => {
      for (let cell = queue.shift(); cell !== undefined; cell = queue.shift()) {
        const { title } = cell
        await within(title, action(cell), CELL_LIMIT_MS).catch((error: Error) => {
          this.#problems.push(`${title}: ${error.message.replaceAll('\n', ' ')}`)
          console.error(this.#problems.at(-1))
        })
      }
    }
    const workers = HOST_NAMES.flatMap((name) => {
      const queue = cells.filter(({ hostName }) => hostName === name)
      return Array.from({ length: CONCURRENCY[name] }, () => work(queue))
    })
    await Promise.all(workers)
  }

  async #prepare(cell: Cell): Promise<void> {
    const { start } = cell.range
    const got = await this.#readByApi(cell, start, cell.middle, HOSTS.patient.waitSeconds)
    assert.equal(got.error, undefined, `preparing: ${JSON.stringify(got.error)}`)
    cell.dropConnections()
  }

  // ---- what must come of it

  async #check(cell: Cell): Promise<void> {
    try {
      await this.#checkOutcome(cell)
    } finally {
      cell.dropConnections()
    }
  }

  async #checkOutcome(cell: Cell): Promise<void> {
    await cell.beginFault()
    if (cell.outcome.kind === 'streams') await this.#checkStream(cell)
    else if (cell.outcome.kind === 'fails') await this.#checkFailure(cell, cell.outcome)
    else if (cell.outcome.kind === 'changes') await this.#checkChange(cell, cell.outcome.to)
    else {
      const got = await this.#read(cell, cell.range.start, cell.range.end)
      assert.equal(got.error, undefined, `${got.count} bytes, then ${JSON.stringify(got.error)}`)
      assertBytes(got, CONTENT, cell.range.start, cell.range.end)
    }
    if (cell.fault.server === undefined && cell.fault.http2?.settings === undefined) assert.ok(cell.hits > 0, 'the fault was not met')
  }

  async #checkStream(cell: Cell): Promise<void> {
    const got = await this.#read(cell, 0, SIZE_BYTES)
    assert.equal(got.error, undefined, JSON.stringify(got.error))
    assertBytes(got, CONTENT, 0, SIZE_BYTES)
  }

  async #checkFailure(cell: Cell, failure: Failure): Promise<void> {
    const { start, end } = cell.range
    let got = await this.#read(cell, start, end)
    assertPrefix(got, CONTENT, start)
    assert.ok(got.error !== undefined, 'it came all, and should not')
    // What opens it anew asks for its first byte first.
    const mustPlayCached = cell.state !== 'cold' && !(failure.isFinal === true && cell.region === 'head')
    if (mustPlayCached) assert.ok(got.count >= CACHED_BYTES, `only ${got.count} bytes of what is cached came, then ${JSON.stringify(got.error)}`)
    if (got.error === 'cut') {
      // The head was out: why it broke off is told to who asks from there on.
      const at = start + got.count
      got = await this.#read(cell, at, end)
      assertPrefix(got, CONTENT, at)
    }
    const { error } = got
    assert.ok(error !== undefined && error !== 'cut', `no word on why: ${got.count} bytes, ${error}`)
    assert.match(error.code.replace('ERR_SEEKCACHE_', ''), failure.code, error.message)
    assert.match(error.message, failure.words)
    if (error.status !== undefined) assert.ok(failure.status.includes(error.status), `${error.status}: ${error.message}`)
    if (error.status !== undefined && error.status >= 502) assert.ok(error.retryAfterSeconds! > 0, 'no Retry-After')
    if (error.status !== undefined && failure.minRetryAfterSeconds !== undefined) assert.ok(error.retryAfterSeconds! >= failure.minRetryAfterSeconds, `Retry-After: ${error.retryAfterSeconds}`)
    if (error.code === 'ERR_SEEKCACHE_ORIGIN_STATUS' && cell.face !== 'proxy') assert.match(error.message, new RegExp(`\\b${error.httpStatus}\\b`))
    if (error.gst !== undefined) {
      const byPhase = error.gst.phase === 'open' ? 'OPEN_READ' : 'READ'
      const isAboutStatus = error.code === 'ERR_SEEKCACHE_ORIGIN_STATUS'
      assert.deepEqual([error.gst.domain, error.gst.code], ['gst-resource-error-quark', GST_CODES[(isAboutStatus ? failure.gst : undefined) ?? byPhase]])
    }
  }

  /** At last the new version, whole; until then what is cached of the old one, and a word. */
  async #checkChange(cell: Cell, to: Content): Promise<void> {
    const { start } = cell.range
    const end = Math.min(cell.range.end, to.sizeBytes)
    for (let opening = 1; ; opening++) {
      const got = await this.#read(cell, start, cell.range.end)
      if (got.error === undefined) return assertBytes(got, to, start, end)
      assertPrefix(got, CONTENT, start)
      if (got.error !== 'cut') {
        assert.equal(got.error.code, 'ERR_SEEKCACHE_ORIGIN_CHANGED', got.error.message)
        assert.match(got.error.message, /the file has changed at the origin/)
        if (got.error.status !== undefined) assert.equal(got.error.status, 503)
      }
      assert.ok(cell.state === 'warm', `an opening after a restart met the old version: ${JSON.stringify(got.error)}`)
      assert.ok(opening < MAX_OPENINGS_AFTER_CHANGE, 'the old version again and again')
    }
  }

  // ---- faces

  async #read(cell: Cell, start: number, end: number): Promise<Got> {
    if (cell.face === 'proxy') return await this.#readByProxy(cell, start, end)
    if (cell.face === 'api') return await this.#readByApi(cell, start, end)
    return await this.#readByElement(cell, start, end)
  }

  async #readByProxy(cell: Cell, start: number, end: number): Promise<Got> {
    const isStream = cell.outcome.kind === 'streams'
    const range: Record<string, string> = isStream ? {} : { range: `bytes=${start}-${end - 1}` }
    const response = await fetch(this.#hosts[cell.hostName].proxyUrl(cell.url), { headers: range })
    if (response.status !== (isStream ? 200 : 206)) return { ...hashed([]), error: await problemOf(response) }
    const told = response.headers.get('content-range')
    if (!isStream) assert.match(told ?? '', new RegExp(`^bytes ${start}-\\d+/\\d+$`))
    const parts: Uint8Array[] = []
    try {
      for await (const bytes of response.body!) parts.push(bytes as Uint8Array)
    } catch {
      return { ...hashed(parts), error: 'cut' }
    }
    const got = hashed(parts)
    if (!isStream) assert.equal(got.count, Number(/-(\d+)\//.exec(told!)![1]) + 1 - start, 'a promised length was shortened')
    return { ...got, error: undefined }
  }

  async #readByApi(cell: Cell, start: number, end: number, waitSeconds: number = HOSTS[cell.hostName].waitSeconds): Promise<Got> {
    const deadlineMs = waitSeconds * 1000
    const parts: Buffer[] = []
    try {
      await using media = await this.#caches[cell.hostName].open(cell.url, { deadlineMs })
      for await (const bytes of media.read(start, end, { deadlineMs })) parts.push(bytes)
      return { ...hashed(parts), error: undefined }
    } catch (error) {
      if (!(error instanceof SeekCacheError)) throw error
      const { code, message, httpStatus } = error
      return { ...hashed(parts), error: { code, message, ...(httpStatus === undefined ? {} : { httpStatus }) } }
    }
  }

  /** Pushed from byte 0 on where that is asked for, pulled otherwise. */
  async #readByElement(cell: Cell, start: number, end: number): Promise<Got> {
    const { socket } = this.#hosts[cell.hostName]
    const mode = start === 0 ? 'push' : 'pull'
    const timeoutSeconds = HOSTS[cell.hostName].waitSeconds
    const { bytes, sha256, error } = await this.#elements.read({ mode, socket, timeoutSeconds, url: cell.url, start, end })
    if (error === null) return { count: bytes, sha256, error: undefined }
    const { code, message, httpStatus, phase, gstCode, domain } = error
    return { count: bytes, sha256, error: { code, message, httpStatus, gst: { phase, code: gstCode, domain } } }
  }
}

async function problemOf(response: Response): Promise<Got['error']> {
  const { code, detail, status } = (await response.json()) as { code: string; detail: string; status: number }
  assert.deepEqual([response.headers.get('content-type'), status], ['application/problem+json', response.status])
  return { code, message: detail, status, retryAfterSeconds: Number(response.headers.get('retry-after') ?? 0) }
}

function hashed(parts: readonly Uint8Array[]): { count: number; sha256: string } {
  const hash = createHash('sha256')
  let count = 0
  for (const part of parts) {
    hash.update(part)
    count += part.length
  }
  return { count, sha256: hash.digest('hex') }
}

function assertBytes(got: Got, content: Content, start: number, end: number): void {
  assert.equal(got.count, end - start, 'how many bytes came')
  assertPrefix(got, content, start)
}

function assertPrefix({ count, sha256 }: Got, content: Content, start: number): void {
  assert.ok(start + count <= content.sizeBytes, 'more bytes than there are')
  assert.equal(sha256, hashed([content.read(start, start + count)]).sha256, `WRONG BYTES among the ${count} from ${start} on`)
}
