/**
 * Children that must not outlive a test process, also where it crashes or is ended before it could stop them.
 */
import type { ChildProcess } from 'node:child_process'

/** Sends `signal` to the child when this process ends. */
export function endWithThisProcess(child: ChildProcess, signal: NodeJS.Signals = 'SIGKILL'): void {
  const end = () => child.kill(signal)
  process.once('exit', end)
  child.once('close', () => process.off('exit', end))
  // By itself Node leaves at once at these signals, without `exit`; the test runner ends a file with SIGTERM.
  if (process.listenerCount('SIGTERM', leave) > 0) return
  process.once('SIGTERM', leave)
  process.once('SIGINT', leave)
}

function leave(): void {
  process.exit(1)
}
