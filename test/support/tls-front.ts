/**
 * TLS before a test origin, right or wrong, and the certificates for it, made by openssl when a test needs them.
 *
 * `turn` breaks all connections and goes on at the same port with another behaviour, as a server whose certificate was changed.
 */
import { execFile } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import net from 'node:net'
import tls from 'node:tls'
import { promisify } from 'node:util'

import type { TlsFault } from './fault-cases.ts'
import { listenAgain } from './listener.ts'
import type { TempDir } from './temp-dir.ts'

type CertificateName = Exclude<TlsFault, 'tls-reset' | 'tls-none'>

export interface Certificates {
  /** For NODE_EXTRA_CA_CERTS. */
  readonly authorityFile: string
  readonly pairs: ReadonlyMap<TlsFault, { readonly key: string; readonly cert: string }>
}

const run = promisify(execFile)

export async function makeCertificates(dir: TempDir): Promise<Certificates> {
  await run('openssl', ['ecparam', '-name', 'prime256v1', '-genkey', '-noout', '-out', dir.file('key.pem')])
  const openssl = async (...words: readonly string[]): Promise<void> => void (await run('openssl', [...words], { cwd: dir.path }))
  const authority = async (name: string): Promise<void> =>
    await openssl('req', '-x509', '-key', 'key.pem', '-days', '2', '-subj', `/CN=${name}`, '-addext', 'basicConstraints=critical,CA:TRUE', '-out', `${name}.pem`)
  const leaf = async (name: CertificateName, by: string, host: string, days: readonly string[]): Promise<void> => {
    await openssl('req', '-new', '-key', 'key.pem', '-subj', `/CN=${name}`, '-addext', `subjectAltName=${host}`, '-out', `${name}.csr`)
    await writeFile(dir.file(`${name}.txt`), '')
    await writeFile(dir.file(`${name}.cnf`), `[ca]\ndefault_ca=d\n[d]\ndatabase=${name}.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\ncopy_extensions=copy\npolicy=p\n[p]\ncommonName=supplied\n`)
    await openssl('ca', '-batch', '-notext', '-config', `${name}.cnf`, '-cert', `${by}.pem`, '-keyfile', 'key.pem', '-in', `${name}.csr`, '-out', `${name}.pem`, ...days)
  }
  await Promise.all([authority('authority'), authority('stranger')])
  const now = ['-days', '2']
  await Promise.all([
    leaf('tls-good', 'authority', 'IP:127.0.0.1,DNS:localhost', now),
    leaf('tls-expired', 'authority', 'IP:127.0.0.1', ['-startdate', '20200101000000Z', '-enddate', '20200102000000Z']),
    leaf('tls-wrong-name', 'authority', 'DNS:elsewhere.example', now),
    leaf('tls-unknown-authority', 'stranger', 'IP:127.0.0.1', now),
    openssl('req', '-x509', '-key', 'key.pem', '-days', '2', '-subj', '/CN=self', '-addext', 'subjectAltName=IP:127.0.0.1', '-out', 'tls-self-signed.pem'),
  ])
  const names: readonly CertificateName[] = ['tls-good', 'tls-expired', 'tls-wrong-name', 'tls-unknown-authority', 'tls-self-signed']
  const key = await readFile(dir.file('key.pem'), 'utf8')
  const pairs = await Promise.all(names.map(async (name) => [name, { key, cert: await readFile(dir.file(`${name}.pem`), 'utf8') }] as const))
  return { authorityFile: dir.file('authority.pem'), pairs: new Map(pairs) }
}

export class TlsFront implements AsyncDisposable {
  readonly #certificates: Certificates
  readonly #originPort: number
  readonly #sockets = new Set<net.Socket>()
  #server: net.Server | undefined
  #port = 0

  constructor(certificates: Certificates, originPort: number) {
    this.#certificates = certificates
    this.#originPort = originPort
  }

  url(name: string): string {
    return `https://127.0.0.1:${this.#port}/${name}`
  }

  async turn(to: TlsFault): Promise<void> {
    await this.#close()
    const pair = this.#certificates.pairs.get(to)
    const server = pair !== undefined ? tls.createServer(pair, (socket) => this.#join(socket)) : net.createServer((socket) => this.#refuse(socket, to))
    server.on('connection', (socket: net.Socket) => this.#watch(socket))
    server.on('tlsClientError', () => {}) // a client that does not trust us; that is what it is for
    await listenAgain(server, this.#port)
    this.#port = (server.address() as net.AddressInfo).port
    this.#server = server
  }

  #watch(socket: net.Socket): void {
    this.#sockets.add(socket)
    socket.on('error', () => {}).once('close', () => this.#sockets.delete(socket))
  }

  #join(socket: tls.TLSSocket): void {
    const origin = net.connect(this.#originPort, '127.0.0.1')
    origin.on('error', () => socket.destroy()).once('close', () => socket.destroy())
    socket.on('error', () => origin.destroy()).once('close', () => origin.destroy())
    socket.pipe(origin).pipe(socket)
  }

  /** In the middle of the handshake: the client has said hello. */
  #refuse(socket: net.Socket, to: TlsFault): void {
    socket.once('data', () => (to === 'tls-reset' ? socket.resetAndDestroy() : socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')))
  }

  async #close(): Promise<void> {
    const server = this.#server
    if (server === undefined) return
    const closed = new Promise((resolve) => server.close(resolve))
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close()
  }
}
