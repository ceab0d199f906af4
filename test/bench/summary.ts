/** From turns to figures: one row for each link, player, film and driver, over all its rounds. */
import type { DownloadResult } from './download.ts'
import type { Http2Result } from './http2.ts'
import type { Combination, DriverName, FormatName, LinkName, PlayerName } from './matrix.ts'
import type { LoopbackResult } from './loopback.ts'
import { median, spreadOf, type Spread } from './statistics.ts'
import type { StormResult } from './storm.ts'
import type { Turn } from './turns.ts'
import type { Phase, TurnResult } from './worker.ts'

export interface Row {
  readonly link: LinkName
  readonly player: PlayerName
  readonly format: FormatName
  readonly driver: DriverName
  /** Turns that did not end well; the other figures are of those that did. */
  readonly failures: number
  readonly openMs: Spread
  /** Of seekcache alone. */
  readonly openUnrehearsedMs?: Spread
  readonly coldMs: Spread
  readonly againMs: Spread
  readonly restartedMs: Spread
  readonly openAgainMs: Spread
  readonly openRestartedMs: Spread
  /** Over the link, a round. */
  readonly linkMegabytes: { readonly cold: number; readonly again: number; readonly restarted: number }
  /** All three together ÷ the film. */
  readonly linkShareOfFilm: number
  /** Of the cache's processes, a round. */
  readonly cpuSeconds?: number
  readonly peakRssMegabytes?: number
}

/** Processor time that the machine below took away. */
export interface Stolen {
  /** Of what was wanted, in the median and in the worst of the measurements that count. */
  readonly medianShare: number
  readonly worstShare: number
  /** Measurements that were made again for it. */
  readonly repeats: number
}

export interface Summary {
  readonly date: string
  readonly isQuick: boolean
  readonly machine: string
  readonly versions: Readonly<Record<string, string>>
  readonly filmMegabytes: number
  readonly stolen: Stolen
  readonly whyNoLink?: string
  readonly rows: readonly Row[]
  readonly storm?: readonly StormResult[]
  readonly http2?: readonly Http2Result[]
  readonly download?: readonly DownloadResult[]
  readonly loopback?: LoopbackResult
}

export function rowsOf(turns: readonly Turn[], filmBytes: (format: FormatName) => number): Row[] {
  const groups = new Map<string, Turn[]>()
  for (const turn of turns) {
    const { link, player, format } = turn.combination
    const key = [link, player, format, turn.driver].join()
    groups.set(key, [...(groups.get(key) ?? []), turn])
  }
  return [...groups.values()].flatMap((group) => {
    const { combination, driver } = group[0]!
    const results = group.flatMap(({ result }) => (result === undefined ? [] : [result]))
    const failures = group.length - results.length
    return [rowOf(combination, driver, failures, results, filmBytes(combination.format))]
  })
}

function rowOf(combination: Combination, driver: DriverName, failures: number, results: readonly TurnResult[], filmBytes: number): Row {
  const { link, player, format } = combination
  const seeks = (phase: (result: TurnResult) => Phase): Spread =>
    spreadOf(results.flatMap((result) => phase(result).seeks.map(({ ms }) => ms)))
  const open = (phase: (result: TurnResult) => Phase): Spread => spreadOf(results.map((result) => phase(result).open.ms))
  const megabytes = (phase: (result: TurnResult) => Phase): number => round(mean(results.map((result) => phase(result).linkBytes / 1e6)))
  const unrehearsed = results.flatMap(({ opensUnrehearsed }) => opensUnrehearsed.map(({ open }) => open.ms))
  const usages = results.flatMap(({ usage }) => (usage === undefined ? [] : [usage]))
  const linkMegabytes = {
    cold: megabytes(({ cold }) => cold),
    again: megabytes(({ again }) => again),
    restarted: megabytes(({ restarted }) => restarted),
  }
  const sum = linkMegabytes.cold + linkMegabytes.again + linkMegabytes.restarted
  return {
    link, player, format, driver, failures,
    openMs: spreadOf(results.flatMap(({ opens }) => opens.map(({ open }) => open.ms))),
    ...(unrehearsed.length === 0 ? {} : { openUnrehearsedMs: spreadOf(unrehearsed) }),
    coldMs: seeks(({ cold }) => cold),
    againMs: seeks(({ again }) => again),
    restartedMs: seeks(({ restarted }) => restarted),
    openAgainMs: spreadOf(results.flatMap(({ opensAgain }) => opensAgain.map(({ open }) => open.ms))),
    openRestartedMs: open(({ restarted }) => restarted),
    linkMegabytes,
    linkShareOfFilm: Math.round((sum * 1e9) / filmBytes) / 1000,
    ...(usages.length === 0 ? {} : {
      cpuSeconds: round(median(usages.map(({ cpuSeconds }) => cpuSeconds))),
      peakRssMegabytes: Math.round(Math.max(...usages.map(({ peakRssBytes }) => peakRssBytes)) / 1e6),
    }),
  }
}

function mean(samples: readonly number[]): number {
  return samples.reduce((sum, sample) => sum + sample, 0) / samples.length
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
