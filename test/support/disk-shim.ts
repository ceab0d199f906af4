/**
 * `test/native/disk-shim.c`, compiled for this run: records what a process does to the files of a directory, and makes its
 * operations fail. Linux with a C compiler only.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'

import { tempDir } from './temp-dir.ts'

const SOURCE = fileURLToPath(new URL('../native/disk-shim.c', import.meta.url))
const CONTROL_BYTES = 20
/** Of the shim, in the place of an error number. */
const HANG = 10_000

const KINDS = { open: 1, write: 2, read: 4, sync: 8, name: 16, statfs: 32, headPage: 64 } as const
export type Kind = keyof typeof KINDS
export type FaultCode = 'ENOSPC' | 'EIO' | 'EROFS' | 'EMFILE'

/** What of a directory's operations each failure of a real system hits. */
export const KINDS_OF: Readonly<Record<FaultCode, readonly Kind[]>> = {
  ENOSPC: ['open', 'write', 'name'],
  EIO: ['open', 'write', 'read', 'sync', 'name', 'statfs'],
  EROFS: ['open', 'write', 'name'],
  EMFILE: ['open'],
}

export function whyNoShim(): string | undefined {
  if (process.platform !== 'linux') return 'it wraps calls of the C library as only Linux lets it'
  return spawnSync('cc', ['--version']).status === 0 ? undefined : 'it needs a C compiler'
}

export interface Shim extends AsyncDisposable {
  readonly file: string
  /** The environment of a process whose operations on `dir` are recorded in `log`. */
  recording(dir: string, log: string): Record<string, string>
  /** The environment of a process whose operations on `dir` fail when `faults` says so. */
  failing(dir: string, faults: Faults): Record<string, string>
  newFaults(): Faults
}

export async function compileShim(): Promise<Shim> {
  const folder = await tempDir('seekcache-shim')
  const file = folder.file('disk-shim.so')
  const { status, stderr } = spawnSync('cc', ['-O2', '-shared', '-fPIC', '-o', file, SOURCE, '-ldl', '-lpthread'], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${SOURCE}: ${stderr}`)
  let count = 0
  return {
    file,
    recording: (dir, log) => ({ LD_PRELOAD: file, DISK_SHIM_DIR: dir, DISK_SHIM_LOG: log }),
    failing: (dir, faults) => ({ LD_PRELOAD: file, DISK_SHIM_DIR: dir, DISK_SHIM_CONTROL: faults.file }),
    newFaults: () => new Faults(folder.file(`control-${count++}`)),
    [Symbol.asyncDispose]: folder.remove,
  }
}

/** The faults of a running process: set, counted and taken back while it runs. */
export class Faults {
  readonly file: string

  constructor(file: string) {
    this.file = file
    writeFileSync(file, Buffer.alloc(CONTROL_BYTES))
  }

  /** From the `nth` operation from now on (from 0), `count` of them fail with `code`. */
  arm(code: FaultCode, nth: number, count: number, kinds: readonly Kind[] = KINDS_OF[code]): void {
    this.#write([0, nth, count, constants.errno[code], bitsOf(kinds)])
  }

  /** The process ends, as by `kill -9`, in front of the `nth` operation from now on. */
  armKill(nth: number, kinds: readonly Kind[]): void {
    this.#write([0, nth, 1, -constants.signals.SIGKILL, bitsOf(kinds)])
  }

  /** Such operations from now on never return. */
  armHang(kinds: readonly Kind[]): void {
    this.#write([0, 0, 1e9, HANG, bitsOf(kinds)])
  }

  /** Nothing fails any more; what could is counted on. */
  disarm(): void {
    const [seen, , , , kinds] = this.#read()
    this.#write([seen!, 0, 0, 0, kinds!])
  }

  /** Operations that could have failed since it was armed. */
  get seen(): number {
    return this.#read()[0]!
  }

  #write(words: readonly number[]): void {
    const fd = openSync(this.file, 'r+')
    writeSync(fd, Buffer.from(Int32Array.from(words).buffer), 0, CONTROL_BYTES, 0)
    closeSync(fd)
  }

  #read(): Int32Array {
    const words = new Int32Array(CONTROL_BYTES / 4)
    const fd = openSync(this.file, 'r')
    readSync(fd, words, 0, CONTROL_BYTES, 0)
    closeSync(fd)
    return words
  }
}

function bitsOf(kinds: readonly Kind[]): number {
  return kinds.reduce((bits, kind) => bits | KINDS[kind], 0)
}
