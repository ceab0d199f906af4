/**
 * Somebody drags the seek bar: 100 seeks in 10 s through the proxy, each a request of its own that ends the one before, to
 * places that are not cached. How long does the last one take, beside a seek alone, and what did the others cost the link?
 * At the client's end of the link; the task comes as JSON in the only argument, the result is one line of JSON.
 */
import http from 'node:http'
import { setTimeout } from 'node:timers/promises'

import { START } from './drivers.ts'
import { receivedBytes } from './usage.ts'

export interface StormTask {
  readonly url: string
  readonly device: string
  readonly sizeBytes: number
  readonly round: number
}

/** One round. */
export interface StormResult {
  readonly alone: readonly Seek[]
  readonly last: Seek
  /** Bytes over the link from the storm's first seek until its last. */
  readonly movedBytes: number
}

/** ms to the first 256 KiB, and to the first MiB. */
export interface Seek {
  readonly pictureMs: number
  readonly mebibyteMs: number
}

export const STORM_SEEKS = 100
const INTERVAL_MS = 100
/** Readahead of an earlier seek is over, and connections are idle. */
const DWELL_MS = 1500
const ALONE_SEEKS = 4
/** A key frame of 10 Mbit/s and its neighbours. */
const PICTURE_BYTES = 256 * 1024

async function run(task: StormTask): Promise<StormResult> {
  await using driver = await START['seekcache-proxy'](task)
  const at = (share: number): Reading => new Reading(driver.uri, Math.floor(task.sizeBytes * share))
  await seekAlone(at(0)) // opens
  const alone: Seek[] = []
  // What is read ahead of these is above the places of the storm.
  for (let i = 0; i < ALONE_SEEKS; i++) alone.push(await seekAlone(at(0.97 - 0.03 * i)))
  const before = receivedBytes(task.device)
  let reading: Reading | undefined
  const startedAt = performance.now()
  for (let i = 0; i < STORM_SEEKS - 1; i++) {
    reading?.end()
    reading = at(shuffledPlace(i, task.round))
    reading.seek.catch(() => {}) // given up
    await setTimeout(Math.max(0, startedAt + (i + 1) * INTERVAL_MS - performance.now()))
  }
  reading?.end()
  const movedBytes = receivedBytes(task.device) - before
  const last = await seekAlone(at(shuffledPlace(STORM_SEEKS - 1, task.round)))
  return { alone, last, movedBytes }
}

/** Places apart by more than a tenth of a second of the link, in no order: 37 and 100 have no common divisor. */
function shuffledPlace(i: number, round: number): number {
  return 0.02 + 0.8 * (((i * 37 + round * 11) % STORM_SEEKS) / STORM_SEEKS)
}

async function seekAlone(reading: Reading): Promise<Seek> {
  const seek = await reading.seek
  await setTimeout(DWELL_MS)
  reading.end()
  return seek
}

/** As a player reads: from a place to the end of the film, and away when it is not wanted any more. */
class Reading {
  readonly seek: Promise<Seek>
  readonly #request: http.ClientRequest

  constructor(uri: string, start: number) {
    const startedAt = performance.now()
    this.#request = http.get(uri, { agent: false, headers: { range: `bytes=${start}-` } })
    this.seek = new Promise((resolve, reject) => {
      this.#request.once('error', reject).once('response', (response) => {
        if (response.statusCode !== 206) reject(new Error(`status ${response.statusCode} for a range`))
        let [lengthBytes, pictureMs] = [0, Number.NaN]
        response.once('error', reject).on('data', (bytes: Buffer) => {
          lengthBytes += bytes.length
          const ms = performance.now() - startedAt
          if (Number.isNaN(pictureMs) && lengthBytes >= PICTURE_BYTES) pictureMs = ms
          if (lengthBytes < 2 ** 20) return
          resolve({ pictureMs, mebibyteMs: ms })
          response.pause() // a player that has its picture reads on at the film's own pace
        })
      })
    })
  }

  end(): void {
    this.#request.destroy()
  }
}

if (process.argv[2] !== undefined && import.meta.filename === process.argv[1]) {
  process.stdout.write(`${JSON.stringify(await run(JSON.parse(process.argv[2]) as StormTask))}\n`)
}
