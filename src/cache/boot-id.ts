/**
 * Which boot of the machine this is. Chunks written in an earlier one may not have reached the disk, so they are checked
 * against their checksum before first use.
 */

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

/** Where the system does not tell, every start of a host counts as a new boot: correct, only slower. */
export function currentBootId(): string {
  try {
    if (process.platform === 'linux') return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    const told = spawnSync('sysctl', ['-n', 'kern.bootsessionuuid'], { encoding: 'utf8' })
    if (told.status === 0) return told.stdout.trim()
  } catch {
    // fall through
  }
  return `unknown-${process.pid}-${Date.now()}`
}
