/**
 * Whether the disk takes what the cache writes. It fails in two places, the extents' data and the index, and works again
 * when the one that failed has taken something; while it fails it is tried now and then, by whoever writes, and by a
 * probe, since there may be nothing to write.
 */

export interface DiskStateParts {
  /** A failed disk is tried again after so long. */
  readonly retryMs: number
  /** One line for a person when the disk fails, and when it works again. */
  readonly tell: (message: string, isFailing: boolean) => void
  /** Writes a little, for its success or failure to be told here. */
  readonly probe: () => void
  /** What could not be written is to be written now. */
  readonly onWorking: () => void
}

export type DiskPart = 'data' | 'index'

/** The timer's shortest: a retry is I/O itself. */
const MIN_RETRY_TIMER_MS = 100

export class DiskState {
  readonly #parts: DiskStateParts
  readonly #failures = new Map<DiskPart, string>()
  #retryAtMs = 0
  #timer: NodeJS.Timeout | undefined

  constructor(parts: DiskStateParts) {
    this.#parts = parts
  }

  /** Why nothing is cached at the moment. */
  get failure(): string | undefined {
    return this.#failures.values().next().value
  }

  /** True while a write is not worth a try. */
  get isRefusing(): boolean {
    return this.#failures.size > 0 && Date.now() < this.#retryAtMs
  }

  fail(part: DiskPart, error: NodeJS.ErrnoException): void {
    const isNew = this.#failures.size === 0
    this.#failures.set(part, reasonOf(error))
    this.#retryAtMs = Date.now() + this.#parts.retryMs
    if (this.#timer === undefined) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined
        if (this.#failures.size > 0) this.#parts.probe()
      }, Math.max(this.#parts.retryMs, MIN_RETRY_TIMER_MS))
      this.#timer.unref()
    }
    if (!isNew) return
    const end = ['ENOSPC', 'EDQUOT'].includes(codeOf(error) ?? '') ? 'there is room again' : 'it can be'
    this.#parts.tell(`the cache directory cannot be written (${reasonOf(error)}): playing on without caching until ${end}`, true)
  }

  succeed(part: DiskPart): void {
    if (!this.#failures.delete(part) || this.#failures.size > 0) return
    this.#parts.tell('the cache directory can be written again: caching goes on', false)
    this.#parts.onWorking()
  }

  /** @returns whether the index took the change */
  async tookInIndex(change: Promise<void>): Promise<boolean> {
    try {
      await change
      this.succeed('index')
      return true
    } catch (error) {
      this.fail('index', error as NodeJS.ErrnoException)
      return false
    }
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#failures.clear()
  }
}

/** The system's words without its codes: of `ENOSPC: no space left on device, open '…'` what stands in the middle. */
function reasonOf({ message }: Error): string {
  return /^E[A-Z0-9]+: ([^,]+)/.exec(message)?.[1] ?? message
}

/** An error of the index has the system's as its cause. */
function codeOf({ code, cause }: NodeJS.ErrnoException): string | undefined {
  return code ?? (cause as NodeJS.ErrnoException | undefined)?.code
}
