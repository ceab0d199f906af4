/**
 * The client and the element under the address, undefined-behaviour and thread sanitizers. A report fails the test, also
 * where the program went on and was right.
 */

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { before, describe, test } from 'node:test'

import { patternContent } from './support/content.ts'
import { startFaultOrigin, type RequestRecord, type Script } from './support/fault-origin.ts'
import { startHost } from './support/host.ts'
import { shortFilm } from './support/media.ts'
import { startNginx } from './support/nginx.ts'
import { runCli, type Finished } from './support/programs.ts'
import { seedOfRun } from './support/random.ts'
import { buildSanitized, REPORT_CODE, runSanitized, type Sanitizer } from './support/sanitized.ts'
import { tempDir } from './support/temp-dir.ts'

const FUZZ_LIMIT_MS = 10 * 60_000
/** A sanitizer makes everything some times slower; what hangs is still found. */
const CANCEL_LIMIT_MS = '15000'

const SKIP = process.platform === 'linux' ? false : 'the flags are those of gcc on Linux'
/** What hosts say, and what was once found to break the client. */
const CORPUS_DIR = path.join(import.meta.dirname, 'fixtures', 'control')
const SEED = seedOfRun()

const PROGRAMS: Readonly<Record<Sanitizer, readonly string[]>> = {
  address: ['client-test', 'client-hammer', 'client-read', 'protocol-fuzz', 'element-hammer', 'element-cancel', 'element-cycles', 'element-facts'],
  thread: ['client-test', 'client-hammer', 'element-hammer', 'element-cancel', 'element-cycles', 'element-facts'],
}

function assertClean({ code, stdout, stderr }: Finished): void {
  assert.notEqual(code, REPORT_CODE, stderr)
  assert.equal(code, 0, `${stdout}${stderr}`)
  assert.doesNotMatch(stderr, /Sanitizer|runtime error/)
}

for (const sanitizer of ['address', 'thread'] as const) {
  describe(`${sanitizer} sanitizer`, { skip: SKIP, concurrency: 2 }, () => {
    before(() => buildSanitized(sanitizer, PROGRAMS[sanitizer]))

    test('the client against hostile hosts', async () => {
      assertClean(await runSanitized(sanitizer, 'client-test', []))
    })

    for (const [program, scheme] of [['client-hammer', ''], ['element-hammer', 'seekcache+']] as const) {
      test(`${program}: reads, cancels and questions from many threads at once`, async () => {
        const film = await shortFilm()
        const { path: file, name } = film.files.mkv
        await using nginx = await startNginx(path.dirname(file))
        await using host = await startHost()
        const ran = await runSanitized(sanitizer, program, ['--seed', String(SEED), '--seconds', '2', `${scheme}${nginx.url(name)}`, file], host.clientEnv)
        console.log(`${program}, ${sanitizer} sanitizer: ${ran.stdout.trim()}`)
        assertClean(ran)
      })
    }

    test('queries, borders and two sources; then openings, seeks and early stops', async () => {
      const { mkv, mp4 } = (await shortFilm()).files
      await using nginx = await startNginx(path.dirname(mkv.path))
      await using host = await startHost()
      const [uri, other] = [mkv.name, mp4.name].map((name) => `seekcache+${nginx.url(name)}`)
      assertClean(await runSanitized(sanitizer, 'element-facts', [uri!, mkv.path, other!, mp4.path], host.clientEnv))
      assertClean(await runSanitized(sanitizer, 'element-cycles', ['--seed', String(SEED), '--cycles', '60', uri!, mkv.path], host.clientEnv))
    })

    test('flushes, seeks and NULL while a read waits', async () => {
      await using origin = await startFaultOrigin({
        content: patternContent(50_000_000),
        script: ({ range }) => ((range?.start ?? 0) >= 20_000_000 && (range?.start ?? 0) < 40_000_000 ? { kind: 'head-held' } : undefined),
      })
      await using host = await startHost()
      assertClean(await runSanitized(sanitizer, 'element-cancel', ['--limit-ms', CANCEL_LIMIT_MS, `seekcache+${origin.url('film.bin')}`, '30000000'], host.clientEnv))
    })
  })
}

describe('address sanitizer alone', { skip: SKIP, concurrency: 2 }, () => {
  before(() => buildSanitized('address', PROGRAMS.address))

  test('a host that is killed twice in the midst of a film', async () => {
    const content = patternContent(30_000_000)
    // What begins beyond a third is held until the host that has come so far is gone.
    const heldFrom = (place: number): Script => ({ range }) => ((range?.start ?? 0) > place ? { kind: 'head-held' } : undefined)
    await using origin = await startFaultOrigin({ content, script: heldFrom(10_000_000) })
    await using host = await startHost()
    const reading = runSanitized('address', 'client-read', [origin.url('film.bin')], host.clientEnv)
    const isHeld = (request: RequestRecord): boolean => request.outcome === 'stalled'
    await origin.when('the first third', ({ requests }) => requests.some(isHeld))
    await host.kill9()
    origin.setScript(heldFrom(20_000_000))
    // The client has started a host of its own by now or soon; that one is killed as well.
    await origin.when('the second third', ({ requests }) => requests.some((request) => isHeld(request) && request.range!.start! > 20_000_000))
    const { pid } = JSON.parse(await readFile(path.join(host.cacheDir, 'host.json'), 'utf8')) as { pid: number }
    assert.notEqual(pid, host.pid)
    process.kill(pid, 'SIGKILL')
    origin.setScript(undefined)
    const ran = await reading
    const stopped = await runCli(['stop'], host.clientEnv)
    assertClean(ran)
    assert.equal(ran.sha256, createHash('sha256').update(content.read(0, content.sizeBytes)).digest('hex'))
    assert.match(ran.stderr, /"reconnects":[1-9]/) // the second host may be gone before the client has its first answer
    assert.equal(stopped.code, 0, 'the last host had been started by the client')
  })

  test('100 000 mutations of what hosts say', async () => {
    const corpus = readdirSync(CORPUS_DIR).map((name) => path.join(CORPUS_DIR, name))
    await using folder = await tempDir()
    const artifact = folder.file('input')
    const ran = await runSanitized('address', 'protocol-fuzz', ['--seed', String(SEED), '--execs', '100000', '--artifact', artifact, ...corpus], {}, FUZZ_LIMIT_MS)
    console.log(`protocol-fuzz: ${ran.stdout.trim()}`)
    if (ran.code !== 0) console.log(`the input that fails, for test/fixtures/control: ${JSON.stringify(await readFile(artifact, 'latin1'))}`)
    assertClean(ran)
  })
})
