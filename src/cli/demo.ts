/**
 * `seekcache demo`, which is `npm start`: what the package does, shown on this machine alone.
 */

import { runDemo } from '../demo/demo.ts'
import { CLI_PATH } from '../client/host-launch.ts'
import { EXIT } from './exit-code.ts'

export async function demo(): Promise<number> {
  const controller = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => controller.abort())
  try {
    await runDemo({
      cliFile: CLI_PATH,
      print: (line) => process.stdout.write(`${line}\n`),
      signal: controller.signal,
    })
    return EXIT.ok
  } catch (error) {
    if (controller.signal.aborted) return EXIT.interrupted
    throw error
  }
}
