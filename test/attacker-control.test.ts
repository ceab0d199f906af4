/**
 * A hostile client at the control socket, and hostile hosts at both clients' ends: none brings the other down, none waits for
 * ever, and no client reads a file that is no extent.
 */

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { describe, test } from 'node:test'

import { connect, type Cache } from '../src/index.ts'
import { patternContent } from './support/content.ts'
import { within } from './support/deadline.ts'
import { startFaultOrigin, type FaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { listen } from './support/listener.ts'
import { runNative } from './support/programs.ts'
import { tempDir, type TempDir } from './support/temp-dir.ts'

const CONTENT = patternContent(3_000_000)
const HELLO = '{"type":"hello","protocol":1,"client":"attacker"}\n'

// ---- a hostile client

/** A connection to the control socket that says whatever it likes. */
class Rough {
  readonly socket: net.Socket
  received = ''
  readonly #closed: Promise<void>
  #onData: () => void = () => {}

  constructor(socketPath: string, isReading = true) {
    this.socket = net.connect(socketPath).on('error', () => {})
    this.#closed = new Promise((resolve) => this.socket.once('close', () => resolve()))
    if (isReading) {
      this.socket.setEncoding('utf8').on('data', (text: string) => {
        this.received += text
        this.#onData()
      })
    }
  }

  say(text: string | Buffer): this {
    this.socket.write(text)
    return this
  }

  async closed(): Promise<string> {
    await within('the end of a hostile connection', this.#closed)
    return this.received
  }

  async until(text: string): Promise<void> {
    const found = new Promise<void>((resolve, reject) => {
      this.#onData = () => this.received.includes(text) && resolve()
      this.#onData()
      void this.#closed.then(() => reject(new Error(`closed after ${this.received.slice(0, 300)}`)))
    })
    await within(text, found)
  }
}

async function assertServes(host: TestHost, origin: FaultOrigin): Promise<void> {
  await using cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
  await using media = await cache.open(origin.url())
  const parts: Buffer[] = []
  for await (const bytes of media.read(1_000_000, 1_200_000)) parts.push(bytes)
  assert.ok(Buffer.concat(parts).equals(CONTENT.read(1_000_000, 1_200_000)))
}

function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1024
}

function open(origin: FaultOrigin, id = 1): string {
  return `${JSON.stringify({ type: 'open', id, url: origin.url() })}\n`
}

test('a client that does not speak the protocol is told so and cut; others are served', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost()
  const lines: (string | Buffer)[] = [
    'GET / HTTP/1.1\r\nHost: x\r\n\r\n', '\n', '{}\n', 'null\n', '[]\n', '"hello"\n', Buffer.from([0xff, 0xfe, 0, 0x0a]), '\0\0\0\n',
    '{"type":"hello","protocol":2,"client":"x"}\n', '{"type":"hello","protocol":"1","client":"x"}\n', '{"type":"stop","id":1}\n',
    `{"type":"hello","protocol":1,"client":"${'x'.repeat(129)}"}\n`, `${'['.repeat(60_000)}\n`, `${'{"a":'.repeat(12_000)}\n`, 'x'.repeat(70_000),
    ...[
      '{"type":"locate"}', '{"type":"nothing","id":1}', '{"type":"__proto__","id":1}', '{"id":1}', '{"type":"status","id":0}', '{"type":"status","id":-1}',
      '{"type":"status","id":1.5}', '{"type":"status","id":1e300}', '{"type":"status","id":"1"}', '{"type":"status","id":null}',
      '{"type":"open","id":1,"url":"file:///etc/passwd"}', '{"type":"open","id":1,"url":"http://x\\r\\nX: y"}', '{"type":"open","id":1}',
      '{"type":"open","id":1,"url":"http://x/","headers":[["a","b\\r\\nc: d"]]}', '{"type":"open","id":1,"url":"http://x/","headers":[["a b","c"]]}',
      '{"type":"open","id":1,"url":"http://x/","deadlineMs":0}', '{"type":"open","id":1,"url":"http://x/","deadlineMs":1e9}',
      '{"type":"locate","id":1,"session":"s1","reader":1,"start":-1,"lengthBytes":1,"deadlineMs":1}',
      '{"type":"locate","id":1,"session":"s1","reader":1,"start":9007199254740992,"lengthBytes":1,"deadlineMs":1}',
      '{"type":"locate","id":1,"session":"s1","reader":1,"start":0,"lengthBytes":0,"deadlineMs":1}',
      '{"type":"position","session":"s1","reader":1,"position":1e400}', '{"type":"cancel"}', '{"type":"cancel","request":{}}',
      `{"type":"evict","id":1,"all":"true"}`, `{"type":"status","id":1,"x":"${'x'.repeat(66_000)}"}`,
    ].map((line) => `${HELLO}${line}\n`),
  ]
  for (const line of lines) {
    const answer = await new Rough(host.socket).say(line).closed()
    assert.match(answer.split('\n').at(-2) ?? '', /^\{"(id":\d+,")?type":"error","code":"ERR_SEEKCACHE_PROTOCOL"/, String(line).slice(0, 200))
  }
  await assertServes(host, origin)
})

test('a thousand requests without reading an answer cost bounded memory, and others are served meanwhile', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost()
  await assertServes(host, origin)
  const before = residentBytes(host.pid)
  const hostile = Array.from({ length: 10 }, () => new Rough(host.socket, false))
  for (const { socket } of hostile) {
    socket.pause()
    socket.write(HELLO + open(origin))
    for (let i = 2; i < 1002; i++) {
      const locate = { type: 'locate', id: i, session: 's1', reader: i % 64, start: (i * 65_536) % 3_000_000, lengthBytes: 1e6, deadlineMs: 1000 }
      socket.write(`${JSON.stringify(i % 3 === 0 ? { type: 'map', id: i, session: 's1' } : i % 3 === 1 ? locate : { type: 'list', id: i })}\n`)
    }
  }
  await assertServes(host, origin)
  assert.ok(residentBytes(host.pid) - before < 100 * 2 ** 20, `${residentBytes(host.pid) - before} bytes more`)
  for (const { socket } of hostile) socket.destroy()
  await assertServes(host, origin)
})

test("another connection's sessions and requests cannot be named, readers and numbers are bounded", async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, script: ({ target }) => (target.includes('silent') ? { kind: 'head-held' } : undefined) })
  await using host = await startHost()
  const victim = new Rough(host.socket).say(HELLO + open(origin))
  await victim.until('"opened"')
  victim.say(`${JSON.stringify({ type: 'open', id: 7, url: origin.url('silent.mkv'), deadlineMs: 60_000 })}\n`)
  await origin.when('the silent one is asked', ({ requests }) => requests.some(({ target }) => target.includes('silent')))

  const hostile = new Rough(host.socket).say(HELLO)
  const ask = async (message: Record<string, unknown>): Promise<string> => {
    hostile.say(`${JSON.stringify(message)}\n`)
    await hostile.until(`{"id":${String(message.id)},`)
    return hostile.received.split('\n').find((line) => line.startsWith(`{"id":${String(message.id)},`)) ?? ''
  }
  const locate = (id: number, session: string, fields: Record<string, unknown> = {}): Record<string, unknown> => ({
    type: 'locate', id, session, reader: 1, start: 0, lengthBytes: 1, deadlineMs: 60_000, ...fields,
  })
  for (const [i, session] of ['s1', 's2', '', '__proto__', 'constructor', 's1\0'].entries()) {
    assert.match(await ask(locate(10 + i, session)), /ERR_SEEKCACHE_NOT_FOUND/)
    hostile.say(`${JSON.stringify({ type: 'close', session })}\n${JSON.stringify({ type: 'position', session, reader: 1, position: 5 })}\n`)
  }
  hostile.say('{"type":"cancel","request":7}\n{"type":"renewed","renewal":1,"url":"http://evil.example/"}\n')
  assert.match(await ask({ type: 'status', id: 20 }), /"sessions":1/)
  assert.ok(!victim.received.includes('"id":7'), "the victim's request goes on")

  assert.match(await ask({ type: 'open', id: 30, url: origin.url() }), /"opened"/)
  for (let reader = 0; reader < 64; reader++) assert.match(await ask(locate(100 + reader, 's1', { reader })), /"(extent|data)"/)
  assert.match(await ask(locate(200, 's1', { reader: 2 ** 53 - 1 })), /at most 64 readers/)
  assert.match(await ask(locate(201, 's1', { start: 2 ** 53 - 1 })), /past the end/)
  for (const position of [2 ** 53 - 1, 3_000_000, 2_999_999]) hostile.say(`${JSON.stringify({ type: 'position', session: 's1', reader: 5, position })}\n`)
  for (const unreadable of ['/etc/passwd', '/dev/zero', '../x', '', '\0', 'x'.repeat(30_000)]) {
    assert.match(await ask(locate(300 + unreadable.length, 's1', { unreadable })), /"(extent|data)"/)
  }
  assert.match(await ask(locate(202, 's1', { lengthBytes: 2 ** 53 - 1 })), /"(extent|data)"/)
  await assertServes(host, origin)
  for (const { socket } of [victim, hostile]) socket.destroy()
})

// ---- hostile hosts

interface Trap {
  readonly dir: string
  readonly files: Readonly<Record<string, string>>
}

const GENERATION = '0123456789abcdef'
const OPENED = {
  id: 1, type: 'opened', session: 's1', sizeBytes: 1000, contentType: null, validator: null, generation: GENERATION, isSeekable: true, proxyUrl: '', fileName: 'f',
}
const HOST_HELLO = '{"type":"hello","protocol":1,"version":"0.1.0","pid":1}\n'

/** A host that opens whatever it is asked to, and answers each locate and list as told; undefined says nothing. */
async function hostileHost(dir: string, answerTo: (id: number, socket: net.Socket) => string | undefined, greeting = HOST_HELLO): Promise<AsyncDisposable> {
  return await listen(path.join(dir, 'control.sock'), (socket) => {
    let text = ''
    socket.on('error', () => {})
    socket.setEncoding('utf8').on('data', (piece: string) => {
      text += piece
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const { type, id } = JSON.parse(text.slice(0, end)) as { type: string; id: number }
        text = text.slice(end + 1)
        if (type === 'hello') socket.write(greeting)
        else if (type === 'open') socket.write(`${JSON.stringify({ ...OPENED, id })}\n`)
        else if (type === 'map') socket.write(`{"id":${id},"type":"map","sizeBytes":1000,"present":[]}\n`)
        else if (type === 'locate' || type === 'list') {
          const answer = answerTo(id, socket)
          if (answer !== undefined) socket.write(answer, 'latin1')
        }
      }
    })
  })
}

function trapsIn(temp: TempDir): Trap {
  const dir = temp.file('cache')
  const folder = path.join(dir, 'extents', GENERATION)
  mkdirSync(folder, { recursive: true })
  const name = (i: number): string => path.join(folder, `${i}-${GENERATION}`)
  const outside = temp.file('outside', 'extents', GENERATION)
  mkdirSync(outside, { recursive: true })
  writeFileSync(path.join(outside, `0-${GENERATION}`), 'S'.repeat(1000))
  writeFileSync(name(0), 'g'.repeat(1000))
  writeFileSync(name(1), 'short')
  symlinkSync(path.join(outside, `0-${GENERATION}`), name(2))
  execFileSync('mkfifo', [name(3)])
  mkdirSync(name(4))
  symlinkSync('/dev/zero', name(5))
  symlinkSync(outside, path.join(dir, 'extents', 'fedcba9876543210'))
  const files = {
    good: name(0), short: name(1), link: name(2), fifo: name(3), directory: name(4), device: name(5), gone: name(6),
    outside: path.join(outside, `0-${GENERATION}`), dots: `${dir}/../outside/extents/${GENERATION}/0-${GENERATION}`,
  }
  return { dir, files }
}

function extent(id: number, file: string | undefined, fields: Record<string, unknown> = {}): string {
  return `${JSON.stringify({ id, type: 'extent', path: file, fileOffset: 0, start: 0, end: 1000, ...fields })}\n`
}

/** What a hostile host answers to a locate, by what is wrong with it. */
function hostileAnswers({ files }: Trap): Record<string, (id: number, socket: net.Socket) => string | undefined> {
  const data = (id: number, start: number, said: number, sent: number): string => `{"id":${id},"type":"data","start":${start},"lengthBytes":${said}}\n${'d'.repeat(sent)}`
  return {
    'a file outside': (id) => extent(id, files.outside),
    'a way out with dots': (id) => extent(id, files.dots),
    'the password file': (id) => extent(id, '/etc/passwd'),
    'a relative path': (id) => extent(id, `extents/${GENERATION}/0-${GENERATION}`),
    'a NUL in the path': (id) => extent(id, `${files.good}\0x`),
    'an endless path': (id) => extent(id, `/${'x/'.repeat(100_000)}extents/${GENERATION}/0-${GENERATION}`),
    'a device': (id) => extent(id, '/dev/zero'),
    'a link to a device': (id) => extent(id, files.device),
    'a link to a file': (id) => extent(id, files.link),
    'a FIFO': (id) => extent(id, files.fifo),
    'a directory': (id) => extent(id, files.directory),
    'a file that is gone': (id) => extent(id, files.gone),
    'a file that is too short': (id) => extent(id, files.short, { fileOffset: 5 }),
    'an offset past all files': (id) => extent(id, files.good, { fileOffset: 2 ** 53 - 1 }),
    'an offset that overflows': (id) => `{"id":${id},"type":"extent","path":"${files.good}","fileOffset":18446744073709551615,"start":0,"end":1000}\n`,
    'a range past the end': (id) => extent(id, files.good, { end: 2 ** 53 - 1 }),
    'a range elsewhere': (id) => extent(id, files.good, { start: 500, end: 900 }),
    'a file outside that follows': (id) => extent(id, files.good, { end: 500, next: [{ path: files.outside, fileOffset: 500, start: 500, end: 1000 }] }),
    'a gap before what follows': (id) => extent(id, files.good, { end: 500, next: [{ path: files.good, fileOffset: 0, start: 600, end: 1000 }] }),
    'what follows past the end': (id) => extent(id, files.good, { next: [{ path: files.good, fileOffset: 0, start: 1000, end: 2000 }] }),
    'what follows in words': (id) => extent(id, files.good, { next: 'more' }),
    'an empty range': (id) => extent(id, files.good, { start: 0, end: 0 }),
    'a range of words': (id) => extent(id, files.good, { start: '0', end: '1000' }),
    'a range of nothing': (id) => `{"id":${id},"type":"extent"}\n`,
    'other bytes': (id) => data(id, 500, 10, 10),
    'more bytes than there are': (id) => data(id, 0, 2000, 2000),
    'no bytes': (id) => data(id, 0, 0, 0),
    'more bytes than a message may have': (id) => data(id, 0, 300_000, 300_000),
    'an end in the middle': (id) => `{"id":${id},"type":"end"}\n`,
    'an answer to something else': (id) => `{"id":${id},"type":"ok"}\n`,
    'an endless line': (_, socket) => {
      const feed = (): void => {
        while (!socket.destroyed && socket.write('x'.repeat(64 * 1024))) continue
      }
      socket.on('drain', feed)
      feed()
      return undefined
    },
    'no JSON': () => '{"id":\n',
    null: () => 'null\n',
    NULs: () => '\0'.repeat(100) + '\n',
    'broken UTF-8': () => '\xff\xfe\n',
    'answers to others without end': (_, socket) => {
      const feed = (): void => {
        while (!socket.destroyed && socket.write('{"id":99,"type":"end"}\n'.repeat(1000))) continue
      }
      socket.on('drain', feed)
      feed()
      return undefined
    },
    nothing: () => undefined,
  }
}

async function readAll(cache: Cache): Promise<Buffer> {
  const media = await cache.open('http://h/f')
  const parts: Buffer[] = []
  for await (const bytes of media.read(0, 1000, { deadlineMs: 500 })) parts.push(bytes)
  return Buffer.concat(parts)
}

test('a hostile host cannot keep the Node client listing for ever', async () => {
  await using temp = await tempDir()
  const trap = trapsIn(temp)
  let page = {}
  await using _host = await hostileHost(trap.dir, (id) => `${JSON.stringify({ id, type: 'list', ...page })}\n`)
  const entries = [{ url: 'http://h/f', sizeBytes: 1, presentBytes: 1 }]
  for (const hostile of [{ entries, next: 'same' }, { entries, next: '' }, { entries: [], next: 'b' }, { entries, next: 5 }, { entries, next: 'x'.repeat(65) }, { entries: [{}] }, {}]) {
    page = hostile
    await using cache = await connect({ cacheDir: trap.dir, socketPath: path.join(trap.dir, 'control.sock'), startHost: false })
    await assert.rejects(within('a list', cache.list(), 30_000), { code: 'ERR_SEEKCACHE_PROTOCOL' }, JSON.stringify(hostile))
  }
  page = { entries }
  await using cache = await connect({ cacheDir: trap.dir, socketPath: path.join(trap.dir, 'control.sock'), startHost: false })
  assert.equal((await cache.list()).length, 1, 'an honest answer is taken')
})

// Most of their time they wait for deadlines: side by side.
describe('hosts and clients that keep the other waiting', { concurrency: true }, () => {
  test('who does not greet, or is cut and does not read why, is closed in the end; idle ones do not keep others out', async () => {
    await using origin = await startFaultOrigin({ content: CONTENT })
    await using host = await startHost()
    const silent = Array.from({ length: 50 }, () => new Rough(host.socket))
    const slow = new Rough(host.socket).say('{"type":"hel')
    const greeted = new Rough(host.socket).say(HELLO)
    // Its answers fill the socket, then nonsense follows without end.
    const deaf = new Rough(host.socket, false).say(HELLO)
    deaf.socket.pause()
    deaf.say(Array.from({ length: 2000 }, (_, i) => `{"type":"status","id":${i + 1}}\n`).join(''))
    const before = residentBytes(host.pid)
    const feed = (): void => {
      while (!deaf.socket.destroyed && deaf.socket.write('x'.repeat(60_000))) continue
    }
    deaf.socket.on('drain', feed)
    feed()
    await assertServes(host, origin)
    for (const connection of [...silent, slow, deaf]) await connection.closed()
    assert.ok(residentBytes(host.pid) - before < 60 * 2 ** 20, `${residentBytes(host.pid) - before} bytes more`)
    assert.equal(greeted.socket.destroyed, false, 'who greeted may be quiet as long as he likes')
    greeted.socket.destroy()
    await assertServes(host, origin)
  })

  test('a hostile host makes the Node client fail with a word: it never hangs, and reads no file that is no extent', async () => {
    await using temp = await tempDir()
    const trap = trapsIn(temp)
    let answer: (id: number, socket: net.Socket) => string | undefined = (id) => extent(id, trap.files.good)
    await using _host = await hostileHost(trap.dir, (id, socket) => answer(id, socket))
    const attempt = async (): Promise<Buffer> => {
      const cache = await connect({ cacheDir: trap.dir, socketPath: path.join(trap.dir, 'control.sock'), startHost: false })
      try {
        return await within('a read', readAll(cache), 30_000)
      } finally {
        await cache.close()
      }
    }
    assert.equal((await attempt()).toString(), 'g'.repeat(1000), 'an honest answer is read')
    for (const [what, hostile] of Object.entries(hostileAnswers(trap))) {
      answer = hostile
      await assert.rejects(attempt(), /^SeekCacheError: [^\n]{5,300}$/, what)
    }
    // A frame that is longer than promised: what was promised is true, what follows is no message.
    answer = (id) => `{"id":${id},"type":"data","start":0,"lengthBytes":1000}\n${'d'.repeat(1000)}surplus\n`
    const read = await attempt().catch((error: Error) => error)
    assert.ok(read instanceof Error || read.toString() === 'd'.repeat(1000))
  })

  test('a hostile host makes the native client and the element fail with a word: they never hang, and read no file that is no extent', async () => {
    await using temp = await tempDir()
    const trap = trapsIn(temp)
    let answer: (id: number, socket: net.Socket) => string | undefined = (id) => extent(id, trap.files.good)
    await using _host = await hostileHost(trap.dir, (id, socket) => answer(id, socket))
    const env = { SEEKCACHE_CACHE_DIR: trap.dir, SEEKCACHE_SOCKET: path.join(trap.dir, 'control.sock'), SEEKCACHE_COMMAND: 'false' }
    const read = async (timeoutMs = 1_500): ReturnType<typeof runNative> => await runNative('client-read', ['--timeout', String(timeoutMs), 'http://h/f'], env)
    assert.equal((await read(60_000)).stdout, 'g'.repeat(1000), 'an honest answer is read')
    for (const [what, hostile] of Object.entries(hostileAnswers(trap))) {
      answer = hostile
      const { code, stdout, stderr } = await read()
      assert.equal(code, 1, `${what}: ${code} ${stderr}`)
      assert.equal(stdout, '', what)
      assert.match(stderr, /^\{"event":"error","code":"ERR_SEEKCACHE_\w+"/, what)
    }
    for (const what of ['a file outside', 'a FIFO', 'an endless line']) {
      answer = hostileAnswers(trap)[what]!
      const { code, stdout } = await runNative('seekcache-player', ['seekcache+http://h/f'], env)
      assert.equal(code, 1, what)
      assert.match(stdout, /"event":"error"/, what)
    }
  })

  test('what listens at the socket and does not greet, or greets wrongly, is no host', async () => {
    for (const greeting of ['', '{"type":"hello"}\n', '{"type":"hello","protocol":2,"version":"9","pid":1}\n', 'SSH-2.0-OpenSSH\r\n', 'null\n', `${'x'.repeat(2 ** 21)}\n`]) {
      await using temp = await tempDir()
      mkdirSync(temp.file('cache'))
      await using _host = await hostileHost(temp.file('cache'), () => undefined, greeting)
      const options = { cacheDir: temp.file('cache'), socketPath: temp.file('cache', 'control.sock'), startHost: false }
      await assert.rejects(within('a connection', connect(options), 30_000), { code: 'ERR_SEEKCACHE_PROTOCOL' }, greeting.slice(0, 50))
    }
  })
})
