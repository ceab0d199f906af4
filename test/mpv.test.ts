/**
 * The mpv script, in a real mpv, with a real host and real origins: what plays through the cache, what is left alone, and
 * that mpv plays on as without it whenever there is no host.
 *
 * The origins are on loopback, which the script leaves alone unless it is told otherwise: the tests tell it.
 */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { access, chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { setTimeout as elapse } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

import { connect } from '../src/client/cache.ts'
import { OWN_REQUEST_MS, STALLED_MS } from '../src/schedule/player-rules.ts'
import { isRunning } from './support/children.ts'
import { fileContent } from './support/content.ts'
import { until, within } from './support/deadline.ts'
import { startFaultOrigin, type Script } from './support/fault-origin.ts'
import { CLI_FILE, startHost, type TestHost } from './support/host.ts'
import { longFilm, shortFilm } from './support/media.ts'
import { type Mpv, startMpv } from './support/mpv.ts'
import { startNginx } from './support/nginx.ts'
import { tempDir } from './support/temp-dir.ts'

const SCRIPT = fileURLToPath(new URL('../native/mpv/seekcache.lua', import.meta.url))
const SHIM_DIR = fileURLToPath(new URL('../native/mpv/bin', import.meta.url))
const NO_HOST = { SEEKCACHE_COMMAND: '/nonexistent/seekcache' }

interface ScriptedMpvOptions {
  readonly cacheDir: string
  readonly script?: string
  readonly options?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  readonly args?: readonly string[]
}

async function scriptedMpv({ cacheDir, script = SCRIPT, options = [], env = {}, args = [] }: ScriptedMpvOptions): Promise<Mpv> {
  const all = [`cache_dir=${cacheDir}`, 'intercept_loopback=yes', ...options].map((option) => `seekcache-${option}`)
  return await startMpv({ args: [`--script=${script}`, `--script-opts=${all.join(',')}`, '--ytdl=no', ...args], env })
}

async function openedAs(mpv: Mpv): Promise<string> {
  return String(await mpv.get('stream-open-filename'))
}

/** Seeks go to the key frame at or before the place, one every 2 s. */
async function assertAtPercent(mpv: Mpv, percent: number, seconds: number): Promise<void> {
  const position = Number(await mpv.get('percent-pos'))
  const keyFrameDistance = (2.1 / seconds) * 100
  assert.ok(position <= percent + 1 && position >= percent - keyFrameDistance, `at ${position} %, not at ${percent} %`)
}

for (const format of ['mkv', 'mp4'] as const) {
  test(`mpv opens and seeks a ${format} of 120 MB through the proxy on an empty cache`, async () => {
    const film = await longFilm()
    const { path: file, name } = film.files[format]
    await using origin = await startNginx(path.dirname(file))
    await using host = await startHost()
    await using mpv = await scriptedMpv({ cacheDir: host.cacheDir })
    await mpv.open(origin.url(name))
    assert.ok((await openedAs(mpv)).startsWith(`${host.proxy}/u/`))
    for (const percent of [90, 10, 50]) {
      await mpv.seekPercent(percent)
      await assertAtPercent(mpv, percent, film.seconds)
    }
    assert.equal(Number(await mpv.get('duration')).toFixed(0), String(film.seconds))
    await mpv.quit()
    await host.stop()
    const log = await origin.log()
    assert.ok(log.length > 0)
    for (const { range, status } of log) assert.deepEqual([range !== '', status], [true, 206])
  })
}

test('what the person sees of the URL stays: path, title and the place to resume at', async () => {
  const { files } = await shortFilm()
  await using origin = await startNginx(path.dirname(files.mkv.path))
  await using host = await startHost()
  await using folder = await tempDir()
  const url = origin.url(files.mkv.name)
  const args = [`--watch-later-directory=${folder.path}`, '--save-position-on-quit']
  {
    await using mpv = await scriptedMpv({ cacheDir: host.cacheDir, args })
    await mpv.open(url)
    assert.equal(await mpv.get('path'), url)
    assert.equal(await mpv.get('filename'), files.mkv.name)
    assert.equal(await mpv.get('media-title'), files.mkv.name)
    await mpv.seekPercent(50)
    await mpv.quit()
  }
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir, args })
  await mpv.open(url)
  await assertAtPercent(mpv, 50, 60)
})

test('a cached film plays and seeks without its origin, after the host was restarted', async () => {
  const { files, seconds } = await shortFilm()
  await using origin = await startNginx(path.dirname(files.mkv.path))
  await using host = await startHost()
  const url = origin.url(files.mkv.name)
  {
    await using cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
    await (await cache.open(url)).fetchAll()
  }
  await origin.stop()
  await host.restart()
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir })
  await mpv.open(url)
  for (const percent of [90, 10, 50]) {
    await mpv.seekPercent(percent)
    await assertAtPercent(mpv, percent, seconds)
  }
})

test('headers, user agent and referrer reach the origin, and loopback does not get them again', async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using host = await startHost()
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir })
  await mpv.open(origin.url('a film.mkv?signature=a/b'), {
    'http-header-fields': 'X-Plex-Token: secret-1,Cookie: a=b; c=d',
    'user-agent': 'player/1.0 (test)',
    referrer: 'http://example.net/page',
  })
  assert.deepEqual(await mpv.get('http-header-fields'), [])
  assert.equal(await mpv.get('referrer'), '')
  assert.equal(await mpv.get('prefetch-playlist'), false)
  const [first] = origin.requests
  assert.equal(first?.target, '/a%20film.mkv?signature=a/b')
  assert.equal(first?.headers['x-plex-token'], 'secret-1')
  assert.equal(first?.headers['cookie'], 'a=b; c=d')
  assert.equal(first?.headers['user-agent'], 'player/1.0 (test)')
  assert.equal(first?.headers['referer'], 'http://example.net/page')
  assert.doesNotMatch(mpv.output + host.stderr, /secret-1|a=b|signature=/)
})

test('the next file of a playlist has its own options again', async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using host = await startHost()
  await using mpv = await scriptedMpv({
    cacheDir: host.cacheDir,
    args: ['--http-header-fields=X-All: 1', '--prefetch-playlist=yes'],
  })
  await mpv.open(origin.url('one.mkv'), { referrer: 'http://example.net/one' })
  assert.deepEqual(await mpv.get('http-header-fields'), [])
  const before = origin.requests.length
  await mpv.open(origin.url('two.mkv'))
  const two = origin.requests.slice(before).filter(({ target }) => target === '/two.mkv')
  assert.ok(two.length > 0)
  for (const { headers } of two) assert.deepEqual([headers['x-all'], headers['referer']], ['1', undefined])
  const idle = mpv.next('idle')
  await mpv.command('stop')
  await idle
  assert.deepEqual(await mpv.get('http-header-fields'), ['X-All: 1'])
  assert.equal(await mpv.get('prefetch-playlist'), true)
})

test('mpv stays near where it plays, for the host reads ahead; a value of the person is kept', async () => {
  const film = await longFilm()
  await using origin = await startNginx(path.dirname(film.files.mkv.path))
  await using host = await startHost()
  const heldSeconds = async (args: readonly string[], options: readonly string[] = []): Promise<number> => {
    await using mpv = await scriptedMpv({ cacheDir: host.cacheDir, args: ['--pause', ...args], options })
    await mpv.open(origin.url(film.files.mkv.name))
    await until('mpv reads no further', async () => (await mpv.get('demuxer-cache-idle')) === true)
    const seconds = Number(await mpv.get('demuxer-cache-duration'))
    await mpv.open(film.files.mkv.path)
    assert.equal(await mpv.get('cache-secs'), args.length > 0 ? 20 : 3_600_000)
    return seconds
  }
  const [byItself, near, asTold] = [await heldSeconds([], ['readahead_seconds=0']), await heldSeconds([]), await heldSeconds(['--cache-secs=20'])]
  assert.ok(near >= 5 && near < 9, `${near} s are held`) // up to a packet of each stream further
  assert.ok(asTold >= 20 && asTold < 24, `${asTold} s are held`)
  assert.ok(byItself > 40, `${byItself} s are held`)
})

test('playlists, HLS and DASH, and local files are left alone', async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using host = await startHost()
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir })
  for (const name of ['a.m3u8', 'a.M3U', 'a.mpd?x=1', 'a.pls', 'a.xspf', 'a.ism/Manifest']) {
    await mpv.open(origin.url(name))
    assert.equal(await openedAs(mpv), origin.url(name))
  }
  await mpv.open(files.mkv.path)
  assert.equal(await openedAs(mpv), files.mkv.path)
  // A name that only looks like one in its query is a film.
  await mpv.open(origin.url('film.mkv?list=a.m3u8'))
  assert.ok((await openedAs(mpv)).startsWith(host.proxy))
})

test("loopback is left alone unless the option says otherwise, and the host's own URLs always", async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using host = await startHost()
  const named = `http://localhost:${origin.port}/film.mkv`
  {
    await using mpv = await scriptedMpv({ cacheDir: host.cacheDir, options: ['intercept_loopback=no'] })
    for (const url of [origin.url(), named]) {
      await mpv.open(url)
      assert.equal(await openedAs(mpv), url)
    }
  }
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir })
  const url = host.proxyUrl(origin.url())
  await mpv.open(url)
  assert.equal(await openedAs(mpv), url)
  await mpv.open(named)
  assert.ok((await openedAs(mpv)).startsWith(host.proxy))
})

test('a URL that needs what the host does not have, or more than ffmpeg can hold, is played directly', async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using host = await startHost()
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir })
  const cases = [
    { cookies: 'yes', 'cookies-file': '/nonexistent' },
    { 'http-proxy': origin.origin },
    { 'tls-cert-file': '/nonexistent' },
    { 'stream-lavf-o': 'headers="X: 1"' },
    { 'http-header-fields': `X-Long: ${'x'.repeat(4000)}` },
  ]
  for (const options of cases) {
    await mpv.open(origin.url(), options)
    assert.equal(await openedAs(mpv), origin.url(), Object.keys(options).join())
  }
})

test('the files inside an EDL go through the proxy, each by itself; a list of fragments does not', async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using host = await startHost()
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir })
  const part = (url: string) => `%${Buffer.byteLength(url)}%${url}`
  const [one, two] = [origin.url('one.mkv'), origin.url('two.mkv?käse=1')]
  await mpv.open(`edl://!no_clip;!no_chapters;${part(one)};!new_stream;!no_clip;${part(two)}`)
  const opened = await openedAs(mpv)
  assert.equal(opened.split(host.proxy).length, 3)
  assert.ok(!opened.includes(one))
  assert.ok(['/one.mkv', '/two.mkv'].every((name) => origin.requests.some(({ target }) => target.startsWith(name))))

  const fragments = `edl://!mp4_dash,init=${part(one)};${part(one)}`
  await mpv.open(fragments).catch(() => {})
  await mpv.open(one)
  assert.ok(origin.requests.some(({ headers, target }) => target === '/one.mkv' && headers['icy-metadata'] !== undefined))
})

test('without a host, and with none to be had, mpv plays directly', async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using folder = await tempDir()
  // A copy of the script lies in no package.
  const script = folder.file('seekcache.lua')
  await writeFile(script, await readFile(SCRIPT))
  for (const options of [[], ['start_host=no'], ['command=/nonexistent/seekcache']]) {
    await using mpv = await scriptedMpv({ cacheDir: folder.file('cache'), script, options, env: NO_HOST })
    await mpv.open(origin.url(), { 'http-header-fields': 'X-Token: 1' })
    assert.equal(await openedAs(mpv), origin.url())
    assert.equal(origin.requests.at(-1)?.headers['x-token'], '1')
    await mpv.seekPercent(90)
  }
})

test('a state file that is left of a dead host is not believed', async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using host = await startHost()
  await host.kill9()
  await readFile(path.join(host.cacheDir, 'host.json'))
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir, options: ['start_host=no'] })
  await mpv.open(origin.url())
  assert.equal(await openedAs(mpv), origin.url())
})

test('where the proxy refuses the connection or cannot play a file, the original is played with its own options', async (t) => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using gone = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using folder = await tempDir()
  await gone.goDown()
  // A process that looks like a host, and nobody listens there: a state file at its worst.
  const lookalike = spawn(process.execPath, ['-e', 'process.stdin.resume()', 'serve'], { stdio: ['pipe', 'ignore', 'ignore'] })
  t.after(() => lookalike.kill())
  const state = { pid: lookalike.pid, version: '0.1.0', protocol: 1, socket: '/nonexistent', proxy: `${gone.origin}/token` }
  await writeFile(folder.file('host.json'), JSON.stringify(state))
  await using mpv = await scriptedMpv({ cacheDir: folder.path })
  await mpv.open(origin.url(), { 'http-header-fields': 'X-Token: 1', referrer: 'http://example.net/' })
  assert.equal(await openedAs(mpv), origin.url().replace('//', '//@'))
  assert.equal(await mpv.get('path'), origin.url())
  assert.equal(await mpv.get('cache-secs'), 3_600_000)
  const { headers } = origin.requests[0] ?? assert.fail('nothing was asked for')
  assert.deepEqual([headers['x-token'], headers['referer']], ['1', 'http://example.net/'])
  assert.deepEqual([headers['host'], headers['authorization']], [`127.0.0.1:${origin.port}`, undefined])

  const withUser = origin.url().replace('//', '//user:word@')
  await mpv.open(withUser)
  assert.notEqual(await openedAs(mpv), withUser)
  assert.equal(origin.requests.at(-1)?.headers['host'], `127.0.0.1:${origin.port}`)
})

test("a file that is not there fails with the origin's own answer", async () => {
  await using origin = await startFaultOrigin({
    content: fileContent(SCRIPT),
    script: () => ({ kind: 'status', status: 404 }),
  })
  await using host = await startHost()
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir })
  await assert.rejects(mpv.open(origin.url()), /could not play/)
  assert.match(mpv.output, /HTTP error 404/)
  // mpv itself asked, behind the host.
  assert.equal(origin.requests.at(-1)?.headers['icy-metadata'], '1')
})

test('a host is started where there is none, by a script that is linked into the scripts folder', async () => {
  const { files } = await shortFilm()
  await using origin = await startNginx(path.dirname(files.mkv.path))
  await using folder = await tempDir()
  const cacheDir = folder.file('cache')
  const script = folder.file('seekcache.lua')
  await symlink(SCRIPT, script)
  await using mpv = await scriptedMpv({ cacheDir, script, options: ['start_timeout=60'], env: NO_HOST })
  try {
    await mpv.open(origin.url(files.mkv.name))
    const state = JSON.parse(await readFile(path.join(cacheDir, 'host.json'), 'utf8')) as { readonly proxy: string }
    assert.ok((await openedAs(mpv)).startsWith(`${state.proxy}/u/`))
    await mpv.seekPercent(90)
  } finally {
    await mpv.quit()
    // It outlives the player that has started it; nobody else will end it here.
    await using cache = await connect({ cacheDir, socketPath: path.join(cacheDir, 'control.sock'), startHost: false })
    await cache.stopHost()
  }
})

test('`seekcache run -- mpv` plays through the cache with the mpv that is installed', async () => {
  const { files } = await shortFilm()
  await using origin = await startFaultOrigin({ content: fileContent(files.mkv.path) })
  await using host = await startHost()
  const output = await runThroughCli(host, [
    ...['mpv', '--no-config', '--vo=null', '--ao=null', '--untimed', '--length=1', '--msg-level=seekcache=debug'],
    ...['--script-opts=seekcache-intercept_loopback=yes', origin.url()],
  ])
  assert.match(output, /exchanged in/)
  assert.ok(origin.requests.length > 0)
  for (const { headers } of origin.requests) assert.equal(headers['icy-metadata'], undefined)
})

async function runThroughCli(host: TestHost, words: readonly string[]): Promise<string> {
  const args = [CLI_FILE, 'run', '--cache-dir', host.cacheDir, '--', ...words]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...host.clientEnv } })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  const code = await within('mpv through the CLI', new Promise((resolve) => child.once('close', resolve)))
  assert.equal(code, 0, output)
  return output
}

test('the shim starts the next mpv on PATH, with the script first and every argument as it was', async () => {
  await using folder = await tempDir()
  const bin = folder.file('a folder')
  const fake = path.join(bin, 'mpv')
  await mkdir(bin)
  await writeFile(fake, '#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
  await chmod(fake, 0o755)
  await symlink(SHIM_DIR, folder.file('link'))
  const shim = path.join(SHIM_DIR, 'mpv')
  const search = (...folders: readonly string[]) => ({ env: { PATH: [...folders, '/usr/bin', '/bin'].join(':') } })
  const { stdout } = await promisify(execFile)(shim, ['--a=b c', '*', ''], search(folder.file('link'), SHIM_DIR, bin))
  assert.deepEqual(stdout.split('\n').slice(0, -1), [fake, `--script=${SCRIPT}`, '--a=b c', '*', ''])
  const nowhere = promisify(execFile)('/bin/sh', [shim], { env: { PATH: SHIM_DIR } })
  await assert.rejects(nowhere, { code: 127 })
})

/** Of a film whose middle never comes, once `isOn`. */
function frozenMiddle(sizeBytes: number): { readonly script: Script; isOn: boolean; readonly start: number } {
  const [start, end] = [Math.floor(sizeBytes * 0.4), Math.floor(sizeBytes * 0.6)]
  const middle = {
    start,
    isOn: true,
    script: ({ range }: Parameters<Script>[0]) => {
      const [from, to] = [range?.start ?? 0, range?.end ?? sizeBytes]
      if (!middle.isOn || from >= end || to <= start) return undefined
      return from >= start ? ({ kind: 'head-held' } as const) : ({ kind: 'body-stalled', afterBytes: start - from } as const)
    },
  }
  return middle
}

const NO_LIMITS = ['--stall', '600', '--wait', '600']

for (const format of ['mkv', 'mp4'] as const) {
  for (const cache of ['auto', 'no']) {
    test(`a seek in a ${format} shows its picture although the read before is stalled for ever (cache=${cache})`, async () => {
      const film = await shortFilm()
      const content = fileContent(film.files[format].path)
      const middle = frozenMiddle(content.sizeBytes)
      await using origin = await startFaultOrigin({ content, script: middle.script })
      await using host = await startHost({ args: NO_LIMITS })
      await using mpv = await scriptedMpv({ cacheDir: host.cacheDir, args: [`--cache=${cache}`, '--demuxer-max-bytes=2MiB', '--demuxer-max-back-bytes=1MiB'] })
      await mpv.open(origin.url(`film.${format}`))
      for (const percent of [90, 10]) {
        const before = origin.requests.length
        await mpv.command('seek', 50, 'absolute-percent')
        await origin.when('a stalled read', (seen) => seen.requests.slice(before).some(({ outcome }) => outcome === 'stalled'))
        await elapse(OWN_REQUEST_MS + 10) // what is younger may be the seek's own and is left alone: what is tested is a time
        const ms = await mpv.seekPercent(percent)
        console.log(`${format}, cache=${cache}: a seek to ${percent} % out of a stalled read took ${Math.round(ms)} ms`)
        await assertAtPercent(mpv, percent, film.seconds)
      }
      middle.isOn = false
      origin.release()
      await mpv.seekPercent(50)
      await assertAtPercent(mpv, 50, film.seconds)
    })
  }
}

test('a seek inside what mpv holds itself cuts no read, stalled or not', async () => {
  const film = await shortFilm()
  const content = fileContent(film.files.mkv.path)
  const middle = frozenMiddle(content.sizeBytes)
  await using origin = await startFaultOrigin({ content, script: middle.script })
  await using host = await startHost({ args: NO_LIMITS })
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir, args: ['--cache=yes', '--pause'] })
  await mpv.open(origin.url('film.mkv'))
  await origin.when('the stalled readahead', (seen) => seen.requests.some(({ outcome }) => outcome === 'stalled'))
  await elapse(OWN_REQUEST_MS + 10) // from now on it could be cut
  await mpv.seekPercent(20)
  await mpv.seekPercent(5)
  assert.equal((await metricsOf(host)).get('seekcache_responses_total{status="503"}'), undefined)
  middle.isOn = false
  origin.release()
  await mpv.seekPercent(95)
  await assertAtPercent(mpv, 95, film.seconds)
})

/** mpv at a seek that is stalled in its own read, and a curl that tells of it when it is let go, as one from a slow disk. */
async function startLateHint() {
  const folder = await tempDir('seekcache-late')
  const [pid, go, told] = [folder.file('pid'), folder.file('go'), folder.file('told')] as const
  const waiting = `echo $$ >'${pid}.new' && mv '${pid}.new' '${pid}'; while ! test -e '${go}'; do sleep 0.02; done`
  await writeFile(folder.file('curl'), `#!/bin/sh\n${waiting}\n/usr/bin/curl "$@"\n>'${told}'\n`, { mode: 0o755 })
  const film = await shortFilm()
  const content = fileContent(film.files.mkv.path)
  const middle = frozenMiddle(content.sizeBytes)
  const origin = await startFaultOrigin({ content, script: middle.script })
  const host = await startHost({ args: NO_LIMITS })
  const env = { PATH: `${folder.path}:${process.env.PATH}` }
  const mpv = await scriptedMpv({ cacheDir: host.cacheDir, env, args: ['--cache=no'] })
  await mpv.open(origin.url('film.mkv'))
  const sought = mpv.seekPercent(50)
  sought.catch(() => {})
  await origin.when('a stalled read', (seen) => seen.requests.some(({ outcome }) => outcome === 'stalled'))
  await until('curl has been started', async () => await isThere(pid))
  return {
    film, mpv, sought, told,
    curl: Number(await readFile(pid, 'utf8')),
    tell: async () => await writeFile(go, ''),
    release: () => {
      middle.isOn = false
      origin.release()
    },
    [Symbol.asyncDispose]: async () => {
      await writeFile(go, '') // a curl that waits on would keep mpv's pipes open
      await mpv[Symbol.asyncDispose]()
      await host.stop()
      await origin.stop()
      await folder.remove()
    },
  }
}

async function isThere(file: string): Promise<boolean> {
  return await access(file).then(() => true, () => false)
}

test('a hint that comes late cuts no read of its own seek', async () => {
  await using late = await startLateHint()
  await elapse(2 * OWN_REQUEST_MS) // what is tested is a time
  await late.tell()
  await until('the host is told', async () => await isThere(late.told))
  await elapse(STALLED_MS + 50) // by then it would be cut
  late.release()
  await late.sought
  await assertAtPercent(late.mpv, 50, late.film.seconds)
})

test('a hint that is not told when the picture is there is never told', async () => {
  await using late = await startLateHint()
  late.release()
  await late.sought
  await until('curl is gone', async () => !isRunning(late.curl))
  assert.equal(await isThere(late.told), false)
})

/** What the script does not wait for before it tells the host of a seek, less what mpv's own timers may be late. */
const QUICK_SEEK_MS = 40

test('a seek that shows its picture at once is told to nobody', async () => {
  const film = await shortFilm()
  await using folder = await tempDir('seekcache-told')
  const told = folder.file('told')
  await writeFile(folder.file('curl'), `#!/bin/sh\necho told >>'${told}'\nexec /usr/bin/curl "$@"\n`, { mode: 0o755 })
  await using origin = await startFaultOrigin({ content: fileContent(film.files.mkv.path) })
  await using host = await startHost()
  await using cache = await connect({ cacheDir: host.cacheDir })
  await (await cache.open(origin.url('film.mkv'))).fetchAll()
  const env = { PATH: `${folder.path}:${process.env.PATH}` }
  await using mpv = await scriptedMpv({ cacheDir: host.cacheDir, env, args: ['--cache=no'] })
  await mpv.open(origin.url('film.mkv'))
  let quickCount = 0
  for (const percent of [90, 80, 70, 60, 50, 40, 30, 20, 10, 5]) {
    await writeFile(told, '')
    if ((await mpv.seekPercent(percent)) > QUICK_SEEK_MS) continue // a slow moment of this machine
    quickCount++
    await elapse(2 * QUICK_SEEK_MS) // what would come, comes by then: what is tested is that a timer was stopped
    assert.equal(await readFile(told, 'utf8'), '')
  }
  assert.ok(quickCount > 0, 'all seeks were slow')
})

async function metricsOf(host: TestHost): Promise<Map<string, number>> {
  const lines = (await (await fetch(`${host.proxy}/metrics`)).text()).split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]))
}

test("a URL that expires in the middle is renewed by the person's own script", async () => {
  const film = await shortFilm()
  let valid = '/film.mkv?Signature=1'
  await using origin = await startFaultOrigin({
    content: fileContent(film.files.mkv.path),
    script: (request) => (request.target === valid ? undefined : { kind: 'status', status: 403 }),
  })
  await using host = await startHost()
  await using folder = await tempDir()
  const renewer = folder.file('renewer.lua')
  await writeFile(renewer, `mp.register_script_message("seekcache-renew", function(url, status)
    mp.commandv("script-message-to", "seekcache", "renew", (url:gsub("=1$", "=2")), "X-Status: " .. status)
  end)`)
  await using mpv = await scriptedMpv({
    cacheDir: host.cacheDir, options: ['renew=yes'],
    args: [`--script=${renewer}`, '--demuxer-max-bytes=1MiB', '--demuxer-max-back-bytes=1MiB'],
  })
  await mpv.open(origin.url('film.mkv?Signature=1'))
  valid = '/film.mkv?Signature=2'
  await mpv.seekPercent(80)
  await assertAtPercent(mpv, 80, film.seconds)
  assert.equal(origin.requests.at(-1)?.headers['x-status'], '403')
  assert.doesNotMatch(mpv.output + host.stderr, /Signature=/)
  await mpv.quit()
})
