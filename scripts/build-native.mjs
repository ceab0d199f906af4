/**
 * Builds the native parts (binding.gyp) if their sources are newer than the last build.
 *
 * GStreamer's headers are not a requirement of the package: where they or a compiler's other needs are missing, one line
 * says so and the script succeeds; the host, the proxy and the CLI need none of this. A build that fails is an error.
 */

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
// Its time is when the last complete build began: a source saved during the build is newer.
const stamp = join(root, 'build', 'Release', '.seekcache-build')

const missing = whatIsMissing()
if (missing !== undefined) {
  console.log(`native parts not built: ${missing}`)
} else if (newestSourceMs() <= builtMs() && !process.argv.includes('--force')) {
  console.log('native parts are up to date')
} else {
  build()
}

function whatIsMissing() {
  if (run('pkg-config', ['--version']) === undefined) return 'pkg-config is not installed'
  if (run('pkg-config', ['--exists', 'gstreamer-app-1.0']) === undefined) {
    return 'GStreamer\'s headers are not installed (Debian: libgstreamer-plugins-base1.0-dev, Homebrew: gstreamer)'
  }
  if (run('pkg-config', ['--exists', 'nlohmann_json']) === undefined) {
    return 'nlohmann\'s JSON headers are not installed (Debian: nlohmann-json3-dev, Homebrew: nlohmann-json)'
  }
  return undefined
}

function run(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8' })
  return result.status === 0 ? result.stdout.trim() : undefined
}

function newestSourceMs() {
  const files = ['binding.gyp', 'package.json'].map(name => join(root, name))
  for (const folder of ['native', join('test', 'native')]) {
    if (!existsSync(join(root, folder))) continue
    for (const entry of readdirSync(join(root, folder), { recursive: true, withFileTypes: true })) {
      if (entry.isFile()) files.push(join(entry.parentPath ?? entry.path, entry.name))
    }
  }
  return Math.max(...files.map(file => statSync(file).mtimeMs))
}

function builtMs() {
  return existsSync(stamp) ? statSync(stamp).mtimeMs : 0
}

function build() {
  const startedMs = Date.now()
  const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
  // `build` compiles what changed; `configure` is cheap and notices a changed binding.gyp or newly installed headers.
  for (const verb of ['configure', 'build']) {
    const args = [nodeGyp, verb, '--loglevel=warn', ...nodeDir(), ...(verb === 'build' ? ['--jobs=max'] : [])]
    const result = spawnSync(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8' })
    if (result.status !== 0) {
      process.stderr.write(result.stdout ?? '')
      console.error(`native parts: node-gyp ${verb} failed`)
      process.exit(1)
    }
  }
  mkdirSync(dirname(stamp), { recursive: true })
  writeFileSync(stamp, `${process.version} gstreamer ${run('pkg-config', ['--modversion', 'gstreamer-1.0'])}\n`)
  utimesSync(stamp, startedMs / 1000, startedMs / 1000)
  console.log(`native parts built in ${((Date.now() - startedMs) / 1000).toFixed(1)} s`)
}

/** The headers that were installed along with this Node, so that node-gyp has nothing to download. */
function nodeDir() {
  const prefix = dirname(dirname(process.execPath))
  return existsSync(join(prefix, 'include', 'node', 'node.h')) ? [`--nodedir=${prefix}`] : []
}
