/**
 * The proxy's port as an attacker meets it: other sites' pages, guessers, malformed and slow requests, floods. After each
 * attack a player of the same host gets its film's true bytes.
 */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'

import { ControlClient } from '../src/client/control-client.ts'
import { patternContent } from './support/content.ts'
import { until } from './support/deadline.ts'
import { startFaultOrigin, type FaultOrigin, type FaultOriginOptions } from './support/fault-origin.ts'
import { startHost, type HostOptions, type TestHost } from './support/host.ts'
import type { Fault } from './support/origin-reply.ts'
import { connectRaw, exchange, statusesOf, type RawConnection } from './support/raw-http.ts'

const CONTENT = patternContent(3_000_000)

interface Served extends AsyncDisposable {
  readonly origin: FaultOrigin
  readonly host: TestHost
  readonly url: string
  readonly port: number
  /** Of the film's proxy URL. */
  readonly path: string
  readonly token: string
}

async function serve(options: Partial<FaultOriginOptions> = {}, hostOptions: HostOptions = {}): Promise<Served> {
  const origin = await startFaultOrigin({ content: CONTENT, contentType: 'video/mp4', ...options })
  const host = await startHost(hostOptions)
  const url = host.proxyUrl(origin.url('film.mp4'))
  const { port, pathname } = new URL(url)
  const dispose = async (): Promise<void> => {
    await host.stop()
    await origin.stop()
  }
  return { origin, host, url, port: Number(port), path: pathname, token: pathname.split('/')[1]!, [Symbol.asyncDispose]: dispose }
}

function request(path: string, port: number, lines: readonly string[] = [], method = 'GET'): string {
  return [`${method} ${path} HTTP/1.1`, `Host: 127.0.0.1:${port}`, ...lines, '', ''].join('\r\n')
}

/** One answer, whole, of a connection of its own. */
async function ask({ port }: Served, path: string, lines: readonly string[] = [], method = 'GET'): Promise<string> {
  return await exchange(port, request(path, port, ['Connection: close', ...lines], method))
}

async function assertPlays({ url }: Served): Promise<void> {
  const response = await fetch(url, { headers: { range: 'bytes=1000000-1000999' } })
  assert.equal(response.status, 206)
  assert.ok(Buffer.from(await response.arrayBuffer()).equals(CONTENT.read(1_000_000, 1_001_000)))
}

/** What a player has left is closed when the host gets to it. */
async function assertNoReader(host: TestHost): Promise<void> {
  await until('no reader is left', async () => (await readersOf(host)) === 0)
}

async function readersOf(host: TestHost): Promise<number> {
  const client = await ControlClient.connect(host.socket)
  try {
    return (await client.request({ type: 'status' }, ['status'])).answer.readers
  } finally {
    client.close()
  }
}

function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1024
}

test("a page of another site gets nothing and costs the origin nothing, whatever way its browser asks", async () => {
  await using served = await serve()
  const { port, path, origin, token } = served
  const pages: Record<string, string[]> = {
    fetch: ['Origin: https://evil.example', 'Sec-Fetch-Site: cross-site', 'Sec-Fetch-Mode: cors', 'Sec-Fetch-Dest: empty'],
    'fetch of an old browser': ['Origin: https://evil.example'],
    'fetch from a file or a sandboxed frame': ['Origin: null'],
    'no-cors fetch': ['Sec-Fetch-Site: cross-site', 'Sec-Fetch-Mode: no-cors', 'Sec-Fetch-Dest: empty'],
    video: ['Sec-Fetch-Site: cross-site', 'Sec-Fetch-Mode: no-cors', 'Sec-Fetch-Dest: video', 'Range: bytes=0-'],
    img: ['Sec-Fetch-Site: cross-site', 'Sec-Fetch-Mode: no-cors', 'Sec-Fetch-Dest: image', 'Referer: https://evil.example/'],
    script: ['Sec-Fetch-Site: cross-site', 'Sec-Fetch-Mode: no-cors', 'Sec-Fetch-Dest: script'],
    iframe: ['Sec-Fetch-Site: cross-site', 'Sec-Fetch-Mode: navigate', 'Sec-Fetch-Dest: iframe', 'Upgrade-Insecure-Requests: 1'],
    link: ['Sec-Fetch-Site: cross-site', 'Sec-Fetch-Mode: navigate', 'Sec-Fetch-Dest: document', 'Sec-Fetch-User: ?1'],
    'page of another port of this machine': ['Sec-Fetch-Site: same-site', 'Sec-Fetch-Mode: no-cors', 'Sec-Fetch-Dest: video'],
    'a word that no browser knows yet': ['Sec-Fetch-Site: somewhere-else'],
    websocket: [
      'Origin: https://evil.example', 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13',
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    ],
  }
  for (const [what, lines] of Object.entries(pages)) {
    for (const target of [path, `/${token}/metrics`]) {
      const answer = await exchange(port, request(target, port, [...lines]))
      assert.deepEqual(statusesOf(answer), [403], what)
      assert.doesNotMatch(answer, /access-control/i, what)
      assert.match(answer, /cross-origin-resource-policy: same-origin/i, what)
      assert.match(answer, /x-content-type-options: nosniff/i, what)
    }
  }
  const preflight = ['Origin: https://evil.example', 'Access-Control-Request-Method: GET', 'Access-Control-Request-Headers: range']
  const answer = await ask(served, path, [...preflight, 'Access-Control-Request-Private-Network: true'], 'OPTIONS')
  assert.deepEqual(statusesOf(answer), [403])
  assert.doesNotMatch(answer, /access-control/i)
  assert.equal(origin.requests.length, 0)
  await assertPlays(served)
})

test('a name that was rebound to this machine gets nothing', async () => {
  await using served = await serve()
  const { port, path, origin } = served
  const hosts = [
    `attacker.example:${port}`, 'attacker.example', '127.0.0.1', `127.0.0.1:${port + 1}`, `127.0.0.1.attacker.example:${port}`,
    `localhost.attacker.example:${port}`, `[::1]:${port}`, `0.0.0.0:${port}`, `127.0.0.1:${port}@attacker.example`, `127.0.0.1:${port}:80`, '',
  ]
  for (const host of hosts) {
    const answer = await exchange(port, `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)
    assert.deepEqual(statusesOf(answer), [403], host)
  }
  assert.match(await exchange(port, `GET ${path} HTTP/1.1\r\nConnection: close\r\n\r\n`), /^HTTP\/1\.1 400/)
  const twice = await exchange(port, `GET ${path} HTTP/1.1\r\nHost: attacker.example\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`)
  assert.match(twice, /^HTTP\/1\.1 40[03]/)
  assert.match(await exchange(port, `GET ${path} HTTP/1.0\r\n\r\n`), /^HTTP\/1\.1 403/)
  assert.equal(origin.requests.length, 0)
})

test('guessed tokens and paths find nothing, in whatever spelling', async () => {
  await using served = await serve()
  const { port, path, origin, token, host } = served
  const rest = path.slice(token.length + 1)
  const near = token.slice(0, -1) + (token.endsWith('A') ? 'B' : 'A')
  const targets = [
    `/${near}${rest}`, `/${token.slice(0, -1)}${rest}`, `/${token}x${rest}`, `/${token.toLowerCase()}${rest}x`, `/${token}%00${rest}`,
    `/%2e%2e/${token}${rest}`, `/../${token}${rest}`, `//${token}${rest}`, `/./${token}${rest}`, `/\\${token}${rest}`, `\\${token}${rest}`,
    `http://127.0.0.1:${port}${path}`, `http://attacker.example${path}`, '*', '/', '//', '/metrics', '/u/', '',
    `/${[...token].map((c) => `%${c.charCodeAt(0).toString(16)}`).join('')}${rest}`,
    `/${token}/..${rest}`, `/${token}/s/../..${rest}`, `/${token}/s/%2e%2e%2fu`, `/${token}/s/%252e%252e%252f`, `/${token}/s/__proto__/x`,
    `/${token}/s/constructor/x`, `/${token}/metrics%00`, `/${token}/../../etc/passwd`, `/${token}/..%5c..%5cetc%5cpasswd`, `/${token}/u/%2e/x`,
    `/${token}/u/${'A'.repeat(40_000)}/x`, `/${token}/U/${rest.split('/')[2]}/film.mp4`,
  ]
  for (const target of targets) {
    if (target.toLowerCase() === path.toLowerCase()) continue
    const answer = await exchange(port, `GET ${target} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`)
    assert.match(answer, /^HTTP\/1\.1 40[04] /, target.slice(0, 100))
    assert.ok(!answer.includes(token), 'the token is not told')
  }
  assert.equal(origin.requests.length, 0)
  assert.ok(!host.stderr.includes(token))
  await assertPlays(served)
})

test('nothing in a spec can write a line of its own into a request to the origin', async () => {
  await using served = await serve()
  const { port, token, origin } = served
  const url = origin.url('film.mp4')
  const specs: unknown[] = [
    { url, headers: [['X-A', 'a\r\nX-Evil: 1']] }, { url, headers: [['X-A', 'a\nX-Evil: 1']] }, { url, headers: [['X-A', 'a\rX-Evil: 1']] },
    { url, headers: [['X-A', 'a\0b']] }, { url, headers: [['X-A: 1\r\nX-Evil', '1']] }, { url, headers: [['X A', '1']] }, { url, headers: [['', '1']] },
    { url, headers: [['X-A', 'a\u010aX-Evil: 1']] }, { url, headers: [['X-A', '日本']] }, { url, headers: [['X-A', '\u2028']] },
    { url, headers: [['X-A', 1]] }, { url, headers: { 'X-A': '1' } }, { url, headers: 'X-Evil: 1' },
    { url: `${url} HTTP/1.1\r\nX-Evil: 1\r\n\r\n` }, { url: `${url}\nX-Evil:1` }, { url: url.replace('http:', 'file:') },
    { url: 'javascript:alert(1)' }, { url: 'data:text/html,x' }, { url: 'unix:/tmp/x' }, { url: '//127.0.0.1/x' }, { url: 1 }, [], null, 1, 'x', {},
  ]
  for (const spec of specs) {
    const text = Buffer.from(JSON.stringify(spec)).toString('base64url')
    const answer = await ask(served, `/${token}/u/${text}/film.mp4`)
    assert.deepEqual(statusesOf(answer), [404], JSON.stringify(spec))
  }
  assert.equal(origin.requests.length, 0)

  // What belongs to the connection is never taken from a spec; what is taken arrives as it was given.
  const headers = [
    ['Transfer-Encoding', 'chunked'], ['Content-Length', '100'], ['Connection', 'Upgrade'], ['Upgrade', 'h2c'], ['Expect', '100-continue'],
    ['Host', 'other.example'], ['Range', 'bytes=7-9'], ['If-Range', '"x"'], ['Keep-Alive', '1'], ['TE', 'trailers'], ['X-Kept', '\u00e9 \t~'],
  ]
  const path = `/${token}/u/${Buffer.from(JSON.stringify({ url, headers })).toString('base64url')}/%0d%0aX-Evil:1`
  assert.match(await exchange(port, request(path, port, ['Range: bytes=0-9', 'Connection: close'])), /^HTTP\/1\.1 206/)
  for (const asked of origin.requests) {
    for (const name of ['transfer-encoding', 'content-length', 'upgrade', 'expect', 'x-evil', 'te']) assert.equal(asked.headers[name], undefined, name)
    assert.equal(asked.headers.host, `127.0.0.1:${origin.port}`)
    assert.equal(asked.headers['x-kept'], '\u00e9 \t~')
  }
})

test('no type of an origin becomes content that a browser runs', async () => {
  const types: [type: string, isKept: boolean][] = [
    ['text/html', false], ['TEXT/HTML; charset=utf-8', false], ['application/xhtml+xml', false], ['image/svg+xml', false], ['text/xml', false],
    ['application/xml', false], ['text/javascript', false], ['application/javascript', false], ['application/json', false],
    ['application/pdf', false], ['text/css', false], ['application/wasm', false], ['application/x-shockwave-flash', false],
    ['text/html, video/mp4', false], ['video/mp4, text/html', false], ['video/mp4;\ttext/html', false], ['video/mp4 text/html', false],
    ['multipart/x-mixed-replace;boundary=x', false], ['message/rfc822', false], ['', false], ['video/', false],
    ['video/mp4', true], ['video/mp4; codecs="avc1.4d, mp4a"', true], ['audio/mpeg', true], ['video/x-matroska', true], ['application/ogg', true],
  ]
  const typeOf = (target: string): string => types[Number(/film-(\d+)/.exec(target)?.[1])]?.[0] ?? ''
  await using served = await serve({ script: ({ target }) => ({ kind: 'header', name: 'Content-Type', value: typeOf(target) }) })
  const { host, origin } = served
  for (const [index, [asked, isKept]] of types.entries()) {
    const { pathname } = new URL(host.proxyUrl(origin.url(`film-${index}.html`)))
    const answer = await ask(served, pathname, ['Range: bytes=0-9'])
    const told = /^content-type: (.*)\r$/im.exec(answer)?.[1]
    if (isKept) assert.equal(told, asked)
    else assert.match(told ?? '', /^application\/(octet-stream|problem\+json)$/, asked)
    assert.match(answer, /^x-content-type-options: nosniff\r$/im, asked)
    assert.match(answer, /^content-security-policy: sandbox; default-src 'none'/im, asked)
    assert.match(answer, /^cross-origin-resource-policy: same-origin\r$/im, asked)
  }
})

test('requests that two servers would read differently are refused, and nothing behind them is answered', async () => {
  await using served = await serve()
  const { port, path, origin } = served
  const inner = request(path, port)
  const shapes: Record<string, string> = {
    'CL and TE': request(path, port, [`Content-Length: ${inner.length}`, 'Transfer-Encoding: chunked'], 'POST') + `0\r\n\r\n${inner}`,
    'TE and CL': request(path, port, ['Transfer-Encoding: chunked', 'Content-Length: 4'], 'GET') + `0\r\n\r\n${inner}`,
    'two lengths': request(path, port, ['Content-Length: 0', `Content-Length: ${inner.length}`]) + inner,
    'a list of lengths': request(path, port, [`Content-Length: 0, ${inner.length}`]) + inner,
    'a signed length': request(path, port, [`Content-Length: +${inner.length}`]) + inner,
    'a hexadecimal length': request(path, port, [`Content-Length: 0x10`]) + inner,
    'an odd transfer coding': request(path, port, ['Transfer-Encoding: xchunked']) + inner,
    'a blank before the colon': request(path, port, ['Content-Length : 0']) + inner,
    'a body on GET': request(path, port, [`Content-Length: ${inner.length}`]) + inner,
    'a chunked body on GET': request(path, port, ['Transfer-Encoding: chunked']) + `${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`,
    'a bad chunk size': request(path, port, ['Transfer-Encoding: chunked']) + `zz\r\n${inner}`,
    'a bare LF': `GET ${path} HTTP/1.1\nHost: 127.0.0.1:${port}\nX: y\n\n`,
    'a bare CR in a field': request(path, port, ['X: a\rHost: evil']),
    'a folded field': request(path, port, ['X: a', ' b: c', '\tTransfer-Encoding: chunked', 'Content-Length: 5']),
    'a NUL in a field': request(path, port, ['X: a\0b']),
    'a target with blanks': `GET ${path} /x HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`,
    'a target with a tab': `GET ${path}\t HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`,
    'a method in lower case': request(path, port, [], 'get'),
    'HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
    'HTTP/9': `GET ${path} HTTP/9.9\r\nHost: 127.0.0.1:${port}\r\n\r\n`,
    'HTTP/0.9': `GET ${path}\r\n\r\n`,
    TLS: '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
    nonsense: '\xff\xfe\xfd'.repeat(1000),
  }
  for (const [what, bytes] of Object.entries(shapes)) {
    const statuses = statusesOf(await exchange(port, bytes))
    assert.ok(statuses.length <= 1 && statuses.every((status) => [400, 403, 405, 413].includes(status)), `${what}: ${statuses.join()}`)
  }
  assert.equal(origin.requests.length, 0)
  await assertPlays(served)
})

test('methods but GET and HEAD are refused, HTTP/1.0 is answered and closed', async () => {
  await using served = await serve()
  const { port, path } = served
  for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'TRACE', 'PROPFIND', 'OPTIONS', 'PURGE', 'M-SEARCH']) {
    const answer = await ask(served, path, [], method)
    assert.deepEqual(statusesOf(answer), [405], method)
    assert.match(answer, /^allow: GET, HEAD\r$/im)
  }
  assert.deepEqual(statusesOf(await exchange(port, `CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`)), [])
  const old = await exchange(port, `GET ${path} HTTP/1.0\r\nHost: 127.0.0.1:${port}\r\nRange: bytes=0-99\r\n\r\n`)
  assert.match(old, /^HTTP\/1\.1 206/)
  assert.ok(old.endsWith(CONTENT.read(0, 100).toString('latin1')))
  assert.match(await ask(served, path, ['Expect: 200-ok', 'Range: bytes=0-9']), /^HTTP\/1\.1 417/)
})

test('oversized heads and targets are refused before they are stored', async () => {
  await using served = await serve()
  const { port, path, host } = served
  const before = residentBytes(host.pid)
  for (const bytes of [
    request(`${path}${'x'.repeat(2_000_000)}`, port),
    request(path, port, [`X: ${'x'.repeat(2_000_000)}`]),
    request(path, port, Array.from({ length: 100_000 }, (_, i) => `X-${i}: y`)),
  ]) {
    assert.deepEqual(statusesOf(await exchange(port, bytes)).filter((status) => status !== 431), [])
  }
  using endless = await connectRaw(port)
  endless.write(`GET /${'x'.repeat(1000)}`)
  const feed = (): void => {
    while (!endless.socket.destroyed && endless.socket.write('x'.repeat(64 * 1024))) continue
  }
  endless.socket.on('drain', feed)
  feed()
  await endless.closed()
  // A head of 50 KiB of blanks in the field that is parsed by hand.
  assert.match(await ask(served, path, [`Range: bytes=${' '.repeat(50_000)}x`], 'HEAD'), /^HTTP\/1\.1 200/)
  assert.ok(residentBytes(host.pid) - before < 100 * 2 ** 20)
  await assertPlays(served)
})

// They wait for deadlines, side by side.
describe('strangers that hold connections, and answers that do not come', { concurrency: true }, () => {
  test("an origin's response fields reach no player unless they are proper", async () => {
    const utf8 = Buffer.from('日本').toString('latin1')
    const faults: [what: string, fault: Fault, isServed: boolean][] = [
      ['an ETag in UTF-8', { kind: 'etag', value: `"${utf8}"` }, true],
      ['an ETag in Latin-1', { kind: 'etag', value: '"v\xe9"' }, true],
      ['an ETag that is none', { kind: 'etag', value: 'no quotes' }, true],
      ['an ETag with a control character', { kind: 'etag', value: '"a\x01b"' }, false],
      ['a Last-Modified in UTF-8', { kind: 'last-modified', value: utf8 }, true],
      ['a Last-Modified that is none', { kind: 'last-modified', value: 'yesterday "\'<script>' }, true],
      ['a Content-Type in UTF-8', { kind: 'header', name: 'Content-Type', value: `video/${utf8}` }, true],
      ['a Content-Type with a control character', { kind: 'header', name: 'Content-Type', value: 'video/mp4\x07' }, false],
      ['a Content-Type with a bare CR', { kind: 'header', name: 'Content-Type', value: 'video/mp4\rX-Evil: 1' }, false],
      ['a field within a field', { kind: 'header', name: 'X-Other', value: 'a\r\nX-Evil: 1' }, true],
      ['a NUL', { kind: 'header', name: 'X-Other', value: 'a\0b' }, false],
      ['a folded line', { kind: 'header', name: 'Content-Type', value: 'video/mp4;\r\n x=1' }, false],
      ['a field without a name', { kind: 'header', name: '', value: 'x' }, false],
      ['a huge field', { kind: 'huge-header', lengthBytes: 200_000 }, false],
    ]
    let fault: Fault | undefined
    await using served = await serve({ script: () => fault })
    const { host, origin } = served
    for (const [index, [what, wrong, isServed]] of faults.entries()) {
      fault = wrong
      const { pathname } = new URL(host.proxyUrl(origin.url(`film-${index}.mp4`)))
      const answer = await ask(served, pathname, ['Range: bytes=100000-100999'])
      const [status] = statusesOf(answer)
      if (isServed) assert.equal(status, 206, `${what}: ${answer.slice(0, 300)}`)
      else assert.ok(status === 206 || status === 502, `${what}: ${answer.slice(0, 300)}`)
      const head = answer.slice(0, answer.indexOf('\r\n\r\n'))
      assert.doesNotMatch(head, /x-evil/i, what)
      assert.match(head, /^[\t\x20-\x7e\x80-\xff\r\n]*$/, what)
      if (status === 206) {
        assert.match(head, /^etag: "[^"]*"\r?$/im, what)
        assert.equal(answer.slice(head.length + 4), CONTENT.read(100_000, 101_000).toString('latin1'), what)
      }
    }
    fault = undefined
    await assertPlays(served)
  })

  test('heads and bodies that come byte by byte, or not at all, are cut off while players are served', async () => {
    await using served = await serve()
    const { port, path, host, origin } = served
    const head = request(path, port, ['X-Slow: 1'])
    const slow = await Promise.all(Array.from({ length: 20 }, () => connectRaw(port)))
    let sent = 0
    const drip = setInterval(() => {
      for (const connection of slow.slice(0, 10)) if (!connection.socket.destroyed) connection.write(head[Math.min(sent, head.length - 5)]!)
      sent++
    }, 500)
    try {
      for (const connection of slow.slice(10, 15)) connection.write(request(path, port, ['Content-Length: 10']))
      await assertPlays(served)
      const answers = await Promise.all(slow.map((connection) => connection.closed()))
      for (const [index, answer] of answers.entries()) {
        const statuses = statusesOf(answer)
        const expected = index >= 10 && index < 15 ? 413 : 408
        assert.ok(statuses.every((status) => status === expected), `${index}: ${answer.slice(0, 80)}`)
      }
      await assertPlays(served)
    } finally {
      clearInterval(drip)
    }
    await assertNoReader(host)
    assert.ok(origin.requests.length > 0)
  })

  for (const [what, descriptorLimit] of [
    ['as many descriptors as the system gives', undefined],
    ['300 descriptors in all', 300],
  ] as const) {
    test(`10 000 idle connections: a player is served at once, memory stays bounded, the idle ones are closed (${what})`, async () => {
      await using served = await serve({}, descriptorLimit === undefined ? {} : { descriptorLimit })
      const { port, host } = served
      await assertPlays(served)
      const before = residentBytes(host.pid)
      const idle = new Set<RawConnection>()
      try {
        for (let opened = 0; opened < 10_000; opened += 250) {
          const batch = await Promise.all(Array.from({ length: 250 }, () => connectRaw(port).catch(() => undefined)))
          for (const connection of batch) {
            if (connection !== undefined) idle.add(connection)
          }
          if (opened % 1000 === 0) await assertPlays(served)
        }
        await assertPlays(served)
        assert.ok(residentBytes(host.pid) - before < 150 * 2 ** 20, `${residentBytes(host.pid) - before} bytes more`)
        // What is not seen before must be fetched: a socket to the origin and a file of the cache are to be had.
        const other = await fetch(host.proxyUrl(served.origin.url('other.mp4')))
        assert.ok(Buffer.from(await other.arrayBuffer()).equals(CONTENT.read(0, CONTENT.sizeBytes)))
        assert.doesNotMatch(host.stderr, /EMFILE|cannot be written/)
        await Promise.all([...idle].map((connection) => connection.closed()))
      } finally {
        for (const connection of idle) connection.socket.destroy()
      }
    })
  }

  test('requests in the queue of a connection that is gone do not count any more', async () => {
    await using served = await serve({ script: ({ target }) => (target.includes('silent') ? { kind: 'head-held' } : undefined) }, { args: ['--idle-exit', '10'] })
    const { port, host, origin } = served
    const { pathname } = new URL(host.proxyUrl(origin.url('silent.mp4')))
    using connection = await connectRaw(port)
    connection.write(request(pathname, port).repeat(3))
    await origin.when('it was asked', ({ requests }) => requests.length > 0)
    connection.socket.destroy()
    await host.exited
  })
})

test('a few pipelined requests are answered in order, a flood of them is cut, and leaves no reader behind', async () => {
  await using served = await serve()
  const { port, path, host } = served
  const ranges = [0, 1, 2, 3].map((i) => request(path, port, [`Range: bytes=${i * 1000}-${i * 1000 + 9}`]))
  using few = await connectRaw(port)
  few.write(ranges.join(''))
  const received = await few.until((text) => statusesOf(text).length === 4 && text.split('\r\n\r\n').at(-1)!.length >= 10)
  assert.deepEqual([...received.matchAll(/content-range: bytes (\d+)/gi)].map((match) => Number(match[1])), [0, 1000, 2000, 3000])

  const before = residentBytes(host.pid)
  const floods = await Promise.all(Array.from({ length: 20 }, () => connectRaw(port)))
  for (const flood of floods) flood.write(request(path, port).repeat(2_000))
  for (const flood of floods) await flood.closed()
  assert.ok(residentBytes(host.pid) - before < 150 * 2 ** 20, `${residentBytes(host.pid) - before} bytes more`)
  await assertNoReader(host)
  await assertPlays(served)
})

test('requests that wait for a silent origin are bounded, and end with their connections', async () => {
  await using served = await serve({ script: ({ target }) => (target.includes('silent') ? { kind: 'head-held' } : undefined) })
  const { port, host, origin } = served
  const { pathname } = new URL(host.proxyUrl(origin.url('silent.mp4')))
  const waiting = await Promise.all(Array.from({ length: 300 }, () => connectRaw(port)))
  for (const connection of waiting) connection.write(request(pathname, port))
  const answers = (): string[] => waiting.map(({ received }) => received).filter((text) => statusesOf(text).length > 0)
  await until('those beyond the bound are refused', () => answers().length >= 300 - 256)
  assert.equal(answers().length, 300 - 256)
  for (const answer of answers()) assert.match(answer, /^HTTP\/1\.1 503[^]*retry-after/i)
  for (const connection of waiting) connection.socket.destroy()
  await assertPlays(served)
  await assertNoReader(host)
})

test('who gives itself hundreds of names is taken for no more players than are remembered', async () => {
  await using served = await serve()
  const { host, token, path } = served
  for (let name = 0; name < 200; name++) {
    const answer = await ask(served, path, [`User-Agent: player-${name}`, 'Range: bytes=0-0'])
    assert.deepEqual(statusesOf(answer), [206])
  }
  const url = `http://127.0.0.1:${served.port}${path.replace(token, `${token}/hint`)}`
  let readers = 0
  await until('they are expected at the place of the hint', async () => { // and not for long
    assert.equal((await fetch(url, { method: 'POST', body: '{"byte":2000000}' })).status, 204)
    readers = await readersOf(host)
    return readers > 1
  })
  assert.ok(readers <= 64, `${readers} of them are expected`)
  await assertPlays(served)
})
