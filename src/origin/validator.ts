/**
 * When two answers are of the same version. Pure.
 *
 * Policy, on top of the size, which must always be the same; every answer is held against it, so that a change is noticed with
 * the next answer, in the middle of a play too. A validator that was there and is gone is a difference.
 * - A strong ETag decides alone, and goes into If-Range and If-None-Match.
 * - A weak one must match weakly and Last-Modified, where both answers tell one, exactly. What an origin puts out under the
 *   same weak ETag, date and size is the same to us.
 * - Last-Modified alone must be the same, later or earlier being no matter. Two files of one size and one second are
 *   the same to us.
 * - Without either nothing but the size can be noticed while the resource is open. Reopening it compares the first and the
 *   last chunk that are cached with the origin's.
 * Only a strong ETag is ever sent as a condition: origins compare weak ones and dates more loosely than this.
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
