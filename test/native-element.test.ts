/** What applications rely on in the element: its answers, its properties, its errors, and files that are badly interleaved. */

import assert from 'node:assert/strict'
import path from 'node:path'
import { test } from 'node:test'

import { fileContent, patternContent } from './support/content.ts'
import { startFaultOrigin } from './support/fault-origin.ts'
import { startHost } from './support/host.ts'
import { shortFilm } from './support/media.ts'
import { startNginx } from './support/nginx.ts'
import { runNative, runProgram } from './support/programs.ts'
import { tempDir } from './support/temp-dir.ts'

/** GstResourceError */
const NOT_FOUND = 3
const OPEN_READ = 5
const NOT_AUTHORIZED = 15

test('queries, borders, flushes, opening again and two sources at once', async () => {
  const { mkv, mp4 } = (await shortFilm()).files
  await using nginx = await startNginx(path.dirname(mkv.path))
  await using origin = await startFaultOrigin({ content: fileContent(mp4.path) })
  await using host = await startHost()
  const args = [`seekcache+${nginx.url(mkv.name)}`, mkv.path, `seekcache+${origin.url('f.mp4')}`, mp4.path]
  const { code, stderr } = await runNative('element-facts', args, host.clientEnv)
  assert.equal(code, 0, stderr)
  assert.ok(origin.requests.length > 0 && origin.requests.every(({ headers }) => headers.cookie === 'a=1; b=2'))
})

test('user-agent and extra-headers reach the origin with every request, also those that occur twice', async () => {
  await using origin = await startFaultOrigin({ content: patternContent(5_000_000) })
  await using host = await startHost()
  const properties = ['user-agent=tester/1', 'extra-headers=x,X-One=(string)1,X-Many=<(string)2,(string)3>']
  const ran = await runProgram(['gst-launch-1.0', '-q', 'seekcachesrc', `location=${origin.url('f')}`, ...properties, '!', 'fakesink'], host.clientEnv)
  assert.equal(ran.code, 0, ran.stderr)
  assert.ok(origin.requests.length > 0)
  for (const { rawHeaders } of origin.requests) {
    const values = (name: string): string[] => rawHeaders.filter(([key]) => key.toLowerCase() === name).map(([, value]) => value)
    assert.deepEqual(values('user-agent'), ['tester/1'])
    assert.deepEqual(values('x-one'), ['1'])
    assert.equal(values('x-many').join(', '), '2, 3')
  }
})

for (const [status, expected] of [[401, NOT_AUTHORIZED], [402, NOT_AUTHORIZED], [403, NOT_AUTHORIZED], [404, NOT_FOUND], [410, NOT_FOUND], [451, OPEN_READ]] as const) {
  test(`an origin that answers ${status} is GStreamer's resource error ${expected}`, async () => {
    await using origin = await startFaultOrigin({ content: patternContent(1000), script: () => ({ kind: 'status', status }) })
    await using host = await startHost()
    assert.deepEqual(await errorOf([`seekcache+${origin.url('x.mkv')}`], host.clientEnv), { code: expected, httpStatus: status })
  })
}

test('nobody at the origin is an error of opening, and a wait beyond the timeout one of opening or reading', async () => {
  await using host = await startHost()
  const timeout = ['--source-property', 'timeout=2']
  assert.deepEqual(await errorOf([...timeout, 'seekcache+http://127.0.0.1:1/x.mkv'], host.clientEnv), { code: OPEN_READ, httpStatus: undefined })
  const file = (await shortFilm()).files.mkv.path
  await using origin = await startFaultOrigin({ content: fileContent(file), script: () => ({ kind: 'head-held' }) })
  assert.deepEqual(await errorOf([...timeout, `seekcache+${origin.url('a.mkv')}`], host.clientEnv), { code: OPEN_READ, httpStatus: undefined })
  origin.setScript(({ index, range }) => (index > 1 && (range?.start ?? 0) > 1_000_000 ? { kind: 'head-held' } : undefined))
  const words = ['gst-launch-1.0', '-q', 'seekcachesrc', `location=${origin.url('b.mkv')}`, 'timeout=2', '!', 'fakesink']
  const reading = await runProgram(words, host.clientEnv)
  assert.notEqual(reading.code, 0)
  assert.match(reading.stderr + reading.stdout, /ERR_SEEKCACHE_TIMEOUT/)
})

async function errorOf(args: readonly string[], env: Readonly<Record<string, string>>): Promise<{ code: unknown; httpStatus: unknown }> {
  const { code, stdout } = await runNative('seekcache-player', args, env)
  assert.equal(code, 1, stdout)
  const told = stdout.trim().split('\n').map((line) => JSON.parse(line) as Record<string, unknown>).find(({ event }) => event === 'error')
  assert.equal(told?.domain, 'gst-resource-error-quark')
  return { code: told?.code, httpStatus: told?.httpStatus }
}

test('a film with all its sound behind its pictures is read without a seek for each piece', async () => {
  await using folder = await tempDir()
  const file = folder.file('apart.mov')
  await makeBadlyInterleaved(file)
  await using origin = await startFaultOrigin({ content: fileContent(file), script: () => ({ kind: 'head-delayed', delayMs: 30 }) })
  await using host = await startHost()
  const { code, stdout } = await runNative('seekcache-player', ['--decode-only', '--to-eos', `seekcache+${origin.url('apart.mov')}`], host.clientEnv)
  assert.equal(code, 0, stdout)
  const aborted = origin.requests.filter(({ outcome }) => outcome === 'aborted').length
  console.log(`badly interleaved: ${origin.requests.length} requests, ${aborted} of them given up`)
  assert.ok(aborted <= 12, `${aborted} of ${origin.requests.length} requests were given up`)
})

/** 24 s: 12 MB of pictures, then 5 MB of sound. */
async function makeBadlyInterleaved(file: string): Promise<void> {
  const queue = 'queue max-size-time=0 max-size-bytes=0 max-size-buffers=0'
  const picture = 'videotestsrc num-buffers=600 pattern=snow ! video/x-raw,width=640,height=360,framerate=25/1 ! x264enc bitrate=4000 speed-preset=ultrafast key-int-max=50 ! h264parse'
  const sound = 'audiotestsrc num-buffers=1125 samplesperbuffer=1024 ! audio/x-raw,rate=48000,format=S16LE,channels=2'
  const words = `${picture} ! ${queue} ! qtmux name=mux interleave-time=600000000000 ! filesink location=${file} ${sound} ! ${queue} ! mux.`.split(' ')
  const { code, stderr } = await runProgram(['gst-launch-1.0', '-q', ...words])
  assert.equal(code, 0, stderr)
}
