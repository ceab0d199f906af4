/**
 * The GStreamer element as a reader of ranges: one long-lived `element-reads` that runs many elements at a time.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import path from 'node:path'

import { endWithThisProcess } from './children.ts'
import { gstEnv, RELEASE_DIR } from './gst.ts'

export interface ElementRead {
  readonly mode: 'pull' | 'push'
  readonly socket: string
  readonly timeoutSeconds: number
  readonly url: string
  readonly start: number
  readonly end: number
}

export interface ElementResult {
  readonly bytes: number
  readonly sha256: string
  readonly error: null | {
    readonly phase: 'open' | 'read'
    readonly domain: string
    readonly gstCode: number
    readonly message: string
    readonly code: string
    readonly httpStatus: number
  }
}

export class ElementReader implements AsyncDisposable {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, { resolve(result: ElementResult): void; reject(error: Error): void }>()
  readonly #exited: Promise<number | null>
  #nextId = 1
  #stderr = ''

  constructor() {
    const { SEEKCACHE_SOCKET: _socket, SEEKCACHE_CACHE_DIR: _dir, ...env } = gstEnv()
    this.#child = spawn(path.join(RELEASE_DIR, 'element-reads'), [], { stdio: ['pipe', 'pipe', 'pipe'], env })
    endWithThisProcess(this.#child)
    this.#exited = new Promise((resolve) => this.#child.once('close', resolve))
    void this.#exited.then((code) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`element-reads left with ${code}: ${this.#stderr}`))
    })
    this.#child.stderr!.setEncoding('utf8').on('data', (text: string) => (this.#stderr += text))
    let unread = ''
    this.#child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      const lines = (unread + text).split('\n')
      unread = lines.pop() ?? ''
      for (const line of lines) this.#settle(JSON.parse(line) as ElementResult & { id: number })
    })
  }

  async read({ mode, socket, timeoutSeconds, start, end, url }: ElementRead): Promise<ElementResult> {
    const id = this.#nextId++
    return await new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#child.stdin!.write(`${id} ${mode} ${socket} ${timeoutSeconds} ${start} ${end} seekcache+${url}\n`)
    })
  }

  #settle({ id, ...result }: ElementResult & { id: number }): void {
    this.#waiting.get(id)?.resolve(result)
    this.#waiting.delete(id)
  }

  /** Ends the program; a crash of it fails here at the latest. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin!.end()
    const code = await this.#exited
    if (code !== 0) throw new Error(`element-reads left with ${code}: ${this.#stderr}`)
  }
}
