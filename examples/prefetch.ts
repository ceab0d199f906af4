/**
 * Fetches what a player needs first into the cache, so that the film opens and can be seeked at once: its head, and its
 * tail, where Matroska and MP4 files often have their index. With --all it fetches the whole file.
 *
 *   npx tsx examples/prefetch.ts [--all] https://example.net/film.mkv
 *
 * Whoever plays the URL through the same cache directory plays what was fetched; what is there already is not fetched
 * again. Ctrl-C stops it, and what has arrived stays. Leaves with 0, 1 for what went wrong, 2 for wrong arguments, 130
 * after Ctrl-C.
 */

import { parseArgs } from 'node:util'
import { connect, type RemoteMedia } from 'seekcache'

const HEAD_BYTES = 2 * 1024 * 1024
const TAIL_BYTES = 1024 * 1024

const { values, positionals } = parseArgs({
  options: { all: { type: 'boolean', default: false } },
  allowPositionals: true,
})
const [url] = positionals
if (url === undefined || positionals.length > 1) {
  console.error('usage: prefetch.ts [--all] URL')
  process.exit(2)
}

const controller = new AbortController()
const { signal } = controller
process.once('SIGINT', () => controller.abort())

try {
  await prefetch(url)
} catch (error) {
  console.error(signal.aborted ? 'stopped' : (error as Error).message)
  process.exitCode = signal.aborted ? 130 : 1
}

async function prefetch(url: string): Promise<void> {
  const cache = await connect() // starts the host when there is none
  try {
    const media = await cache.open(url, { signal }) // and `headers`, where the server wants a token
    console.log(`${media.fileName}: ${media.contentType ?? 'unknown type'}, ${media.size ?? 'unknown'} bytes`)
    if (values.all) await fetchWhole(media)
    else await fetchEnds(media)
    await media.refresh()
    show(media)
  } finally {
    await cache.close() // the host goes on by itself, and leaves when nobody needs it
  }
}

async function fetchEnds(media: RemoteMedia): Promise<void> {
  // A server that does not tell the size sends the file from its start, once: there is nothing to keep for later.
  if (media.size === undefined) throw new Error('the server does not tell the size of this file: it cannot be cached')
  await read(media, 0, HEAD_BYTES)
  await read(media, Math.max(0, media.size - TAIL_BYTES), media.size)
}

/** Whatever is read is kept. `present` tells of whole blocks of 64 KiB: not of one that is there in part. */
async function read(media: RemoteMedia, start: number, end: number): Promise<void> {
  for await (const _bytes of media.read(start, end, { signal }));
}

async function fetchWhole(media: RemoteMedia): Promise<void> {
  let toldPercent = -10
  await media.fetchAll({
    signal,
    onProgress: ({ presentBytes, sizeBytes }) => {
      const percent = Math.floor((100 * presentBytes) / sizeBytes)
      if (percent < toldPercent + 10 && percent < 100) return
      toldPercent = percent
      console.log(`${percent} %`)
    },
  })
}

function show(media: RemoteMedia): void {
  const present = media.present()
  const presentBytes = present.reduce((sum, [start, end]) => sum + end - start, 0)
  console.log(`in the cache: ${presentBytes} bytes`)
  for (const [start, end] of present) console.log(`  from ${start} to ${end}`)
}
