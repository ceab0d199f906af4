/**
 * A program of its own: opens an index that may be damaged, and sends what it can read of it to its parent.
 *
 * LMDB trusts its file: a damaged one may end the process that reads it. Whatever happens here happens to nobody else, and
 * what was sent before is saved.
 */

import { IndexDb, type IndexContent } from './index-db.ts'
import { IndexUnreadable } from './index-file.ts'

/** Of what could be read; `done` is the last. `unavailable`: it is the disk that says no, not the index. */
export type Examined = Partial<IndexContent> | 'done' | 'unavailable'

const RECORDS_PER_MESSAGE = 32

const index = await IndexDb.open(process.argv[2]!).catch((error: unknown) => {
  if (!(error instanceof IndexUnreadable)) process.send!('unavailable' satisfies Examined)
  throw error
})
send({ salt: index.knownSalt })
sendAll(index.resources(), (resources) => send({ resources }))
sendAll(index.extents(), (extents) => send({ extents }))
send({ damagedRecords: index.damagedRecords })
process.send!('done' satisfies Examined, () => process.exit(0))

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
