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
// Campaigns keep one core busy each: two at a time. The others start players and servers of their own, and two of those
// would only slow each other on two cores.
const CAMPAIGNS = ['crash-power', 'faults', 'fuzz', 'model', 'sanitize', 'simulation'].map((name) => path.join('test', `${name}.test.ts`))
const run = ['--test', '--test-reporter=spec', `--test-timeout=${TIMEOUT_MS}`]
const statuses = [
  runTests(files.filter((file) => CAMPAIGNS.includes(file)), 2),
  runTests(files.filter((file) => !CAMPAIGNS.includes(file)), availableParallelism() >= 4 ? 2 : 1),
]
process.exit(Math.max(...statuses))

function runTests(chosen, concurrency) {
  return chosen.length === 0 ? 0 : node('--import', 'tsx', ...run, `--test-concurrency=${concurrency}`, ...flags, ...chosen)
}

/** @returns the exit code */
function node(...args) {
  return spawnSync(process.execPath, args, { cwd: ROOT, stdio: 'inherit' }).status ?? 1
}
