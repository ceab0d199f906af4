/**
 * A cell of the fault matrix: a fault at a place of the file, in a state of the cache, through a face; and the origin of its own
 * that has the fault, over HTTP/1.1, TLS or HTTP/2.
 */
import type { Settings } from 'node:http2'

import type { Range } from '../../src/bytes/ranges.ts'
import { CONTENT, REGIONS, SIZE_BYTES, type Face, type FaultCase, type Outcome, type Region, type State, type TlsFault } from './fault-cases.ts'
import { startFaultOrigin, type FaultOrigin } from './fault-origin.ts'
import { Http2Origin, type Http2Fault, type Http2Request } from './http2-origin.ts'
import type { Fault, OriginRequest } from './origin-reply.ts'
import { TlsFront, type Certificates } from './tls-front.ts'

export const HOST_NAMES = ['patient', 'brief', 'silent'] as const
export type HostName = (typeof HOST_NAMES)[number]

/** So that what is cached is compared with the origin at each opening. */
const STALE: Fault = { kind: 'header', name: 'Cache-Control', value: 'no-cache' }

export class Cell {
  readonly fault: FaultCase
  readonly region: Region
  readonly state: State
  readonly face: Face
  readonly name: string
  readonly outcome: Outcome
  url = ''
  /** Requests that were affected. */
  hits = 0
  #isFaulty = false
  #origin: FaultOrigin | undefined
  #http2: Http2Origin | undefined
  #front: TlsFront | undefined
  readonly #faults: FaultCase['faults']

  constructor(fault: FaultCase, region: Region, state: State, face: Face, index: number) {
    this.fault = fault
    this.#faults = fault.makeFaults?.() ?? fault.faults
    this.region = region
    this.state = state
    this.face = face
    this.name = `cell-${index}.mkv`
    this.outcome = typeof fault.outcome === 'function' ? fault.outcome({ region, state }) : fault.outcome
  }

  get title(): string {
    return `${this.fault.name}, ${this.region}, ${this.state}, ${this.face}`
  }

  /** The hosts whose clients wait short are for what is tried until the deadline. */
  get hostName(): HostName {
    if (this.outcome.kind !== 'fails' || this.outcome.lastsToDeadline !== true) return 'patient'
    return this.outcome.code.test('TIMEOUT') ? 'silent' : 'brief'
  }

  get range(): { readonly start: number; readonly end: number } {
    return REGIONS[this.region]
  }

  get middle(): number {
    return (this.range.start + this.range.end) / 2
  }

  /** A server of its own: what a host has learned of one origin must not bear on another cell. */
  async startServer(certificates: Certificates): Promise<AsyncDisposable> {
    const { server, http2 } = this.fault
    if (http2 !== undefined) return await this.#startHttp2(http2.settings, certificates)
    const limit = server === 'limited' ? { maxConnections: 2 } : {}
    const origin = await startFaultOrigin({ content: CONTENT, script: (request) => this.answer(request), ...limit })
    this.#origin = origin
    this.url = origin.url(this.name)
    if (server === undefined || server === 'limited' || server === 'down') return origin
    const front = new TlsFront(certificates, origin.port)
    await front.turn('tls-good')
    this.#front = front
    this.url = front.url(this.name)
    const dispose = async (): Promise<void> => void (await Promise.all([front[Symbol.asyncDispose](), origin.stop()]))
    return { [Symbol.asyncDispose]: dispose }
  }

  async #startHttp2(settings: Settings = {}, certificates: Certificates): Promise<AsyncDisposable> {
    const script = ({ range }: Http2Request): Http2Fault | undefined => {
      if (!this.#isFaulty) return this.#holdBackHttp2(range)
      return this.#isMet(range) ? this.fault.http2?.faults?.(this.hits++) : undefined
    }
    const certificate = certificates.pairs.get('tls-good')!
    const origin = await Http2Origin.start({ content: CONTENT, certificate, settings, script, headers: { 'cache-control': 'no-cache' } })
    this.#http2 = origin
    this.url = origin.url(this.name)
    return origin
  }

  #holdBackHttp2({ start, end }: Range): Http2Fault | undefined {
    const fault = this.#holdBack(start, end)
    return fault?.kind === 'range-shorter' ? { kind: 'shorter', lengthBytes: fault.lengthBytes } : fault && { kind: 'held' }
  }

  dropConnections(): void {
    this.#origin?.dropConnections()
    this.#http2?.dropConnections()
  }

  async beginFault(): Promise<void> {
    this.#isFaulty = true
    await this.#front?.turn(this.fault.server as TlsFault)
    if (this.fault.server === 'down') await this.#origin?.goDown()
  }

  answer(request: OriginRequest): readonly Fault[] {
    return [STALE, ...[this.#faultsOf(request) ?? []].flat()]
  }

  #faultsOf(request: OriginRequest): Fault | readonly Fault[] | undefined {
    const { start = 0, end = SIZE_BYTES } = request.range ?? {}
    if (!this.#isFaulty) return this.#holdBack(start, end)
    return this.#isMet({ start, end }) ? this.#faults?.(this.hits++, request, this) : undefined
  }

  #isMet({ start, end }: Range): boolean {
    return this.fault.scope === 'everything' || (start < this.range.end && this.range.start < end)
  }

  /** Lets the first half of the region through. */
  #holdBack(start: number, end: number): Extract<Fault, { kind: 'range-shorter' | 'head-held' }> | undefined {
    const { middle, range } = this
    if (start >= range.end || end <= middle) return undefined
    return start < middle ? { kind: 'range-shorter', lengthBytes: middle - start } : { kind: 'head-held' }
  }
}
