/**
 * Looks at every chunk of a cache directory that no host has, and tells what is damaged; on demand it forgets that, so that
 * it is fetched again, and removes what nothing names.
 *
 * Without repair nothing is changed: the index is read by another process (`index-opening.ts`), the files are only read.
 */

import { readFile, rm } from 'node:fs/promises'
import { crc32 } from 'node:zlib'

import { CHUNK_BYTES, CHUNKS_PER_EXTENT, chunkRange, type Range } from '../bytes/ranges.ts'
import { SeekCacheError } from '../errors.ts'
import { lockDir } from './dir-lock.ts'
import { checkFile } from './extent-check.ts'
import { Extent } from './extent.ts'
import type { IndexChange, IndexContent } from './index-db.ts'
import { closeIndex, examine, openIndex } from './index-opening.ts'
import { ensureFormat, extentPath, isFormatKnown, layoutOf, type Layout } from './layout.ts'
import { OpenFiles } from './open-files.ts'
import { halfDone, orphans } from './recovery.ts'
import type { ExtentKey, ExtentRecord, ResourceRecord } from './records.ts'

export interface DamagedRange extends Range {
  /** Of the resource, without its query. */
  readonly url: string
  readonly path: string
  readonly reason: string
}

export interface Verification {
  readonly resources: number
  readonly checkedChunks: number
  /** What is wrong with the index itself. */
  readonly indexDamage: string | undefined
  readonly damaged: readonly DamagedRange[]
  /** Files that no record names, and a new index that never took its place: left half-done by a host that died. No damage, only space. */
  readonly orphans: readonly string[]
}

/** @throws ERR_SEEKCACHE_NOT_FOUND where there is no cache, _CACHE_LOCKED while a host has it, _CACHE_FORMAT, _CACHE_UNWRITABLE */
export async function verifyDir(dir: string, options: { readonly repair: boolean }): Promise<Verification> {
  const layout = layoutOf(dir)
  await readFile(layout.formatFile).catch((cause: unknown) => {
    throw new SeekCacheError('ERR_SEEKCACHE_NOT_FOUND', `there is no cache in ${dir}`, { cause })
  })
  await isFormatKnown(layout) // or nothing is touched
  const lock = lockDir(layout)
  try {
    await ensureFormat(layout)
    const { content, problem } = await examine(layout)
    const found = await checkExtents(layout, content)
    const isNamed = (generation: string, fileName: string): boolean => found.named.has(extentPath(layout, generation, fileName))
    const left = [...(await orphans(layout, { isNamed })), ...(await halfDone(layout))]
    if (options.repair) await repair(layout, found.changes, left)
    return {
      resources: content.resources.length, checkedChunks: found.checkedChunks, indexDamage: problem, damaged: found.damaged, orphans: left,
    }
  } finally {
    lock.release()
  }
}

interface Found {
  checkedChunks: number
  readonly damaged: DamagedRange[]
  readonly changes: IndexChange[]
  readonly named: Set<string>
}

async function checkExtents(layout: Layout, content: IndexContent): Promise<Found> {
  const resources = new Map(content.resources.map(([, record]) => [record.generation, record]))
  const found: Found = { checkedChunks: 0, damaged: [], changes: [], named: new Set() }
  const files = new OpenFiles()
  for (const [key, record] of content.extents) {
    const resource = resources.get(key.generation)
    if (resource === undefined) found.changes.push({ key, record: undefined })
    else await checkExtent(layout, files, resource, key, record, found)
  }
  await files.close()
  return found
}

async function checkExtent(
  layout: Layout, files: OpenFiles, resource: ResourceRecord, key: ExtentKey, record: ExtentRecord, found: Found,
): Promise<void> {
  const path = extentPath(layout, key.generation, record.fileName)
  const extent = Extent.fromRecord(key, record, path, record.bootId)
  const report = (chunk: number, end: number, reason: string): void => {
    const { start } = chunkRange(key.index * CHUNKS_PER_EXTENT + chunk, resource.sizeBytes)
    const last = chunkRange(key.index * CHUNKS_PER_EXTENT + end - 1, resource.sizeBytes)
    found.damaged.push({ url: resource.displayUrl, path, start, end: last.end, reason })
  }
  const verdict = await checkFile(extent)
  if (verdict.kind === 'unusable') {
    for (let chunk = 0, end; chunk < CHUNKS_PER_EXTENT; chunk = end + 1) {
      end = extent.endOfRun(chunk)
      if (end > chunk) report(chunk, end, `the file ${verdict.reason}`)
    }
    found.changes.push({ key, record: undefined })
    return
  }
  found.named.add(path)
  let isDamaged = false
  for (let chunk = 0; chunk < CHUNKS_PER_EXTENT; chunk++) {
    if (!extent.has(chunk)) continue
    found.checkedChunks++
    const reason = await whatIsWrong(files, extent, chunk, resource.sizeBytes)
    if (reason === undefined) continue
    report(chunk, chunk + 1, reason)
    extent.markLost(chunk)
    isDamaged = true
  }
  if (isDamaged) found.changes.push({ key, record: extent.isEmpty ? undefined : extent.toRecord(record.bootId) })
}

async function whatIsWrong(files: OpenFiles, extent: Extent, chunk: number, sizeBytes: number): Promise<string | undefined> {
  const { start, end } = chunkRange(extent.key.index * CHUNKS_PER_EXTENT + chunk, sizeBytes)
  const bytes = Buffer.allocUnsafe(end - start)
  try {
    const readBytes = await files.read(extent.path, bytes, chunk * CHUNK_BYTES)
    if (readBytes < bytes.length) return 'the file is too short'
    return crc32(bytes) === extent.crc(chunk) ? undefined : 'the bytes are not what was written'
  } catch (error) {
    return `it cannot be read (${(error as Error).message})`
  }
}

/** As a host would: a damaged index is set aside, what was read of it goes into a new one. */
async function repair(layout: Layout, changes: readonly IndexChange[], left: readonly string[]): Promise<void> {
  const { index } = await openIndex(layout)
  await index.commit(changes)
  await closeIndex(layout, index)
  for (const path of left) await rm(path, { recursive: true, force: true })
}
