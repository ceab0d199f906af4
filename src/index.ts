/** The public API. */

export {
  connect,
  type Cache,
  type ConnectOptions,
  type FreshUrl,
  type HeadersInput,
  type OpenOptions,
  type RenewInfo,
} from './client/cache.ts'
export type { FetchAllOptions, ReadOptions, RemoteMedia } from './client/remote-media.ts'
export type { Header, ListEntry, Status } from './control/protocol.ts'
export { SeekCacheError, type ErrorCode } from './errors.ts'
