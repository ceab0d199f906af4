/** The fault matrix, every cell of it, or those of the one face that SEEKCACHE_FACE names. */

import { runFaultMatrix } from '../support/fault-matrix.ts'

export default async function faults(): Promise<string> {
  const wanted = process.env.SEEKCACHE_FACE
  const { cells, faults: kinds, byFace, byOutcome, problems } = await runFaultMatrix(({ face }) => wanted === undefined || face === wanted)
  if (problems.length > 0) throw new Error(`${problems.length} of ${cells} cells:\n${problems.join('\n')}`)
  return `${cells} cells of ${kinds} faults, none wrong: ${JSON.stringify(byFace)}, ${JSON.stringify(byOutcome)}`
}
