/**
 * Opens the index of a cache directory, whatever has happened to it.
 *
 * A host that leaves writes down the checksum of LMDB's file, so that the next one knows it as it was left. An index that was
 * not left so (its host was killed, the machine has crashed, something has changed it) is read by another process first, for
 * LMDB trusts its file, and a damaged one may end the process that reads it. What is whole is copied page by page into a new
 * file, so that nothing is trusted that was not read: the list of free pages stays behind. If anything is wrong the index is
 * set aside, and a new one is begun with what could be read.
 */

import { fork } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { crc32 } from 'node:zlib'

import { SeekCacheError } from '../errors.ts'
import { IndexDb, type IndexContent } from './index-db.ts'
import { IndexUnreadable } from './index-file.ts'
import type { Examined, ExaminationEnd } from './index-examiner.ts'
import { freshIndexDir, type Layout } from './layout.ts'

/** The same path from `src` and from `dist`. */
const EXAMINER_PATH = fileURLToPath(new URL('../../dist/cache/index-examiner.js', import.meta.url))
/** Reading the index of 100 GB takes 20 ms, copying it 10 more; a damaged one may be a circle, and clients wait 15 s for a host. */
const EXAMINATION_MS = 5_000

/** How the index was left, in `index/state`. Any change to it since makes that untrue. */
interface IndexState {
  readonly state: 'closed'
  readonly crc: number
}

export interface OpenedIndex {
  readonly index: IndexDb
  readonly content: IndexContent
  /** What happened, for a person; undefined where the index is as it was left. */
  readonly damage: string | undefined
}

/** @throws ERR_SEEKCACHE_CACHE_UNWRITABLE where the disk says no */
export async function openIndex(layout: Layout): Promise<OpenedIndex> {
  const { indexDir } = layout
  if (existsSync(dataFile(indexDir)) && !isAsLeft(indexDir)) {
    const { content, problem } = await examineAndCopy(indexDir)
    if (problem !== undefined) return await beginAnew(layout, problem, content)
  }
  let index: IndexDb | undefined
  try {
    index = await IndexDb.open(indexDir)
    const content = readAll(index)
    if (content.damagedRecords > 0) throw new IndexUnreadable(`${content.damagedRecords} damaged records`)
    return { index, content, damage: undefined }
  } catch (error) {
    await index?.close()
    if (!(error instanceof IndexUnreadable)) throw error
    const { content, problem } = await examine(indexDir)
    return await beginAnew(layout, problem ?? error.message, content)
  }
}

/** Puts the copy of what could be read in the index's place. Where the disk takes none, the index stays as it is. */
async function examineAndCopy(indexDir: string): Promise<Examination> {
  const fresh = freshIndexDir(indexDir)
  const examination = await examine(indexDir, fresh)
  try {
    if (examination.isCopied) renameSync(dataFile(fresh), dataFile(indexDir))
    rmSync(fresh, { recursive: true, force: true })
  } catch {
    // the next opening says whether the disk takes anything at all
  }
  return examination
}

/** Sets the damaged index aside, and begins a new one with what could be read. */
async function beginAnew(layout: Layout, problem: string, saved: IndexContent): Promise<OpenedIndex> {
  const aside = setAside(layout, problem)
  const index = await IndexDb.open(layout.indexDir)
  await index.restore({ ...saved, extents: saved.extents.map(([key, record]) => [key, { ...record, bootId: '' }]) }) // only by their checksums
  const counts = `${saved.resources.length} files and ${saved.extents.length} extents`
  const damage = `the index was damaged (${problem}): it is set aside as ${aside}, a new one begins with ${counts} that could be read`
  return { index, content: readAll(index), damage }
}

/** How it was left, for the next host. */
export async function closeIndex(layout: Layout, index: IndexDb): Promise<void> {
  await index.flush()
  if (!(await index.close())) return
  const path = stateFile(layout.indexDir)
  const state: IndexState = { state: 'closed', crc: crc32(readFileSync(dataFile(layout.indexDir))) }
  try {
    rmSync(`${path}.new`, { force: true })
    writeFileSync(`${path}.new`, JSON.stringify(state), { mode: 0o600, flag: 'wx' })
    renameSync(`${path}.new`, path)
  } catch {
    // the next host looks closer than it needs to
  }
}

function dataFile(indexDir: string): string {
  return join(indexDir, 'data.mdb')
}

function stateFile(indexDir: string): string {
  return join(indexDir, 'state')
}

function isAsLeft(indexDir: string): boolean {
  try {
    const left = JSON.parse(readFileSync(stateFile(indexDir), 'utf8')) as IndexState
    return left.state === 'closed' && left.crc === crc32(readFileSync(dataFile(indexDir)))
  } catch {
    return false
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
  /** Whether it is whole, and in the new folder as well, on the disk. */
  readonly isCopied: boolean
}

/**
 * Reads an index in another process, which it may end.
 * @param copyDir a folder for a copy of what is whole, if it is; what was there goes
 */
export async function examine(indexDir: string, copyDir?: string): Promise<Examination> {
  if (!existsSync(dataFile(indexDir))) return { content: EMPTY, problem: 'it is missing', isCopied: false }
  const child = fork(EXAMINER_PATH, copyDir === undefined ? [indexDir] : [indexDir, copyDir], {
    serialization: 'advanced', execArgv: [], stdio: ['ignore', 'ignore', 'ignore', 'ipc'], timeout: EXAMINATION_MS, killSignal: 'SIGKILL',
  })
  let content = EMPTY
  let end: ExaminationEnd | undefined
  child.on('message', (part: Examined) => {
    if (typeof part === 'string') end = part
    else content = joined(content, part)
  })
  const how = await new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('close', (code, signal) => resolve(signal ?? `exit ${code}`))
  })
  const { damagedRecords } = content
  const problem = end === undefined ? `LMDB cannot read it: ${how}` : damagedRecords > 0 ? `${damagedRecords} damaged records` : undefined
  return { content, problem, isCopied: end === 'copied' && problem === undefined }
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
