// `npm start [-- URL]`: makes the machine ready and plays URL, or shows the demo.

import { spawn } from 'node:child_process'
import path from 'node:path'

import { ROOT, setUp } from './setup.mjs'

setUp()
const [url, ...rest] = process.argv.slice(2)
const command = url === undefined ? ['demo'] : ['play', url, ...rest]
const child = spawn(process.execPath, [path.join(ROOT, 'dist/cli/main.js'), ...command], { stdio: 'inherit' })
// A terminal sends Ctrl-C to both: the child decides what it means, and this process leaves with it.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => child.kill('SIGTERM'))
child.on('exit', (code, signal) => {
  process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 1)
})
