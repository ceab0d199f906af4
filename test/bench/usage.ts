/** What processes cost, as the kernel counts it. */
import { readFileSync } from 'node:fs'

export interface Usage {
  readonly cpuSeconds: number
  readonly peakRssBytes: number
}

/** USER_HZ, which is 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

/** Of a process and its children so far, which must be running. Peaks are added up: they need not have coincided. */
export function usageOf(pid: number): Usage {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // After the name, which may hold anything, in parentheses: the 12th and 13th field are user and system time.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const peakKb = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0)
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  const own: Usage = { cpuSeconds: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND, peakRssBytes: peakKb * 1024 }
  return children.map(usageOf).reduce(addUsage, own)
}

export function addUsage(a: Usage, b: Usage): Usage {
  return { cpuSeconds: a.cpuSeconds + b.cpuSeconds, peakRssBytes: a.peakRssBytes + b.peakRssBytes }
}

/** All that came in over the link so far, with the headers of IP and TCP, as the device in this namespace counts it. */
export function receivedBytes(device: string): number {
  const line = readFileSync('/proc/net/dev', 'utf8').split('\n').find((candidate) => candidate.trim().startsWith(`${device}:`))
  if (line === undefined) throw new Error(`there is no device ${device}`)
  return Number(line.slice(line.indexOf(':') + 1).trim().split(/\s+/)[0])
}
