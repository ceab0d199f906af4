/** `npm run soak [NAME…]`: runs the campaigns of this folder, or the named ones, one after another. */

import { readdirSync } from 'node:fs'

const all = readdirSync(import.meta.dirname).filter((file) => file.endsWith('.ts') && file !== 'main.ts').map((file) => file.slice(0, -3)).sort()
const named = process.argv.slice(2)
const unknown = named.filter((name) => !all.includes(name))
if (unknown.length > 0) {
  process.stderr.write(`no such campaign: ${unknown.join(', ')}; there are ${all.join(', ')}\n`)
  process.exit(2)
}
for (const name of named.length > 0 ? named : all) {
  const { default: campaign } = (await import(`./${name}.ts`)) as { default: () => Promise<string> }
  process.stdout.write(`${name}: ${await campaign()}\n`)
}
