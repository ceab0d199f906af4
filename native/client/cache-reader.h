// Reads a remote resource as if it were a local file: the one thing of the client that players use.
//
// Threading: read() may be called from any thread, one at a time gets in. cancel(), resume(), present(), sizeBytes() and
// stats() may be called from any thread at any time, also while a read waits; none of them takes a lock that a read
// holds. Ownership: the reader owns its connections and descriptors; destroy it when no call is under way. Blocking:
// open() and read() wait for the host and the origin, at most `timeout`; present() at most 200 ms. Cancel: cancel() is
// sticky; a waiting read returns within milliseconds with ERR_SEEKCACHE_CANCELLED, and so does every read until resume().
//
// A read returns exactly the bytes asked for, fewer only at the resource's end. The host may die at any time: the reader
// starts another and goes on at the same byte, or fails with ERR_SEEKCACHE_ORIGIN_CHANGED if the bytes are no longer the
// same version. A resource of unknown size is read in order, once, and a read of it returns what there is.

#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "host-link.h"
#include "located.h"
#include "protocol.h"
#include "result.h"
#include "runs.h"
#include "wait.h"

namespace seekcache {

struct ReaderOptions {
  // Empty: from the environment, see host-place.h.
  std::string cacheDir;
  std::string socketPath;
  // Tells the host who is there, name and version.
  std::string client = "native/" SEEKCACHE_VERSION;
  bool mayStartHost = true;
  // Whoever reads is a demuxer that pulls.
  bool pulls = false;
  // The longest that open() or one read() waits.
  std::chrono::milliseconds timeout{60'000};
  // Called at most once in a read, by the reading thread, when the read has taken this long and still waits.
  std::chrono::milliseconds slowReadAfter{200};
  std::function<void()> onSlowRead;
  // A signal that outlives this reader, for a caller that may cancel before there is a reader. None: the reader's own.
  std::shared_ptr<CancelSignal> cancelSignal;
};

struct ReaderStats {
  int64_t bytesRead;
  int64_t reads;
  // Reads of which at least one byte had to be asked for, and the time that their questions took.
  int64_t waits;
  int64_t waitedMs;
  int64_t reconnects;
};

class CacheReader {
 public:
  static Result<std::unique_ptr<CacheReader>> open(std::string url, Headers headers, ReaderOptions options);

  // -1 if the origin does not tell it.
  int64_t sizeBytes() const { return sizeBytes_; }
  bool isSeekable() const { return isSeekable_; }
  // Empty if not known.
  const std::string &contentType() const { return contentType_; }

  // Fills `buffer` with the bytes from `offset` on. 0 at or past the end.
  Result<std::size_t> read(int64_t offset, void *buffer, std::size_t length);

  void cancel() { cancel_->set(); }
  void resume() { cancel_->clear(); }

  // What of the resource is cached, in order; nothing if the host does not say so at once.
  std::optional<std::vector<ByteRange>> present();

  ReaderStats stats() const;

 private:
  CacheReader(Resource resource, ReaderOptions options);

  Result<std::size_t> fill(int64_t offset, char *buffer, std::size_t length);
  std::size_t copyKept(int64_t offset, char *buffer, std::size_t length);
  Status learn(Reply reply, int64_t position);
  Status ask(const HostLink::Question &question, Wait &wait);
  void chooseReader(int64_t offset);
  Wait readWait();
  Result<std::size_t> refuseOffset(int64_t offset) const;

  const Resource resource_;
  const ReaderOptions options_;
  const HostPlace place_;
  const std::shared_ptr<CancelSignal> cancel_;
  int64_t sizeBytes_ = -1;
  bool isSeekable_ = false;
  std::string contentType_;

  // Guards what follows, down to the statistics.
  std::mutex readMutex_;
  HostLink link_;
  Located located_;
  // Bytes that came in a `data` answer beyond what the read wanted.
  std::string kept_;
  int64_t keptStart_ = 0;
  Runs runs_;
  int64_t reader_ = 1;
  int64_t seenCancels_ = 0;
  // The cache's files are out of this process's reach: bytes are asked for instead.
  bool wantsData_ = false;
  // Only for a resource of unknown size.
  int64_t nextOffset_ = 0;
  bool isEnded_ = false;

  std::atomic<int64_t> bytesRead_{0};
  std::atomic<int64_t> reads_{0};
  std::atomic<int64_t> waits_{0};
  std::atomic<int64_t> waitedMs_{0};
  std::atomic<int64_t> reconnects_{0};

  // Guards the second connection, which a waiting read must not hold up.
  std::mutex mapMutex_;
  std::unique_ptr<Connection> mapConnection_;
};

}  // namespace seekcache
