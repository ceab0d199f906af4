/**
 * Cuts the power of a store at any moment, on paper: what a recorded process did to its directory is replayed up to some
 * operation, with what was not synced lost, reordered or torn, and the real store opens every such image.
 *
 * It must open, and each byte that it gives must be the right one; and it must work on: what is fetched again is there
 * after the next opening.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { CHUNK_BYTES, type Range } from '../../src/bytes/ranges.ts'
import type { Generation } from '../../src/cache/generation.ts'
import { layoutOf, prepareLayout } from '../../src/cache/layout.ts'
import { Store } from '../../src/cache/store.ts'
import type { Content } from '../support/content.ts'
import { type Loss, LOSSES, type Operation, readRecording, writeImage } from '../support/crash-images.ts'
import { compileShim, whyNoShim } from '../support/disk-shim.ts'
import { type Random, randomOf, seedOfRun } from '../support/random.ts'
import { scenarioContent } from '../support/store-scenario.ts'
import { tempDir } from '../support/temp-dir.ts'

const SCENARIO = fileURLToPath(new URL('../support/store-scenario.ts', import.meta.url))
const IMAGES_PER_RECORDING = 25
const BUDGET_BYTES = 2 ** 30

export interface PowerSummary {
  images: number
  operations: number
  presentChunks: number
  /** Bytes that were given, each compared. */
  readBytes: number
  damagedChunks: number
  /** Images whose index was set aside. */
  indexesSetAside: number
}

export default async function power(): Promise<string> {
  const why = whyNoShim()
  if (why !== undefined) return `not run: ${why}`
  const seed = seedOfRun()
  return `seed ${seed}: ${JSON.stringify(await powerCampaign(Number(process.env.SEEKCACHE_IMAGES ?? 1000), seed))}`
}

/** @throws at the first image that does not open, or gives a wrong byte */
export async function powerCampaign(images: number, seed: number): Promise<PowerSummary> {
  const random = randomOf(seed)
  await using shim = await compileShim()
  const summary = { images: 0, operations: 0, presentChunks: 0, readBytes: 0, damagedChunks: 0, indexesSetAside: 0 }
  for (let recording = 0; summary.images < images; recording++) {
    await using dir = await tempDir()
    const operations = record(shim.recording(dir.file('c'), dir.file('log')), dir.file('c'), dir.file('log'), random, recording % 2 === 0)
    summary.operations += operations.length
    for (let image = 0; image < IMAGES_PER_RECORDING && summary.images < images; image++) {
      const count = 1 + random.below(operations.length)
      const loss = LOSSES[image % LOSSES.length]!
      const where = `seed ${seed}, recording ${recording}, image ${image}: ${loss} lost behind ${count} of ${operations.length} operations`
      const target = dir.file(`image-${image}`)
      await openImage(operations, count, loss, random, target, summary).catch((cause: unknown) => {
        throw new Error(where, { cause })
      })
      summary.images++
      rmSync(target, { recursive: true })
    }
  }
  return summary
}

function record(env: Record<string, string>, dir: string, log: string, random: Random, isSync: boolean): Operation[] {
  const words = ['--import', 'tsx', SCENARIO, dir, String(random.below(2 ** 31)), isSync ? 'sync' : 'nosync']
  const { status, stderr } = spawnSync(process.execPath, words, { env: { ...process.env, ...env, NODE_TEST_CONTEXT: undefined }, encoding: 'utf8' })
  if (status !== 0) throw new Error(`the scenario failed: ${stderr}`)
  return readRecording(log, dir)
}

async function openImage(operations: readonly Operation[], count: number, loss: Loss, random: Random, dir: string, summary: PowerSummary): Promise<void> {
  writeImage(operations, count, loss, random, dir)
  makeOtherBoot(dir)
  const layout = layoutOf(dir)
  const options = { dir, maxSizeBytes: BUDGET_BYTES, reserveFreeBytes: 0, checkedShare: 0, syncData: false, bootId: 'after the cut' }
  await prepareLayout(layout)
  const store = await Store.open({ ...options, onDamage: (message) => void (message.includes('set aside') && summary.indexesSetAside++) })
  await store.settleRecovery()
  for (const [, record] of [...store.resources()]) {
    const generation = store.openGeneration(record.generation, record.sizeBytes)
    const content = scenarioContent(record.fileName)
    for (const range of [...generation.arrived]) summary.readBytes += await readRange(generation, content, range)
    const start = random.below(5) * CHUNK_BYTES
    generation.write(start, content.read(start, start + CHUNK_BYTES))
    await generation.settle()
    summary.presentChunks += Math.ceil(generation.present.lengthBytes / CHUNK_BYTES)
    await store.releaseGeneration(generation)
  }
  summary.damagedChunks += store.stats.damagedChunks
  await store.close()
  await openOnceMore(options)
}

/** What is there may be read, or be found damaged; it is not wrong. @returns the bytes that were given */
async function readRange(generation: Generation, content: Content, { start, end }: Range): Promise<number> {
  let givenBytes = 0
  for (let at = start; at < end; ) {
    const bytes = await generation.read(at, end - at)
    if (bytes !== undefined && !bytes.equals(content.read(at, at + bytes.length))) throw new Error(`wrong bytes at ${at} of ${generation.id}`)
    givenBytes += bytes?.length ?? 0
    at = bytes === undefined ? (Math.floor(at / CHUNK_BYTES) + 1) * CHUNK_BYTES : at + bytes.length
  }
  return givenBytes
}

async function openOnceMore(options: Parameters<typeof Store.open>[0]): Promise<void> {
  const complaints: string[] = []
  const store = await Store.open({ ...options, onDamage: (message) => complaints.push(message) })
  for (const [, record] of [...store.resources()]) {
    const generation = store.openGeneration(record.generation, record.sizeBytes)
    for (const range of [...generation.present]) await readRange(generation, scenarioContent(record.fileName), range)
  }
  if (complaints.length > 0) throw new Error(`still damaged after it was mended: ${complaints.join('; ')}`)
  await store.close()
}

/** LMDB keeps in its head pages in which boot they were written, and believes them in that one. */
function makeOtherBoot(dir: string): void {
  const path = join(dir, 'index', 'data.mdb')
  let bytes: Buffer
  try {
    bytes = readFileSync(path)
  } catch {
    return
  }
  const boot = Buffer.alloc(8)
  boot.writeBigInt64LE(BigInt(`0x${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').split('-')[0]}`))
  const head = bytes.subarray(0, 8192)
  for (let at = head.indexOf(boot); at >= 0; at = head.indexOf(boot, at + 8)) head.writeBigInt64LE(1n, at)
  writeFileSync(path, bytes)
}
