/**
 * Opens the index of a cache directory, whatever has happened to it.
 *
 * A host that leaves writes down the checksum of LMDB's file, so that the next one knows it as it was left. An index that was
 * not left so (its host was killed, the machine has crashed, something has changed it) is read by another process first, for
 * LMDB trusts its file, and a damaged one may end the process that reads it. What is whole is copied page by page into a new
 * file, so that nothing is trusted that was not read: the list of free pages stays behind. If anything is wrong the index is
 * set aside, and a new one is begun with what can be read of its file without LMDB (`index-salvage.ts`).
 */

import { fork } from 'node:child_process'
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { crc32 } from 'node:zlib'

import { IndexDb, type IndexContent } from './index-db.ts'
import { IndexUnreadable } from './index-file.ts'
import type { Finding } from './index-examiner.ts'
import { salvage } from './index-salvage.ts'
import { freshIndexDir, indexFile, unwritable, type Layout } from './layout.ts'
import { replaceFile } from './private-dir.ts'

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
  if (existsSync(indexFile(indexDir)) && !isAsLeft(indexDir)) {
    const problem = await copyWhole(indexDir)
    if (problem !== undefined) return await beginAnew(layout, problem)
  }
  let index: IndexDb | undefined
  try {
    index = await IndexDb.open(indexDir)
    return { index, content: index.readAll(), damage: undefined }
  } catch (error) {
    await index?.close()
    if (!(error instanceof IndexUnreadable)) throw error
    return await beginAnew(layout, error.message)
  }
}

/**
 * Puts its copy in the place of an index that is whole. Where the disk takes none, it stays as it is.
 * @returns what is wrong with it
 */
async function copyWhole(indexDir: string): Promise<string | undefined> {
  const fresh = freshIndexDir(indexDir)
  const finding = await find(indexDir, fresh)
  try {
    if (finding.state === 'copied') renameSync(indexFile(fresh), indexFile(indexDir))
    rmSync(fresh, { recursive: true, force: true })
  } catch {
    // the next opening says whether the disk takes anything at all
  }
  return finding.state === 'damaged' ? finding.problem : undefined
}

/**
 * Sets the damaged index aside, and puts a new one with what can be read of its file in its place: there is one at each
 * moment, for without an index all that is cached would be forgotten.
 * @throws ERR_SEEKCACHE_CACHE_UNWRITABLE where the disk takes no new one; the damaged one stays then
 */
async function beginAnew(layout: Layout, problem: string): Promise<OpenedIndex> {
  const { dir, indexDir } = layout
  const { content, partials } = salvage(layout)
  const fresh = freshIndexDir(indexDir)
  const aside = `${indexDir}.damaged`
  try {
    await writeIndex(fresh, async (index) => await index.restore(content, partials))
    rmSync(aside, { recursive: true, force: true })
    mkdirSync(aside, { mode: 0o700 })
    linkSync(indexFile(indexDir), indexFile(aside))
    renameSync(indexFile(fresh), indexFile(indexDir))
    rmSync(fresh, { recursive: true, force: true })
  } catch (cause) {
    throw unwritable(dir, cause)
  }
  const index = await IndexDb.open(indexDir)
  const counts = `${content.resources.length} files and ${content.extents.length} extents`
  const damage = `the index was damaged (${problem}): it is set aside as ${aside}, a new one begins with ${counts} that could be read`
  return { index, content, damage }
}

/** Onto the disk. */
async function writeIndex(dir: string, write: (index: IndexDb) => Promise<void>): Promise<void> {
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { mode: 0o700 })
  const index = await IndexDb.open(dir)
  await write(index)
  await index.flush()
  if (!(await index.close())) throw new Error('its index cannot be written')
}

/** How it was left, for the next host. */
export async function closeIndex(layout: Layout, index: IndexDb): Promise<void> {
  await index.flush()
  if (!(await index.close())) return
  try {
    const state: IndexState = { state: 'closed', crc: crc32(await readFile(indexFile(layout.indexDir))) }
    await replaceFile(stateFile(layout.indexDir), JSON.stringify(state))
  } catch {
    // the next host looks closer than it needs to
  }
}

function stateFile(indexDir: string): string {
  return join(indexDir, 'state')
}

function isAsLeft(indexDir: string): boolean {
  try {
    const left = JSON.parse(readFileSync(stateFile(indexDir), 'utf8')) as IndexState
    return left.state === 'closed' && left.crc === crc32(readFileSync(indexFile(indexDir)))
  } catch {
    return false
  }
}

export interface Examination {
  readonly content: IndexContent
  /** What is wrong with it. */
  readonly problem: string | undefined
}

/** What an index holds, or what can be read of a damaged one. Nothing is changed. */
export async function examine(layout: Layout): Promise<Examination> {
  if (!existsSync(indexFile(layout.indexDir))) return { content: EMPTY, problem: 'it is missing' }
  const finding = await find(layout.indexDir)
  if (finding.state === 'whole') return { content: finding.content, problem: undefined }
  const problem = finding.state === 'damaged' ? finding.problem : undefined
  return { content: salvage(layout).content, problem }
}

const EMPTY: IndexContent = { salt: undefined, resources: [], extents: [] }

/**
 * Reads an index in another process, which it may end.
 * @param copyDir a folder for a copy of what is whole; what was there goes
 */
async function find(indexDir: string, copyDir?: string): Promise<Finding> {
  const child = fork(EXAMINER_PATH, copyDir === undefined ? [indexDir] : [indexDir, copyDir], {
    serialization: 'advanced', execArgv: [], stdio: ['ignore', 'ignore', 'ignore', 'ipc'], timeout: EXAMINATION_MS, killSignal: 'SIGKILL',
  })
  let finding: Finding | undefined
  child.once('message', (message) => (finding = message as Finding))
  const end = await new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('close', (code, signal) => resolve(signal ?? `exit ${code}`))
  })
  return finding ?? { state: 'damaged', problem: `LMDB cannot read it: ${end}` }
}
