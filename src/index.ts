/** The public API. */

export { connect, type Cache, type ConnectOptions, type HeadersInput, type OpenOptions } from './client/cache.ts'
export type { FetchAllOptions, ReadOptions, RemoteMedia } from './client/remote-media.ts'
export type { Header, ListEntry, Status } from './control/protocol.ts'
export { SeekCacheError, type ErrorCode } from './errors.ts'
