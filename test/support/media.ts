/**
 * The films that the tests play: made once per checkout, kept in `.media/`.
 *
 * `longFilm` is over 100 MB in both formats, so that no player, kernel buffer or readahead holds it by chance.
 */
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { type Film, makeFilm } from '../../src/demo/film.ts'

export const MEDIA_DIR = fileURLToPath(new URL('../../.media', import.meta.url))

/** 120 s, 120 MB, the index at the end, a key frame every 2 s. */
export function longFilm(): Promise<Film> {
  return makeFilm(path.join(MEDIA_DIR, 'films'), { seconds: 120, kilobitsPerSecond: 8000, gopSeconds: 2 })
}

/** 60 s, 11 MB, the index at the end, a key frame every 2 s. */
export function shortFilm(): Promise<Film> {
  return makeFilm(path.join(MEDIA_DIR, 'films'), { seconds: 60, kilobitsPerSecond: 1500, gopSeconds: 2 })
}
