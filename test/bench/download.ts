/**
 * A straight download over the link, at the client's end, in a process of its own: curl from the origin, curl through the
 * proxy with an empty cache, and the same once more, which must cost the link nothing. The task comes as JSON in the only
 * argument, the result is one line of JSON.
 */
import { setTimeout } from 'node:timers/promises'

import { runProgram } from '../support/programs.ts'
import { START } from './drivers.ts'
import { receivedBytes } from './usage.ts'

export interface DownloadTask {
  readonly url: string
  readonly device: string
  readonly sizeBytes: number
  readonly rounds: number
}

export interface Download {
  readonly seconds: number
  /** What came over the link ÷ what was downloaded; the link counts the headers of IP and TCP, about 4 %. */
  readonly linkShare: number
}

export interface DownloadResult {
  readonly direct: readonly Download[]
  readonly proxy: readonly Download[]
  readonly proxyAgain: readonly Download[]
}

/** What is still on the wire when curl leaves. */
const SETTLE_MS = 300

async function run(task: DownloadTask): Promise<DownloadResult> {
  const result = { direct: [] as Download[], proxy: [] as Download[], proxyAgain: [] as Download[] }
  for (let round = 0; round < task.rounds; round++) {
    result.direct.push(await download(task, task.url))
    await using driver = await START['seekcache-proxy'](task)
    result.proxy.push(await download(task, driver.uri))
    result.proxyAgain.push(await download(task, driver.uri))
  }
  return result
}

async function download({ device, sizeBytes }: DownloadTask, url: string): Promise<Download> {
  const before = receivedBytes(device)
  const range = ['-r', `0-${sizeBytes - 1}`]
  const { code, stdout, stderr } = await runProgram(['curl', '-sSf', ...range, '-o', '/dev/null', '-w', '%{time_total} %{size_download}', url])
  const [seconds, size] = stdout.split(' ').map(Number)
  if (code !== 0 || size !== sizeBytes) throw new Error(`curl left with ${code} after ${size} bytes: ${stderr.trim()}`)
  await setTimeout(SETTLE_MS)
  return { seconds: seconds!, linkShare: (receivedBytes(device) - before) / sizeBytes }
}

if (process.argv[2] !== undefined && import.meta.filename === process.argv[1]) {
  process.stdout.write(`${JSON.stringify(await run(JSON.parse(process.argv[2]) as DownloadTask))}\n`)
}
