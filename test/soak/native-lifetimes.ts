/** SEEKCACHE_SOAK_CYCLES (5000) openings, seeks and closings of the element in one process: what it holds must not grow. */
import assert from 'node:assert/strict'
import path from 'node:path'

import { startHost } from '../support/host.ts'
import { shortFilm } from '../support/media.ts'
import { startNginx } from '../support/nginx.ts'
import { runNative } from '../support/programs.ts'

const CYCLES = Number(process.env.SEEKCACHE_SOAK_CYCLES ?? 5000)
const LIMIT_MS = 20 * 60_000

export default async function run(): Promise<string> {
  const { path: file, name } = (await shortFilm()).files.mkv
  await using nginx = await startNginx(path.dirname(file))
  await using host = await startHost()
  const { code, stdout, stderr } = await runNative('element-cycles', ['--cycles', String(CYCLES), `seekcache+${nginx.url(name)}`, file], host.clientEnv, LIMIT_MS)
  assert.equal(code, 0, stderr)
  const { fds, allocatedBytes } = JSON.parse(stdout) as Record<'fds' | 'allocatedBytes', [number, number]>
  assert.equal(fds[1], fds[0], stdout)
  assert.ok(allocatedBytes[1] - allocatedBytes[0] < 1_000_000, stdout)
  return stdout.trim()
}
