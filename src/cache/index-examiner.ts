/**
 * A program of its own: reads an index that may be damaged, copies it if it is whole, and tells its parent what it found.
 *
 * LMDB trusts its file: a damaged one may end the process that reads it. Whatever happens here happens to nobody else.
 */

import { IndexDb, type IndexContent } from './index-db.ts'
import { IndexUnreadable } from './index-file.ts'

export type Finding =
  | { readonly state: 'whole'; readonly content: IndexContent }
  | { readonly state: 'copied' }
  | { readonly state: 'damaged'; readonly problem: string }
  /** It is the disk that says no. */
  | { readonly state: 'unavailable' }

process.once('disconnect', () => process.exit()) // the host that asked is gone, and the next one asks another

const [indexDir, copyDir] = process.argv.slice(2)
await tell(await examined(indexDir!, copyDir))
process.exit(0)

async function examined(dir: string, copy: string | undefined): Promise<Finding> {
  try {
    const index = await IndexDb.open(dir)
    const content = index.readAll()
    index.readRest()
    return copy !== undefined && (await isCopiedTo(index, copy)) ? { state: 'copied' } : { state: 'whole', content }
  } catch (error) {
    return error instanceof IndexUnreadable ? { state: 'damaged', problem: error.message } : { state: 'unavailable' }
  }
}

/** Reads each page that is in use. A disk that takes no copy is no damage. @throws IndexUnreadable */
async function isCopiedTo(index: IndexDb, copy: string): Promise<boolean> {
  try {
    await index.copyTo(copy)
    return true
  } catch (error) {
    if (error instanceof IndexUnreadable) throw error
    return false
  }
}

async function tell(finding: Finding): Promise<void> {
  await new Promise<void>((resolve) => process.send!(finding, () => resolve()))
}
