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
}

export interface Download {
  readonly seconds: number
  /** What came over the link ÷ what was downloaded; the link counts the headers of IP and TCP, about 4 %. */
  readonly linkShare: number
}

/** One round. */
export interface DownloadResult {
  readonly direct: Download
  readonly proxy: Download
  readonly proxyAgain: Download
}

/** What is still on the wire when curl leaves. */
const SETTLE_MS = 300

async function run(task: DownloadTask): Promise<DownloadResult> {
  const direct = await download(task, task.url)
  await using driver = await START['seekcache-proxy'](task)
  const proxy = await download(task, driver.uri)
  const proxyAgain = await download(task, driver.uri)
  return { direct, proxy, proxyAgain }
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
