/**
 * When two answers are of the same version. Pure.
 *
 * Policy: a strong ETag decides alone. A weak one must match weakly and the Last-Modified, where both tell one, exactly. Without
 * an ETag, Last-Modified must be the same. Without either, only the size speaks here, and reopening compares the first
 * and the last chunk as well. A validator that was there and is gone is a difference.
 */

import { etagsMatchWeakly, isStrongEtag } from '../bytes/http-range.ts'

export interface Validator {
  readonly etag: string | undefined
  readonly lastModified: string | undefined
}

export function isSameVersion(known: Validator, got: Validator): boolean {
  if (isStrongEtag(known.etag)) return got.etag === known.etag
  if (known.etag !== undefined) {
    if (got.etag === undefined || !etagsMatchWeakly(known.etag, got.etag)) return false
    return known.lastModified === undefined || got.lastModified === undefined || known.lastModified === got.lastModified
  }
  return known.lastModified === got.lastModified
}

/** What If-Range may carry: only a strong ETag (RFC 9110 §13.1.5; a date is strong only if old enough, so we never guess). */
export function ifRange(validator: Validator): string | undefined {
  return isStrongEtag(validator.etag) ? validator.etag : undefined
}

/** One string for clients: the ETag, else the date, else null. */
export function validatorText(validator: Validator): string | null {
  return validator.etag ?? validator.lastModified ?? null
}
