/**
 * Opens the index of a cache directory, whatever has happened to it.
 *
 * A host that leaves writes down the checksum of LMDB's file, so that the next one knows it as it was left. After a kill in
 * the same boot the file is what the kernel holds, and is taken as it is where it is whole. In every other case (another boot,
 * a file that is not the one that was left or lacks its end, an index whose last opening ended in a crash) another process
 * reads it first. If that finds anything wrong, the index is set aside, and a new one is begun with what could be read.
 */

import { fork } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { crc32 } from 'node:zlib'

import { SeekCacheError } from '../errors.ts'
import { IndexDb, type IndexContent } from './index-db.ts'
import { IndexUnreadable } from './index-file.ts'
import type { Examined } from './index-examiner.ts'
import { isCut } from './index-head.ts'
import type { Layout } from './layout.ts'

/** The same path from `src` and from `dist`. */
const EXAMINER_PATH = fileURLToPath(new URL('../../dist/cache/index-examiner.js', import.meta.url))
/** Reading the index of 100 GB takes 20 ms; a damaged one may be a circle, and clients wait 15 s for a host. */
const EXAMINATION_MS = 5_000

/** How the index was left, in `index/state`. */
type IndexState =
  | { readonly state: 'opening' | 'open'; readonly bootId: string }
  | { readonly state: 'closed'; readonly crc: number }

export interface OpenedIndex {
  readonly index: IndexDb
  readonly content: IndexContent
  /** What happened, for a person; undefined where the index is as it was left. */
  readonly damage: string | undefined
}

/** @throws ERR_SEEKCACHE_CACHE_UNWRITABLE where the disk says no */
export async function openIndex(layout: Layout, bootId: string): Promise<OpenedIndex> {
  const { indexDir } = layout
  const examined = isSuspect(indexDir, bootId) ? await examine(indexDir) : undefined
  if (examined?.problem !== undefined) return await beginAnew(layout, bootId, examined.problem, examined.content)
  writeState(indexDir, { state: 'opening', bootId })
  let index: IndexDb | undefined
  try {
    index = await IndexDb.open(indexDir)
    const content = readAll(index)
    if (content.damagedRecords > 0) throw new IndexUnreadable(`${content.damagedRecords} damaged records`)
    writeState(indexDir, { state: 'open', bootId })
    return { index, content, damage: undefined }
  } catch (error) {
    await index?.close()
    if (!(error instanceof IndexUnreadable)) throw error
    const { content, problem } = await examine(indexDir)
    return await beginAnew(layout, bootId, problem ?? error.message, content)
  }
}

/** Sets the damaged index aside, and begins a new one with what could be read. */
async function beginAnew(layout: Layout, bootId: string, problem: string, saved: IndexContent): Promise<OpenedIndex> {
  const aside = setAside(layout, problem)
  const index = await IndexDb.open(layout.indexDir)
  await index.restore({ ...saved, extents: saved.extents.map(([key, record]) => [key, { ...record, bootId: '' }]) }) // only by their checksums
  writeState(layout.indexDir, { state: 'open', bootId })
  const counts = `${saved.resources.length} files and ${saved.extents.length} extents`
  const damage = `the index was damaged (${problem}): it is set aside as ${aside}, a new one begins with ${counts} that could be read`
  return { index, content: readAll(index), damage }
}

/** How it was left, for the next host. */
export async function closeIndex(layout: Layout, index: IndexDb): Promise<void> {
  await index.flush()
  if (!(await index.close())) return
  writeState(layout.indexDir, { state: 'closed', crc: crc32(readFileSync(dataFile(layout.indexDir))) })
}

function dataFile(indexDir: string): string {
  return join(indexDir, 'data.mdb')
}

function stateFile(indexDir: string): string {
  return join(indexDir, 'state')
}

function isSuspect(indexDir: string, bootId: string): boolean {
  if (!existsSync(dataFile(indexDir))) return false
  try {
    const left = JSON.parse(readFileSync(stateFile(indexDir), 'utf8')) as IndexState
    if (left.state === 'closed') return left.crc !== crc32(readFileSync(dataFile(indexDir)))
    return left.state !== 'open' || left.bootId !== bootId || isCut(dataFile(indexDir))
  } catch {
    return true
  }
}

/** Where it cannot be written, the next host looks closer than it needs to. */
function writeState(indexDir: string, state: IndexState): void {
  const path = stateFile(indexDir)
  try {
    rmSync(`${path}.new`, { force: true })
    writeFileSync(`${path}.new`, JSON.stringify(state), { mode: 0o600, flag: 'wx' })
    renameSync(`${path}.new`, path)
  } catch {
    rmSync(path, { force: true })
  }
}

/** @throws IndexUnreadable */
function readAll(index: IndexDb): IndexContent {
  try {
    const resources = [...index.resources()]
    const extents = [...index.extents()]
    return { salt: index.knownSalt, resources, extents, damagedRecords: index.damagedRecords }
  } catch (cause) {
    throw new IndexUnreadable((cause as Error).message, { cause })
  }
}

const EMPTY: IndexContent = { salt: undefined, resources: [], extents: [], damagedRecords: 0 }

export interface Examination {
  readonly content: IndexContent
  readonly problem: string | undefined
}

/** Reads an index in another process, which it may end. */
export async function examine(indexDir: string): Promise<Examination> {
  if (!existsSync(dataFile(indexDir))) return { content: EMPTY, problem: 'it is missing' }
  const child = fork(EXAMINER_PATH, [indexDir], {
    serialization: 'advanced', execArgv: [], stdio: ['ignore', 'ignore', 'ignore', 'ipc'], timeout: EXAMINATION_MS, killSignal: 'SIGKILL',
  })
  let content = EMPTY
  let isDone = false
  child.on('message', (part: Examined) => {
    if (typeof part === 'string') isDone = true
    else content = joined(content, part)
  })
  const how = await new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('close', (code, signal) => resolve(signal ?? `exit ${code}`))
  })
  const { damagedRecords } = content
  const problem = !isDone ? `LMDB cannot read it: ${how}` : damagedRecords > 0 ? `${damagedRecords} damaged records` : undefined
  return { content, problem }
}

function joined(known: IndexContent, part: Partial<IndexContent>): IndexContent {
  return {
    salt: part.salt ?? known.salt,
    resources: [...known.resources, ...(part.resources ?? [])],
    extents: [...known.extents, ...(part.extents ?? [])],
    damagedRecords: known.damagedRecords + (part.damagedRecords ?? 0),
  }
}

function setAside(layout: Layout, problem: string): string {
  const aside = `${layout.indexDir}.damaged`
  try {
    rmSync(aside, { recursive: true, force: true })
    renameSync(layout.indexDir, aside)
    mkdirSync(layout.indexDir, { mode: 0o700 })
  } catch (cause) {
    const message = `the index in ${layout.dir} is damaged (${problem}) and cannot be set aside: remove that directory, or choose another with --cache-dir`
    throw new SeekCacheError('ERR_SEEKCACHE_CACHE_FORMAT', message, { cause })
  }
  return aside
}
