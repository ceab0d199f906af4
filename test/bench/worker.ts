/**
 * One turn of one driver with one player, in a process of its own at the client's end of the link; prints its result as one
 * line of JSON. The task comes as JSON in the only argument.
 */
import { setTimeout } from 'node:timers/promises'

import { type Driver, START } from './drivers.ts'
import type { DriverName, PlayerName } from './matrix.ts'
import { SIT, type Sitting } from './players.ts'
import { addUsage, receivedBytes, type Usage } from './usage.ts'

export interface TurnTask {
  readonly driver: DriverName
  readonly player: PlayerName
  readonly url: string
  readonly file: string
  readonly device: string
  readonly opens: number
  readonly placesPercent: readonly number[]
  readonly dwellSeconds: number
  readonly againDwellSeconds: number
  readonly logLevel?: string
  readonly connections?: number
}

/** A sitting and what came over the link meanwhile. */
export interface Phase extends Sitting {
  readonly linkBytes: number
}

export interface TurnResult {
  /** Each with an empty cache. */
  readonly opens: readonly Sitting[]
  /** The same with a host of seekcache's that has just started and has not rehearsed. */
  readonly opensUnrehearsed: readonly Sitting[]
  /** Each with what the cold sitting has left in it. */
  readonly opensAgain: readonly Sitting[]
  readonly cold: Phase
  readonly again: Phase
  readonly restarted: Phase
  /** Of the cache's processes over the last three. */
  readonly usage?: Usage
  readonly log: string
}

/** What is still on the wire when a player leaves. */
const SETTLE_MS = 300
/** Enough to tell them from the rehearsed ones. */
const UNREHEARSED_OPENS = 2

async function takeTurn(task: TurnTask): Promise<TurnResult> {
  const opens: Sitting[] = []
  const opensUnrehearsed: Sitting[] = []
  for (let i = 1; i < task.opens; i++) {
    opens.push(await openAlone(task, true))
    if (task.driver.startsWith('seekcache') && i <= UNREHEARSED_OPENS) opensUnrehearsed.push(await openAlone(task, false))
  }
  await using driver = await START[task.driver](task)
  const cold = await phase(driver, task, task.dwellSeconds)
  opens.push(cold)
  const again = await phase(driver, task, task.againDwellSeconds)
  const opensAgain: Sitting[] = [again]
  while (opensAgain.length < task.opens) opensAgain.push(await sit(driver, task, [], 0))
  const before = driver.usage()
  await driver.restart()
  const restarted = await phase(driver, task, task.againDwellSeconds)
  const after = driver.usage()
  const usage = before === undefined || after === undefined ? undefined : combined(before, after)
  return { opens, opensUnrehearsed, opensAgain, cold, again, restarted, ...(usage === undefined ? {} : { usage }), log: driver.log() }
}

/** With a cache of its own. */
async function openAlone(task: TurnTask, rehearses: boolean): Promise<Sitting> {
  await using driver = await START[task.driver]({ ...task, rehearses })
  return await sit(driver, task, [], 0)
}

async function sit(driver: Driver, task: TurnTask, placesPercent: readonly number[], dwellSeconds: number): Promise<Sitting> {
  return await SIT[task.player]({ uri: driver.uri, env: driver.env, mpvArgs: driver.mpvArgs, placesPercent, dwellSeconds })
}

async function phase(driver: Driver, task: TurnTask, dwellSeconds: number): Promise<Phase> {
  const before = receivedBytes(task.device)
  const sitting = await sit(driver, task, task.placesPercent, dwellSeconds)
  await setTimeout(SETTLE_MS)
  return { ...sitting, linkBytes: receivedBytes(task.device) - before }
}

/** Of the process before its restart and the one after it, which did not run at the same time. */
function combined(before: Usage, after: Usage): Usage {
  return { ...addUsage(before, after), peakRssBytes: Math.max(before.peakRssBytes, after.peakRssBytes) }
}

if (process.argv[2] !== undefined && import.meta.filename === process.argv[1]) {
  const result = await takeTurn(JSON.parse(process.argv[2]) as TurnTask)
  process.stdout.write(`${JSON.stringify(result)}\n`)
}
