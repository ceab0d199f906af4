/** Ranges and HTTP's range fields: properties against naive models, and the cases that matter by name. */

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'

import {
  formatContentRange,
  formatRange,
  isStrongEtag,
  parseContentRange,
  parseRange,
  parseRetryAfterMs,
} from '../src/bytes/http-range.ts'
import { RangeSet } from '../src/bytes/ranges.ts'
import { seedOfRun } from './support/random.ts'

const LIMIT = 60
const operation = fc.tuple(fc.constantFrom('add', 'subtract'), fc.nat(LIMIT), fc.nat(LIMIT))

test('a range set does what a set of single bytes does', () => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 40 }), fc.nat(LIMIT), fc.nat(LIMIT), (operations, from, to) => {
      const set = new RangeSet()
      const naive = new Set<number>()
      for (const [verb, a, b] of operations) {
        if (verb === 'add') set.add(a, b)
        else set.subtract(a, b)
        for (let i = a; i < b; i++) verb === 'add' ? naive.add(i) : naive.delete(i)
      }
      assert.equal(set.lengthBytes, naive.size)
      const ranges = [...set]
      for (const [i, range] of ranges.entries()) {
        assert.ok(range.start < range.end)
        if (i > 0) assert.ok(ranges[i - 1]!.end < range.start, 'ranges are disjoint and do not touch')
      }
      const bytesOf = (list: { start: number; end: number }[]): number[] =>
        list.flatMap(({ start, end }) => Array.from({ length: end - start }, (_, i) => start + i))
      const asked = Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i)
      assert.deepEqual(bytesOf(set.missing(from, to)), asked.filter((i) => !naive.has(i)))
      assert.deepEqual(bytesOf(set.within(from, to)), asked.filter((i) => naive.has(i)))
      let end = from
      while (naive.has(end)) end++
      assert.equal(set.endOfRun(from), end)
      let start = from
      while (naive.has(from) && naive.has(start - 1)) start--
      assert.equal(set.startOfRun(from), start)
      assert.equal(set.covers(from, to), asked.every((i) => naive.has(i)))
    }),
    { numRuns: 2000, seed: seedOfRun() },
  )
})

test('a Range field is read as RFC 9110 says', () => {
  const range = (start: number, end: number): object => ({ kind: 'range', range: { start, end } })
  const cases: [string | undefined, object][] = [
    [undefined, { kind: 'whole' }],
    ['bytes=0-', range(0, 100)],
    ['bytes=0-0', range(0, 1)],
    ['bytes=10-19', range(10, 20)],
    ['bytes=90-200', range(90, 100)],
    ['bytes=-10', range(90, 100)],
    ['bytes=-1000', range(0, 100)],
    ['bytes=-0', { kind: 'unsatisfiable' }],
    ['bytes=100-', { kind: 'unsatisfiable' }],
    ['bytes=99-', range(99, 100)],
    ['BYTES=1-2', range(1, 3)],
    ['bytes=5-4', { kind: 'whole' }],
    ['bytes=0-1,5-6', { kind: 'whole' }],
    ['bytes=', { kind: 'whole' }],
    ['bytes=-', { kind: 'whole' }],
    ['items=0-1', { kind: 'whole' }],
    ['bytes=abc-', { kind: 'whole' }],
    ['bytes=99999999999999999999-', { kind: 'unsatisfiable' }],
    ['bytes=0-99999999999999999999', range(0, 100)],
  ]
  for (const [field, expected] of cases) assert.deepEqual(parseRange(field, 100), expected, field)
})

test('no Range field makes the parser leave the representation', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^bytes=\d{0,17}-\d{0,17}$/)), fc.nat(1000), (field, sizeBytes) => {
      const parsed = parseRange(field, sizeBytes)
      if (parsed.kind !== 'range') return
      const { start, end } = parsed.range
      assert.ok(0 <= start && start < end && end <= sizeBytes)
    }),
    { numRuns: 5000, seed: seedOfRun() },
  )
})

test('what is formatted is parsed back', () => {
  fc.assert(
    fc.property(fc.nat(1e9), fc.integer({ min: 1, max: 1e9 }), fc.nat(1e9), (start, length, rest) => {
      const range = { start, end: start + length }
      const totalBytes = range.end + rest
      assert.deepEqual(parseContentRange(formatContentRange(range, totalBytes)), { ...range, totalBytes })
      assert.deepEqual(parseRange(formatRange(start, range.end), totalBytes), { kind: 'range', range })
    }),
    { seed: seedOfRun() },
  )
})

test('a Content-Range that contradicts itself is none', () => {
  for (const field of ['bytes 5-4/10', 'bytes 0-10/10', 'bytes */10', 'bytes 5-/5', '0-1/2', 'bytes 0-1', '']) {
    assert.equal(parseContentRange(field), undefined, field)
  }
  assert.deepEqual(parseContentRange('bytes 0-1/*'), { start: 0, end: 2, totalBytes: undefined })
})

test('only a strong entity tag is strong', () => {
  assert.ok(isStrongEtag('"abc"'))
  assert.ok(isStrongEtag('""'))
  for (const tag of ['W/"abc"', 'abc', '"abc', '"a"b"', undefined]) assert.ok(!isStrongEtag(tag))
})

test('Retry-After is seconds or a date', () => {
  const now = Date.parse('Sat, 21 Nov 2026 10:00:00 GMT')
  assert.equal(parseRetryAfterMs('120', now), 120_000)
  assert.equal(parseRetryAfterMs('Sat, 21 Nov 2026 10:00:30 GMT', now), 30_000)
  assert.equal(parseRetryAfterMs('Sat, 21 Nov 2026 09:00:00 GMT', now), 0)
  assert.equal(parseRetryAfterMs('soon', now), undefined)
})
