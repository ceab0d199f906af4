/** The command line as a person and a script use it. */

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync, statSync } from 'node:fs'
import { connect as connectSocket } from 'node:net'
import { test } from 'node:test'

import { endWithThisProcess } from './support/children.ts'
import { patternContent } from './support/content.ts'
import { within } from './support/deadline.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { CLI_FILE, startHost } from './support/host.ts'
import { listen } from './support/listener.ts'
import { runCli } from './support/programs.ts'
import { tempDir } from './support/temp-dir.ts'

const CONTENT = patternContent(3_000_000)

test('url starts a host when there is none and prints the URL alone; stop ends it', async () => {
  await using dir = await tempDir()
  await using origin = await startFaultOrigin({ content: CONTENT })
  const env = { SEEKCACHE_CACHE_DIR: dir.file('c') }
  const { code, stdout, stderr } = await runCli(['url', origin.url('my film.mkv'), '--header', 'X-Key: 1'], env)
  assert.equal(code, 0, stderr)
  assert.match(stdout, /^http:\/\/127\.0\.0\.1:\d+\/[\w-]{43}\/s\/[0-9a-f]+\/my%20film\.mkv\n$/)
  const body = Buffer.from(await (await fetch(stdout.trim())).arrayBuffer())
  assert.ok(body.equals(CONTENT.read(0, CONTENT.sizeBytes)))
  assert.equal(origin.requests[0]!.headers['x-key'], '1')
  assert.equal(statSync(dir.file('c')).mode & 0o777, 0o700)
  for (const name of ['control.sock', 'host.json', 'token', 'host.log', 'lock']) assert.equal(statSync(dir.file('c', name)).mode & 0o777, 0o600, name)
  assert.equal((await runCli(['stop'], env)).code, 0)
})

test('a relative XDG_CACHE_HOME is none, and every option of serve stands in the README with its default', async () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8')
  const { stdout } = await runCli(['serve', '--help'], { SEEKCACHE_CACHE_DIR: '', XDG_CACHE_HOME: 'caches', HOME: '/home/somebody' })
  const help = stdout.replaceAll(/\s+/g, ' ')
  assert.match(help, process.platform === 'darwin' ? /"\/home\/somebody\/Library/ : /"\/home\/somebody\/\.cache\/seekcache"/)
  const options = [...help.slice(0, help.indexOf('Global Options')).matchAll(/(--[\w-]+) (.*?)(?= --|$)/g)]
  assert.ok(options.length > 20)
  for (const [, name, text] of options) {
    if (name === '--help' || name === '--json') continue
    const row = readme.split('\n').find((line) => line.startsWith(`| \`${name}\` |`))
    assert.ok(row !== undefined, `${name} stands in the README`)
    const told = /\(default: "?([^",)]+)"?, env/.exec(text!)?.[1]
    if (told !== undefined && name !== '--cache-dir') assert.ok(row.includes(told), `${name}: ${told}`)
  }
})

test('fetch, map, ls, status and evict', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT, contentType: 'video/mp4' })
  await using host = await startHost()
  const url = origin.url('film.mp4')
  const run = async (...args: string[]): Promise<string> => {
    const { code, stdout, stderr } = await runCli(args, host.clientEnv)
    assert.equal(code, 0, stderr)
    return stdout
  }
  const lines = (await run('fetch', url, '--json')).trim().split('\n').map((line) => JSON.parse(line) as { event: string })
  assert.deepEqual(lines.at(-1), { event: 'complete', sizeBytes: CONTENT.sizeBytes })
  assert.ok(lines.some(({ event }) => event === 'progress'))
  assert.deepEqual(JSON.parse(await run('map', url, '--json')), { size: CONTENT.sizeBytes, present: [[0, CONTENT.sizeBytes]] })
  assert.match(await run('map', url), /\[█{64}\]/)
  const [entry] = JSON.parse(await run('ls', '--json')) as [{ url: string; presentBytes: number }]
  assert.deepEqual([entry.url, entry.presentBytes], [url, CONTENT.sizeBytes])
  assert.match(await run('ls'), /100 %/)
  const status = JSON.parse(await run('status', '--json')) as Record<string, unknown>
  assert.deepEqual([status.resources, status.id, status.type], [1, undefined, undefined])
  assert.match(await run('status'), /1 files/)
  assert.ok((JSON.parse(await run('evict', url, '--json')) as { freedBytes: number }).freedBytes >= CONTENT.sizeBytes)
  assert.equal((await runCli(['map', url, '--json'], host.clientEnv)).code, 3)
})

test('what goes wrong is one clear line and an exit code', async () => {
  await using dir = await tempDir()
  await using origin = await startFaultOrigin({
    content: CONTENT,
    script: (request) => (request.target.includes('page') ? { kind: 'captive-portal' } : { kind: 'status', status: 404 }),
  })
  await using host = await startHost()
  const cases: readonly (readonly [string[], number, RegExp])[] = [
    [['fetch', 'http://no-such-host.invalid/x.mkv'], 4, /no such host|cannot be looked up/], // as the network's name servers say
    [['fetch', origin.url('none.mkv')], 4, /404: there is no such file/],
    [['fetch', origin.url('page')], 4, /HTML page/],
    [['play', origin.url('none.mkv')], 4, /404/],
    [['fetch', 'ftp://host/x'], 2, /not an http\(s\) URL/],
    [['url', 'nonsense'], 2, /not a URL/],
    [['serve'], 8, /another seekcache host is running/],
    [['serve', '--cache-dir', '/proc/nowhere'], 1, /cannot write to the cache directory/],
    [['serve', '--cache-dir', dir.file('a'), '--socket', dir.file('s'.repeat(120))], 2, /socket path is longer/],
    [['serve', '--cache-dir', dir.file('a'), '--max-size', 'much'], 2, /not a size/],
    [['url', 'http://x/', '--socket', dir.file('s'.repeat(120)), '--cache-dir', dir.file('b')], 2, /socket path is longer/],
    [['bogus'], 2, /unknown command/],
    [['url', 'http://x/', '--header', 'no colon'], 2, /Name: value/],
    [['evict'], 2, /URL or --all/],
    [['status', '--cache-dir', dir.file('empty'), '--socket', dir.file('none.sock')], 6, /no host is running/],
    [['run', 'no-such-program-at-all'], 2, /cannot run/],
  ]
  for (const [args, expected, message] of cases) {
    const { code, stderr } = await runCli(args, host.clientEnv)
    assert.equal(code, expected, `${args.join(' ')}: ${stderr}`)
    assert.match(stderr, message)
    assert.equal(stderr.trim().split('\n').length <= 2, true, `${args.join(' ')}: ${stderr}`)
  }
})

test('serve --json tells one event a line, ready first, and leaves in order on SIGTERM', async () => {
  await using dir = await tempDir()
  const child = spawn(process.execPath, [CLI_FILE, 'serve', '--json', '--cache-dir', dir.file('c')], { stdio: ['ignore', 'pipe', 'ignore'] })
  const lines: string[] = []
  const ready = new Promise<void>((resolve) => child.stdout.setEncoding('utf8').on('data', (text: string) => {
    lines.push(...text.trim().split('\n'))
    resolve()
  }))
  endWithThisProcess(child)
  const exited = new Promise<number | null>((resolve) => child.once('close', resolve))
  await within('ready', ready)
  const event = JSON.parse(lines[0]!) as { event: string; proxy: string; socket: string }
  assert.equal(event.event, 'ready')
  assert.equal(event.socket, dir.file('c', 'control.sock'))
  assert.deepEqual(JSON.parse(readFileSync(dir.file('c', 'host.json'), 'utf8')), { pid: child.pid, version: '0.1.0', protocol: 1, socket: event.socket, proxy: event.proxy })
  child.kill('SIGTERM')
  assert.equal(await within('the end', exited), 0)
  assert.equal(lines.at(-1), '{"event":"stopped"}')
  assert.throws(() => statSync(dir.file('c', 'host.json')))
})

test('--idle-exit ends a host that nobody uses, and only then', async () => {
  // One that leaves soon may have left before its first client is there: then the next may idle for longer.
  for (const idleSeconds of [0.5, 2, 8, 20]) {
    await using dir = await tempDir()
    const args = [CLI_FILE, 'serve', '--json', '--cache-dir', dir.file('c'), '--idle-exit', String(idleSeconds)]
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    endWithThisProcess(child)
    const exited = new Promise<number | null>((resolve) => child.once('close', resolve))
    await within('ready', new Promise((resolve) => child.stdout.once('data', resolve)))
    const socket = connectSocket(dir.file('c', 'control.sock')).on('error', () => {})
    socket.write('{"type":"hello","protocol":1,"client":"test"}\n')
    const isGreeted = await within('an answer', new Promise<boolean>((resolve) => {
      socket.once('data', () => resolve(true)).once('close', () => resolve(false))
    }))
    if (isGreeted) {
      const first = await Promise.race([exited, new Promise((resolve) => setTimeout(() => resolve('still there'), idleSeconds * 2400))])
      assert.equal(first, 'still there')
    }
    socket.destroy()
    assert.equal(await within('the end', exited), 0)
    if (isGreeted) return
  }
  assert.fail('no host stayed until its first client was there')
})

test('a host of another protocol is told apart', async () => {
  await using dir = await tempDir()
  await using _other = await listen(dir.file('other.sock'), (socket) => {
    socket.once('data', () => socket.write('{"type":"hello","protocol":99,"version":"9.9.9","pid":1}\n'))
  })
  const { code, stderr } = await runCli(['status', '--socket', dir.file('other.sock'), '--cache-dir', dir.file('c')])
  assert.equal(code, 1)
  assert.match(stderr, /protocol 99.*seekcache stop/)
})

test('a client that does not follow the protocol is told so and cut', async () => {
  await using host = await startHost()
  const converse = async (...lines: string[]): Promise<string> => {
    const socket = connectSocket(host.socket).on('error', () => {}) // 'close' follows
    let text = ''
    socket.setEncoding('utf8').on('data', (piece: string) => (text += piece))
    for (const line of lines) socket.write(`${line}\n`)
    await within('the end of the connection', new Promise((resolve) => socket.once('close', resolve)))
    return text
  }
  const hello = '{"type":"hello","protocol":1,"client":"test"}'
  assert.match(await converse('GET / HTTP/1.1'), /ERR_SEEKCACHE_PROTOCOL/)
  assert.match(await converse('{"type":"hello","protocol":2,"client":"x"}'), /protocol 1, the client 2/)
  assert.match(await converse(hello, '{"type":"format-disk","id":1}'), /ERR_SEEKCACHE_PROTOCOL/)
  assert.match(await converse(hello, '{"type":"locate","id":1,"session":"s1","reader":1,"start":-5,"lengthBytes":1,"deadlineMs":1}'), /start/)
  assert.match(await converse(hello, '{"type":"open","id":1,"url":"file:///etc/passwd"}'), /url/)
  assert.match(await converse(hello, 'x'.repeat(70_000)), /longer than/)
  assert.match(await converse(hello, '{"type":"status","id":0}'), /ERR_SEEKCACHE_PROTOCOL/)
})
