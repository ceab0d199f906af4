/**
 * One sitting at a player: opens a film in a fresh player, seeks, leaves; with the time of each step and when it began.
 *
 * The player's own start is not counted: an open runs from the command to the first picture, a seek from the command until
 * it plays, or shows the picture, there.
 */
import { setTimeout } from 'node:timers/promises'

import { within } from '../support/deadline.ts'
import { playGst } from '../support/gst.ts'
import { type Mpv, startMpv } from '../support/mpv.ts'
import type { PlayerName } from './matrix.ts'

export interface Task {
  readonly uri: string
  readonly env: Readonly<Record<string, string>>
  readonly mpvArgs?: readonly string[]
  readonly placesPercent: readonly number[]
  readonly dwellSeconds: number
}

export interface Step {
  readonly what: string
  readonly ms: number
  /** Seconds since the epoch. */
  readonly startedAt: number
}

export interface Sitting {
  readonly open: Step
  readonly seeks: readonly Step[]
}

export const SIT: Readonly<Record<PlayerName, (task: Task) => Promise<Sitting>>> = {
  mpv: async (task) => await sitAtMpv(task, 'absolute-percent+keyframes'),
  'mpv-exact': async (task) => await sitAtMpv(task, 'absolute-percent+exact'),
  playbin: sitAtPlaybin,
}

async function sitAtMpv({ uri, env, mpvArgs, placesPercent, dwellSeconds }: Task, seekFlags: string): Promise<Sitting> {
  await using mpv = await startMpv({ env, args: mpvArgs ?? [] })
  const open = await step('open', async () => void (await mpv.open(uri)))
  const seeks: Step[] = []
  for (const percent of placesPercent) {
    await setTimeout(dwellSeconds * 1000)
    seeks.push(await step(`seek ${percent} %`, async () => await seek(mpv, percent, seekFlags)))
  }
  if (placesPercent.length > 0) await setTimeout(dwellSeconds * 1000)
  await mpv.quit()
  return { open, seeks }
}

async function seek(mpv: Mpv, percent: number, flags: string): Promise<void> {
  // mpv answers a command before it acts on it, and acts before it restarts: no restart of an earlier seek is still to come
  // after a dwell, so the next one is this seek's.
  const restarted = mpv.next('playback-restart')
  await mpv.command('seek', percent, flags)
  await within(`mpv at ${percent} %`, restarted)
}

async function step(what: string, act: () => Promise<void>): Promise<Step> {
  const startedAt = Date.now() / 1000
  const started = performance.now()
  await act()
  return { what, ms: performance.now() - started, startedAt }
}

async function sitAtPlaybin({ uri, env, placesPercent, dwellSeconds }: Task): Promise<Sitting> {
  const steps: Step[] = []
  const seeks = placesPercent.flatMap((percent) => ['--seek', String(percent)])
  const dwell = placesPercent.length > 0 ? ['--dwell', String(dwellSeconds)] : []
  const { exitCode, events, stderr } = await playGst(['--playbin', ...dwell, ...seeks, uri], {
    env,
    onEvent: (event) => {
      if (event.event !== 'open' && event.event !== 'seek') return
      const what = event.event === 'open' ? 'open' : `seek ${placesPercent[steps.length - 1]} %`
      steps.push({ what, ms: event.ms, startedAt: (Date.now() - event.ms) / 1000 })
    },
  })
  const [open, ...rest] = steps
  if (exitCode !== 0 || open === undefined) {
    const error = events.find((event) => event.event === 'error')
    throw new Error(`playbin left with ${exitCode}: ${error?.message ?? stderr.slice(-500)}`)
  }
  return { open, seeks: rest }
}
