/**
 * The native programs built a second time with a sanitizer, in folders of their own beside build/Release.
 *
 * The makefiles are those that node-gyp made of binding.gyp, so sources and flags are the release build's; make itself knows
 * what is up to date. GStreamer and GLib are as the system has them, not instrumented.
 */
import { spawnSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { runProgram, type Env, type Finished } from './programs.ts'

export type Sanitizer = 'address' | 'thread'

const BUILD_DIR = fileURLToPath(new URL('../../build', import.meta.url))
const SUPPRESSIONS_FILE = fileURLToPath(new URL('../native/leaks.supp', import.meta.url))
const GST = { GST_PLUGIN_PATH: '', GST_REGISTRY: path.join(BUILD_DIR, 'sanitized-registry.bin'), GST_REGISTRY_UPDATE: 'no' }
/** Programs without GStreamer in them. */
const CLIENT_ALONE = /^(client|protocol)-/
const BUILD_LIMIT_MS = 10 * 60_000

const FLAGS: Readonly<Record<Sanitizer, string>> = {
  address: '-fsanitize=address,undefined -fno-sanitize-recover=undefined',
  thread: '-fsanitize=thread',
}

/** A report makes the program leave with a code that it has for nothing else. */
export const REPORT_CODE = 99

function options(sanitizer: Sanitizer, program: string): Env {
  if (sanitizer === 'thread') {
    // GStreamer hands memory from thread to thread with atomics and futexes of its own, which are not instrumented: what it
    // allocates, copies and frees itself is not looked at. Its mutexes and threads that are POSIX's are seen.
    return { TSAN_OPTIONS: `exitcode=${REPORT_CODE}:ignore_noninstrumented_modules=1:second_deadlock_stack=1:history_size=4` }
  }
  // The slow unwinder sees through libraries without frame pointers, so that a leak there names who caused it.
  const unwinder = `fast_unwind_on_malloc=${CLIENT_ALONE.test(program) ? 1 : 0}`
  return {
    ASAN_OPTIONS: `exitcode=${REPORT_CODE}:detect_stack_use_after_return=1:check_initialization_order=1:strict_string_checks=1:${unwinder}`,
    LSAN_OPTIONS: `exitcode=${REPORT_CODE}:print_suppressions=0:suppressions=${SUPPRESSIONS_FILE}`,
    UBSAN_OPTIONS: `exitcode=${REPORT_CODE}:print_stacktrace=1`,
  }
}

/** Builds what is named in binding.gyp, with line numbers, or does nothing where it is up to date. */
export function buildSanitized(sanitizer: Sanitizer, targets: readonly string[]): void {
  fillRegistry()
  const flags = `${FLAGS[sanitizer]} -D_GLIBCXX_ASSERTIONS -fno-omit-frame-pointer`
  const { status, stdout, stderr } = make(sanitizer, `-O1 -g1 ${flags}`, flags, targets)
  if (status !== 0) throw new Error(`the build with the ${sanitizer} sanitizer failed: ${stdout}${stderr}`)
}

/** The path of a program built for libFuzzer, or undefined where this machine has no clang with its runtime. */
export function buildFuzzer(target: string): string | undefined {
  const compiler = ['clang++', 'clang++-19', 'clang++-14'].find((name) => spawnSync(name, ['--version']).status === 0)
  if (compiler === undefined) return undefined
  const flags = `${FLAGS.address} -D_GLIBCXX_ASSERTIONS -DSEEKCACHE_LIBFUZZER`
  const { status } = make('fuzzer', `-O2 -g ${flags} -fsanitize=fuzzer-no-link`, `${flags} -fsanitize=fuzzer`, [target], [`CXX=${compiler}`])
  return status === 0 ? path.join(BUILD_DIR, 'fuzzer', target) : undefined
}

function make(folder: string, compileFlags: string, linkFlags: string, targets: readonly string[], more: readonly string[] = []) {
  const variables = ['BUILDTYPE=Release', `builddir=${folder}`, `CXXFLAGS=${compileFlags}`, `LDFLAGS=${linkFlags}`, ...more]
  return spawnSync('make', ['-s', `-j${availableParallelism()}`, ...variables, ...targets], { cwd: BUILD_DIR, encoding: 'utf8', timeout: BUILD_LIMIT_MS })
}

/** A program of that build to its end. */
export async function runSanitized(sanitizer: Sanitizer, name: string, args: readonly string[], env: Env = {}, limitMs?: number): Promise<Finished> {
  return await runProgram([path.join(BUILD_DIR, sanitizer, name), ...args], { ...options(sanitizer, name), ...GST, ...env }, limitMs)
}

/**
 * An instrumented program must not look around for plugins: it would load them all, and one with our element in it would
 * take the place of the element in the program. So another program fills the registry.
 */
function fillRegistry(): void {
  const { GST_PLUGIN_PATH, GST_REGISTRY } = GST
  spawnSync('gst-inspect-1.0', ['fakesink'], { env: { ...process.env, GST_PLUGIN_PATH, GST_REGISTRY }, timeout: BUILD_LIMIT_MS })
}
