/**
 * Children that must not outlive a test process, also where it crashes or is ended before it could stop them.
 */
import type { ChildProcess } from 'node:child_process'

/** Those that run, and what ends each. One listener of the process serves them all. */
const running = new Map<ChildProcess, NodeJS.Signals>()

/** Sends `signal` to the child when this process ends. */
export function endWithThisProcess(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): void {
  running.set(child, signal)
  child.once('close', () => running.delete(child))
  if (process.listenerCount('exit', endAll) > 0) return
  process.once('exit', endAll)
  // By itself Node leaves at once at these signals, without `exit`; the test runner ends a file with SIGTERM.
  process.once('SIGTERM', leave)
  process.once('SIGINT', leave)
}

function endAll(): void {
  for (const [child, signal] of running) child.kill(signal)
}

function leave(): void {
  process.exit(1)
}

/** Whether there is such a process. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
