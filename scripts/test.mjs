// `npm test [-- FILTER …]`: makes the machine ready, checks the types, and runs every test/**/*.test.ts, or those whose
// path contains one of the filters. Arguments that start with `-` go to Node's test runner.

import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'

import { ROOT, setUp } from './setup.mjs'

// A file that plays films on a slow machine takes minutes; one that hangs must not take the whole run.
const TIMEOUT_MS = 15 * 60_000

setUp({ forTests: true })
const filters = process.argv.slice(2).filter((argument) => !argument.startsWith('-'))
const flags = process.argv.slice(2).filter((argument) => argument.startsWith('-'))

node('node_modules/typescript/bin/tsc', '-p', 'tsconfig.test.json')

const files = readdirSync(path.join(ROOT, 'test'), { recursive: true })
  .filter((file) => file.endsWith('.test.ts'))
  .map((file) => path.join('test', file))
  .filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)))
  .sort()
if (files.length === 0) {
  process.stderr.write(`no test file matches ${filters.join(' ') || 'test/**/*.test.ts'}\n`)
  process.exit(1)
}
// The tests start players and servers of their own: two files at a time would only slow each other on two cores.
const concurrency = availableParallelism() >= 4 ? 2 : 1
const run = ['--test', '--test-reporter=spec', `--test-concurrency=${concurrency}`, `--test-timeout=${TIMEOUT_MS}`]
node('--import', 'tsx', ...run, ...flags, ...files)

function node(...args) {
  const { status } = spawnSync(process.execPath, args, { cwd: ROOT, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
