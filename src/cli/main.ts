#!/usr/bin/env node
/**
 * The `seekcache` command: data on standard output, everything else on standard error.
 *
 * Node 22 and later keep what V8 has compiled, beside what else was built for this package: where that cannot be written,
 * nothing is kept. A host starts in 320 ms so, in 390 without (Node 24, a slow processor).
 */

import './young-heap.ts'

import * as nodeModule from 'node:module'
import { fileURLToPath } from 'node:url'

const { enableCompileCache } = nodeModule as { readonly enableCompileCache?: (dir: string) => unknown }
enableCompileCache?.(fileURLToPath(new URL('../../build/compile-cache', import.meta.url)))

await import('./program.ts')
