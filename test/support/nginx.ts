/**
 * A real nginx on a free loopback port, serving one folder with ranges, ETag and Last-Modified.
 *
 * Its access log tells what the origin really sent, and is complete when asked for: nginx writes a line when a request
 * ends, so `log()` first waits until no request is running. `bodyBytes` counts what nginx handed to its socket, which for
 * a request that the client gave up is up to one send buffer more than what arrived: the buffer is kept small.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'
import http from 'node:http'
import net from 'node:net'

import { endWithThisProcess } from './children.ts'
import { PATIENCE_MS, within } from './deadline.ts'
import { type TempDir, tempDir } from './temp-dir.ts'

export interface NginxOptions {
  /** Per connection. */
  readonly limitRateBytesPerSecond?: number
  /** More lines for the location that serves the files, for instance `auth_basic …;`. */
  readonly directives?: string
  readonly sendBufferBytes?: number
  /** Serves the same over TLS, with HTTP/2, under `secureUrl`. */
  readonly certificate?: { readonly keyFile: string; readonly certFile: string } | undefined
}

export interface NginxEntry {
  readonly method: string
  readonly uri: string
  readonly status: number
  /** The request's `Range`, empty if it had none. */
  readonly range: string
  readonly ifRange: string
  readonly userAgent: string
  readonly bodyBytes: number
  readonly connection: number
  /** 1 for a connection's first request. */
  readonly connectionRequests: number
  readonly isComplete: boolean
}

export interface Nginx extends AsyncDisposable {
  readonly port: number
  readonly pid: number
  url(name: string): string
  secureUrl(name: string): string
  /** The requests that have ended, after waiting for the running ones to end. */
  log(): Promise<readonly NginxEntry[]>
  /** The requests that have ended so far. */
  peekLog(): Promise<readonly NginxEntry[]>
  bytesSent(): Promise<number>
  stop(): Promise<void>
}

export async function startNginx(folder: string, options: NginxOptions = {}): Promise<Nginx> {
  for (let attempt = 1; ; attempt++) {
    const temp = await tempDir('seekcache-nginx')
    const [port, securePort] = [await freePort(), await freePort()]
    try {
      return await startOn({ port, securePort }, folder, temp, options)
    } catch (error) {
      await temp.remove()
      // Somebody may have taken the port between the look and nginx's bind.
      if (attempt === 5 || !(error instanceof Error) || !error.message.includes('bind()')) throw error
    }
  }
}

interface Ports {
  readonly port: number
  readonly securePort: number
}

async function startOn({ port, securePort }: Ports, folder: string, temp: TempDir, options: NginxOptions): Promise<Nginx> {
  const config = temp.file('nginx.conf')
  await writeFile(config, configText({ port, securePort }, folder, temp, options))
  const child = spawn('nginx', ['-e', 'stderr', '-p', temp.path, '-c', config], { stdio: ['ignore', 'ignore', 'pipe'] })
  endWithThisProcess(child, 'SIGTERM')
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()))
  try {
    await within('the start of nginx', workersStarted(child), PATIENCE_MS)
  } catch (error) {
    child.kill('SIGKILL')
    await exited
    throw error
  }

  const peekLog = async () => parseLog(await readFile(temp.file('access.log'), 'utf8'))
  const log = async () => {
    await settled(port)
    return await peekLog()
  }
  const stop = async () => {
    child.kill('SIGTERM')
    await exited
    await temp.remove()
  }
  return {
    port,
    pid: child.pid!,
    secureUrl: (name) => `https://localhost:${securePort}/${encodeURIComponent(name)}`,
    url: (name) => `http://127.0.0.1:${port}/${encodeURIComponent(name)}`,
    log,
    peekLog,
    bytesSent: async () => (await log()).reduce((sum, entry) => sum + entry.bodyBytes, 0),
    stop,
    [Symbol.asyncDispose]: stop,
  }
}

function configText({ port, securePort }: Ports, folder: string, temp: TempDir, options: NginxOptions): string {
  const isRoot = process.getuid?.() === 0
  const rate = options.limitRateBytesPerSecond
  return `
    ${isRoot ? 'user root;' : ''}
    daemon off;
    worker_processes 1;
    pid ${temp.file('nginx.pid')};
    error_log stderr notice;
    events { worker_connections 256; }
    http {
      log_format json escape=json '{"method":"$request_method","uri":"$uri","status":$status,"range":"$http_range",'
        '"ifRange":"$http_if_range","userAgent":"$http_user_agent","bodyBytes":$body_bytes_sent,'
        '"connection":$connection,"connectionRequests":$connection_requests,"completion":"$request_completion"}';
      access_log ${temp.file('access.log')} json;
      client_body_temp_path ${temp.file('body')};
      proxy_temp_path ${temp.file('proxy')};
      fastcgi_temp_path ${temp.file('fastcgi')};
      uwsgi_temp_path ${temp.file('uwsgi')};
      scgi_temp_path ${temp.file('scgi')};
      types { video/x-matroska mkv; video/mp4 mp4; text/html html; audio/x-mpegurl m3u; }
      default_type application/octet-stream;
      keepalive_requests 1000000;
      server {
        listen 127.0.0.1:${port} sndbuf=${options.sendBufferBytes ?? 256 * 1024};
        ${secureLines(securePort, options)}
        location = /.status { access_log off; stub_status; }
        location / {
          root ${folder};
          ${rate === undefined ? '' : `limit_rate ${rate};`}
          ${options.directives ?? ''}
        }
      }
    }
  `
}

function secureLines(port: number, { certificate, sendBufferBytes = 256 * 1024 }: NginxOptions): string {
  if (certificate === undefined) return ''
  const { certFile, keyFile } = certificate
  return `listen 127.0.0.1:${port} ssl http2 sndbuf=${sendBufferBytes}; ssl_certificate ${certFile}; ssl_certificate_key ${keyFile};`
}

/** nginx says on its error log, at the level of a notice, that it listens and that its worker runs. */
export async function workersStarted(child: ChildProcess): Promise<void> {
  let text = ''
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => reject(new Error(`nginx left with ${code}: ${text.trim()}`)))
    child.stderr?.setEncoding('utf8').on('data', (piece: string) => {
      text += piece
      if (text.includes('bind()')) reject(new Error(text.trim()))
      if (text.includes('start worker process ')) resolve()
    })
  })
}

function parseLog(text: string): readonly NginxEntry[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const { completion, ...entry } = JSON.parse(line) as Omit<NginxEntry, 'isComplete'> & { completion: string }
      return { ...entry, isComplete: completion === 'OK' }
    })
}

/**
 * Waits until the only request that nginx works on is the one that asks, twice: what had arrived before the first answer, and
 * was not taken up yet, has been by the second.
 */
async function settled(port: number): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS
  for (let calm = 0; ; ) {
    const status = await getText(`http://127.0.0.1:${port}/.status`)
    const [, reading, writing] = /Reading: (\d+) Writing: (\d+)/.exec(status) ?? []
    calm = reading === '0' && writing === '1' ? calm + 1 : 0
    if (calm === 2) return
    if (performance.now() > deadline) throw new Error(`nginx still has requests running: ${status}`)
    // stub_status is all that nginx offers, and it can only be asked: a bounded poll.
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

async function getText(url: string): Promise<string> {
  return await new Promise((resolve, reject) => {
    const request = http.get(url, { agent: false }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (piece: string) => (text += piece))
      response.once('end', () => resolve(text))
      response.once('error', reject)
    })
    request.once('error', reject)
  })
}

async function freePort(): Promise<number> {
  const server = net.createServer()
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}
