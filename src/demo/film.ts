/**
 * Makes a film to measure with: H.264 noise and a ticking tone, encoded once and muxed twice, as Matroska with its Cues at
 * the end and as MP4 with its moov at the end.
 *
 * These are the two files that punish a slow seek most: a player must read their tail before it can jump. The picture is
 * noise because then the bit rate holds and no part of the file is cheaper to fetch than another; it is small because a
 * few pixels at many bits each encode much faster than many at few. A film is made once per folder and parameters: it
 * appears under its name complete or not at all, and is never replaced while somebody may be serving it.
 */
import { spawn } from 'node:child_process'
import { link, mkdir, open, rm, stat } from 'node:fs/promises'
import path from 'node:path'

export interface FilmOptions {
  readonly seconds: number
  readonly kilobitsPerSecond: number
  /** Seconds from one key frame to the next: a seek decodes half of that on the average. */
  readonly gopSeconds: number
  readonly signal?: AbortSignal
}

export type FilmFormat = 'mkv' | 'mp4'

export interface Film {
  readonly seconds: number
  readonly files: Readonly<Record<FilmFormat, FilmFile>>
}

export interface FilmFile {
  readonly path: string
  readonly name: string
  readonly sizeBytes: number
}

/** Where a file's index (Matroska Cues, MP4 moov) and its first media bytes stand. */
export interface FilmLayout {
  readonly indexStart: number
  readonly mediaStart: number
  readonly sizeBytes: number
}

const FRAMES_PER_SECOND = 25

/** The film of these parameters in `folder`, made by gst-launch-1.0 if it is not there yet. */
export async function makeFilm(folder: string, options: FilmOptions): Promise<Film> {
  const stem = `film-${options.seconds}s-${options.kilobitsPerSecond}k-${options.gopSeconds}g`
  const found = await findFilm(folder, stem, options.seconds)
  if (found !== undefined) return found

  await mkdir(folder, { recursive: true })
  const draft = path.join(folder, `.${stem}-${process.pid}-${Date.now()}`)
  const drafts: Readonly<Record<FilmFormat, string>> = { mkv: `${draft}.mkv`, mp4: `${draft}.mp4` }
  try {
    await runPipeline(pipelineOf(options, drafts), options.signal)
    for (const format of ['mkv', 'mp4'] as const) {
      await assertIndexAtEnd(drafts[format], format)
      // link, not rename: of two makers at once the first one's file stays, bytes and inode.
      await link(drafts[format], path.join(folder, `${stem}.${format}`)).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EEXIST') throw error
      })
    }
  } finally {
    await Promise.all(Object.values(drafts).map((file) => rm(file, { force: true })))
  }
  const made = await findFilm(folder, stem, options.seconds)
  if (made === undefined) throw new Error(`the film ${stem} was made and is gone again from ${folder}`)
  return made
}

async function findFilm(folder: string, stem: string, seconds: number): Promise<Film | undefined> {
  const [mkv, mp4] = await Promise.all([findFile(folder, `${stem}.mkv`), findFile(folder, `${stem}.mp4`)])
  return mkv === undefined || mp4 === undefined ? undefined : { seconds, files: { mkv, mp4 } }
}

async function findFile(folder: string, name: string): Promise<FilmFile | undefined> {
  const file = path.join(folder, name)
  const facts = await stat(file).catch(() => undefined)
  return facts?.isFile() === true ? { path: file, name, sizeBytes: facts.size } : undefined
}

function pipelineOf(options: FilmOptions, out: Readonly<Record<FilmFormat, string>>): readonly string[] {
  const frames = Math.round(options.seconds * FRAMES_PER_SECOND)
  const keyFrameDistance = Math.max(1, Math.round(options.gopSeconds * FRAMES_PER_SECOND))
  // 20 ms a buffer, 960 samples at 48 kHz, is what opusenc takes without cutting. Matroska gets Vorbis all the same: its
  // muxer does not flag Opus blocks as key frames, which players take for a broken file.
  const audioBuffers = Math.round(options.seconds * 50)
  return words(`
    videotestsrc num-buffers=${frames} pattern=snow
    ! video/x-raw,format=I420,width=320,height=180,framerate=${FRAMES_PER_SECOND}/1
    ! x264enc speed-preset=ultrafast threads=2 bitrate=${options.kilobitsPerSecond} key-int-max=${keyFrameDistance}
      option-string=scenecut=0
    ! h264parse ! tee name=video
    audiotestsrc num-buffers=${audioBuffers} samplesperbuffer=960 wave=ticks
    ! audio/x-raw,rate=48000,channels=1 ! tee name=audio
    matroskamux name=mkv ! filesink name=mkv-file
    mp4mux name=mp4 ! filesink name=mp4-file
    video. ! ${QUEUE} ! mkv. video. ! ${QUEUE} ! mp4.
    audio. ! ${QUEUE} ! audioconvert ! vorbisenc ! ${QUEUE} ! mkv.
    audio. ! ${QUEUE} ! audioconvert ! opusenc ! ${QUEUE} ! mp4.
  `).map((word) => {
    if (word === 'name=mkv-file') return `location=${out.mkv}`
    return word === 'name=mp4-file' ? `location=${out.mp4}` : word
  })
}

// The muxers interleave by time and so wait for the slower branch: the queues must not be what limits the other one.
const QUEUE = 'queue max-size-buffers=0 max-size-bytes=0 max-size-time=5000000000'

function words(text: string): string[] {
  return text.trim().split(/\s+/)
}

async function runPipeline(pipeline: readonly string[], signal: AbortSignal | undefined): Promise<void> {
  const child = spawn('gst-launch-1.0', ['-q', '-e', ...pipeline], {
    stdio: ['ignore', 'ignore', 'pipe'],
    ...(signal === undefined ? {} : { signal }),
  })
  let complaint = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint += text))
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (code !== 0) throw new Error(`gst-launch-1.0 could not make the film (exit ${code}): ${complaint.trim()}`)
}

async function assertIndexAtEnd(file: string, format: FilmFormat): Promise<void> {
  const layout = await filmLayout(file, format)
  if (layout.indexStart <= layout.mediaStart) throw new Error(`the index of ${file} does not stand behind its media`)
}

/** Reads a file's outermost boxes or elements: enough to say where its index stands. */
async function filmLayout(file: string, format: FilmFormat): Promise<FilmLayout> {
  await using handle = await open(file)
  const sizeBytes = (await handle.stat()).size
  const readAt: ReadAt = async (position, lengthBytes) => {
    const bytes = Buffer.alloc(Math.min(lengthBytes, Math.max(0, sizeBytes - position)))
    await handle.read(bytes, 0, bytes.length, position)
    return bytes
  }
  const [index, media] = format === 'mkv' ? ['1c53bb6b', '1f43b675'] : ['moov', 'mdat']
  const walk = format === 'mkv' ? matroskaElements(readAt, sizeBytes) : mp4Boxes(readAt, sizeBytes)
  let indexStart: number | undefined
  let mediaStart: number | undefined
  for await (const part of walk) {
    if (part.kind === index) indexStart = part.start
    if (part.kind === media) mediaStart ??= part.start
  }
  if (indexStart === undefined || mediaStart === undefined) throw new Error(`${file} has no index or no media`)
  return { indexStart, mediaStart, sizeBytes }
}

type ReadAt = (position: number, lengthBytes: number) => Promise<Buffer>

interface Part {
  readonly kind: string
  readonly start: number
}

async function* mp4Boxes(readAt: ReadAt, sizeBytes: number): AsyncGenerator<Part> {
  for (let start = 0; start + 8 <= sizeBytes; ) {
    const head = await readAt(start, 16)
    const short = head.readUInt32BE(0)
    const lengthBytes = short === 1 ? Number(head.readBigUInt64BE(8)) : short === 0 ? sizeBytes - start : short
    if (lengthBytes < 8) throw new Error(`no MP4 box at ${start}`)
    yield { kind: head.toString('latin1', 4, 8), start }
    start += lengthBytes
  }
}

/** The children of the Segment; an element's size is a number of as many bytes as its first byte has leading zeros. */
async function* matroskaElements(readAt: ReadAt, sizeBytes: number): AsyncGenerator<Part> {
  for (let start = 0; start + 2 <= sizeBytes; ) {
    const head = await readAt(start, 12)
    const idBytes = Math.clz32(head[0] ?? 0) - 23
    const sizeFieldBytes = Math.clz32(head[idBytes] ?? 0) - 23
    if (idBytes > 4 || sizeFieldBytes > 8) throw new Error(`no Matroska element at ${start}`)
    const kind = head.toString('hex', 0, idBytes)
    const dataStart = start + idBytes + sizeFieldBytes
    if (kind === SEGMENT) {
      start = dataStart
      continue
    }
    yield { kind, start }
    const field = head.subarray(idBytes, idBytes + sizeFieldBytes)
    const marker = BigInt(1) << BigInt(7 * sizeFieldBytes)
    start = dataStart + Number(BigInt(`0x${field.toString('hex')}`) - marker)
  }
}

const SEGMENT = '18538067'
