/**
 * Seeks to what is not cached at an origin that speaks HTTP/2, at the client's end of the link, beside the best that one could
 * do: curl getting 256 KiB over a connection that has just carried a MiB. The task comes as JSON in the only argument, the
 * result is one line of JSON.
 */
import { runProgram } from '../support/programs.ts'
import { START } from './drivers.ts'
import { SIT } from './players.ts'

export interface Http2Task {
  /** Of the film, https. */
  readonly url: string
  readonly sizeBytes: number
  readonly authorityFile: string
  readonly placesPercent: readonly number[]
  readonly dwellSeconds: number
}

/** One round, all in ms. */
export interface Http2Result {
  readonly curl: readonly number[]
  readonly proxy: readonly number[]
  readonly element: readonly number[]
}

const RANGE_BYTES = 256 * 1024
const WARM_UP_BYTES = 2 ** 20

async function run(task: Http2Task): Promise<Http2Result> {
  const result = { curl: [] as number[], proxy: [] as number[], element: [] as number[] }
  for (const percent of task.placesPercent) result.curl.push(await getByCurl(task, percent))
  for (const face of ['proxy', 'element'] as const) {
    await using driver = await START[`seekcache-${face}`](task)
    const { seeks } = await SIT.playbin({ ...task, uri: driver.uri, env: driver.env })
    result[face].push(...seeks.map(({ ms }) => ms))
  }
  return result
}

async function getByCurl({ url, sizeBytes, authorityFile }: Http2Task, percent: number): Promise<number> {
  const range = (start: number, lengthBytes: number): string[] =>
    ['-sSf', '--http2', '--cacert', authorityFile, '-r', `${start}-${start + lengthBytes - 1}`, '-o', '/dev/null', '-w', '%{http_version} %{num_connects} %{time_total}\\n', url]
  const start = Math.floor((sizeBytes * percent) / 100)
  const { code, stdout, stderr } = await runProgram(['curl', ...range(0, WARM_UP_BYTES), '--next', ...range(start, RANGE_BYTES)])
  const [version, connects, seconds] = stdout.trim().split('\n').at(-1)?.split(' ') ?? []
  if (code !== 0 || version !== '2' || connects !== '0') throw new Error(`curl left with ${code}, HTTP ${version}, ${connects} new connections: ${stderr.trim()}`)
  return Number(seconds) * 1000
}

if (process.argv[2] !== undefined && import.meta.filename === process.argv[1]) {
  process.stdout.write(`${JSON.stringify(await run(JSON.parse(process.argv[2]) as Http2Task))}\n`)
}
