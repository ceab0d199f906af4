/**
 * Looks at a cache directory from outside, with no host on it: by the index's records and the bytes of the files alone.
 *
 * What the index calls present is compared byte by byte with the content it should be, so a wrong byte is found whether or
 * not a checksum would have caught it.
 */
import { closeSync, existsSync, openSync, readdirSync, readSync, statSync } from 'node:fs'
import { join } from 'node:path'

import { CHUNK_BYTES, CHUNKS_PER_EXTENT, chunkRange } from '../../src/bytes/ranges.ts'
import { IndexDb } from '../../src/cache/index-db.ts'
import { layoutOf } from '../../src/cache/layout.ts'
import type { Content } from './content.ts'

export interface CacheFacts {
  readonly presentChunks: number
  /** Chunks whose bytes are not those of the content, as `GENERATION/FILE chunk N`. */
  readonly wrong: readonly string[]
  /** Files that no record names. */
  readonly orphans: readonly string[]
  readonly diskBytes: number
}

/** `contentOf` tells the content by the record's file name. */
export async function checkCacheDir(dir: string, contentOf: (fileName: string) => Content): Promise<CacheFacts> {
  const layout = layoutOf(dir)
  const index = await IndexDb.open(layout.indexDir)
  const named = new Set<string>()
  const wrong: string[] = []
  let presentChunks = 0
  try {
    const contents = new Map([...index.resources()].map(([, { generation, fileName }]) => [generation, contentOf(fileName)]))
    for (const [{ generation, index: extent }, record] of index.extents()) {
      const content = contents.get(generation)
      if (content === undefined) continue // of no resource: never served, removed by the next start
      const path = join(layout.extentsDir, generation, record.fileName)
      named.add(path)
      for (let chunk = 0; chunk < CHUNKS_PER_EXTENT; chunk++) {
        if ((record.presence[chunk >> 3]! & (1 << (chunk & 7))) === 0) continue
        presentChunks++
        const { start, end } = chunkRange(extent * CHUNKS_PER_EXTENT + chunk, content.sizeBytes)
        const bytes = readAt(path, chunk * CHUNK_BYTES, end - start)
        if (!bytes.equals(content.read(start, end))) wrong.push(`${generation}/${record.fileName} chunk ${chunk}`)
      }
    }
  } finally {
    await index.close()
  }
  const files = extentFiles(dir)
  return { presentChunks, wrong, orphans: files.filter((file) => !named.has(file)), diskBytes: diskBytes(files) }
}

/** A running host may remove an empty folder in between. */
export function extentFiles(dir: string): string[] {
  const { extentsDir } = layoutOf(dir)
  if (!existsSync(extentsDir)) return []
  return readdirSync(extentsDir).map((generation) => join(extentsDir, generation)).flatMap((folder) => namesIn(folder).map((name) => join(folder, name)))
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/** What the extent files take on the disk now. */
export function extentDiskBytes(dir: string): number {
  return diskBytes(extentFiles(dir))
}

function diskBytes(files: readonly string[]): number {
  return files.reduce((sum, file) => sum + (statSync(file, { throwIfNoEntry: false })?.blocks ?? 0) * 512, 0)
}

function readAt(path: string, position: number, lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes)
  const fd = openSync(path, 'r')
  try {
    return bytes.subarray(0, readSync(fd, bytes, 0, lengthBytes, position))
  } finally {
    closeSync(fd)
  }
}
