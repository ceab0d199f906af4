/**
 * How what was written becomes durable knowledge: in groups, in order, data before index.
 *
 * An extent is marked when its written state has changed; a moment later all marked ones are committed in one
 * transaction. Commits run one after another, so that a record's last change is the last one asked for.
 */

import type { Extent } from './extent.ts'
import type { IndexChange, IndexDb } from './index-db.ts'
import type { OpenFiles } from './open-files.ts'

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

  /** Commits what is marked, and resolves when all is on the disk. */
  async close(): Promise<void> {
    this.#commitDirty()
    await this.#last
    await this.#parts.index.flush()
  }

  /** The written state of every marked extent, in one transaction. What is written meanwhile goes into the next. */
  #commitDirty(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    const extents = [...this.#dirty]
    this.#dirty.clear()
    if (extents.length === 0) return
    const { syncData, files, isCurrent, bootId } = this.#parts
    const onFailure = (): void => {
      for (const extent of extents) this.#dirty.add(extent) // the next group takes them along
    }
    void this.#enqueue(async () => {
      if (syncData) await Promise.all(extents.map((extent) => files.sync(extent.path)))
      return extents
        .filter(isCurrent)
        .map((extent) => ({ key: extent.key, record: extent.isEmpty ? undefined : extent.toRecord(bootId) }))
    }, onFailure)
  }

  #enqueue(changes: () => Promise<readonly IndexChange[]>, onFailure?: () => void): Promise<void> {
    this.#last = this.#last.then(async () => {
      try {
        await this.#parts.index.commit(await changes())
      } catch (error) {
        onFailure?.()
        this.#parts.onFailure(error as NodeJS.ErrnoException)
      }
    })
    return this.#last
  }
}
