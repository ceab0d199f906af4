/**
 * Which requests mean the same resource. Pure.
 *
 * The key is the URL without its fragment and without parameters that only sign it, plus whatever headers may decide what
 * the origin answers: two users' credentials never meet in one resource, unless the rules say so. What is stored is a keyed
 * hash, so that an index tells nothing of either.
 */

import { createHmac } from 'node:crypto'

import { parseUrl, type ResourceSpec } from '../resource-spec.ts'

export interface KeyRules {
  /** Query parameters that do not choose the resource, besides the known signatures. Any case. */
  readonly ignoredParameters: readonly string[]
  /** Whether user information, Authorization and cookies do not tell resources apart. */
  readonly sharesCredentials: boolean
}

/** A way to sign URLs: which parameters it brings, and by which of them it is known. Lower case. */
interface SignatureScheme {
  readonly mark: readonly string[]
  readonly parameters: RegExp
}

/**
 * A name such as `policy` or `expires` means anything in a URL that is not signed: it is passed over only beside those
 * that mark its scheme. What overrides the answer's fields (`response-content-type`) or chooses a version stays.
 */
const SIGNATURE_SCHEMES: readonly SignatureScheme[] = [
  { mark: ['x-amz-signature'], parameters: /^x-amz-(algorithm|credential|date|expires|signature|signedheaders|security-token)$/ }, // S3, SigV4
  { mark: ['awsaccesskeyid', 'signature'], parameters: /^(awsaccesskeyid|signature|expires|x-amz-security-token)$/ }, // S3, SigV2
  { mark: ['key-pair-id', 'signature'], parameters: /^(key-pair-id|signature|expires|policy|hash-algorithm)$/ }, // CloudFront
  { mark: ['x-goog-signature'], parameters: /^x-goog-(algorithm|credential|date|expires|signature|signedheaders)$/ }, // GCS V4
  { mark: ['googleaccessid', 'signature'], parameters: /^(googleaccessid|signature|expires)$/ }, // GCS V2
  {
    mark: ['sig', 'sv'], // Azure SAS: of a service, of an account, of a user's delegation
    parameters: /^(sv|st|se|sr|ss|srt|sp|sip|spr|si|sig|skoid|sktid|skt|ske|sks|skv|saoid|suoid|scid|sdd|ses)$/,
  },
  { mark: ['x-plex-token'], parameters: /^x-plex-token$/ },
]

/** Headers that say who asks and how, not what for. All others are part of the key. */
const NEUTRAL_HEADERS = new Set([
  'user-agent', 'referer', 'origin', 'accept', 'accept-language', 'accept-encoding', 'range', 'if-range', 'connection',
  'cache-control', 'pragma', 'icy-metadata', 'dnt', 'te', 'x-forwarded-for', 'host',
])
/** Headers that are nothing but credentials. */
const CREDENTIAL_HEADERS = new Set(['authorization', 'cookie', 'x-plex-token', 'x-emby-token', 'x-emby-authorization', 'x-mediabrowser-token'])

export function cacheKey(spec: ResourceSpec, salt: Buffer, rules: KeyRules): string {
  const hash = createHmac('sha256', salt)
  hash.update(canonicalUrl(parseUrl(spec.url), rules))
  const isIdentifying = (name: string): boolean =>
    !NEUTRAL_HEADERS.has(name) && !(rules.sharesCredentials && CREDENTIAL_HEADERS.has(name))
  const headers = spec.headers.map(([name, value]) => [name.toLowerCase(), value] as const)
  for (const line of headers.filter(([name]) => isIdentifying(name)).map(([name, value]) => `${name}: ${value}`).sort()) {
    hash.update(`\n${line}`)
  }
  return hash.digest('hex').slice(0, 40)
}

/** Without fragment and signature; with user information, which is a credential. What stays keeps its spelling. */
function canonicalUrl(url: URL, rules: KeyRules): string {
  const copy = new URL(url)
  copy.hash = ''
  if (rules.sharesCredentials) copy.username = copy.password = ''
  const fields = copy.search.slice(1).split('&').map((text) => ({ text, name: parameterName(text) }))
  const names = new Set(fields.map(({ name }) => name))
  const schemes = SIGNATURE_SCHEMES.filter(({ mark }) => mark.every((name) => names.has(name)))
  const ignored = new Set(rules.ignoredParameters.map((name) => name.toLowerCase()))
  const isKept = (name: string): boolean => !ignored.has(name) && !schemes.some(({ parameters }) => parameters.test(name))
  copy.search = fields.filter(({ name }) => isKept(name)).map(({ text }) => text).join('&')
  return copy.href
}

/** As a server reads it, in lower case. */
function parameterName(text: string): string {
  const [[name] = ['']] = new URLSearchParams(text)
  return name.toLowerCase()
}
