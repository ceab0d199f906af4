/**
 * The cache directory, its files and its socket as another local user meets them, and traps laid in the places of its files:
 * links, FIFOs, directories. Nothing is followed, nothing outside is written or deleted, nothing waits.
 */

import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { chmodSync, chownSync, existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'

import { layoutOf, prepareLayout } from '../src/cache/layout.ts'
import { patternContent } from './support/content.ts'
import { PATIENCE_MS, until, within } from './support/deadline.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { CLI_FILE, startHost } from './support/host.ts'
import { runProgram, type Finished } from './support/programs.ts'
import { tempDir } from './support/temp-dir.ts'

const CONTENT = patternContent(3_000_000)
const NOBODY = 65_534
/** Another user can be had only by who may become one. */
const asRoot = { skip: process.geteuid?.() !== 0 ? 'needs root, to be another user' : false }

async function bytesFrom(url: string): Promise<Buffer> {
  return Buffer.from(await (await fetch(url)).arrayBuffer())
}

/** Everything below `dir`, as path from it and what `lstat` says; but what a running host has just renamed or removed. */
function everything(dir: string): { name: string; mode: number; kind: 'file' | 'directory' | 'socket' | 'other' }[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' }).flatMap((name) => {
    const found = lstatSync(path.join(dir, name), { throwIfNoEntry: false })
    if (found === undefined) return []
    const kind = found.isFile() ? 'file' : found.isDirectory() ? 'directory' : found.isSocket() ? 'socket' : 'other'
    return [{ name, mode: found.mode & 0o7777, kind }]
  })
}

/** What a host says that does not start; it must say it, not hang. */
async function refusal(cacheDir: string, more: readonly string[] = []): Promise<Finished> {
  const words = [process.execPath, CLI_FILE, 'serve', '--json', '--cache-dir', cacheDir, '--port', '0', ...more]
  const finished = await runProgram(words, {}, PATIENCE_MS)
  assert.equal(finished.stdout, '', 'it has not started')
  assert.notEqual(finished.code, null, `it hangs: ${finished.stderr}`)
  assert.notEqual(finished.code, 0)
  assert.match(finished.stderr, /^seekcache: [^\n]+\n$/, 'one line for a person')
  return finished
}

test('every file is 0600 and every directory 0700, whatever the umask', async () => {
  for (const umask of ['000', '077']) {
    await using temp = await tempDir()
    const cacheDir = temp.file('cache')
    await using origin = await startFaultOrigin({ content: CONTENT })
    const args = [CLI_FILE, 'serve', '--background', '--ready-fd', '1', '--cache-dir', cacheDir, '--idle-exit', '60']
    const child = spawn('sh', ['-c', `umask ${umask}; exec "$@"`, 'sh', process.execPath, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
    try {
      const line = await within('the host', new Promise<string>((resolve) => child.stdout.setEncoding('utf8').once('data', resolve)))
      const { proxy } = JSON.parse(line) as { proxy: string }
      const spec = Buffer.from(JSON.stringify({ url: origin.url() })).toString('base64url')
      assert.ok((await bytesFrom(`${proxy}/u/${spec}/film.mkv`)).equals(CONTENT.read(0, CONTENT.sizeBytes)))
      await until('it is on the disk', () => everything(cacheDir).some(({ name, kind }) => name.startsWith('extents/') && kind === 'file'))
      const found = everything(cacheDir)
      for (const name of ['control.sock', 'host.json', 'token', 'port', 'format', 'lock', 'host.log', 'index/data.mdb', 'index/lock.mdb', 'index/salt']) {
        assert.ok(found.some((entry) => entry.name === name), `${name} is there`)
      }
      assert.equal(lstatSync(cacheDir).mode & 0o7777, 0o700)
      for (const { name, mode, kind } of found) {
        assert.equal(mode, kind === 'directory' ? 0o700 : 0o600, `${name} under umask ${umask}: ${mode.toString(8)}`)
        assert.notEqual(kind, 'other', name)
      }
    } finally {
      const ended = new Promise((resolve) => child.once('close', resolve))
      child.kill('SIGTERM')
      await within('the end of the host', ended)
    }
  }
})

test('another user can neither connect nor read, list or write anything', asRoot, async () => {
  await using temp = await tempDir()
  chmodSync(temp.path, 0o755)
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost({ cacheDir: temp.file('cache') })
  await bytesFrom(host.proxyUrl(origin.url()))
  const paths = [host.cacheDir, ...everything(host.cacheDir).map(({ name }) => path.join(host.cacheDir, name))]
  const script = `
    const fs = require('node:fs'), net = require('node:net')
    const [socket, ...paths] = JSON.parse(process.argv[1])
    const got = []
    const refusals = ['EACCES', 'EISDIR'] // the latter to whoever opens a directory for writing
    const attempt = (what, action) => { try { action(); got.push(what) } catch (error) { if (!refusals.includes(error.code)) got.push(what + ' ' + error.code) } }
    for (const path of paths) {
      attempt('read ' + path, () => fs.readFileSync(path))
      attempt('list ' + path, () => fs.readdirSync(path))
      attempt('open for writing ' + path, () => fs.openSync(path, 'r+'))
      attempt('create in ' + path, () => fs.writeFileSync(path + '/x', ''))
      attempt('remove ' + path, () => fs.unlinkSync(path))
      if (path !== paths[0]) attempt('look at ' + path, () => fs.lstatSync(path))
    }
    net.connect(socket, () => { got.push('connected'); tell() }).on('error', (error) => { if (error.code !== 'EACCES') got.push('connect ' + error.code); tell() })
    function tell() { console.log(JSON.stringify({ uid: process.getuid(), got })); process.exit() }
  `
  const told = execFileSync(process.execPath, ['-e', script, JSON.stringify([host.socket, ...paths])], { uid: NOBODY, gid: NOBODY, cwd: '/', encoding: 'utf8' })
  const { uid, got } = JSON.parse(told) as { uid: number; got: string[] }
  assert.equal(uid, NOBODY)
  // The parent of the cache directory is open to all: it is the directory itself that keeps them out.
  assert.deepEqual(got, [])
  assert.ok((await bytesFrom(host.proxyUrl(origin.url()))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
})

test('a directory that others may write to, or that is another user’s, is refused and left as it is', async () => {
  await using temp = await tempDir()
  for (const mode of [0o1777, 0o770]) {
    const dir = temp.file(`mode-${mode.toString(8)}`)
    mkdirSync(dir)
    chmodSync(dir, mode)
    const { stderr } = await refusal(dir)
    assert.match(stderr, /other users can write to the cache directory/)
    assert.deepEqual([lstatSync(dir).mode & 0o7777, readdirSync(dir)], [mode, []])
  }
  if (process.geteuid?.() !== 0) return
  const dir = temp.file('theirs')
  mkdirSync(dir, { mode: 0o755 })
  chownSync(dir, NOBODY, NOBODY)
  assert.match((await refusal(dir)).stderr, /belongs to another user/)
  assert.deepEqual([lstatSync(dir).mode & 0o7777, readdirSync(dir)], [0o755, []])

  const target = temp.file('target')
  mkdirSync(target, { mode: 0o700 })
  symlinkSync(target, temp.file('link'))
  execFileSync('chown', ['-h', String(NOBODY), temp.file('link')])
  assert.match((await refusal(temp.file('link'))).stderr, /another user's link/)
  assert.deepEqual(readdirSync(target), [])
})

test('a directory with somebody’s own files is never taken for a cache, and nothing in it is touched', async () => {
  await using temp = await tempDir()
  const dir = temp.file('home')
  mkdirSync(path.join(dir, 'extents', 'holiday'), { recursive: true })
  writeFileSync(path.join(dir, 'extents', 'holiday', 'photo.jpg'), 'dear')
  writeFileSync(path.join(dir, 'letter.txt'), 'dear')
  chmodSync(dir, 0o755)
  const before = everything(dir)
  const { stderr } = await refusal(dir)
  assert.match(stderr, /is not empty and no cache directory \(it holds "letter.txt"\)/)
  assert.deepEqual(everything(dir), before)
  assert.equal(lstatSync(dir).mode & 0o7777, 0o755)
})

test('the user’s own link to a directory of his, and a disk of its own, are taken', async () => {
  await using temp = await tempDir()
  mkdirSync(temp.file('disk', 'lost+found'), { recursive: true })
  symlinkSync(temp.file('disk'), temp.file('link'))
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await startHost({ cacheDir: temp.file('link') })
  assert.ok((await bytesFrom(host.proxyUrl(origin.url()))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  assert.ok(existsSync(temp.file('disk', 'format')))
  assert.equal(lstatSync(temp.file('disk')).mode & 0o7777, 0o700)
})

test('a link, a FIFO or a directory in the place of a file of ours is refused, not followed and not waited for', async () => {
  await using temp = await tempDir()
  const cacheDir = temp.file('cache')
  const outside = temp.file('outside')
  mkdirSync(outside)
  await using origin = await startFaultOrigin({ content: CONTENT })
  const first = await startHost({ cacheDir })
  await bytesFrom(first.proxyUrl(origin.url()))
  await first.stop()

  const victim = path.join(outside, 'victim')
  writeFileSync(victim, 'x'.repeat(9 * 2 ** 20), { mode: 0o644 }) // longer than a log may get before it is cut
  writeFileSync(path.join(outside, 'data.mdb'), 'not yours')
  const before = readFileSync(victim)
  const traps: Record<string, (at: string) => void> = {
    'a link to a file': (at) => symlinkSync(victim, at),
    'a link to a directory': (at) => symlinkSync(outside, at),
    'a dangling link': (at) => symlinkSync(path.join(outside, 'made'), at),
    'a FIFO': (at) => void execFileSync('mkfifo', [at]),
    'a directory': (at) => mkdirSync(at),
  }
  const places = ['format', 'lock', 'port', 'token', 'host.json', 'host.log', 'control.sock', 'index', 'extents', 'index/data.mdb', 'index/lock.mdb', 'index/state', 'index/salt']
  for (const place of places) {
    for (const [kind, plant] of Object.entries(traps)) {
      if (kind === 'a directory' && (place === 'index' || place === 'extents')) continue
      const at = path.join(cacheDir, place)
      const aside = `${cacheDir}-aside`
      const isThere = existsSync(at)
      if (isThere) renameSync(at, aside)
      plant(at)
      const prepared = within(`${kind} at ${place}`, prepareLayout(layoutOf(cacheDir)))
      await assert.rejects(prepared, { code: 'ERR_SEEKCACHE_CACHE_UNWRITABLE', message: /: remove it$/ }, `${kind} at ${place}`)
      rmSync(at, { recursive: true })
      if (isThere) renameSync(aside, at)
    }
  }
  symlinkSync(victim, path.join(cacheDir, 'host.log'))
  assert.match((await refusal(cacheDir)).stderr, /host.log is a symbolic link, not a file: remove it/)
  rmSync(path.join(cacheDir, 'host.log'))
  assert.ok(readFileSync(victim).equals(before))
  assert.equal(lstatSync(victim).mode & 0o7777, 0o644)
  assert.deepEqual(readdirSync(outside).sort(), ['data.mdb', 'victim'])
  // And it works again as if nothing had been.
  await using host = await startHost({ cacheDir })
  assert.ok((await bytesFrom(host.proxyUrl(origin.url()))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
})

test('links among the extents, and in the places of files about to be written, lead nowhere', async () => {
  await using temp = await tempDir()
  const cacheDir = temp.file('cache')
  const outside = temp.file('outside')
  mkdirSync(outside)
  for (const name of ['a', 'b', 'c']) writeFileSync(path.join(outside, name), 'dear')
  const before = everything(outside)
  await using origin = await startFaultOrigin({ content: CONTENT })
  const first = await startHost({ cacheDir })
  await bytesFrom(first.proxyUrl(origin.url()))
  await first.stop()

  const extents = path.join(cacheDir, 'extents')
  const [generation] = readdirSync(extents)
  const [file] = readdirSync(path.join(extents, generation!))
  symlinkSync(outside, path.join(extents, 'planted'))
  symlinkSync(path.join(outside, 'a'), path.join(extents, generation!, 'planted'))
  rmSync(path.join(extents, generation!, file!))
  symlinkSync(path.join(outside, 'b'), path.join(extents, generation!, file!))
  for (const name of ['port.new', 'token.new', 'host.json.new', 'format.new']) symlinkSync(path.join(outside, 'c'), path.join(cacheDir, name))
  rmSync(path.join(cacheDir, 'token'))
  rmSync(path.join(cacheDir, 'format'))
  await using host = await startHost({ cacheDir })
  assert.ok((await bytesFrom(host.proxyUrl(origin.url()))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  await host.restart()
  assert.ok((await bytesFrom(host.proxyUrl(origin.url()))).equals(CONTENT.read(0, CONTENT.sizeBytes)))
  assert.deepEqual(everything(outside), before)
  for (const name of ['a', 'b', 'c']) assert.equal(readFileSync(path.join(outside, name), 'utf8'), 'dear')
})

test('a folder of extents that becomes a link while the host runs is not written through', async () => {
  await using temp = await tempDir()
  const outside = temp.file('outside')
  mkdirSync(outside)
  const content = patternContent(40_000_000)
  await using origin = await startFaultOrigin({ content })
  await using host = await startHost({ cacheDir: temp.file('cache') })
  await (await fetch(host.proxyUrl(origin.url()), { headers: { range: 'bytes=0-99999' } })).arrayBuffer()
  await host.restart() // what was fetched is written
  const url = host.proxyUrl(origin.url())
  await (await fetch(url, { headers: { range: 'bytes=0-99' } })).arrayBuffer()
  const extents = path.join(host.cacheDir, 'extents')
  const [generation] = readdirSync(extents)
  renameSync(path.join(extents, generation!), temp.file('aside'))
  symlinkSync(outside, path.join(extents, generation!))
  assert.ok((await bytesFrom(url)).equals(content.read(0, content.sizeBytes)), 'the film plays on, uncached')
  assert.deepEqual(readdirSync(outside), [])
})

test('what is no socket at the socket’s path is never removed', async () => {
  await using temp = await tempDir()
  const file = temp.file('precious')
  writeFileSync(file, 'dear')
  const { stderr } = await refusal(temp.file('cache'), ['--socket', file])
  assert.match(stderr, /is no socket/)
  assert.equal(readFileSync(file, 'utf8'), 'dear')
})
