/**
 * A resource as its user names it: a URL and headers; and what of the URL may be shown. Pure.
 */

import { SeekCacheError } from './errors.ts'

/** A request for a resource as its user wrote it. */
export interface ResourceSpec {
  readonly url: string
  readonly headers: readonly (readonly [name: string, value: string])[]
}

/** @throws ERR_SEEKCACHE_USAGE for what is no http(s) URL */
export function parseUrl(text: string): URL {
  let url: URL
  try {
    url = new URL(text)
  } catch (cause) {
    throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `not a URL: ${text.replace(/\?.*/s, '').slice(0, 200)}`, { cause })
  }
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new SeekCacheError('ERR_SEEKCACHE_USAGE', `not an http(s) URL: ${url.protocol}//…`)
  }
  return url
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
  return decoded.replace(/[/\\\x00-\x1f\x7f]/g, '_').replace(/^\.+/, '') || 'media'
}
