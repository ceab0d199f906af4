/** The proxy as players and strangers meet it. */

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'

import { type RangeParts, ReadBuffers, sendRange } from '../src/proxy/body.ts'
import { decide } from '../src/proxy/conditions.ts'
import { patternContent, type Content } from './support/content.ts'
import { within } from './support/deadline.ts'
import { inOrder, startFaultOrigin, type FaultOrigin, type FaultOriginOptions } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import type { Fault } from './support/origin-reply.ts'

const CONTENT = patternContent(5_000_000)

/** For all tests that need no host of its own options: each has an origin, and so resources, of its own. */
const HOST = await startHost()
after(async () => await HOST.stop())

interface Served extends AsyncDisposable {
  readonly origin: FaultOrigin
  readonly host: TestHost
  readonly url: string
}

async function serve(options: Partial<FaultOriginOptions> = {}, args: readonly string[] = []): Promise<Served> {
  const origin = await startFaultOrigin({ content: CONTENT, contentType: 'video/mp4', etag: '"v1"', ...options })
  const host = args.length === 0 ? HOST : await startHost({ args })
  const url = host.proxyUrl(origin.url('film.mp4'))
  const dispose = async (): Promise<void> => {
    if (host !== HOST) await host.stop()
    await origin.stop()
  }
  return { origin, host, url, [Symbol.asyncDispose]: dispose }
}

async function get(url: string, headers: Record<string, string> = {}): Promise<Response> {
  return await fetch(url, { headers })
}

async function bytesOf(response: Response): Promise<Buffer> {
  return Buffer.from(await response.arrayBuffer())
}

/** A request as no browser and no fetch would send it. */
async function rawRequest(url: string, options: { method?: string; headers?: Record<string, string>; path?: string }): Promise<IncomingMessage> {
  const { port, pathname } = new URL(url)
  return await new Promise((resolve, reject) => {
    const request = httpRequest({ host: '127.0.0.1', port, path: options.path ?? pathname, ...options }, (response) => {
      response.resume()
      resolve(response)
    })
    request.on('error', reject)
    request.end()
  })
}

test('a plain GET gets 200 and the whole length, a ranged one 206 and exactly its range', async () => {
  await using served = await serve()
  const whole = await get(served.url)
  assert.equal(whole.status, 200)
  assert.equal(whole.headers.get('content-length'), String(CONTENT.sizeBytes))
  assert.equal(whole.headers.get('accept-ranges'), 'bytes')
  assert.equal(whole.headers.get('etag'), '"v1"')
  assert.equal(whole.headers.get('content-type'), 'video/mp4')
  assert.ok((await bytesOf(whole)).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  for (const [range, start, end] of [
    ['bytes=0-0', 0, 1],
    ['bytes=4000000-4000999', 4_000_000, 4_001_000],
    ['bytes=4999000-', 4_999_000, 5_000_000],
    ['bytes=-500', 4_999_500, 5_000_000],
    ['bytes=4999999-9999999', 4_999_999, 5_000_000],
  ] as const) {
    const part = await get(served.url, { range })
    assert.equal(part.status, 206)
    assert.equal(part.headers.get('content-range'), `bytes ${start}-${end - 1}/5000000`)
    assert.ok((await bytesOf(part)).equals(CONTENT.read(start, end)), range)
  }
})

test('416 tells the size, HEAD sends no body, other methods are refused', async () => {
  await using served = await serve()
  const beyond = await get(served.url, { range: 'bytes=5000000-' })
  assert.equal(beyond.status, 416)
  assert.equal(beyond.headers.get('content-range'), 'bytes */5000000')
  const head = await fetch(served.url, { method: 'HEAD', headers: { range: 'bytes=10-19' } })
  assert.deepEqual([head.status, head.headers.get('content-length')], [206, '10'])
  assert.equal((await fetch(served.url, { method: 'POST', body: 'x' })).status, 405)
})

test('conditions are decided in the order of RFC 9110', () => {
  const now = { sizeBytes: 100, etag: '"v1"', lastModified: 'Sat, 21 Nov 2026 10:00:00 GMT' }
  const status = (headers: Record<string, string>): number => decide(headers, now).status
  assert.equal(status({ 'if-match': '"v1"' }), 200)
  assert.equal(status({ 'if-match': '"v2"' }), 412)
  assert.equal(status({ 'if-match': '*' }), 200)
  assert.equal(status({ 'if-unmodified-since': 'Sat, 21 Nov 2026 09:00:00 GMT' }), 412)
  assert.equal(status({ 'if-none-match': 'W/"v1"' }), 304)
  assert.equal(status({ 'if-none-match': '"v0"' }), 200)
  assert.equal(status({ 'if-modified-since': 'Sat, 21 Nov 2026 10:00:00 GMT' }), 304)
  assert.equal(status({ range: 'bytes=0-1', 'if-range': '"v1"' }), 206)
  assert.equal(status({ range: 'bytes=0-1', 'if-range': '"v2"' }), 200)
  assert.equal(status({ range: 'bytes=0-1', 'if-range': 'Sat, 21 Nov 2026 10:00:00 GMT' }), 206)
  assert.equal(status({ range: 'bytes=100-' }), 416)
})

test('a request is held for a slow origin, and told apart when it is too slow', async () => {
  await using served = await serve({ script: () => ({ kind: 'head-held' }) }, ['--wait', '0.5'])
  const tooSlow = await get(served.url)
  assert.equal(tooSlow.status, 504)
  assert.ok(Number(tooSlow.headers.get('retry-after')) > 0)
  assert.equal(tooSlow.headers.get('content-type'), 'application/problem+json')
  assert.match(((await tooSlow.json()) as { detail: string }).detail, /sent nothing within 0.5 s/)
})

test('a held request is answered as soon as the origin is', async () => {
  await using served = await serve({ script: inOrder({ kind: 'head-held' }) })
  const pending = get(served.url, { range: 'bytes=0-9' })
  await served.origin.when('the first request', (origin) => origin.requests.length > 0)
  served.origin.release()
  const response = await pending
  assert.equal(response.status, 206)
  assert.ok((await bytesOf(response)).equals(CONTENT.read(0, 10)))
})

for (const [originStatus, status] of [[404, 404], [410, 410], [401, 403], [403, 403], [400, 502]] as const) {
  test(`an origin's ${originStatus} is a ${status}`, async () => {
    await using served = await serve({ script: () => ({ kind: 'status', status: originStatus }) })
    const response = await get(served.url)
    assert.equal(response.status, status)
    assert.match(((await response.json()) as { detail: string }).detail, new RegExp(String(originStatus)))
  })
}

test('an HTML page is a 502 that says so', async () => {
  await using served = await serve({ script: () => ({ kind: 'captive-portal' }) })
  const response = await get(served.url)
  assert.equal(response.status, 502)
  assert.match(((await response.json()) as { detail: string }).detail, /HTML page/)
})

test('an origin without ranges plays in order, is cached, and seeks within what is there', async () => {
  await using served = await serve({ script: () => ({ kind: 'range-ignored' }) })
  assert.ok((await bytesOf(await get(served.url))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  assert.ok((await bytesOf(await get(served.url, { range: 'bytes=3000000-3000999' }))).equals(CONTENT.read(3_000_000, 3_001_000)))
  assert.equal(served.origin.requests.length, 1)
})

test('an origin that does not tell the length is passed through and not cached', async () => {
  await using served = await serve({ script: () => [{ kind: 'range-ignored' }, { kind: 'chunked' }] })
  for (let i = 1; i <= 2; i++) {
    const response = await get(served.url)
    assert.deepEqual([response.status, response.headers.get('content-length'), response.headers.get('accept-ranges')], [200, null, 'none'])
    assert.ok((await bytesOf(response)).equals(CONTENT.read(0, CONTENT.sizeBytes)))
    assert.equal(served.origin.requests.length, i)
  }
})

for (const afterBytes of [0, 200_000]) {
  test(`an origin that does not tell the length and falls silent after ${afterBytes} bytes is not waited for without end`, async () => {
    const faults: readonly Fault[] = [{ kind: 'range-ignored' }, { kind: 'chunked' }, { kind: 'body-stalled', afterBytes }]
    await using served = await serve({ script: () => faults }, ['--wait', '1', '--body-wait', '1'])
    const response = await get(served.url)
    if (afterBytes === 0) return assert.equal(response.status, 504)
    await within('the end of the answer', assert.rejects(bytesOf(response)))
  })
}

test('a client that goes away is no demand: its fetches end at the socket', async () => {
  // None of them ends by itself.
  const script = (): Fault => ({ kind: 'body-stalled', afterBytes: 5_000 })
  await using served = await serve({ content: patternContent(200_000_000), script }, ['--stall', '600'])
  const controller = new AbortController()
  const response = await fetch(served.url, { signal: controller.signal })
  await response.body!.getReader().read()
  controller.abort()
  await served.origin.idle()
  assert.ok(served.origin.requests.length > 0 && served.origin.requests.every(({ outcome }) => outcome === 'aborted'))
})

test('a body that breaks off upstream is continued where it broke, and never shortened', async () => {
  await using served = await serve({
    script: inOrder({ kind: 'body-truncated', afterBytes: 1000 }, { kind: 'body-reset', afterBytes: 5000 }, undefined, { kind: 'body-reset', afterBytes: 1 }),
  })
  assert.ok((await bytesOf(await get(served.url))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
})

interface Sender extends AsyncDisposable {
  readonly url: string
  /** How each answer has ended. */
  readonly sent: readonly Promise<void>[]
}

/** Answers every request by so many bytes, read as it is told. */
async function startSender(lengthBytes: number, partsOf: (response: ServerResponse) => Pick<RangeParts, 'read'> & Partial<RangeParts>): Promise<Sender> {
  const sent: Promise<void>[] = []
  const send = async (response: ServerResponse): Promise<void> => {
    const left = new AbortController()
    response.once('close', () => left.abort())
    try {
      await sendRange({
        response,
        range: { start: 0, end: lengthBytes },
        buffers: new ReadBuffers(),
        signal: left.signal,
        untilStaying: async () => {},
        onFirst: () => void response.writeHead(206, { 'content-length': lengthBytes }),
        onSent: () => {},
        ...partsOf(response),
      })
      response.end()
    } catch (error) {
      response.destroy()
      throw error
    }
  }
  const server = createServer((_, response) => {
    const sending = send(response)
    sending.catch(() => {}) // for who asks
    sent.push(sending)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, sent, [Symbol.asyncDispose]: async () => void server.close() }
}

for (const pieces of [1, 2, 3, 4]) {
  test(`what has been read goes out before a response breaks off: ${pieces} pieces of it`, async () => {
    const read = async (position: number): Promise<Buffer> => {
      if (position === pieces * 1000) throw new Error('no more')
      return CONTENT.read(position, position + 1000)
    }
    await using sender = await startSender(100_000, () => ({ read }))
    const response = await get(sender.url)
    const received: Uint8Array[] = []
    await assert.rejects(async () => {
      for await (const bytes of response.body!) received.push(bytes as Uint8Array)
    })
    assert.ok(Buffer.concat(received).equals(CONTENT.read(0, pieces * 1000)))
  })
}

test('what has been read is on its way before the next read begins', async () => {
  const sentBytes: number[] = []
  await using sender = await startSender(3000, ({ socket }) => ({
    read: async (position) => {
      sentBytes.push(socket!.bytesWritten - socket!.writableLength)
      return CONTENT.read(position, position + 1000)
    },
  }))
  assert.ok((await bytesOf(await get(sender.url))).equals(CONTENT.read(0, 3000)))
  assert.ok(sentBytes[0] === 0 && sentBytes[1]! > 1000 && sentBytes[2] === sentBytes[1]! + 1000, String(sentBytes))
})

test('a player may leave before more is read than it wants of a header: once, and only of a long answer', async () => {
  for (const [lengthBytes, restsAt] of [[400_000, []], [5_000_000, [512 * 1024]]] as const) {
    const rests: number[] = []
    let readBytes = 0
    await using sender = await startSender(lengthBytes, () => ({
      read: async (position, maxBytes) => {
        const bytes = CONTENT.read(position, position + maxBytes)
        readBytes += bytes.length
        return bytes
      },
      untilStaying: async () => {
        rests.push(readBytes)
        await setImmediate()
        assert.equal(readBytes, rests.at(-1), 'nothing is read meanwhile')
      },
    }))
    assert.ok((await bytesOf(await get(sender.url))).equals(CONTENT.read(0, lengthBytes)))
    await Promise.all(sender.sent)
    assert.deepEqual(rests, restsAt)
  }
})

test('a response that is cut leaves its buffers to the next one, and nothing of that one goes out in it', async () => {
  const buffers = new ReadBuffers()
  const given = new Set<ArrayBufferLike>()
  let count = 0
  await using sender = await startSender(1e9, (response) => {
    const fill = ++count
    void cutWhenFull(response)
    return {
      buffers,
      read: async (_position, maxBytes, target) => {
        await setImmediate()
        given.add(target().buffer)
        return target().subarray(0, maxBytes).fill(fill)
      },
    }
  })
  const received: Promise<Set<number>>[] = []
  for (let turn = 0; turn < 10; turn++) {
    const [response] = (await once(httpRequest(sender.url, { agent: false }).end(), 'response')) as [IncomingMessage]
    await within('the end of a response that is cut', assert.rejects(sender.sent[turn]!))
    received.push(bytesIn(response))
  }
  for (const [turn, bytes] of (await Promise.all(received)).entries()) assert.deepEqual([...bytes], [turn + 1])
  assert.equal(given.size, 4, 'two of each length, for all of them')
})

/** When its client has taken nothing for a while; one that is gone before is not waited for. */
async function cutWhenFull(response: ServerResponse): Promise<void> {
  for (let turns = 0; turns < 100 && !response.destroyed; turns = response.writableLength > 0 ? turns + 1 : 0) await setImmediate()
  response.destroy()
}

/** Of a response that is cut in the end. */
async function bytesIn(response: IncomingMessage): Promise<Set<number>> {
  const bytes = new Set<number>()
  await assert.rejects(async () => {
    for await (const piece of response) for (const byte of piece as Buffer) bytes.add(byte)
  })
  return bytes
}

test('a file that changes while it is sent cuts the connection, and the next request gets the new one', async () => {
  const [content, changed] = [1, 2].map((seed) => patternContent(12_000_000, seed)) as [Content, Content]
  // Nothing that begins far ahead comes before the change, and no piece is as long as from there to the end.
  await using served = await serve({ content, script: ({ range }) => ((range?.start ?? 0) > 5_000_000 ? { kind: 'head-held' } : undefined) })
  const response = await get(served.url)
  const reader = response.body!.getReader()
  await reader.read()
  served.origin.setScript(undefined)
  served.origin.setContent(changed, '"v2"')
  served.origin.dropConnections()
  await assert.rejects(async () => {
    while (!(await reader.read()).done);
  })
  assert.ok((await bytesOf(await get(served.url))).equals(changed.read(0, changed.sizeBytes)))
})

test('the port gives nothing to who does not know the token, names another host, or is another site', async () => {
  await using served = await serve()
  const { pathname } = new URL(served.url)
  const status = async (options: Parameters<typeof rawRequest>[1]): Promise<number> => (await rawRequest(served.url, options)).statusCode!
  assert.equal(await status({}), 200)
  assert.equal(await status({ headers: { host: 'attacker.example' } }), 403)
  assert.equal(await status({ headers: { host: `attacker.example:${new URL(served.url).port}` } }), 403)
  assert.equal(await status({ headers: { origin: 'https://attacker.example' } }), 403)
  assert.equal(await status({ headers: { 'sec-fetch-site': 'cross-site' } }), 403)
  assert.equal(await status({ path: pathname.replace(/^\/[^/]+/, '/guess') }), 404)
  assert.equal(await status({ path: '/' }), 404)
  assert.equal(await status({ path: '/metrics' }), 404)
  const token = pathname.split('/')[1]!
  for (const path of ['', '/u', '/u/', '/u/%00', '/s/../../etc/passwd', '/u/bm90IGpzb24/x', '/x/y/z']) {
    assert.equal(await status({ path: `/${token}${path}` }), 404, path)
  }
  const fileSpec = Buffer.from(JSON.stringify({ url: 'file:///etc/passwd', headers: [] })).toString('base64url')
  assert.equal(await status({ path: `/${token}/u/${fileSpec}/passwd` }), 404)
})

test('what a browser might run is only bytes', async () => {
  await using served = await serve({ contentType: 'image/svg+xml' })
  const response = await get(served.url)
  assert.equal(response.headers.get('content-type'), 'application/octet-stream')
  assert.equal(response.headers.get('x-content-type-options'), 'nosniff')
  assert.match(response.headers.get('content-security-policy')!, /sandbox/)
})

test('a fetch that brings no byte for the stall time is replaced while the reader waits', async () => {
  const script = inOrder(undefined, ...Array.from({ length: 8 }, () => ({ kind: 'body-stalled', afterBytes: 100 }) as const))
  await using served = await serve({ script }, ['--stall', '0.3'])
  assert.ok((await bytesOf(await get(served.url))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  assert.ok(served.origin.requests.some(({ outcome }) => outcome === 'aborted'), 'a stalled one was given up')
})

test('an origin that says when to come back is asked then', async () => {
  const script = inOrder({ kind: 'status', status: 503, headers: { 'Retry-After': '1' } }, undefined, { kind: 'status', status: 429, headers: { 'Retry-After': '1' } })
  await using served = await serve({ script })
  assert.ok((await bytesOf(await get(served.url))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
})

test('redirects are followed once, and another origin gets no credentials', async () => {
  await using target = await startFaultOrigin({ content: CONTENT, etag: '"v1"' })
  await using first = await startFaultOrigin({ content: CONTENT, script: () => ({ kind: 'redirect', location: target.url('film.mp4') }) })
  await using host = await startHost()
  const url = host.proxyUrl(first.url('film.mp4'), [['Authorization', 'Bearer secret'], ['X-Api-Key', 'secret'], ['User-Agent', 'player/1']])
  assert.ok((await bytesOf(await get(url))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  assert.equal(first.requests.length, 1)
  assert.equal(first.requests[0]!.headers.authorization, 'Bearer secret')
  for (const { headers } of target.requests) {
    assert.deepEqual([headers.authorization, headers['x-api-key'], headers['user-agent']], [undefined, undefined, 'player/1'])
  }
})

test('a place that a redirect led to and that has expired is looked up again', async () => {
  await using target = await startFaultOrigin({ content: CONTENT, etag: '"v1"', script: (request) => (request.index === 1 ? { kind: 'status', status: 403 } : undefined) })
  await using first = await startFaultOrigin({ content: CONTENT, script: () => ({ kind: 'redirect', location: target.url('film.mp4') }) })
  await using host = await startHost()
  assert.ok((await bytesOf(await get(host.proxyUrl(first.url('film.mp4'))))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  assert.equal(first.requests.length, 2)
})

test('a redirect loop ends with a word', async () => {
  await using served = await serve({ script: () => ({ kind: 'redirect-loop' }) })
  const response = await get(served.url)
  assert.equal(response.status, 502)
  assert.match(((await response.json()) as { detail: string }).detail, /redirects more than/)
})
