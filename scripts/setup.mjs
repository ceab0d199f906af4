// Makes a fresh machine ready: finds out what is missing, says in one line what it installs and how, and does it; then
// the npm packages and the build, where they are older than what they are made from.
//
// It runs before anything is installed, so it uses nothing but Node. It never asks for a password: without root or a sudo
// that needs none, it prints the command and leaves the rest to the person. With nothing missing it takes milliseconds,
// and every script of the package runs it first. `--test` adds what only the tests need.

import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, readdirSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('..', import.meta.url))
const IS_MAC = process.platform === 'darwin'

/** Each need: how to see that it is met, and the package that meets it with apt-get and with brew. */
const NEEDS = [
  { program: 'g++', apt: 'g++' },
  { program: 'make', apt: 'make' },
  { program: 'python3', apt: 'python3' }, // node-gyp runs on it
  { program: 'pkg-config', apt: 'pkg-config', brew: 'pkgconf' },
  { module: 'gstreamer-1.0', apt: 'libgstreamer1.0-dev', brew: 'gstreamer' },
  { module: 'gstreamer-app-1.0', apt: 'libgstreamer-plugins-base1.0-dev', brew: 'gstreamer' },
  { module: 'nlohmann_json', apt: 'nlohmann-json3-dev', brew: 'nlohmann-json' },
  { program: 'gst-launch-1.0', apt: 'gstreamer1.0-tools', brew: 'gstreamer' },
  { plugin: 'playback', apt: 'gstreamer1.0-plugins-base', brew: 'gstreamer' },
  { plugin: 'matroska', apt: 'gstreamer1.0-plugins-good', brew: 'gstreamer' },
  { plugin: 'videoparsersbad', apt: 'gstreamer1.0-plugins-bad', brew: 'gstreamer' },
  { plugin: 'x264', apt: 'gstreamer1.0-plugins-ugly', brew: 'gstreamer' },
  { plugin: 'libav', apt: 'gstreamer1.0-libav', brew: 'gstreamer' },
]

const TEST_NEEDS = [
  { program: 'nginx', apt: 'nginx-light', brew: 'nginx' },
  { program: 'mpv', apt: 'mpv', brew: 'mpv' },
  { program: 'curl', apt: 'curl', brew: 'curl' },
  { program: 'openssl', apt: 'openssl', brew: 'openssl' },
]

/** What the build is made from, in the package's root. */
const SOURCES = ['src', 'native', 'test/native', 'binding.gyp', 'package.json', 'tsconfig.json', 'scripts/build-native.mjs']

export function setUp({ forTests = false } = {}) {
  const missing = [...NEEDS, ...(forTests ? TEST_NEEDS : [])].filter((need) => !isMet(need))
  if (missing.length > 0) {
    install(missing)
    const still = missing.filter((need) => !isMet(need)).map(nameOf)
    if (still.length > 0) fail(`still missing after the installation: ${still.join(', ')}`)
  }
  installPackages()
  build()
}

function say(text) {
  process.stderr.write(`setup: ${text}\n`)
}

function fail(text) {
  say(text)
  process.exit(1)
}

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit', ...options })
  if (status !== 0) fail(`${command} ${args[0] ?? ''} failed${error === undefined ? '' : `: ${error.message}`}`)
}

// ---- what the system has

function nameOf({ program, module, plugin }) {
  return program ?? module ?? `the GStreamer plugin ${plugin}`
}

function isMet({ program, module, plugin }) {
  if (program !== undefined) return isOnPath(program)
  if (module !== undefined) return isOnPath('pkg-config') && pkgConfig('--exists', module) !== undefined
  const folder = pluginFolder()
  return folder !== undefined && ['so', 'dylib'].some((end) => existsSync(path.join(folder, `libgst${plugin}.${end}`)))
}

function isOnPath(program) {
  return (process.env.PATH ?? '').split(path.delimiter).some((folder) => {
    try {
      const file = path.join(folder, program)
      accessSync(file, constants.X_OK)
      return statSync(file).isFile()
    } catch {
      return false
    }
  })
}

function pluginFolder() {
  return isOnPath('pkg-config') ? pkgConfig('--variable=pluginsdir', 'gstreamer-1.0') : undefined
}

function pkgConfig(...args) {
  const { status, stdout } = spawnSync('pkg-config', args, { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : undefined
}

// ---- what the system gets

function install(missing) {
  if (IS_MAC) return installWithBrew(missing)
  const packages = [...new Set(missing.map(({ apt }) => apt))]
  const wanted = packages.join(' ')
  if (!isOnPath('apt-get')) {
    fail(`missing: ${missing.map(nameOf).join(', ')}. Install them with your system's package manager; Debian's are ${wanted}`)
  }
  const isRoot = process.getuid() === 0
  const hasSudo = !isRoot && isOnPath('sudo') && spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0
  if (!isRoot && !hasSudo) {
    fail(`missing: ${missing.map(nameOf).join(', ')}. Please run:\n  sudo apt-get update && sudo apt-get install -y ${wanted}`)
  }
  say(`installing ${wanted} with apt-get ${isRoot ? 'as root' : 'through sudo'}`)
  run(...asRoot(['sh', '-c', APT_INSTALL, 'setup', ...packages], isRoot))
}

// The packages must not start services of their own (nginx would listen on port 80): Debian's policy hook says no.
const APT_INSTALL = `
set -e
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\\nexit 101\\n' >$policy
  chmod 755 $policy
fi
apt-get -q update
apt-get -q install -y --no-install-recommends "$@"
`

function asRoot(command, isRoot) {
  const [program, ...args] = isRoot ? command : ['sudo', '-n', ...command]
  return [program, args, { stdio: ['ignore', 'inherit', 'inherit'] }]
}

function installWithBrew(missing) {
  const tools = missing.filter(({ brew }) => brew === undefined).map(nameOf)
  if (tools.length > 0) fail(`missing: ${tools.join(', ')}. Please run:\n  xcode-select --install`)
  const packages = [...new Set(missing.map(({ brew }) => brew))]
  if (!isOnPath('brew')) {
    fail(`missing: ${missing.map(nameOf).join(', ')}. With Homebrew: brew install ${packages.join(' ')}`)
  }
  say(`installing ${packages.join(' ')} with brew`)
  run('brew', ['install', ...packages])
}

// ---- npm packages and the build

function installPackages() {
  // npm writes this file last, when node_modules is as the lock file says.
  if (mtime('node_modules/.package-lock.json') >= mtime('package-lock.json')) return
  say('installing the npm packages with npm ci')
  run('npm', ['ci', '--include=dev', '--no-audit', '--no-fund'])
}

function build() {
  const stamp = path.join(ROOT, 'build/.built')
  const isBuilt = existsSync(path.join(ROOT, 'dist/cli/main.js')) && existsSync(path.join(ROOT, 'build/Release'))
  if (isBuilt && mtime('build/.built') >= Math.max(...SOURCES.map(newest))) return
  const started = new Date()
  say('building')
  run('npm', ['run', '--silent', 'build'])
  mkdirSync(path.dirname(stamp), { recursive: true })
  writeFileSync(stamp, '')
  utimesSync(stamp, started, started) // what is edited while the build runs is newer
}

function mtime(name) {
  return statSync(path.join(ROOT, name), { throwIfNoEntry: false })?.mtimeMs ?? -1
}

/** The youngest file or folder: a folder's own time tells of files that were removed. */
function newest(name) {
  const facts = statSync(path.join(ROOT, name), { throwIfNoEntry: false })
  if (facts === undefined) return -1
  if (!facts.isDirectory()) return facts.mtimeMs
  return Math.max(facts.mtimeMs, ...readdirSync(path.join(ROOT, name)).map((child) => newest(path.join(name, child))))
}

// nginx and others live in sbin, which a person's PATH need not have.
process.env.PATH = [process.env.PATH, '/usr/local/sbin', '/usr/sbin', '/sbin'].join(path.delimiter)

if (process.argv[1] === fileURLToPath(import.meta.url)) setUp({ forTests: process.argv.includes('--test') })
