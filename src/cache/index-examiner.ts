/**
 * A program of its own: opens an index that may be damaged, sends what it can read of it to its parent, and copies it to
 * another folder if it is whole.
 *
 * LMDB trusts its file: a damaged one may end the process that reads it. Whatever happens here happens to nobody else, and
 * what was sent before is saved.
 */

import { IndexDb, type IndexContent } from './index-db.ts'
import { IndexUnreadable } from './index-file.ts'

/** `unavailable`: it is the disk that says no, not the index. */
export type ExaminationEnd = 'done' | 'copied' | 'unavailable'

/** Of what could be read; how it ended is the last. */
export type Examined = Partial<IndexContent> | ExaminationEnd

const RECORDS_PER_MESSAGE = 32

process.once('disconnect', () => process.exit()) // the host that asked is gone, and the next one asks another

const [indexDir, copyDir] = process.argv.slice(2)
const index = await IndexDb.open(indexDir!).catch((error: unknown) => {
  if (!(error instanceof IndexUnreadable)) process.send!('unavailable' satisfies ExaminationEnd)
  throw error
})
send({ salt: index.knownSalt })
sendAll(index.resources(), (resources) => send({ resources }))
sendAll(index.extents(), (extents) => send({ extents }))
const damagedRecords = unreadOfRest() + index.damagedRecords
send({ damagedRecords })
const isCopied = copyDir !== undefined && damagedRecords === 0 && (await isCopiedTo(copyDir))
const end: ExaminationEnd = isCopied ? 'copied' : 'done'
process.send!(end, () => process.exit(0))

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
    if (error instanceof IndexUnreadable) send({ damagedRecords: 1 })
    return false
  }
}

function send(part: Examined): void {
  process.send!(part)
}

/** A table that cannot be read to its end does not take the next one along. */
function sendAll<T>(records: Iterable<T>, sendBatch: (batch: T[]) => void): void {
  let batch: T[] = []
  try {
    for (const record of records) {
      if (batch.push(record) < RECORDS_PER_MESSAGE) continue
      sendBatch(batch)
      batch = []
    }
  } catch {
    send({ damagedRecords: 1 })
  }
  sendBatch(batch)
}
