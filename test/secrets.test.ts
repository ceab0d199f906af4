/** Credentials are where they must be, and nowhere else: a secret in every place that can hold one, and every place searched. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { chmod, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'

import { connect } from 'seekcache'
import { patternContent } from './support/content.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost } from './support/host.ts'
import { runCli } from './support/programs.ts'
import { tempDir } from './support/temp-dir.ts'

/** Read at places that lie further apart than any readahead reaches: each read asks the origin. */
const CONTENT = patternContent(120_000_000)
/** In every secret, and in nothing else. */
const MARK = 'gEhEiM'
const IN_BASE64 = ['0', '1', '2'].map((pad) => Buffer.from(pad.repeat(Number(pad)) + MARK).toString('base64').slice(Number(pad) === 0 ? 0 : 4, -4))

/** As it is, escaped, in base64 in any of its three positions, and in what only differs by case. */
function holdsSecret(text: string): boolean {
  return text.toLowerCase().includes(MARK.toLowerCase()) || IN_BASE64.some((part) => part.length > 3 && text.includes(part))
}

function filesOf(dir: string): { readonly name: string; readonly text: string }[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .flatMap((name) => {
      const file = path.join(dir, name)
      if (statSync(file, { throwIfNoEntry: false })?.isFile() !== true) return [] // a running host renames and removes
      return [{ name, text: `${name}\n${readFileSync(file, 'latin1')}` }]
    })
}

test('a secret in user information, query, headers, redirect target and renewed URL is shown nowhere', async () => {
  await using dir = await tempDir()
  await using storage = await startFaultOrigin({ content: CONTENT, etag: '"v1"', lastModified: undefined })
  let valid = '1'
  await using origin = await startFaultOrigin({
    content: CONTENT,
    script: (request) => {
      if (request.target.includes('/page')) return { kind: 'captive-portal' }
      if (request.target.includes('/gone')) return { kind: 'status', status: 404 }
      if (!request.target.includes(`n=${valid}`)) return { kind: 'status', status: 403 }
      return { kind: 'redirect', location: storage.url(`film.mkv?token=${MARK}-redirect`).replace('//', `//user:${MARK}-there@`) }
    },
  })
  const secretUrl = (name: string, n: number): string => `${origin.url(name).replace('//', `//user:${MARK}-user@`)}?n=${n}&token=${MARK}-query#${MARK}-fragment`
  const headers = { Authorization: `Bearer ${MARK}-authorization`, Cookie: `id=${MARK}-cookie`, 'X-Key': `${MARK}-key`, Referer: `http://page/?${MARK}-referer` }
  const program = dir.file('renew')
  await writeFile(program, `#!/bin/sh\necho "${MARK}-stderr" >&2\nexit 1\n`)
  await chmod(program, 0o700)
  await using host = await startHost({ args: ['--log-level', 'trace', '--renew-command', program] })
  const shown: [string, string][] = []
  const fails = async (what: string, action: Promise<unknown>): Promise<void> => {
    const error = await action.then(() => assert.fail(`${what} succeeded`), (reason: Error) => reason)
    for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) shown.push([what, `${cause.message} ${JSON.stringify(cause)}`])
  }
  {
    await using cache = await connect({ cacheDir: host.cacheDir, socketPath: host.socket, startHost: false })
    let answer: string | undefined = secretUrl('film.mkv', 2)
    const media = await cache.open(secretUrl('film.mkv', 1), { headers, renew: () => answer })
    for await (const bytes of media.read(0, 100_000)) assert.ok(bytes.length > 0)
    // The place that the redirect led to, and the URL itself, expire: a fresh one is asked for, and used.
    valid = '2'
    storage.setScript(() => (origin.requests.some(({ target }) => target.includes('n=2')) ? undefined : { kind: 'status', status: 403 }))
    for await (const bytes of media.read(50_000_000, 50_500_000)) assert.ok(bytes.length > 0)
    storage.setScript(() => ({ kind: 'status', status: 403 }))
    valid = 'none'
    answer = undefined
    await fails('a read that nobody renews', (async () => {
      for await (const bytes of media.read(100_000_000, 100_100_000)) assert.ok(bytes.length > 0)
    })())
    for (const name of ['gone', 'page']) await fails(name, cache.open(secretUrl(name, 1), { headers }))
    await fails('no name', cache.open(secretUrl('film.mkv', 1).replace('127.0.0.1', 'no-such-host.invalid'), { headers }))
    await fails('no URL', cache.open(`http://user:${MARK}@[bad/?${MARK}`))
    await fails('no scheme', cache.open(`//user:${MARK}@host/?${MARK}`))
    await fails('another scheme', cache.open(`ftp://user:${MARK}@host/?${MARK}`))
    await fails('not cached', cache.map(secretUrl('never', 1), headers))
    shown.push(['list', JSON.stringify(await cache.list())], ['status', JSON.stringify(await cache.status())])
    shown.push(['the URL that is handed out', media.proxyUrl])
  }
  const list = Object.entries(headers)
  for (const name of ['gone', 'page']) {
    const response = await fetch(host.proxyUrl(secretUrl(name, 1), list))
    shown.push([`the proxy's ${response.status}`, JSON.stringify([...response.headers]) + (await response.text())])
  }
  shown.push(['metrics', await (await fetch(`${host.proxy}/metrics`)).text()])
  const flags = list.flatMap(([name, value]) => ['--header', `${name}: ${value}`])
  for (const words of [['ls'], ['ls', '--json'], ['status'], ['map', secretUrl('film.mkv', 1), ...flags], ['fetch', secretUrl('gone', 1), ...flags], ['fetch', `http://user:${MARK}@[bad`]]) {
    const { stdout, stderr } = await runCli(words, host.clientEnv)
    shown.push([words[0]!, stdout + stderr])
  }
  for (const { name, text } of filesOf(host.cacheDir)) shown.push([`${name} of the running host`, text])
  await host.halt()
  for (const { name, text } of filesOf(host.cacheDir)) shown.push([name, text])
  shown.push(['the log', host.stderr])
  assert.ok(host.stderr.split('\n').length > 10 && shown.length > 30, 'there was something to search')
  for (const [what, text] of shown) assert.ok(!holdsSecret(text), `${what}: ${text.slice(0, 2000)}`)

  // The secrets were in use: the origin has got them, what is behind the redirect only its own.
  const asked = origin.requests.find(({ target }) => target.includes('film.mkv'))!
  assert.ok([asked.target, asked.headers.cookie, asked.headers['x-key'], asked.headers.authorization].every((text) => text !== undefined && holdsSecret(text)))
  assert.ok(storage.requests.length > 1)
  for (const { target, headers: got } of storage.requests) {
    assert.match(target, /redirect$/)
    assert.equal(holdsSecret(JSON.stringify(got)), false, JSON.stringify(got))
  }
})
