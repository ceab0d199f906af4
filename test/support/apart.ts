/**
 * Long computations in a process of their own: node:test watches every promise of its process with async hooks, which took
 * a third of the time of what is made of promises.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import { endWithThisProcess } from './children.ts'

type Outcome = { readonly value: unknown } | { readonly error: unknown }

type Apart = (...args: never[]) => Promise<unknown>

/**
 * What an exported function of a module returns there. Arguments and result are copied; its output is this process's.
 *
 * @param module its URL
 * @throws what it throws, or that it came to no end
 */
export async function apart<F extends Apart>(module: URL, name: string, ...args: Parameters<F>): Promise<Awaited<ReturnType<F>>> {
  const { NODE_TEST_CONTEXT, ...env } = process.env
  const child = fork(fileURLToPath(import.meta.url), [module.href, name, JSON.stringify(args)], { env, serialization: 'advanced' })
  endWithThisProcess(child, 'SIGTERM')
  let outcome = { error: new Error(`${name} came to no end`) } as Outcome
  child.on('message', (message) => (outcome = message as Outcome))
  await once(child, 'close')
  if ('error' in outcome) throw outcome.error
  return outcome.value as Awaited<ReturnType<F>>
}

if (process.argv[1] === import.meta.filename && process.send !== undefined) {
  const [, , module, name, args] = process.argv
  const functions = (await import(module!)) as Record<string, (...args: readonly unknown[]) => Promise<unknown>>
  const outcome = await functions[name!]!(...(JSON.parse(args!) as readonly unknown[])).then((value) => ({ value }), (error: unknown) => ({ error }))
  process.send(outcome, () => process.disconnect())
}
