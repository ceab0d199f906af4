/** Why an origin could not be fetched from, in words that a person understands, and whether it was the origin. Pure. */

import { SeekCacheError } from '../errors.ts'

const REASONS: Readonly<Record<string, string>> = {
  ENOTFOUND: 'there is no such host',
  EAI_AGAIN: 'its name cannot be looked up now',
  ECONNREFUSED: 'it refuses connections',
  ECONNRESET: 'it broke the connection',
  EHOSTUNREACH: 'there is no way to it',
  ENETUNREACH: 'there is no network',
  ETIMEDOUT: 'it does not answer',
  EPIPE: 'it broke the connection',
  UND_ERR_CONNECT_TIMEOUT: 'it does not answer',
  UND_ERR_SOCKET: 'it broke the connection',
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: 'its body is not as long as it says',
  UND_ERR_HEADERS_OVERFLOW: 'the head of its answer is too long',
  HPE_HEADER_OVERFLOW: 'the head of its answer is too long',
  HPE_INVALID_CONSTANT: 'it does not speak HTTP',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is self-signed',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its certificate is by an authority that is not known here (NODE_EXTRA_CA_CERTS makes one known)',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate cannot be verified',
  CERT_REVOKED: 'its certificate was revoked',
  CERT_FOR_OTHER_HOST: 'its certificate is for another host',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it does not speak TLS',
  ERR_SSL_PACKET_LENGTH_TOO_LONG: 'it does not speak TLS',
  EPROTO: 'it does not speak TLS as we do',
  ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL: 'it speaks neither HTTP/1.1 nor HTTP/2',
  ERR_HTTP2_ERROR: 'it does not speak proper HTTP/2',
  ERR_HTTP2_SESSION_ERROR: 'it does not speak proper HTTP/2',
}

const REASONS_BY_NAME: Readonly<Record<string, (code: string) => string>> = {
  HTTPParserError: () => 'it does not speak proper HTTP',
  Http2Error: (code) => (code === 'REFUSED_STREAM' ? 'it refuses requests now (HTTP/2 REFUSED_STREAM)' : `it broke the request off (HTTP/2 ${code})`),
}

/** No network, no name, no answer, no descriptor: the origin has had no say in it. */
const UNREACHED: ReadonlySet<string> = new Set([
  'ENOTFOUND', 'EAI_AGAIN', 'EAI_FAIL',
  'ENETUNREACH', 'ENETDOWN', 'EHOSTUNREACH', 'EHOSTDOWN', 'EADDRNOTAVAIL', 'EACCES', 'EPERM',
  'ETIMEDOUT', 'UND_ERR_CONNECT_TIMEOUT',
  'EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM',
])

/** Whether a connection that could not be made got as far as the origin. Of an origin's several addresses (RFC 8305) one is enough. */
export function wasReached(error: Error): boolean {
  const attempts: readonly Error[] = error instanceof AggregateError ? error.errors : [error]
  return attempts.some((attempt) => !UNREACHED.has((attempt as NodeJS.ErrnoException).code ?? ''))
}

export function unreachable(error: Error, url: URL): SeekCacheError {
  const code = (error as NodeJS.ErrnoException).code ?? ''
  const reason = REASONS[code] ?? REASONS_BY_NAME[error.name]?.(code) ?? (code || error.message)
  return new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', `cannot fetch from ${url.host}: ${reason}`, { cause: error })
}

export function brokenOff(url: URL): SeekCacheError {
  return new SeekCacheError('ERR_SEEKCACHE_ORIGIN_UNREACHABLE', `cannot fetch from ${url.host}: its answer broke off`)
}
