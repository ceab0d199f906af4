/**
 * nginx as it is measured: as the origin, and with its `slice` module and `proxy_cache` as one of the caches that seekcache
 * is compared with. At any address, since the origin stands in a namespace of its own, and with sends as large as the link
 * takes them; `test/support/nginx.ts` does neither, but for correctness, not for speed.
 */
import { spawn } from 'node:child_process'
import { readFile, writeFile } from 'node:fs/promises'

import { endWithThisProcess } from '../support/children.ts'
import { within } from '../support/deadline.ts'
import { workersStarted } from '../support/nginx.ts'
import { tempDir } from '../support/temp-dir.ts'

export interface NginxOptions {
  readonly address: string
  readonly port: number
  /** The `location` blocks. */
  readonly locations: string
  /** Lines of the `http` block. */
  readonly http?: string
  /** Serves the same over TLS with HTTP/2 at another port. */
  readonly secure?: { readonly port: number; readonly certFile: string; readonly keyFile: string }
  /** Makes the command run elsewhere, such as in a namespace. */
  readonly at?: (words: readonly string[]) => readonly string[]
}

export interface OriginRequest {
  /** Seconds since the epoch. */
  readonly startedAt: number
  readonly endedAt: number
  readonly range: string
  readonly status: number
  readonly bytes: number
  readonly connection: number
  /** 1 for a connection's first request. */
  readonly request: number
  readonly isComplete: boolean
}

export interface Nginx extends AsyncDisposable {
  readonly pid: number
  readonly url: string
  /** The requests that have ended. */
  requests(): Promise<readonly OriginRequest[]>
}

export async function startNginx(options: NginxOptions): Promise<Nginx> {
  const { address, port, at = (words) => words } = options
  const temp = await tempDir('seekcache-bench-nginx')
  const log = temp.file('access.log')
  await writeFile(temp.file('nginx.conf'), configText(options, temp.path, log))
  const words = at(['nginx', '-e', 'stderr', '-p', temp.path, '-c', temp.file('nginx.conf')])
  const child = spawn(words[0]!, words.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] })
  endWithThisProcess(child, 'SIGTERM')
  const exited = new Promise<void>((resolve) => child.once('close', () => resolve()))
  const stop = async (): Promise<void> => {
    child.kill('SIGTERM')
    await exited
    await temp.remove()
  }
  try {
    await within('the start of nginx', workersStarted(child))
  } catch (error) {
    await stop()
    throw error
  }
  return {
    pid: child.pid!,
    url: `http://${address}:${port}`,
    requests: async () => parseLog(await readFile(log, 'utf8')),
    [Symbol.asyncDispose]: stop,
  }
}

/** Serves a folder as it is. rclone lists what it serves, so the index is on. */
export function filesOf(folder: string): string {
  return `location / { root ${folder}; autoindex on; }`
}

/** nginx's way to cache ranges: the resource in slices of 1 MiB, each an entry of its own. */
export function slicesOf(originUrl: string, folder: string): Pick<NginxOptions, 'http' | 'locations'> {
  return {
    http: `proxy_cache_path ${folder} keys_zone=films:10m max_size=20g use_temp_path=off;`,
    locations: `location / {
      slice 1m;
      proxy_cache films;
      proxy_cache_key $uri$slice_range;
      proxy_set_header Range $slice_range;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache_valid 200 206 1d;
      proxy_pass ${originUrl}/;
    }`,
  }
}

function configText({ address, port, locations, http = '', secure }: NginxOptions, folder: string, log: string): string {
  const secureText =
    secure === undefined ? '' : `listen ${address}:${secure.port} ssl http2; ssl_certificate ${secure.certFile}; ssl_certificate_key ${secure.keyFile};`
  return `
    ${process.getuid?.() === 0 ? 'user root;' : ''}
    daemon off;
    worker_processes 1;
    pid ${folder}/nginx.pid;
    error_log stderr notice;
    events { worker_connections 512; }
    http {
      log_format json escape=json '{"endedAt":$msec,"took":$request_time,"range":"$http_range","status":$status,'
        '"bytes":$body_bytes_sent,"connection":$connection,"request":$connection_requests,"completion":"$request_completion"}';
      access_log ${log} json;
      client_body_temp_path ${folder}/body;
      proxy_temp_path ${folder}/proxy;
      fastcgi_temp_path ${folder}/fastcgi;
      uwsgi_temp_path ${folder}/uwsgi;
      scgi_temp_path ${folder}/scgi;
      types { video/x-matroska mkv; video/mp4 mp4; }
      sendfile on;
      tcp_nopush on;
      keepalive_requests 1000000;
      ${http}
      server {
        listen ${address}:${port};
        ${secureText}
        ${locations}
      }
    }
  `
}

function parseLog(text: string): OriginRequest[] {
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const { took, completion, ...rest } = JSON.parse(line) as Omit<OriginRequest, 'startedAt' | 'isComplete'> & {
        readonly took: number
        readonly completion: string
      }
      return { ...rest, startedAt: rest.endedAt - took, isComplete: completion === 'OK' }
    })
}
