import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

import { partsOf } from '../src/package-parts.ts'

const require = createRequire(import.meta.url)

test('a host loads no more of its packages than it uses', async () => {
  await import('../src/cli/serve.ts')
  const loaded = Object.keys(require.cache)
  const isLoaded = (file: string): boolean => loaded.includes(require.resolve(file))
  assert.ok(isLoaded('undici/lib/dispatcher/client.js') && isLoaded('prom-client/lib/counter.js'))
  assert.deepEqual(['undici', 'prom-client', 'pino-pretty', 'cli-progress', 'commander'].filter(isLoaded), [])
})

test('a package that has arranged its files otherwise is loaded whole', () => {
  const { Client } = partsOf<typeof import('undici'), 'Client'>('undici', { Client: 'lib/moved.js' })
  assert.equal(Client, (require('undici') as typeof import('undici')).Client)
})
