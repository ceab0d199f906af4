/** The medians of opens and cold seeks over the main link as bars: a small SVG writer of its own. */
import { LINKS } from './matrix.ts'
import type { Row } from './summary.ts'

const WIDTH = 760
const LABEL_WIDTH = 170
const VALUE_WIDTH = 70
const BAR_HEIGHT = 18
const GROUP_GAP = 30
const TOP = 74
const COLOURS = { ours: '#1a7f5a', others: '#9aa5b1' }
/** The first of these that was measured; both films show the same picture. */
const FORMATS = ['mkv', 'mp4'] as const

interface Bar {
  readonly label: string
  readonly value: number
  readonly isOurs: boolean
}

interface Group {
  readonly title: string
  readonly bars: readonly Bar[]
}

export function chartOf(rows: readonly Row[]): string | undefined {
  const groups = groupsOf(rows)
  if (groups.length === 0) return undefined
  const longest = Math.max(...groups.flatMap(({ bars }) => bars.map(({ value }) => value)))
  const scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / longest
  const parts: string[] = []
  let y = TOP
  for (const { title, bars } of groups) {
    parts.push(text(20, y, title, 'font-weight="600"'))
    y += 10
    for (const bar of bars) {
      const width = Math.max(1, bar.value * scale)
      const middle = y + BAR_HEIGHT / 2 + 4.5
      const colour = bar.isOurs ? COLOURS.ours : COLOURS.others
      parts.push(text(LABEL_WIDTH - 8, middle, bar.label, 'text-anchor="end"'))
      parts.push(`<rect x="${LABEL_WIDTH}" y="${y}" width="${width.toFixed(1)}" height="${BAR_HEIGHT - 4}" rx="2" fill="${colour}"/>`)
      parts.push(text(LABEL_WIDTH + width + 6, middle - 2, `${bar.value.toFixed(0)} ms`))
      y += BAR_HEIGHT
    }
    y += GROUP_GAP
  }
  const { rttMs, megabitsPerSecond } = LINKS.main
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y}" viewBox="0 0 ${WIDTH} ${y}" role="img" font-family="system-ui, sans-serif" font-size="13" fill="#1f2933">
<title>Opens and cold seeks, medians</title>
<rect width="100%" height="100%" fill="#ffffff"/>
${text(20, 28, `A 10 Mbit/s film over a link of ${rttMs} ms and ${megabitsPerSecond} Mbit/s`, 'font-size="16" font-weight="600"')}
${text(20, 48, 'median, ms, shorter is better; nothing cached before', 'fill="#52606d"')}
${parts.join('\n')}
</svg>
`
}

function groupsOf(rows: readonly Row[]): Group[] {
  const main = rows.filter((row) => row.link === 'main' && row.coldMs.samples.length > 0)
  const format = FORMATS.find((candidate) => main.some((row) => row.format === candidate))
  const shown = main.filter((row) => row.format === format)
  const measures = [
    ['cold seek', (row: Row) => row.coldMs.p50],
    ['open', (row: Row) => row.openMs.p50],
  ] as const
  return [...new Set(shown.map((row) => row.player))].flatMap((player) =>
    measures.map(([measure, valueOf]) => ({
      title: `${player}: ${measure}`,
      bars: shown
        .filter((row) => row.player === player && row.driver !== 'local')
        .map((row) => ({ label: row.driver, value: valueOf(row), isOurs: row.driver.startsWith('seekcache') })),
    })),
  )
}

function text(x: number, y: number, words: string, attributes = ''): string {
  const escaped = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
  return `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${attributes}>${escaped}</text>`
}
