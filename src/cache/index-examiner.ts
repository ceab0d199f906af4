/**
 * A program of its own: opens an index that may be damaged, sends what it can read of it to its parent, and copies it to
 * another folder if it is whole.
 *
 * LMDB trusts its file: a damaged one may end the process that reads it. Whatever happens here happens to nobody else, and
 * what was sent before is saved.
 */

import { EXTENT_BYTES } from '../bytes/ranges.ts'
import { IndexDb, type IndexContent } from './index-db.ts'
import { IndexUnreadable } from './index-file.ts'
import type { ExtentKey, ExtentRecord, ResourceRecord } from './records.ts'

/** `unavailable`: it is the disk that says no, not the index. */
export type ExaminationEnd = 'done' | 'copied' | 'unavailable'

/** Of what could be read; how it ended is the last. */
export type Examined = Partial<IndexContent> | ExaminationEnd

const RECORDS_PER_MESSAGE = 32

process.once('disconnect', () => process.exit()) // the host that asked is gone, and the next one asks another

const [indexDir, copyDir] = process.argv.slice(2)
const index = await IndexDb.open(indexDir!).catch(async (error: unknown) => {
  if (!(error instanceof IndexUnreadable)) await send('unavailable')
  throw error
})
await send({ salt: index.knownSalt })
const films: ResourceRecord[] = []
await sendAll(index.resources(), (resources) => {
  films.push(...resources.map(([, record]) => record))
  return { resources }
})
let extentCount = 0
await sendAll(index.extents(), (extents) => {
  extentCount += extents.length
  return { extents }
})
if (extentCount + index.damagedRecords < index.extentCount) await sendAll(extentsOneByOne(extentCount), (extents) => ({ extents }))
const damagedRecords = unreadOfRest() + index.damagedRecords
await send({ damagedRecords })
const isCopied = copyDir !== undefined && damagedRecords === 0 && (await isCopiedTo(copyDir))
await send(isCopied ? 'copied' : 'done')
process.exit(0)

function unreadOfRest(): number {
  try {
    index.readRest()
    return 0
  } catch {
    return 1
  }
}

/** Reads each page that is in use. A disk that takes no copy is no damage. */
async function isCopiedTo(dir: string): Promise<boolean> {
  try {
    await index.copyTo(dir)
    return true
  } catch (error) {
    if (error instanceof IndexUnreadable) await send({ damagedRecords: 1 })
    return false
  }
}

/** Resolves when it is with the parent: what comes next may be the end of this process. */
async function send(part: Examined): Promise<void> {
  await new Promise<void>((resolve) => process.send!(part, () => resolve()))
}

/** A table that cannot be read to its end does not take the next one along. */
async function sendAll<T>(records: Iterable<T>, partOf: (batch: T[]) => Examined): Promise<void> {
  let batch: T[] = []
  try {
    for (const record of records) {
      if (batch.push(record) < RECORDS_PER_MESSAGE) continue
      await send(partOf(batch))
      batch = []
    }
  } catch {
    await send({ damagedRecords: 1 })
  }
  await send(partOf(batch))
}

/** What lies on pages behind a damaged one: of all films that are known, in the order of the table. */
function* extentsOneByOne(knownCount: number): Generator<[ExtentKey, ExtentRecord]> {
  let count = 0
  for (const { generation, sizeBytes } of films.sort((a, b) => (a.generation < b.generation ? -1 : 1))) {
    for (let i = 0; i * EXTENT_BYTES < sizeBytes; i++) {
      const key = { generation, index: i }
      const record = index.extent(key)
      if (record !== undefined && ++count > knownCount) yield [key, record]
    }
  }
}
