/**
 * What the proxy says of the bytes that it sends: whatever the origin claims, a browser that is led here runs nothing, and no
 * other site's page can show or read it. Pure.
 */

import { parseHttpDate } from '../bytes/http-date.ts'
import { isStrongEtag } from '../bytes/http-range.ts'
import type { Representation } from './conditions.ts'

/** On every answer, the refusals too. */
export const SAFE_HEADERS = {
  'x-content-type-options': 'nosniff',
  'content-security-policy': "sandbox; default-src 'none'; media-src 'self'",
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
} as const

/** Media types pass; what a browser might execute is only bytes. */
export function safeContentType(type: string | undefined): string {
  return type !== undefined && /^(audio|video)\/[\w.+-]+( *;[\w="'.,+ -]*)?$|^application\/(ogg|mp4|x-matroska)$/i.test(type)
    ? type
    : 'application/octet-stream'
}

export interface StoredFacts {
  readonly sizeBytes: number
  readonly generation: string
  readonly etag: string | undefined
  readonly lastModified: string | undefined
}

/** The validators as players get them: what the origin sent where it is proper, else what we know the version by. */
export function representationOf({ sizeBytes, generation, etag, lastModified }: StoredFacts): Representation {
  return {
    sizeBytes,
    etag: isStrongEtag(etag) ? etag : `"${generation}"`,
    lastModified: parseHttpDate(lastModified) === undefined ? undefined : lastModified,
  }
}
