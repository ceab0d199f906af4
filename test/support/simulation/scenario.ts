/** What happens in a simulation, as data: fast-check makes them, and shrinks those that show something wrong. */
import fc from 'fast-check'

import type { LinkFacts } from './link.ts'
import type { Outage, RequestFault } from './origin.ts'

const KIB = 1024

export type Step =
  | { readonly kind: 'read'; readonly lengthBytes: number; readonly pieceBytes: number; readonly bytesPerMs: number }
  /** Reads that are given up where they stall for so long; then comes the next step. */
  | { readonly kind: 'impatient'; readonly lengthBytes: number; readonly patienceMs: number }
  /** In thousandths of the film. */
  | { readonly kind: 'seek'; readonly to: number }
  | { readonly kind: 'step'; readonly byBytes: number }
  | { readonly kind: 'pause'; readonly durationMs: number }
  /** Closes and opens again where it was. */
  | { readonly kind: 'reopen'; readonly afterMs: number }

export interface ReaderScript {
  readonly kind: 'play' | 'fill'
  readonly startMs: number
  readonly at: number
  readonly steps: readonly Step[]
}

export interface Loss {
  readonly kind: 'evicted' | 'damaged'
  readonly atMs: number
  readonly start: number
  readonly lengthBytes: number
}

export interface Scenario {
  readonly sizeBytes: number
  readonly link: LinkFacts
  readonly isRangeable: boolean
  readonly answerMs: number
  readonly maxRequests: number
  readonly refusal: { readonly status: number; readonly retryAfterSeconds: number | undefined }
  readonly maxRangeBytes: number
  readonly maxFetches: number
  readonly initialWindowBytes: number
  readonly maxWindowBytes: number
  readonly faults: readonly (readonly [number, RequestFault])[]
  readonly outages: readonly Outage[]
  readonly losses: readonly Loss[]
  /** Times in which the disk is behind. */
  readonly congestions: readonly { readonly fromMs: number; readonly durationMs: number }[]
  readonly readers: readonly ReaderScript[]
}

/** Nothing is limited and nothing goes wrong; the link of DESIGN.md §7. */
export const CALM: Scenario = {
  sizeBytes: 8 * 1024 * KIB,
  link: { rttMs: 60, bytesPerMs: 10_000, connectionBytesPerMs: 1e9, handshakeRoundTrips: 1, queueMs: 100 },
  isRangeable: true,
  answerMs: 1,
  maxRequests: 1000,
  refusal: { status: 503, retryAfterSeconds: undefined },
  maxRangeBytes: 1e12,
  maxFetches: 8,
  initialWindowBytes: 1024 * KIB,
  maxWindowBytes: 4096 * KIB,
  faults: [],
  outages: [],
  losses: [],
  congestions: [],
  readers: [],
}

/** Often near each other. */
const aPlace = fc.oneof(fc.integer({ min: 0, max: 999 }), fc.integer({ min: 0, max: 40 }))
const aTime = fc.integer({ min: 0, max: 3_000 })
const aLength = fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 64 * KIB }), fc.integer({ min: 1, max: 1024 * KIB }))

const aStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('read' as const),
      lengthBytes: aLength,
      pieceBytes: fc.constantFrom(16 * KIB, 64 * KIB, 256 * KIB),
      bytesPerMs: fc.constantFrom(1e9, 1250, 100_000),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('impatient' as const), lengthBytes: aLength, patienceMs: fc.nat(500) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('seek' as const), to: aPlace }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('step' as const), byBytes: fc.integer({ min: -300 * KIB, max: 100 * KIB }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('pause' as const), durationMs: fc.oneof(fc.nat(200), fc.nat(5_000)) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('reopen' as const), afterMs: fc.oneof(fc.constant(0), fc.nat(300)) }) },
)

const aReader: fc.Arbitrary<ReaderScript> = fc.record({
  kind: fc.oneof({ weight: 5, arbitrary: fc.constant('play' as const) }, { weight: 1, arbitrary: fc.constant('fill' as const) }),
  startMs: fc.oneof(fc.constant(0), aTime),
  at: fc.oneof(fc.constant(0), aPlace),
  steps: fc.array(aStep, { minLength: 1, maxLength: 6 }),
})

const aRetryAfter = fc.constantFrom(undefined, undefined, 0, 1, 5)

const aFault: fc.Arbitrary<RequestFault> = fc.oneof(
  fc.record({ kind: fc.constant('status' as const), status: fc.constantFrom(503, 503, 429, 500, 404), retryAfterSeconds: aRetryAfter }),
  fc.record({ kind: fc.constant('reset' as const), afterBytes: fc.constantFrom(0, 1, 10 * KIB, 100 * KIB) }),
  fc.record({ kind: fc.constant('stalled' as const), afterBytes: fc.constantFrom(0, 1, 10 * KIB, 100 * KIB) }),
  fc.record({ kind: fc.constant('shorter' as const), lengthBytes: fc.constantFrom(1, 1000, 64 * KIB) }),
  fc.record({ kind: fc.constant('changed' as const) }),
  fc.record({ kind: fc.constant('late' as const), delayMs: fc.constantFrom(100, 2_000, 12_000) }),
)

/** Few scenarios have a given trouble, so that those that fail are soon small. */
function seldom<T>(value: fc.Arbitrary<T>, calm: T, weight = 3): fc.Arbitrary<T> {
  return fc.oneof({ weight, arbitrary: fc.constant(calm) }, { weight: 1, arbitrary: value })
}

export const aScenario: fc.Arbitrary<Scenario> = fc.record({
  sizeBytes: fc.oneof(fc.integer({ min: 1, max: 256 * KIB }), fc.integer({ min: 1, max: 16 * 1024 * KIB }), fc.constant(8 * 1024 * KIB)),
  link: fc.record({
    rttMs: fc.constantFrom(60, 60, 1, 10, 200),
    bytesPerMs: fc.constantFrom(10_000, 10_000, 100, 1_000, 100_000),
    connectionBytesPerMs: fc.constantFrom(1e9, 1e9, 500),
    handshakeRoundTrips: fc.constantFrom(1, 2),
    queueMs: fc.constantFrom(100, 20, 500),
  }),
  isRangeable: seldom(fc.constant(false), true, 9),
  answerMs: fc.constantFrom(1, 1, 30),
  maxRequests: seldom(fc.integer({ min: 1, max: 6 }), 1000, 9),
  refusal: fc.record({ status: fc.constantFrom(503, 429), retryAfterSeconds: aRetryAfter }),
  maxRangeBytes: seldom(fc.constantFrom(10 * KIB, 64 * KIB), 1e12, 9),
  maxFetches: fc.constantFrom(8, 8, 1, 2, 4),
  initialWindowBytes: fc.constantFrom(1024 * KIB, 64 * KIB, 256 * KIB),
  maxWindowBytes: fc.constantFrom(1024 * KIB, 2048 * KIB),
  faults: seldom(fc.array(fc.tuple(fc.nat(40), aFault), { minLength: 1, maxLength: 5 }), []),
  outages: seldom(
    fc.array(
      fc.record({ kind: fc.constantFrom('down' as const, 'silent' as const), fromMs: aTime, durationMs: fc.constantFrom(0, 100, 2_000, 15_000) }),
      { minLength: 1, maxLength: 2 },
    ),
    [],
  ),
  losses: seldom(
    fc.array(fc.record({ kind: fc.constantFrom('evicted' as const, 'damaged' as const), atMs: aTime, start: aPlace, lengthBytes: aLength }), {
      minLength: 1,
      maxLength: 4,
    }),
    [],
  ),
  congestions: seldom(fc.array(fc.record({ fromMs: aTime, durationMs: fc.constantFrom(10, 500, 5_000) }), { minLength: 1, maxLength: 2 }), []),
  readers: fc.array(aReader, { minLength: 1, maxLength: 4 }),
})
