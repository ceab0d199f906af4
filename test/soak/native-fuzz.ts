/**
 * libFuzzer on the client's frame reader and parser, for SEEKCACHE_SOAK_SECONDS (60). Where there is no clang with its
 * runtime (Debian: clang-14 libclang-rt-14-dev), the tests' own mutations instead, many more of them than in the tests.
 *
 * What it finds is printed as text, to be kept in test/fixtures/control, which every `npm test` runs.
 */
import { readdirSync } from 'node:fs'
import { cp, mkdir, readdir, readFile } from 'node:fs/promises'
import path from 'node:path'

import { runProgram } from '../support/programs.ts'
import { buildFuzzer, buildSanitized, runSanitized } from '../support/sanitized.ts'
import { tempDir } from '../support/temp-dir.ts'

const CORPUS_DIR = path.join(import.meta.dirname, '..', 'fixtures', 'control')
const SECONDS = Number(process.env.SEEKCACHE_SOAK_SECONDS ?? 60)
/** Of the tests' own driver, on a slow machine. */
const EXECS_PER_SECOND = 10_000

export default async function run(): Promise<string> {
  await using folder = await tempDir()
  const artifacts = folder.file('found')
  await mkdir(artifacts)
  const fuzzer = buildFuzzer('protocol-fuzz')
  const ran = await (fuzzer === undefined ? mutations(path.join(artifacts, 'input')) : libFuzzer(fuzzer, folder.file('corpus'), artifacts))
  if (ran.code === 0) return fuzzer === undefined ? ran.stdout.trim() : summary(ran.stderr)
  const found = await Promise.all((await readdir(artifacts)).map((name) => readFile(path.join(artifacts, name), 'latin1')))
  throw new Error(`${found.map((input) => `input: ${JSON.stringify(input)}\n`).join('')}${ran.stdout}${ran.stderr}`)
}

async function mutations(artifact: string): Promise<Ran> {
  buildSanitized('address', ['protocol-fuzz'])
  const corpus = readdirSync(CORPUS_DIR).map((name) => path.join(CORPUS_DIR, name))
  const execs = String(SECONDS * EXECS_PER_SECOND)
  return await runSanitized('address', 'protocol-fuzz', ['--execs', execs, '--artifact', artifact, ...corpus], {}, SECONDS * 10_000)
}

async function libFuzzer(program: string, corpus: string, artifacts: string): Promise<Ran> {
  await cp(CORPUS_DIR, corpus, { recursive: true })
  const flags = [`-max_total_time=${SECONDS}`, '-max_len=8192', '-print_final_stats=1', `-artifact_prefix=${artifacts}/`]
  return await runProgram([program, ...flags, corpus], {}, (SECONDS + 60) * 1000)
}

interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

function summary(text: string): string {
  const execs = /number_of_executed_units:\s*(\d+)/.exec(text)?.[1]
  const edges = [...text.matchAll(/cov: (\d+)/g)].at(-1)?.[1]
  return `libFuzzer ran ${execs} inputs and reached ${edges} edges`
}
