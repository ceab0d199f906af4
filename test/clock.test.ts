/** The system's clock: what it promises beside the time. */

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { test } from 'node:test'

import { withResolvers } from '../src/deferred.ts'
import { SYSTEM_CLOCK } from '../src/schedule/clock.ts'

test('what is to be done soon is done when all that has come has been told', async () => {
  const told: string[] = []
  const { promise, resolve } = withResolvers<void>()
  const onPlan = (): void => {
    if (told.push('plan') === 4) resolve()
  }
  const onBytes = (): void => {
    told.push('bytes')
    SYSTEM_CLOCK.soon(onPlan)
  }
  const server = createServer((socket) => socket.on('data', onBytes)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const players: Socket[] = []
  for (let count = 0; count < 2; count++) {
    const accepted = once(server, 'connection')
    players.push(connect((server.address() as AddressInfo).port, '127.0.0.1'))
    await accepted
  }
  for (const player of players) player.write('x') // both are there before either is read
  await promise
  assert.deepEqual(told, ['bytes', 'bytes', 'plan', 'plan'])
  for (const player of players) player.destroy()
  server.close()
})

test('a process that stood still knows it while it reads what came meanwhile, and no longer', async () => {
  assert.equal(SYSTEM_CLOCK.hasStoodStill, false) // from here on it watches
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100)
  assert.equal(SYSTEM_CLOCK.hasStoodStill, true, 'at once')
  while (SYSTEM_CLOCK.hasStoodStill) await new Promise((resolve) => setImmediate(resolve))
})
