/** The summary for people: tables in Markdown, which are also what the terminal shows. */
import { MAX_STOLEN_SHARE } from './calm.ts'
import { DRIVERS, type Effort, FILM, type LinkName, LINKS, PLAYERS } from './matrix.ts'
import type { Download, DownloadResult } from './download.ts'
import type { Http2Result } from './http2.ts'
import type { Compared, FirstBytes } from './loopback.ts'
import { median, spreadOf } from './statistics.ts'
import { type Seek, STORM_SEEKS } from './storm.ts'
import type { Row, Stolen, Summary } from './summary.ts'

/** The tables alone. */
export function tablesOf(summary: Summary): string {
  return [
    ...(summary.whyNoLink === undefined ? linkTables(summary) : [`No link was emulated: ${summary.whyNoLink}.`]),
    ...stormTable(summary),
    ...http2Table(summary),
    ...downloadTable(summary),
    ...loopbackTables(summary),
  ].join('\n\n')
}

export function markdownOf(summary: Summary, effort: Effort): string {
  const versions = Object.entries(summary.versions).map(([name, version]) => `${name} ${version}`).join(', ')
  return `${[
    '# Measurements',
    `Made by \`npm run bench\`${summary.isQuick ? ' with `--quick`' : ''} on ${summary.date}: ${summary.machine}; ${versions}.`,
    '![Opens and cold seeks over the main link](bench.svg)',
    methodOf(effort, summary.stolen),
    tablesOf(summary),
  ].join('\n\n')}\n`
}

function methodOf(effort: Effort, stolen: Stolen): string {
  const links = Object.values(LINKS).map((l) => `${l.rttMs} ms and ${l.megabitsPerSecond} Mbit/s`).join(', or ')
  const seeks = effort.places.length
  return `## How

The origin is nginx in a network namespace, its films in memory; players and caches are in another one. Between them is an
emulated link with the kernel's TCP, cubic, at both ends, and a queue of 100 ms that drops what does not fit; its round trip and rate are
${links}. The film is noise of ${FILM.kilobitsPerSecond / 1000} Mbit/s and ${FILM.seconds} s
with a key frame every ${FILM.gopSeconds} s, as Matroska and as MP4, the index at the end in both. All programs run with their defaults.
The drivers take turns, ${effort.rounds} round${effort.rounds === 1 ? '' : 's'} of them, each turn in a process of its own with a cache that is empty at its start. There are
${seeks} places to seek to, in descending order, so that none has been read ahead by an earlier seek.

- **open**: from the command to the first picture, with an empty cache and no connection to the origin. A host of seekcache's
  has rehearsed before, as one does within a second of its start when no player comes; **unrehearsed**: one that has not.
- **cold seek**: to a place that is not cached, until it plays (mpv) or shows the picture (playbin) there; ${effort.dwellSeconds} s between seeks.
- **again**: the same seeks in a new player process, ${effort.againDwellSeconds} s between them. **restarted**: once more, after the cache's process
  was ended and started again. **open again**: the open before the seeks again, and as many more as there are on an empty cache.
- Times are ms: median / p95, which of so few is about the largest.
- **link MB**: what came over the link in a round's cold + again + restarted sitting, with the headers of IP and TCP. A player
  reads ahead all the time, so this grows with the time between seeks, and what one sitting has not read ahead the next one does.
- **÷ film**: the three together ÷ the size of the film.
- **CPU s**, **RSS MB**: processor time and peak memory of the cache's processes in a round.
- A process of the lowest priority keeps each processor from idling, but where rates on loopback are measured: a virtual machine's
  idle processor is given away, and comes back late. A measurement while which the machine below took away more than ${percent(MAX_STOLEN_SHARE)} of the processor time is made again, whatever came
  out. So were ${stolen.repeats} of them; of those that count the median lost ${percent(stolen.medianShare)}, the worst ${percent(stolen.worstShare)}.

Drivers:

${list(DRIVERS)}

Players:

${list(PLAYERS)}`
}

function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`
}

function list(words: Readonly<Record<string, string>>): string {
  return Object.entries(words).map(([name, meaning]) => `- **${name}**: ${meaning}`).join('\n')
}

function linkTables({ rows }: Summary): string[] {
  const titles = new Map<string, Row[]>()
  for (const row of rows) {
    const title = `## ${titleOf(row.link)}: ${row.player}, ${row.format.toUpperCase()}`
    titles.set(title, [...(titles.get(title) ?? []), row])
  }
  return [...titles].map(([title, group]) => `${title}\n\n${linkTable(group)}`)
}

function linkTable(rows: readonly Row[]): string {
  const head = ['', 'open', 'unrehearsed', 'cold seek', 'again', 'restarted', 'open again', 'link MB', '÷ film', 'CPU s', 'RSS MB']
  return table(head, rows.map((row) => {
    const { cold, again, restarted } = row.linkMegabytes
    const name = row.failures === 0 ? row.driver : `${row.driver} (${row.failures} failed)`
    if (row.coldMs.samples.length === 0) return [name, ...Array<string>(head.length - 1).fill('–')]
    return [
      name,
      ...[row.openMs, row.openUnrehearsedMs, row.coldMs, row.againMs, row.restartedMs, row.openAgainMs].map((ms) => (ms === undefined ? '' : spread(ms.samples))),
      [cold, again, restarted].map((value) => value.toFixed(0)).join(' + '),
      row.linkShareOfFilm.toFixed(2),
      row.cpuSeconds?.toFixed(1) ?? '',
      row.peakRssMegabytes?.toFixed(0) ?? '',
    ]
  }))
}

function stormTable({ storm }: Summary): string[] {
  if (storm === undefined) return []
  const [alone, last] = [storm.flatMap((round) => round.alone), storm.map((round) => round.last)]
  const row = (name: string, seeks: readonly Seek[]): string[] =>
    [name, spread(seeks.map(({ pictureMs }) => pictureMs)), spread(seeks.map(({ mebibyteMs }) => mebibyteMs))]
  const { rttMs, megabitsPerSecond } = LINKS.main
  const boundMegabytes = ((STORM_SEEKS - 1) * ((rttMs / 1000) * megabitsPerSecond * 125_000 + 256 * 1024)) / 1e6
  return [
    `## ${titleOf('main')}: ${STORM_SEEKS} seeks in 10 s\n\nThrough the proxy, ms from the request to its first 256 KiB and to its first MiB. The ${
      STORM_SEEKS - 1} seeks before the last moved ${median(storm.map(({ movedBytes }) => movedBytes / 1e6)).toFixed(0)} MB over the link (median of ${
      storm.length} storms); one round trip of the link's rate and 256 KiB for each would be ${boundMegabytes.toFixed(0)} MB.\n\n${table(
      ['', '256 KiB', '1 MiB'],
      [row('a seek alone', alone), row('the last of the storm', last)],
    )}`,
  ]
}

function http2Table({ http2 }: Summary): string[] {
  if (http2 === undefined) return []
  const of = (who: keyof Http2Result): number[] => http2.flatMap((round) => round[who])
  const rows = [['256 KiB by curl, hot connection', of('curl')], ['playbin through the proxy', of('proxy')], ['playbin with the element', of('element')]] as const
  const best = median(of('curl'))
  return [
    `## ${titleOf('main')}: HTTP/2\n\nCold seeks, MKV, an origin with TLS and HTTP/2.\n\n${table(
      ['', 'ms', '÷ curl'],
      rows.map(([name, samples]) => [name, spread(samples), (median(samples) / best).toFixed(2)]),
    )}`,
  ]
}

function titleOf(link: LinkName): string {
  const { rttMs, megabitsPerSecond } = LINKS[link]
  return `${rttMs} ms, ${megabitsPerSecond} Mbit/s`
}

/** As the tables show it: median / p95. */
function spread(samples: readonly number[]): string {
  const { p50, p95 } = spreadOf(samples)
  return `${p50.toFixed(0)} / ${p95.toFixed(0)}`
}

function downloadTable({ download }: Summary): string[] {
  if (download === undefined) return []
  const of = (which: keyof DownloadResult): Download[] => download.map((round) => round[which])
  const rows = [['curl from the origin', of('direct')], ['curl through the proxy', of('proxy')], ['the same again', of('proxyAgain')]] as const
  const body = rows.map(([name, runs]) => [
    name,
    median(runs.map(({ seconds }) => seconds)).toFixed(2),
    median(runs.map(({ linkShare }) => linkShare)).toFixed(3),
  ])
  return [`## ${titleOf('main')}: downloading 100 MiB\n\n${table(['', 's', 'over the link ÷ downloaded'], body)}`]
}

function loopbackTables({ loopback, filmMegabytes }: Summary): string[] {
  if (loopback === undefined) return []
  const rate = (name: string, otherName: string, { seekcache, other, ratio }: Compared): string[][] => [
    [name, median(seekcache).toFixed(0), Math.max(...seekcache).toFixed(0), ratio.toFixed(2)],
    [otherName, median(other).toFixed(0), Math.max(...other).toFixed(0), ''],
  ]
  const firstByte = (name: string, rounds: readonly FirstBytes[]): string[][] =>
    (['seekcache', 'nginx'] as const).map((who) => {
      const p99Ms = rounds.map((round) => round[who].p99Ms)
      const p50Ms = rounds.map((round) => round[who].p50Ms)
      return [`${name}, ${who}`, ...[median(p50Ms), median(p99Ms), Math.max(...p99Ms)].map((ms) => ms.toFixed(1))]
    })
  return [
    `## Cached, without a link\n\n${filmMegabytes.toFixed(0)} MB a film, in blocks of 256 KiB by GStreamer, both films by curl.\n\n${table(
      ['MB/s', 'median', 'best', '÷'],
      [
        ...rate('seekcachesrc ! fakesink', 'filesrc ! fakesink', loopback.element),
        ...rate('proxy to curl', 'nginx (sendfile) to curl', loopback.proxy),
      ],
    )}`,
    `First byte of a cached range of 64 KiB at a random place, 16 readers at the same time: at 320 requests a second, and as fast as they can. Medians of ${loopback.firstByte.length} rounds of ${loopback.firstByte[0]?.seekcache.requests} requests, in turn.\n\n${table(
      ['ms', 'p50', 'p99', 'p99 of the worst round'],
      [...firstByte('320/s', loopback.firstByte), ...firstByte('as fast as they can', loopback.firstByteSaturated)],
    )}`,
    `The host's memory was ${(loopback.peakRssBytes / 1e6).toFixed(0)} MB at its peak, the filling of the cache included.`,
  ]
}

/** Columns are padded, so that the source reads as a table too. */
function table(head: readonly string[], body: readonly (readonly string[])[]): string {
  const widths = head.map((title, i) => Math.max(3, title.length, ...body.map((row) => (row[i] ?? '').length)))
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join(' | ')} |`
  const rule = `|${widths.map((width, i) => (i === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`
  return [line(head), rule, ...body.map(line)].join('\n')
}

