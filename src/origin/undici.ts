/** What is used of undici: its client of one connection, and what connects it. */

import type * as undici from 'undici'

import { partsOf } from '../package-parts.ts'

export const { Client, buildConnector } = partsOf<typeof undici, 'Client' | 'buildConnector'>('undici', {
  Client: 'lib/dispatcher/client.js',
  buildConnector: 'lib/core/connect.js',
})
export type Client = undici.Client
