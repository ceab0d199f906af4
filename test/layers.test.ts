/** Imports go down the layers only, and never sideways between `origin` and `cache`. */

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { test } from 'node:test'

const SRC = resolve(import.meta.dirname, '../src')

/** From the top down; a file belongs to the first row that matches it. */
const ROWS: readonly (readonly RegExp[])[] = [
  [/^cli\//, /^index\.ts$/, /^demo\//],
  [/^rehearsal\.ts$/],
  [/^host\.ts$/],
  [/^client\//],
  [/^control\/(server|connection|wire)\.ts$/],
  [/^proxy\/(server|players|player-messages)\.ts$/],
  [/^session\.ts$/],
  [/^media\.ts$/],
  [/^opening\.ts$/],
  [/^(probe|prefetch|filler)\.ts$/],
  [/^schedule\//],
  [/^origin\//, /^cache\//, /^proxy\//],
  [/^bytes\//, /^control\/(protocol|listing)\.ts$/, /^(deferred|errors|telemetry|config|version|resource-spec|package-parts)\.ts$/],
]

function rowOf(file: string): number {
  const row = ROWS.findIndex((patterns) => patterns.some((pattern) => pattern.test(file)))
  assert.notEqual(row, -1, `${file} is in no layer`)
  return row
}

function imports(file: string): string[] {
  const text = readFileSync(join(SRC, file), 'utf8')
  return [...text.matchAll(/(?:from |import ?\(?)'(\.[^']+)'/g)].map((match) => relative(SRC, resolve(SRC, dirname(file), match[1]!)))
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))

test('imports go down only', () => {
  assert.ok(files.length > 20, 'the sources were found')
  for (const file of files) {
    for (const imported of imports(file)) {
      assert.ok(rowOf(file) <= rowOf(imported), `${file} imports ${imported}, which is above it`)
    }
  }
})

test('origin and cache do not know each other', () => {
  for (const file of files) {
    const folder = file.split('/')[0]!
    for (const imported of imports(file)) {
      assert.ok(!(folder === 'origin' && imported.startsWith('cache/')), `${file} imports ${imported}`)
      assert.ok(!(folder === 'cache' && imported.startsWith('origin/')), `${file} imports ${imported}`)
    }
  }
})

test('clients see only the protocol: nothing of the host', () => {
  for (const file of files.filter((name) => name.startsWith('client/'))) {
    for (const imported of imports(file)) {
      assert.match(imported, /^(client\/|control\/protocol|bytes\/|errors|config|version|resource-spec)/, `${file} imports ${imported}`)
    }
  }
})
