/**
 * On a virtual machine the processors may be taken away at any time, for the guests beside it. What was measured meanwhile is
 * nobody's figure, so it is measured again, whatever it was: the kernel's count of stolen time alone decides.
 */
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { endWithThisProcess } from '../support/children.ts'
import { tempDir } from '../support/temp-dir.ts'
import { median } from './statistics.ts'
import type { Stolen } from './summary.ts'

/** Of the processor time that was wanted. In calm minutes it was 0 to 8 %, in others 15 to 90. */
export const MAX_STOLEN_SHARE = 0.1
/** Before the next try. Such times last from seconds to minutes. */
const PAUSE_MS = 15_000

const SOURCE = fileURLToPath(new URL('awake.c', import.meta.url))

/** Until it is disposed of no processor idles; everything else goes first. */
export async function keepAwake(): Promise<AsyncDisposable> {
  const folder = await tempDir('seekcache-awake')
  const program = folder.file('awake')
  const { status, stderr, error } = spawnSync('cc', ['-O2', '-o', program, SOURCE], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`awake.c is not compiled: ${error?.message ?? stderr}`)
  const child = spawn(program, [], { stdio: 'ignore' })
  endWithThisProcess(child)
  child.once('exit', (code) => {
    if (code !== null) throw new Error(`awake left with ${code}: nothing keeps the processors from idling`)
  })
  return {
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL')
      await folder.remove()
    },
  }
}

/** Of all processors, in the kernel's ticks. */
interface Ticks {
  readonly wanted: number
  readonly stolen: number
}

function ticks(): Ticks {
  // user, nice, system, idle, iowait, irq, softirq, steal: proc_stat(5).
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, stolen = 0] = readFileSync('/proc/stat', 'utf8').split('\n')[0]!.trim().split(/\s+/).slice(1).map(Number)
  return { wanted: user + nice + system + irq + softirq + stolen, stolen }
}

export class Calm {
  /** Of the measurements that count. */
  readonly #shares: number[] = []
  #repeats = 0
  readonly #onProgress: (line: string) => void
  #patienceMs: number

  /** @param patienceMs for measurements that do not count and the pauses after them, all together */
  constructor(patienceMs: number, onProgress: (line: string) => void) {
    this.#patienceMs = patienceMs
    this.#onProgress = onProgress
  }

  get stolen(): Stolen {
    return { medianShare: median(this.#shares), worstShare: Math.max(0, ...this.#shares), repeats: this.#repeats }
  }

  /** Measures until the processors were there, or patience has ended: then what was disturbed least counts. */
  async measure<T>(what: string, measure: () => Promise<T>): Promise<T> {
    let best: { readonly result: T; readonly share: number } | undefined
    for (;;) {
      const [before, startedMs] = [ticks(), performance.now()]
      const result = await measure()
      const after = ticks()
      const share = (after.stolen - before.stolen) / Math.max(1, after.wanted - before.wanted)
      if (best === undefined || share < best.share) best = { result, share }
      if (share <= MAX_STOLEN_SHARE || this.#patienceMs <= 0) break
      this.#repeats++
      this.#onProgress(`${what}: ${(share * 100).toFixed(0)} % of the processors' time was stolen, once more`)
      await setTimeout(PAUSE_MS)
      this.#patienceMs -= performance.now() - startedMs
    }
    this.#shares.push(best.share)
    return best.result
  }

  async measureRounds<T>(rounds: number, what: string, measure: (round: number) => Promise<T>): Promise<T[]> {
    const results: T[] = []
    for (let round = 0; round < rounds; round++) results.push(await this.measure(`${what} ${round + 1}/${rounds}`, async () => await measure(round)))
    return results
  }
}
