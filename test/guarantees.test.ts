/** docs/GUARANTEES.md names tests: each of them is there. */

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { test } from 'node:test'

const ROOT = resolve(import.meta.dirname, '..')

/** The titles of a file's tests and fuzz targets, with `…` for what a template fills in. */
function titlesOf(file: string): Set<string> {
  const text = readFileSync(resolve(ROOT, file), 'utf8')
  const titles = text.matchAll(/\b(?:test|target)\(\s*(?:'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\\n]|\\.)*)`)/g)
  return new Set([...titles].map(([, single, double, template]) =>
    (single ?? double ?? template ?? '').replace(/\\(.)/g, '$1').replace(/\$\{[^}]*\}/g, '…')))
}

test('every test that a promise is said to be held by exists', () => {
  const lines = readFileSync(resolve(ROOT, 'docs/GUARANTEES.md'), 'utf8').split('\n').filter((line) => line.startsWith('| '))
  const promises = lines.filter((line) => line !== '| Promise | File | Test |')
  assert.ok(promises.length > 50, `${promises.length} promises`)
  for (const line of promises) {
    const [, promise, file, title] = /^\| ([^|]+) \| (test\/[\w./-]+\.ts) \| ([^|]+) \|$/.exec(line) ?? assert.fail(`no promise with its test: ${line}`)
    assert.ok(titlesOf(file!).has(title!), `"${promise}" is held by "${title}", which is not in ${file}`)
  }
})
