/**
 * How what was written becomes durable knowledge: in groups, in order, data before index.
 *
 * An extent is marked when its written state has changed; a moment later all marked ones are committed in one
 * transaction. Commits run one after another, so that a record's last change is the last one asked for.
 */

import type { Extent } from './extent.ts'
import type { IndexChange, IndexDb } from './index-db.ts'
import { isUnusable, stampOf } from './extent-check.ts'
import type { OpenFiles } from './open-files.ts'
import type { ExtentKey, ExtentRecord } from './records.ts'

/** Commits are grouped for so long: it bounds what a kill loses, and LMDB's cost (14 commits against 324: no difference). */
const COMMIT_DELAY_MS = 25

export interface CommitParts {
  readonly index: IndexDb
  readonly files: OpenFiles
  readonly bootId: string
  /** fdatasync the data of a group before it is committed. */
  readonly syncData: boolean
  /** Whether the extent is still the one of its place: an evicted one must not come back. */
  readonly isCurrent: (extent: Extent) => boolean
  readonly onCommitted: () => void
  readonly onFailure: (error: NodeJS.ErrnoException) => void
}

export class CommitQueue {
  readonly #parts: CommitParts
  readonly #dirty = new Set<Extent>()
  #timer: NodeJS.Timeout | undefined
  #last: Promise<void> = Promise.resolve()

  constructor(parts: CommitParts) {
    this.#parts = parts
  }

  mark(extent: Extent): void {
    this.#dirty.add(extent)
    this.#timer ??= setTimeout(() => this.#commitDirty(), COMMIT_DELAY_MS)
  }

  /** What was marked of it is not committed any more. */
  unmark(extent: Extent): void {
    this.#dirty.delete(extent)
  }

  /** Resolves when the changes are committed, or the failure is reported. */
  async commit(changes: readonly IndexChange[]): Promise<void> {
    await this.#enqueue(() => Promise.resolve(changes))
  }

  /** Commits what is marked; what a failed commit left is tried again with it. */
  async commitMarked(): Promise<void> {
    this.#commitDirty()
    await this.#last
  }

  /** What would be committed of these: the data of those that are marked comes first, as in a commit. They stay marked. */
  async records(extents: readonly Extent[]): Promise<[ExtentKey, ExtentRecord][]> {
    const { isCurrent, bootId } = this.#parts
    await Promise.all([...this.#dirty].filter(isCurrent).map((extent) => this.#settleFile(extent)))
    return extents.filter((extent) => isCurrent(extent) && !extent.isEmpty).map((extent) => [extent.key, extent.toRecord(bootId)])
  }

  /** The written state of every marked extent, in one transaction. What is written meanwhile goes into the next. */
  #commitDirty(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const extents = [...this.#dirty]
    this.#dirty.clear()
    if (extents.length === 0) return
    const { isCurrent, bootId } = this.#parts
    const onFailure = (): void => {
      for (const extent of extents) if (isCurrent(extent)) this.#dirty.add(extent) // the next group takes them along
    }
    void this.#enqueue(async () => {
      await Promise.all(extents.filter(isCurrent).map((extent) => this.#settleFile(extent)))
      return extents
        .filter(isCurrent)
        .map((extent) => ({ key: extent.key, record: extent.isEmpty ? undefined : extent.toRecord(bootId) }))
    }, onFailure)
  }

  /** After a failed sync the system takes the lost pages for clean: what they held is believed only by its checksum. */
  async #settleFile(extent: Extent): Promise<void> {
    const { syncData, files } = this.#parts
    if (syncData) {
      await files.sync(extent.path).catch((error: unknown) => {
        extent.distrust()
        if (!isUnusable(error)) throw error // a file that vanished costs the others nothing: its next use finds out
      })
    }
    extent.stamp = await files.stat(extent.path).then(stampOf, () => undefined)
  }

  #enqueue(changes: () => Promise<readonly IndexChange[]>, onFailure?: () => void): Promise<void> {
    const { index, onCommitted, onFailure: tell } = this.#parts
    this.#last = this.#last.then(async () => {
      try {
        const due = await changes()
        if (due.length === 0) return // and nothing is known of the disk
        await index.commit(due)
        onCommitted()
      } catch (error) {
        onFailure?.()
        tell(error as NodeJS.ErrnoException)
      }
    })
    return this.#last
  }
}
