/**
 * The commands that ask a host: what they ask, and how it is printed. Those that need the cache start a host when
 * there is none; `status` and `stop` are about a running one.
 */

import { connect, type Cache } from '../client/cache.ts'
import { formatSize } from '../config.ts'
import type { Header } from '../control/protocol.ts'
import { SeekCacheError } from '../errors.ts'

export interface ClientFlags {
  readonly cacheDir: string
  readonly socket: string
  readonly header?: readonly Header[]
  readonly json?: boolean
}

/** A line of progress where there is no terminal. */
const PLAIN_PROGRESS_MS = 10_000

export async function withCache<T>(flags: ClientFlags, startHost: boolean, action: (cache: Cache) => Promise<T>): Promise<T> {
  const cache = await connect({ cacheDir: flags.cacheDir, socketPath: flags.socket, startHost })
  try {
    return await action(cache)
  } finally {
    await cache.close()
  }
}

export async function printUrl(url: string, flags: ClientFlags): Promise<void> {
  const proxyUrl = await withCache(flags, true, (cache) => cache.proxyUrl(url, flags.header))
  process.stdout.write(`${proxyUrl}\n`)
}

export async function fetch(url: string, flags: ClientFlags): Promise<void> {
  const controller = new AbortController()
  process.once('SIGINT', () => controller.abort())
  await withCache(flags, true, async (cache) => {
    const { signal } = controller
    const media = await cache.open(url, { signal, headers: flags.header ?? [] })
    const progress = await showProgress(media.fileName, flags.json === true)
    try {
      await media.fetchAll({ signal, onProgress: ({ presentBytes, sizeBytes }) => progress.show(presentBytes, sizeBytes) })
    } finally {
      progress.end()
    }
    if (flags.json === true) process.stdout.write(`${JSON.stringify({ event: 'complete', sizeBytes: media.size })}\n`)
    else process.stderr.write(`${media.fileName}: ${formatSize(media.size ?? 0)} in the cache\n`)
  })
}

interface Progress {
  show(presentBytes: number, sizeBytes: number): void
  end(): void
}

async function showProgress(name: string, isJson: boolean): Promise<Progress> {
  if (isJson) {
    const show = (presentBytes: number, sizeBytes: number): void =>
      void process.stdout.write(`${JSON.stringify({ event: 'progress', presentBytes, sizeBytes })}\n`)
    return { show, end: () => {} }
  }
  if (process.stderr.isTTY) {
    const { SingleBar } = await import('cli-progress')
    const bar = new SingleBar({ format: '{bar} {percentage}% | {have} of {all} | {eta_formatted} left', hideCursor: true, stream: process.stderr })
    let isStarted = false
    const show = (presentBytes: number, sizeBytes: number): void => {
      const facts = { have: formatSize(presentBytes), all: formatSize(sizeBytes) }
      if (isStarted) bar.update(presentBytes, facts)
      else bar.start(sizeBytes, presentBytes, facts)
      isStarted = true
    }
    return { show, end: () => bar.stop() }
  }
  let toldMs = performance.now()
  const show = (presentBytes: number, sizeBytes: number): void => {
    if (performance.now() - toldMs < PLAIN_PROGRESS_MS) return
    toldMs = performance.now()
    process.stderr.write(`${name}: ${formatSize(presentBytes)} of ${formatSize(sizeBytes)}\n`)
  }
  return { show, end: () => {} }
}

export async function map(url: string, flags: ClientFlags): Promise<void> {
  const { sizeBytes, present } = await withCache(flags, true, (cache) => cache.map(url, flags.header))
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify({ size: sizeBytes, present })}\n`)
    return
  }
  const presentBytes = present.reduce((sum, [start, end]) => sum + end - start, 0)
  process.stdout.write(`${drawMap(present, sizeBytes, 64)}\n${formatSize(presentBytes)} of ${formatSize(sizeBytes)}\n`)
}

/** A line of characters: full where all is there, half where some is. */
function drawMap(present: readonly (readonly [number, number])[], sizeBytes: number, width: number): string {
  const cells = Array.from({ length: width }, (_, cell) => {
    const start = (cell * sizeBytes) / width
    const end = ((cell + 1) * sizeBytes) / width
    const there = present.reduce((sum, [a, b]) => sum + Math.max(0, Math.min(b, end) - Math.max(a, start)), 0)
    return there === 0 ? '·' : there >= (end - start) * 0.999 ? '█' : '▒'
  })
  return `[${cells.join('')}]`
}

export async function list(flags: ClientFlags): Promise<void> {
  const entries = await withCache(flags, true, (cache) => cache.list())
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify(entries)}\n`)
    return
  }
  for (const { url, sizeBytes, presentBytes, lastUsedMs } of entries) {
    const share = `${Math.floor((100 * presentBytes) / sizeBytes)} %`
    const when = new Date(lastUsedMs).toISOString().slice(0, 16).replace('T', ' ')
    process.stdout.write(`${share.padStart(5)}  ${formatSize(sizeBytes).padStart(9)}  ${when}  ${url}\n`)
  }
}

export async function status(flags: ClientFlags): Promise<void> {
  const told = await withCache(flags, false, (cache) => cache.status())
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify(told)}\n`)
    return
  }
  const { version, pid, uptimeSeconds, cacheDir, usedBytes, maxSizeBytes, resources, readers, fetchesInFlight, originBytes } = told
  process.stdout.write(
    [
      `seekcache ${version}, pid ${pid}, up ${uptimeSeconds} s`,
      `cache     ${cacheDir}`,
      `used      ${formatSize(usedBytes)} of ${formatSize(maxSizeBytes)}, ${resources} files`,
      `now       ${readers} readers, ${fetchesInFlight} fetches, ${formatSize(originBytes)} from origins since the start`,
      ...(told.degraded === null ? [] : [`disk      failing (${told.degraded}): playing without caching`]),
      '',
    ].join('\n'),
  )
}

export async function evict(url: string | undefined, flags: ClientFlags & { readonly all?: boolean }): Promise<void> {
  if ((url === undefined) === (flags.all !== true)) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', 'evict takes a URL or --all')
  const freedBytes = await withCache(flags, true, (cache) => cache.evict(url ?? { all: true }, flags.header))
  process.stdout.write(flags.json === true ? `${JSON.stringify({ freedBytes })}\n` : `${formatSize(freedBytes)} freed\n`)
}

export async function stop(flags: ClientFlags): Promise<void> {
  await withCache(flags, false, (cache) => cache.stopHost())
}
