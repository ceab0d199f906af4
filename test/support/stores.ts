/** A store on a test's directory, and films in it. */
import assert from 'node:assert/strict'

import type { Generation } from '../../src/cache/generation.ts'
import { layoutOf, newGenerationId, prepareLayout } from '../../src/cache/layout.ts'
import type { ResourceRecord } from '../../src/cache/records.ts'
import { Store, type StoreOptions } from '../../src/cache/store.ts'
import type { Content } from './content.ts'

const BOOT = 'boot-1'

export async function openStore(dir: string, options: Partial<StoreOptions> = {}): Promise<Store> {
  await prepareLayout(layoutOf(dir))
  return await Store.open({ dir, maxSizeBytes: 2 ** 30, reserveFreeBytes: 0, checkedShare: 0, syncData: false, bootId: BOOT, ...options })
}

export function resourceRecord(generation: string, sizeBytes: number, fileName = 'film.mkv'): ResourceRecord {
  return {
    displayUrl: `http://origin/${fileName}`, fileName, generation, sizeBytes, contentType: 'video/x-matroska',
    etag: '"v1"', lastModified: undefined, isRangeable: true, freshUntilMs: 0, lastUsedMs: 0,
  }
}

/** A generation of a new resource. */
export async function newGeneration(store: Store, sizeBytes: number, fileName?: string): Promise<Generation> {
  const id = newGenerationId()
  await store.putResource(id, resourceRecord(id, sizeBytes, fileName))
  return store.openGeneration(id, sizeBytes)
}

export function fill(generation: Generation, content: Content, start = 0, end = content.sizeBytes, stepBytes = 100_000): void {
  for (let at = start; at < end; at += stepBytes) generation.write(at, content.read(at, Math.min(at + stepBytes, end)))
}

export async function assertBytes(generation: Generation, content: Content, start: number, end: number): Promise<void> {
  for (let at = start; at < end; ) {
    const bytes = await generation.read(at, end - at)
    assert.ok(bytes !== undefined && bytes.length > 0, `byte ${at} is there`)
    assert.ok(bytes.equals(content.read(at, at + bytes.length)), `bytes from ${at} are right`)
    at += bytes.length
  }
}

/** Reads all, asserts that what is given is right. @returns the chunks that are not there any more */
export async function lostChunks(generation: Generation, content: Content, chunkBytes: number): Promise<number[]> {
  const lost: number[] = []
  for (let at = 0; at < content.sizeBytes; ) {
    const bytes = await generation.read(at, chunkBytes - (at % chunkBytes))
    if (bytes === undefined) {
      lost.push(Math.floor(at / chunkBytes))
      at = (Math.floor(at / chunkBytes) + 1) * chunkBytes
      continue
    }
    assert.ok(bytes.equals(content.read(at, at + bytes.length)), `bytes from ${at} are right`)
    at += bytes.length
  }
  return lost
}
