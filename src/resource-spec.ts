/**
 * A resource as its user names it: a URL and headers; and what of the URL may be shown. Pure.
 */

import { SeekCacheError } from './errors.ts'

/**
 * What a URL and a header may look like wherever one comes in (RFC 9110 §5.5): a line break would be a second header, a
 * character beyond Latin-1 cannot be sent.
 */
export const HTTP_URL = /^https?:\/\/[^\s]+$/i
export const HEADER_NAME = /^[!#$%&'*+\-.^_`|~0-9a-z]+$/i
export const HEADER_VALUE = /^[\t\x20-\x7e\x80-\xff]*$/

/** A request for a resource as its user wrote it. */
export interface ResourceSpec {
  readonly url: string
  readonly headers: readonly (readonly [name: string, value: string])[]
  /** Its demuxer pulls, as GStreamer's: it goes from the index to other places than a player that reads in order. */
  readonly pulls?: boolean | undefined
}

/** `Name: value`, or undefined where it is no header. */
export function parseHeaderLine(line: string): [name: string, value: string] | undefined {
  const colon = line.indexOf(':')
  const [name, value] = [line.slice(0, colon), line.slice(colon + 1).trim()]
  return colon > 0 && HEADER_NAME.test(name) && HEADER_VALUE.test(value) ? [name, value] : undefined
}

/** @throws ERR_SEEKCACHE_USAGE for what is no http(s) URL */
export function parseUrl(text: string): URL {
  let url: URL
  try {
    url = new URL(text)
  } catch {
    // Without its cause, which holds the whole text.
    throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `not a URL: ${shownOfNoUrl(text)}`)
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `not an http(s) URL: ${url.protocol}//…`)
  }
  return url
}

/** A URL that is none may still hold what one holds: nothing before an @, nothing behind a question mark. */
function shownOfNoUrl(text: string): string {
  const [shown] = text.split(/[?#]/)
  return shown!.replace(/^([^/]*:\/\/)?.*@/s, '$1').slice(0, 200)
}

/** For logs, `ls` and messages: no user information, no query. */
export function displayUrl(url: URL): string {
  return `${url.origin}${url.pathname}${url.search === '' ? '' : '?…'}`
}

/** The last part of the path, decoded, fit for a file name; players look at its ending. */
export function fileNameOf(url: URL): string {
  const last = url.pathname.split('/').findLast((part) => part !== '') ?? ''
  let decoded = last
  try {
    decoded = decodeURIComponent(last)
  } catch {
    // an invalid escape stays as it is
  }
  return decoded.replace(/[/\\\x00-\x1f\x7f-\x9f]/g, '_').replace(/^\.+/, '') || 'media'
}
