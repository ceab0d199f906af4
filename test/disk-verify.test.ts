/** `seekcache verify`: finds what is damaged, mends it on demand, and changes nothing otherwise. */

import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { extentFiles } from './support/cache-check.ts'
import { patternContent } from './support/content.ts'
import { type FaultOrigin, startFaultOrigin } from './support/fault-origin.ts'
import { startHost, type TestHost } from './support/host.ts'
import { runCli } from './support/programs.ts'

const CHUNK_BYTES = 64 * 1024
const CONTENT = patternContent(3_000_000)

interface Told {
  readonly resources: number
  readonly checkedChunks: number
  readonly indexDamage: string | null
  readonly damaged: readonly { url: string; start: number; end: number; path: string; reason: string }[]
  readonly orphans: readonly string[]
  readonly isRepaired: boolean
}

/** A host that has cached two whole films and has left. */
async function cached(origin: FaultOrigin): Promise<TestHost> {
  const host = await startHost({ args: ['--stall', '60'] }) // what it fetches is counted: what is slow is not replaced
  for (const name of ['a.mkv', 'b.mkv']) assert.equal((await runCli(['fetch', origin.url(name)], host.clientEnv)).code, 0)
  await host.halt()
  return host
}

async function verify(host: TestHost, ...flags: string[]): Promise<{ code: number | null; told: Told }> {
  const { code, stdout, stderr } = await runCli(['verify', '--json', ...flags], host.clientEnv)
  assert.equal(stderr, '')
  return { code, told: JSON.parse(stdout) as Told }
}

function filesAndTimes(dir: string): string[] {
  return extentFiles(dir).map((path) => `${path} ${statSync(path).mtimeMs} ${statSync(path).size}`)
}

test('verify tells what is damaged, --repair has it fetched again, and only that', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await cached(origin)
  const clean = await verify(host)
  assert.deepEqual(clean, { code: 0, told: { resources: 2, checkedChunks: 92, indexDamage: null, damaged: [], orphans: [], isRepaired: false } })

  const [path, other] = extentFiles(host.cacheDir)
  const bytes = readFileSync(path!)
  bytes[7 * CHUNK_BYTES + 9]! ^= 4
  writeFileSync(path!, bytes)
  rmSync(other!)
  const orphan = join(path!, '..', '9-0123456789abcdef')
  writeFileSync(orphan, 'left over')
  const before = filesAndTimes(host.cacheDir)

  const found = await verify(host)
  assert.equal(found.code, 7)
  assert.deepEqual(found.told.damaged.map(({ start, end, path: where }) => [start, end, where]).sort(), [
    [0, CONTENT.sizeBytes, other], [7 * CHUNK_BYTES, 8 * CHUNK_BYTES, path],
  ].sort())
  assert.deepEqual(found.told.orphans, [orphan])
  assert.ok(found.told.damaged.every(({ url }) => /[ab]\.mkv$/.test(url)))
  assert.deepEqual(filesAndTimes(host.cacheDir), before, 'nothing was changed')
  const text = await runCli(['verify'], host.clientEnv)
  assert.match(text.stdout, /damaged .*\[458752, 524288\): the bytes are not what was written/)
  assert.match(text.stdout, /the file is gone[^]*left over[^]*damage found[^]*verify --repair/)

  const mended = await verify(host, '--repair')
  assert.equal(mended.code, 7)
  assert.equal(mended.told.isRepaired, true)
  assert.equal(existsSync(orphan), false)
  assert.deepEqual(await verify(host), { code: 0, told: { ...clean.told, checkedChunks: 45 } })

  await host.restart()
  const sentBytes = origin.bodyBytesSent
  for (const name of ['a.mkv', 'b.mkv']) {
    const body = Buffer.from(await (await fetch(host.proxyUrl(origin.url(name)))).arrayBuffer())
    assert.ok(body.equals(CONTENT.read(0, CONTENT.sizeBytes)))
  }
  await origin.idle()
  const fetchedBytes = origin.bodyBytesSent - sentBytes
  assert.ok(fetchedBytes >= CONTENT.sizeBytes + CHUNK_BYTES && fetchedBytes <= CONTENT.sizeBytes + 4 * CHUNK_BYTES, `${fetchedBytes} were fetched`)
})

test('verify finds a damaged index, and --repair keeps what can be read of it', async () => {
  await using origin = await startFaultOrigin({ content: CONTENT })
  await using host = await cached(origin)
  const clean = await verify(host)
  const data = join(host.cacheDir, 'index', 'data.mdb')
  const index = readFileSync(data)
  index.fill(0, 0, 8192)
  writeFileSync(data, index)
  const found = await verify(host)
  assert.equal(found.code, 7)
  assert.match(found.told.indexDamage!, /LMDB cannot read it/)
  assert.deepEqual({ ...found.told, indexDamage: '' }, { ...clean.told, indexDamage: '' })
  assert.equal(existsSync(join(host.cacheDir, 'index.damaged')), false)
  assert.equal((await verify(host, '--repair')).code, 7)
  assert.equal(existsSync(join(host.cacheDir, 'index.damaged')), true)
  assert.deepEqual(await verify(host), clean)
})

test('verify says what is in its way, each with an exit status of its own', async () => {
  await using host = await startHost()
  const locked = await runCli(['verify'], host.clientEnv)
  assert.equal(locked.code, 8)
  assert.match(locked.stderr, /another seekcache host is running on .*: use it, or stop it with "seekcache stop"/)
  const none = await runCli(['verify', '--cache-dir', join(host.cacheDir, 'none')], host.clientEnv)
  assert.equal(none.code, 3)
  assert.match(none.stderr, /there is no cache in/)
  assert.ok(!readdirSync(host.cacheDir).includes('none'))
  const { stdout } = await runCli(['verify', '--help'])
  assert.match(stdout, /exits with 7 where damage\s+is\s+found, with 8 while a host\s+runs/)
  assert.match(stdout, /--repair/)
})
