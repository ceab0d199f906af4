/** A certificate of one's own for TLS origins on loopback, made anew for each test file by openssl. */

import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'

import { type TempDir, tempDir } from './temp-dir.ts'

export interface Certificate extends AsyncDisposable {
  readonly keyFile: string
  /** What a client has to trust: NODE_EXTRA_CA_CERTS. */
  readonly certFile: string
  readonly key: string
  readonly cert: string
}

export interface CertificateOptions {
  /** Subject alternative names, as openssl takes them. */
  readonly names?: string
}

export async function makeCertificate({ names = 'DNS:localhost,IP:127.0.0.1' }: CertificateOptions = {}): Promise<Certificate> {
  const temp: TempDir = await tempDir('seekcache-cert')
  const [keyFile, certFile] = [temp.file('key.pem'), temp.file('cert.pem')]
  const args = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-subj', '/CN=seekcache test']
  await promisify(execFile)('openssl', [...args, '-addext', `subjectAltName=${names}`, '-days', '2', '-keyout', keyFile, '-out', certFile])
  const [key, cert] = await Promise.all([readFile(keyFile, 'utf8'), readFile(certFile, 'utf8')])
  return { keyFile, certFile, key, cert, [Symbol.asyncDispose]: temp.remove }
}
