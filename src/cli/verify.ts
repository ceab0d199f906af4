/**
 * `seekcache verify`: looks at the cache directory itself, so it needs no host, and none may run.
 */

import { verifyDir, type Verification } from '../cache/verify.ts'
import { CHUNK_BYTES } from '../bytes/ranges.ts'
import { formatSize } from '../config.ts'
import type { ClientFlags } from './commands.ts'
import { EXIT } from './exit-code.ts'

/** @returns 0 where all is as it was written, 7 where damage was found, mended or not */
export async function verify(flags: ClientFlags & { readonly repair?: boolean }): Promise<number> {
  const isRepaired = flags.repair === true
  const found = await verifyDir(flags.cacheDir, { repair: isRepaired })
  process.stdout.write(flags.json === true ? `${JSON.stringify(asJson(found, isRepaired))}\n` : asText(found, isRepaired))
  return isDamaged(found) ? EXIT.damageFound : EXIT.ok
}

function isDamaged({ damaged, indexDamage }: Verification): boolean {
  return damaged.length > 0 || indexDamage !== undefined
}

function asJson({ indexDamage, ...found }: Verification, isRepaired: boolean): object {
  return { ...found, indexDamage: indexDamage ?? null, isRepaired }
}

function asText(found: Verification, isRepaired: boolean): string {
  const { resources, checkedChunks, indexDamage, damaged, orphans } = found
  const lines = [
    ...(indexDamage === undefined ? [] : [`damaged   the index: ${indexDamage}`]),
    ...damaged.map(({ url, start, end, path, reason }) => `damaged   ${url} [${start}, ${end}): ${reason} (${path})`),
    ...orphans.map((path) => `left over ${path}`),
    `${resources} files, ${formatSize(checkedChunks * CHUNK_BYTES)} checked: ${isDamaged(found) ? 'damage found' : 'all as it was written'}`,
  ]
  if (isRepaired) lines.push('what is damaged is forgotten, left-over files are removed')
  else if (isDamaged(found) || orphans.length > 0) lines.push('"seekcache verify --repair" forgets what is damaged and removes what is left over')
  return `${lines.join('\n')}\n`
}
