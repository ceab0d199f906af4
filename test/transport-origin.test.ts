/** Origins that redirect, and origins that freeze. */

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import { setTimeout as elapse } from 'node:timers/promises'
import { promisify } from 'node:util'

import { connect } from 'seekcache'
import { makeCertificate } from './support/certificate.ts'
import { patternContent } from './support/content.ts'
import { within } from './support/deadline.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { startNginx, type Nginx } from './support/nginx.ts'
import { tempDir } from './support/temp-dir.ts'

const CONTENT = patternContent(12_000_000)
const FROZEN_MS = 6_000

type Cache = Awaited<ReturnType<typeof connect>>
type Media = Awaited<ReturnType<Cache['open']>>

async function connectTo(host: TestHost): Promise<Cache> {
  return await connect({ cacheDir: host.cacheDir, socketPath: host.socket })
}

async function assertRight(media: Media, start: number, end: number): Promise<void> {
  const parts: Buffer[] = []
  for await (const bytes of media.read(start, end)) parts.push(bytes)
  assert.ok(Buffer.concat(parts).equals(CONTENT.read(start, end)), `${start}-${end}`)
}

test('redirects are followed once for all fetches of a resource, whoever reads it', async () => {
  await using target = await startFaultOrigin({ content: CONTENT })
  await using second = await startFaultOrigin({ content: CONTENT, script: () => ({ kind: 'redirect', location: target.url(), status: 307 }) })
  await using first = await startFaultOrigin({ content: CONTENT, script: () => ({ kind: 'redirect', location: second.url() }) })
  await using host = await startHost()
  await using cache = await connectTo(host)
  const media = await cache.open(first.url())
  for (const start of [8_000_000, 1_000_000, 11_000_000, 4_000_000]) await assertRight(media, start, start + 500_000)
  const other = await cache.open(first.url())
  await assertRight(other, 6_000_000, 7_000_000)
  await media.close()
  await assertRight(other, 0, CONTENT.sizeBytes)
  assert.ok(target.requests.length >= 3, 'no piece is longer than 4 MiB')
  assert.deepEqual([first.requests.length, second.requests.length], [1, 1])
})

/** nginx's worker processes: those that serve. */
async function workersOf(nginx: Nginx): Promise<number[]> {
  const { stdout } = await promisify(execFile)('pgrep', ['-P', String(nginx.pid)])
  return stdout.trim().split('\n').map(Number)
}

test('an origin that freezes for some seconds is waited for', async () => {
  await using certificate = await makeCertificate()
  await using folder = await tempDir()
  for (const name of ['api.mkv', 'proxy.mkv', 'http2.mkv']) await writeFile(folder.file(name), CONTENT.read(0, CONTENT.sizeBytes))
  await using nginx = await startNginx(folder.path, { certificate, limitRateBytesPerSecond: 500_000 })
  await using host = await startHost({ env: { NODE_EXTRA_CA_CERTS: certificate.certFile } })
  await using cache = await connectTo(host)
  const workers = await workersOf(nginx)
  assert.ok(workers.length > 0)

  const begun: Promise<void>[] = []
  const reading = (read: (onBytes: (bytes: Uint8Array) => void) => Promise<void>): Promise<Buffer> => {
    const parts: Uint8Array[] = []
    let onBegun!: () => void
    begun.push(new Promise((resolve) => (onBegun = resolve)))
    return read((bytes) => {
      parts.push(bytes)
      if (parts.reduce((sum, { length }) => sum + length, 0) > 500_000) onBegun()
    }).then(() => Buffer.concat(parts))
  }
  const readMedia = async (url: string, onBytes: (bytes: Uint8Array) => void): Promise<void> => {
    const media = await cache.open(url)
    for await (const bytes of media.read()) onBytes(bytes)
  }
  const readers = [
    reading((onBytes) => readMedia(nginx.url('api.mkv'), onBytes)),
    reading((onBytes) => readMedia(nginx.secureUrl('http2.mkv'), onBytes)),
    reading(async (onBytes) => {
      const response = await fetch(host.proxyUrl(nginx.url('proxy.mkv')))
      for await (const bytes of response.body!) onBytes(bytes)
    }),
  ]
  try {
    await within('all read', Promise.all(begun))
    for (const worker of workers) process.kill(worker, 'SIGSTOP')
    await elapse(FROZEN_MS) // what is tested is a time
  } finally {
    for (const worker of workers) process.kill(worker, 'SIGCONT')
  }
  for (const whole of await within('the rest', Promise.all(readers))) assert.ok(whole.equals(CONTENT.read(0, CONTENT.sizeBytes)), 'every byte')
})
