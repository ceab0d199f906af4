/**
 * Clears away what a host that died left half-done: a new index that never took its place, and files that no record names,
 * because they were written and never committed, or evicted and not yet unlinked. Whatever else lies among the extents is no file of a running host either.
 */

import { lstat, readdir, rm, rmdir } from 'node:fs/promises'
import { join } from 'node:path'

import { freshIndexDir, probeFile, rehearsalDir, type Layout } from './layout.ts'

export interface Named {
  /** Asked after the folder was read: an extent is named before its file is made. */
  isNamed(generation: string, fileName: string): boolean
}

export async function removeOrphans(layout: Layout, named: Named & { isInUse(generation: string): boolean }): Promise<void> {
  for (const path of await orphans(layout, named)) await rm(path, { recursive: true, force: true }).catch(() => undefined)
  for (const entry of await readdir(layout.extentsDir).catch(() => [])) {
    if (!named.isInUse(entry)) await rmdir(join(layout.extentsDir, entry)).catch(() => undefined)
  }
}

export async function orphans(layout: Layout, named: Named): Promise<string[]> {
  const found: string[] = []
  for (const entry of await readdir(layout.extentsDir, { withFileTypes: true }).catch(() => [])) {
    const path = join(layout.extentsDir, entry.name)
    if (!entry.isDirectory()) {
      found.push(path)
      continue
    }
    const fileNames = await readdir(path).catch(() => [])
    found.push(...fileNames.filter((fileName) => !named.isNamed(entry.name, fileName)).map((fileName) => join(path, fileName)))
  }
  return found
}

/** Before the index is opened: later, these may be this process's own. */
export async function removeHalfDone(layout: Layout): Promise<void> {
  for (const path of await halfDone(layout)) await rm(path, { recursive: true, force: true }).catch(() => undefined)
}

/** What exists for a moment only while a host runs. */
export async function halfDone(layout: Layout): Promise<string[]> {
  const found: string[] = []
  for (const path of [freshIndexDir(layout.indexDir), probeFile(layout), rehearsalDir(layout)]) {
    if (await lstat(path).then(() => true, () => false)) found.push(path)
  }
  return found
}
