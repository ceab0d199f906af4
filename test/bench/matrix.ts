/**
 * What is measured, as data: links, players, films and caches, and which of them are combined.
 *
 * Seeks go to places in descending order. A player and a cache read ahead of where they are, never behind it, so no place
 * has been fetched by an earlier seek, whatever the link carries in between.
 */
import type { LinkOptions } from './link.ts'

export type LinkName = 'main' | 'fast' | 'slow'
export type DriverName = 'local' | 'direct' | 'seekcache-proxy' | 'seekcache-script' | 'seekcache-element' | 'nginx-slice' | 'rclone'
export type PlayerName = 'mpv' | 'playbin' | 'mpv-exact'
export type FormatName = 'mkv' | 'mp4'

/** A router's buffer of 100 ms is ordinary. */
export const LINKS: Readonly<Record<LinkName, LinkOptions>> = {
  main: { rttMs: 60, megabitsPerSecond: 80, queueMs: 100 },
  fast: { rttMs: 10, megabitsPerSecond: 500, queueMs: 100 },
  slow: { rttMs: 200, megabitsPerSecond: 15, queueMs: 100 },
}

export const FILM = { seconds: 600, kilobitsPerSecond: 10_000, gopSeconds: 2 } as const
export const FORMATS: readonly FormatName[] = ['mkv', 'mp4']

/** What each is, in words for the report. */
export const DRIVERS: Readonly<Record<DriverName, string>> = {
  local: 'the player itself, the film on its own disk: what the link cannot slow down',
  direct: 'the player itself, no cache',
  'seekcache-proxy': 'seekcache, any player over its HTTP proxy',
  'seekcache-script': "seekcache, mpv with its script, which hands web media to the proxy",
  'seekcache-element': "seekcache, GStreamer's element that reads the cache's files",
  'nginx-slice': 'nginx, `slice 1m` and `proxy_cache`',
  rclone: '`rclone serve http --vfs-cache-mode full`',
}

export const PLAYERS: Readonly<Record<PlayerName, string>> = {
  mpv: "mpv over its JSON IPC; seeks to key frames, as a click on its seek bar does",
  playbin: "GStreamer's playbin; flushing seeks to key frames",
  'mpv-exact': 'mpv, seeks to the exact frame, which decodes from the key frame before it',
}

const PLACES_PERCENT: readonly number[] = [94.3, 87.4, 80.2, 73.3, 66.1, 59.2, 52.4, 45.1, 38.3, 31.2, 24.4, 17.3]

export interface Combination {
  readonly link: LinkName
  readonly player: PlayerName
  readonly format: FormatName
  /** Compared side by side, taking turns. */
  readonly drivers: readonly DriverName[]
}

export interface Effort {
  /** Turns of each driver; each has its share of the places. */
  readonly rounds: number
  readonly places: readonly number[]
  /** Per round, each with an empty cache. */
  readonly opens: number
  /** Between two cold seeks: what is under way settles, connections go idle. */
  readonly dwellSeconds: number
  readonly againDwellSeconds: number
  readonly loopbackRounds: number
  /** Each 100 seeks. */
  readonly storms: number
}

/** Each round has its share of them. */
export function placesOf({ places, rounds }: Effort, round: number): number[] {
  return places.filter((_, i) => i % rounds === round)
}

export const FULL: Effort = { rounds: 2, places: PLACES_PERCENT, opens: 6, dwellSeconds: 1.5, againDwellSeconds: 0.5, loopbackRounds: 12, storms: 6 }
export const QUICK: Effort = { ...FULL, rounds: 1, places: PLACES_PERCENT.filter((_, i) => i % 3 === 0), opens: 2, loopbackRounds: 3, storms: 2 }

export interface Selection {
  readonly links: readonly LinkName[]
  readonly drivers: readonly DriverName[]
  readonly players: readonly PlayerName[]
  readonly formats: readonly FormatName[]
}

/** The caches of others are measured on the main link with one film; the rest shows how seekcache itself follows link and film. */
export function combinationsOf(selection: Selection): Combination[] {
  const found: Combination[] = []
  for (const link of selection.links) {
    for (const player of selection.players) {
      for (const format of link === 'main' ? selection.formats : selection.formats.slice(0, 1)) {
        const isMain = link === 'main' && format === selection.formats[0]
        const drivers = selection.drivers.filter((driver) => canDrive(driver, player) && (isMain || isOurs(driver, link)))
        if (drivers.length > 0) found.push({ link, player, format, drivers })
      }
    }
  }
  return found
}

function canDrive(driver: DriverName, player: PlayerName): boolean {
  if (driver === 'seekcache-element') return player === 'playbin'
  return driver !== 'seekcache-script' || player !== 'playbin'
}

/** Or what ours is compared with; the local film knows no link. */
function isOurs(driver: DriverName, link: LinkName): boolean {
  return driver === 'direct' || driver.startsWith('seekcache') || (driver === 'local' && link === 'main')
}
