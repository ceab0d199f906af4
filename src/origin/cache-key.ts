/**
 * Which requests mean the same resource. Pure.
 *
 * The key is the URL without its fragment and without parameters that only sign it, plus whatever headers may decide what
 * the origin answers: two users' credentials never meet in one resource. What is stored is a keyed hash, so that an index
 * tells nothing of either.
 */

import { createHmac } from 'node:crypto'

import { parseUrl, type ResourceSpec } from '../resource-spec.ts'

/** Parameters that carry a signature, its time or its key id and do not choose the resource. Lower case. */
const SIGNATURE_PARAMETERS: readonly RegExp[] = [
  /^x-amz-(algorithm|credential|date|expires|signature|signedheaders|security-token)$/, // S3, SigV4
  /^(awsaccesskeyid|signature|expires|key-pair-id|policy)$/, // S3 SigV2, CloudFront
  /^x-goog-(algorithm|credential|date|expires|signature|signedheaders)$/, // GCS V4
  /^googleaccessid$/, // GCS V2
  /^(sv|st|se|sr|sp|sip|spr|sig|skoid|sktid|skt|ske|sks|skv)$/, // Azure SAS; only with sig and sv, see below
  /^x-plex-token$/,
]

/** Headers that say who asks and how, not what for. All others are part of the key. */
const NEUTRAL_HEADERS = new Set([
  'user-agent', 'referer', 'origin', 'accept', 'accept-language', 'accept-encoding', 'range', 'if-range', 'connection',
  'cache-control', 'pragma', 'icy-metadata', 'dnt', 'te', 'x-forwarded-for', 'host',
])

export function cacheKey(spec: ResourceSpec, salt: Buffer): string {
  const hash = createHmac('sha256', salt)
  hash.update(canonicalUrl(parseUrl(spec.url)))
  for (const line of spec.headers.filter(isIdentifying).map(([name, value]) => `${name.toLowerCase()}: ${value}`).sort()) {
    hash.update(`\n${line}`)
  }
  return hash.digest('hex').slice(0, 40)
}

function isIdentifying([name]: readonly [string, string]): boolean {
  return !NEUTRAL_HEADERS.has(name.toLowerCase())
}

/** With user information (it is a credential), without fragment and signature. */
export function canonicalUrl(url: URL): string {
  const copy = new URL(url)
  copy.hash = ''
  const isAzure = copy.searchParams.has('sig') && copy.searchParams.has('sv')
  for (const name of [...copy.searchParams.keys()]) {
    const lower = name.toLowerCase()
    const isAzureOnly = SIGNATURE_PARAMETERS[4]!.test(lower)
    if (SIGNATURE_PARAMETERS.some((pattern) => pattern.test(lower)) && (isAzure || !isAzureOnly)) copy.searchParams.delete(name)
  }
  return copy.href
}
