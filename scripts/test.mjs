// `npm test [-- FILTER …]`: makes the machine ready, checks the types, and runs every test/**/*.test.ts, or those whose
// path contains one of the filters. Arguments that start with `-` go to Node's test runner.

import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'

import { ROOT, setUp } from './setup.mjs'

// A file that plays films on a slow machine takes minutes; one that hangs must not take the whole run.
const TIMEOUT_MS = 10 * 60_000

// What is drawn at random is drawn alike in each run, so that a change is judged and not the luck of a day; campaigns
// (`npm run soak`) draw anew, and so does SEEKCACHE_SEED=… with a number of one's own.
const SEED = '1'

setUp({ forTests: true })
const filters = process.argv.slice(2).filter((argument) => !argument.startsWith('-'))
const flags = process.argv.slice(2).filter((argument) => argument.startsWith('-'))

if (node('node_modules/typescript/bin/tsc', '-p', 'tsconfig.test.json') !== 0) process.exit(1)

const files = readdirSync(path.join(ROOT, 'test'), { recursive: true })
  .filter((file) => file.endsWith('.test.ts'))
  .map((file) => path.join('test', file))
  .filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)))
  .sort()
if (files.length === 0) {
  process.stderr.write(`no test file matches ${filters.join(' ') || 'test/**/*.test.ts'}\n`)
  process.exit(1)
}
// One more at a time than there are cores, as most of them wait now and then. They wait for what happens, not for a time, so
// that a busy machine makes them slower and nothing else.
const concurrency = Math.min(availableParallelism(), 4) + 1
process.exit(node('--import', 'tsx', '--test', '--test-reporter=spec', `--test-concurrency=${concurrency}`, `--test-timeout=${TIMEOUT_MS}`, ...flags, ...files))

function node(...args) {
  return spawnSync(process.execPath, args, { cwd: ROOT, stdio: 'inherit', env: { SEEKCACHE_SEED: SEED, ...process.env } }).status ?? 1
}
