/** What the schedule of a generation is given: its limits, and what it needs of the store and of the origin. */

import type { Generation } from '../cache/generation.ts'
import type { Store } from '../cache/store.ts'
import type { Source } from '../origin/source.ts'
import type { Validator } from '../origin/validator.ts'
import type { Telemetry } from '../telemetry.ts'
import type { Clock } from './clock.ts'
import type { StallLimits } from './in-flight.ts'

export interface ScheduleLimits {
  readonly maxFetches: number
  readonly initialWindowBytes: number
  readonly maxWindowBytes: number
  readonly stall: StallLimits
}

/** What the schedule needs of a generation, of the origin and of the store. */
export type ScheduledGeneration = Pick<
  Generation, 'sizeBytes' | 'arrived' | 'protectedRanges' | 'onLost' | 'write' | 'read' | 'locate'
>

export type ScheduledSource = Pick<Source, 'fetch' | 'path' | 'display' | 'connections' | 'claim' | 'watchConnections'>

export type ScheduledStore = Pick<Store, 'maxSizeBytes' | 'isDegraded' | 'isCongested' | 'whenUncongested'>

export interface SchedulerParts {
  readonly store: ScheduledStore
  readonly generation: ScheduledGeneration
  readonly source: ScheduledSource
  readonly clock: Clock
  readonly validator: Validator
  readonly isRangeable: boolean
  readonly limits: ScheduleLimits
  readonly telemetry: Telemetry
  /** Called once, when the origin turns out to have another version. */
  readonly onSuperseded: () => void
}
