/**
 * The commands and their options. What a command does is loaded when it is performed: a host that a player waits for loads
 * nothing else.
 */

import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { resolve } from 'node:path'

import { defaultCacheDir, HOST_DEFAULTS, parseSize, socketPathOf } from '../config.ts'
import type { Header } from '../control/protocol.ts'
import { SeekCacheError } from '../errors.ts'
import { parseHeaderLine } from '../resource-spec.ts'
import { VERSION } from '../version.ts'
import type { ClientFlags } from './commands.ts'
import { EXIT, exitCodeOf } from './exit-code.ts'
import type { ServeFlags } from './serve.ts'

const program = new Command('seekcache')
  .description('Makes any remote media file behave like a local one.')
  .version(VERSION)
  .exitOverride()
  .configureHelp({ showGlobalOptions: true })
  .enablePositionalOptions()

function command(nameAndArguments: string, description: string): Command {
  return program
    .command(nameAndArguments)
    .description(description)
    .exitOverride()
    .addOption(new Option('--cache-dir <dir>', 'the cache directory').env('SEEKCACHE_CACHE_DIR').default(defaultCacheDir()).argParser(path))
    .addOption(new Option('--socket <path>', 'the control socket (default: control.sock in the cache directory)').env('SEEKCACHE_SOCKET').argParser(path))
}

/** Those that ask a host. */
async function commands(): Promise<typeof import('./commands.ts')> {
  return await import('./commands.ts')
}

function withHeaders(of: Command): Command {
  return of.option('-H, --header <line>', "a header for the origin, 'Name: value'; may be repeated", collectHeader, [])
}

function withJson(of: Command): Command {
  return of.option('--json', 'print JSON')
}

withJson(command('serve', 'run a host in the foreground'))
  .addOption(option('--max-size <size>', 'budget of the cache directory', size).default(HOST_DEFAULTS.maxSizeBytes, '20G'))
  .addOption(option('--reserve <size>', 'free disk that is left alone', size).default(HOST_DEFAULTS.reserveFreeBytes, '1G'))
  .addOption(option('--port <number>', 'port of the proxy on 127.0.0.1 (default: the last one, else any)', integer(0, 65535)))
  .addOption(option('--idle-exit <seconds>', 'leave when nobody was connected for so long', number(0.1, 1e7)))
  .addOption(option('--wait <seconds>', 'hold a proxy request so long for its first byte', number(0.1, 3600)).default(30))
  .addOption(option('--body-wait <seconds>', 'hold it so long for the next byte once it is being answered', number(0.1, 3600)).default(120))
  .addOption(option('--window <size>', 'fetch so much ahead of a reader', size).default(HOST_DEFAULTS.maxWindowBytes, '64M'))
  .addOption(option('--connections <number>', 'connections to one origin', integer(1, 64)).default(HOST_DEFAULTS.connectionsPerOrigin))
  .addOption(option('--stall <seconds>', 'replace a fetch that brought no byte for so long', number(0.1, 600)).default(3))
  .addOption(option('--first-byte <seconds>', 'the same before its first byte', number(0.1, 600)).default(10))
  .addOption(option('--revalidate <seconds>', 'play from the cache when the origin does not answer for so long', number(0.1, 600)).default(5))
  .addOption(option('--checked-share <share>', 'share of reads compared with their checksum, 0 to 1', number(0, 1)).default(HOST_DEFAULTS.checkedShare, '1/64'))
  .addOption(option('--sync', 'flush data to the disk before each commit'))
  .addOption(option('--fill', 'fetch the whole of what a player has open, beside what it reads'))
  .addOption(option('--renew-command <command>', 'a program that reads an expired URL and prints a fresh one'))
  .addOption(option('--ignore-parameter <name>', 'a query parameter that does not choose the file; may be repeated', collectNames))
  .addOption(option('--share-credentials', 'one cached file for requests that differ in their credentials alone'))
  .addOption(option('--no-rehearsal', 'do not play a small film in private before the first player comes'))
  .addOption(option('--log-level <level>', 'log level').choices(['error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'))
  .addOption(new Option('--background', 'as clients start it: log to a file, leave when idle').hideHelp())
  .addOption(new Option('--ready-fd <fd>', 'tell that descriptor when ready').hideHelp().argParser(integer(0, 1023)))
  .action(perform(async (flags: ServeFlags) => (await import('./serve.ts')).serve(flags)))

withHeaders(command('url <url>', 'print the proxy URL for any HTTP player')).action(performOn(async (url, flags) => (await commands()).printUrl(url, flags)))
withHeaders(command('play <url>', 'play in mpv or GStreamer'))
  .addOption(new Option('--with <player>', 'which player').choices(['mpv', 'gst']))
  .option('--fill', 'fetch the whole file meanwhile')
  .action(performOn(async (url, flags) => (await import('./play.ts')).play(url, flags)))
withJson(withHeaders(command('fetch <url>', 'fetch a whole file into the cache'))).action(performOn(async (url, flags) => (await commands()).fetch(url, flags)))
withJson(withHeaders(command('map <url>', 'show what of a file is cached'))).action(performOn(async (url, flags) => (await commands()).map(url, flags)))
withHeaders(withJson(command('evict [url]', 'remove a file from the cache')))
  .option('--all', 'remove everything')
  .action((url: string | undefined, flags: ClientFlags & { all?: boolean }) => perform(async (f: typeof flags) => (await commands()).evict(url, f))(flags))
withJson(command('ls', 'list what is cached')).action(perform(async (flags) => (await commands()).list(flags)))
withJson(command('status', 'show the state of the host')).action(perform(async (flags) => (await commands()).status(flags)))
withJson(command('verify', 'check all that is cached, with no host running; exits with 7 where damage is found, with 8 while a host runs'))
  .option('--repair', 'forget what is damaged, so that it is fetched again, and remove left-over files')
  .action(perform(async (flags) => (await import('./verify.ts')).verify(flags)))
command('stop', 'end the host').action(perform(async (flags) => (await commands()).stop(flags)))
command('run <command...>', 'run a program in which GStreamer and mpv play through seekcache')
  .passThroughOptions()
  .action((words: string[], flags: ClientFlags) => perform(async (f: ClientFlags) => (await import('./play.ts')).run(words, f))(flags))
command('demo', 'make a film, serve it over a slow link, play and seek it').action(perform(async () => (await import('./demo.ts')).demo()))

function option(flags: string, description: string, parse?: (text: string, before: unknown) => unknown): Option {
  const long = /--([\w-]+)/.exec(flags)![1]!
  const made = new Option(flags, description).env(`SEEKCACHE_${long.toUpperCase().replaceAll('-', '_')}`)
  return parse === undefined ? made : made.argParser(parse)
}

function path(text: string): string {
  return resolve(text)
}

function size(text: string): number {
  try {
    return parseSize(text)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

function number(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text)
    if (text.trim() === '' || !(value >= min && value <= max)) throw new InvalidArgumentError(`a number from ${min} to ${max} is wanted`)
    return value
  }
}

function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = number(min, max)(text)
    if (!Number.isInteger(value)) throw new InvalidArgumentError('a whole number is wanted')
    return value
  }
}

/** The environment has one value for all of them. */
function collectNames(text: string, before: unknown): string[] {
  return [...((before as string[] | undefined) ?? []), ...text.split(',').map((name) => name.trim()).filter((name) => name !== '')]
}

function collectHeader(line: string, collected: Header[]): Header[] {
  const header = parseHeaderLine(line)
  if (header === undefined) throw new InvalidArgumentError("a header looks like 'Name: value'")
  return [...collected, header]
}

function withSocket<T extends { readonly cacheDir: string; readonly socket?: string }>(flags: T): T & { readonly socket: string } {
  return { ...flags, socket: flags.socket ?? socketPathOf(flags.cacheDir, {}) }
}

function perform<F extends ClientFlags>(action: (flags: F) => Promise<number | void>): (flags: F) => Promise<void> {
  return async (flags) => {
    process.exitCode = (await action(withSocket(flags))) ?? EXIT.ok
  }
}

function performOn<F extends ClientFlags>(action: (url: string, flags: F) => Promise<number | void>): (url: string, flags: F) => Promise<void> {
  return async (url, flags) => await perform((f: F) => action(url, f))(flags)
}

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage
  } else {
    process.stderr.write(`seekcache: ${error instanceof SeekCacheError ? error.message : ((error as Error).stack ?? String(error))}\n`)
    process.exitCode = exitCodeOf(error)
  }
}
