/**
 * Where a cache directory and its socket are, and the options of a host with their defaults.
 *
 * A flag comes before the environment, the environment before the default. The environment's name of a flag is made
 * mechanically: `--max-size` is SEEKCACHE_MAX_SIZE.
 */

import envPaths from 'env-paths'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'

import { SeekCacheError } from './errors.ts'

/** native/client/host-place.cc and native/mpv/seekcache.lua follow the same rules. */
export function defaultCacheDir(env: NodeJS.ProcessEnv = process.env): string {
  if (env.SEEKCACHE_CACHE_DIR !== undefined && env.SEEKCACHE_CACHE_DIR !== '') return resolve(env.SEEKCACHE_CACHE_DIR)
  // The XDG specification says to ignore a relative path.
  if (env.XDG_CACHE_HOME?.startsWith('/') === true) return join(env.XDG_CACHE_HOME, 'seekcache')
  return process.platform === 'darwin' ? envPaths('seekcache', { suffix: '' }).cache : join(homedir(), '.cache', 'seekcache')
}

export function socketPathOf(cacheDir: string, env: NodeJS.ProcessEnv = process.env): string {
  const told = env.SEEKCACHE_SOCKET
  return told !== undefined && told !== '' ? resolve(told) : join(cacheDir, 'control.sock')
}

export interface HostOptions {
  readonly cacheDir: string
  readonly socketPath: string
  /** Of the proxy, on 127.0.0.1; 0 takes the last one again if it is free, else any. */
  readonly port: number
  readonly maxSizeBytes: number
  readonly reserveFreeBytes: number
  /** With nobody connected for so long the host leaves; undefined: never. */
  readonly idleExitMs: number | undefined
  /** How long a proxy request is held for its first byte. */
  readonly waitMs: number
  /** How long it is held for the next byte once it is being answered; players give up earlier if they like. */
  readonly bodyWaitMs: number
  /** Share of reads whose chunk is compared with its checksum, 0 to 1. */
  readonly checkedShare: number
  /** fdatasync before each commit. */
  readonly syncData: boolean
  readonly connectionsPerOrigin: number
  /** The most that is fetched ahead of a reader. */
  readonly maxWindowBytes: number
  /** A fetch without a byte for so long is replaced. */
  readonly stallMs: number
  /** The same before its first byte: an origin may have to wake a disk or a transcoder. At least `stallMs`. */
  readonly firstByteMs: number
  /** An origin that is silent for so long when a cached resource is opened counts as unreachable: it plays offline. */
  readonly revalidateMs: number
  /** Whether what a player has open is fetched whole, beside what it reads. */
  readonly fill: boolean
  /** A program, with its arguments split at spaces, that gives a fresh URL for an expired one. */
  readonly renewCommand: string | undefined
  /** Query parameters that do not choose a resource, besides known signatures. */
  readonly ignoredParameters: readonly string[]
  /** Whether requests that differ in their credentials alone are for one resource. */
  readonly sharesCredentials: boolean
}

export const HOST_DEFAULTS: Omit<HostOptions, 'cacheDir' | 'socketPath'> = {
  port: 0,
  maxSizeBytes: 20 * 2 ** 30,
  reserveFreeBytes: 2 ** 30,
  idleExitMs: undefined,
  waitMs: 30_000,
  bodyWaitMs: 120_000,
  checkedShare: 1 / 64,
  syncData: false,
  connectionsPerOrigin: 8,
  maxWindowBytes: 64 * 2 ** 20,
  stallMs: 3_000,
  firstByteMs: 10_000,
  revalidateMs: 5_000,
  fill: false,
  renewCommand: undefined,
  ignoredParameters: [],
  sharesCredentials: false,
}

/** A host that a client has started leaves after so long with nobody connected, s. */
export const BACKGROUND_IDLE_EXIT_SECONDS = 600

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

/** `20G`, `512M`, `1.5T`, `1048576`: powers of 1024. @throws ERR_SEEKCACHE_USAGE */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim())
  const bytes = match === null ? Number.NaN : Number(match[1]) * UNITS[match[2]!.toUpperCase()]!
  if (!Number.isSafeInteger(Math.round(bytes))) throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `not a size: "${text}" (such as 20G or 512M)`)
  return Math.round(bytes)
}

export function formatSize(bytes: number): string {
  const unit = ['T', 'G', 'M', 'K'].find((name) => bytes >= UNITS[name]!) ?? ''
  const value = bytes / UNITS[unit]!
  return `${value >= 100 || unit === '' ? Math.round(value) : value.toFixed(1)} ${unit === '' ? 'B' : `${unit}iB`}`
}
