#include "cache-reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace seekcache {

namespace {

// The host repairs or replaces a file that could not be read. When that does not help, it is this process that cannot, as in
// a sandbox or under another user: then the bytes come over the socket.
constexpr int kMaxUnreadable = 3;
constexpr auto kPresentDeadline = std::chrono::milliseconds(200);

Error protocolError(const char *what) { return makeError(code::kProtocol, what); }

}  // namespace

Result<std::unique_ptr<CacheReader>> CacheReader::open(std::string url, Headers headers, ReaderOptions options) {
  Resource resource{std::move(url), std::move(headers), options.pulls};
  std::unique_ptr<CacheReader> reader(new CacheReader(std::move(resource), std::move(options)));
  Wait wait = reader->readWait();
  wait.notice = nullptr;
  Status opened = reader->link_.open(wait);
  if (!opened) return std::move(opened.error());
  const protocol::Opened &facts = reader->link_.opened();
  reader->sizeBytes_ = facts.sizeBytes.value_or(-1);
  reader->isSeekable_ = facts.isSeekable && facts.sizeBytes.has_value();
  reader->contentType_ = facts.contentType;
  return reader;
}

CacheReader::CacheReader(Resource resource, ReaderOptions options)
    : resource_(std::move(resource)),
      options_(std::move(options)),
      place_(hostPlace(options_.cacheDir, options_.socketPath)),
      cancel_(options_.cancelSignal ? options_.cancelSignal : std::make_shared<CancelSignal>()),
      link_(resource_, place_, options_.client, options_.mayStartHost) {}

Result<std::size_t> CacheReader::read(int64_t offset, void *buffer, std::size_t length) {
  std::lock_guard lock(readMutex_);
  reads_.fetch_add(1, std::memory_order_relaxed);
  if (offset < 0 || offset > protocol::kMaxPosition) return refuseOffset(offset);
  if (sizeBytes_ < 0) {
    if (offset != nextOffset_) return refuseOffset(offset);
    length = std::min(length, protocol::kMaxDataBytes);
  } else if (offset >= sizeBytes_) {
    length = 0;
  } else {
    length = static_cast<std::size_t>(std::min<int64_t>(sizeBytes_ - offset, static_cast<int64_t>(
        std::min<std::size_t>(length, protocol::kMaxPosition))));
  }
  chooseReader(offset);
  Result<std::size_t> filled = fill(offset, static_cast<char *>(buffer), length);
  if (!filled) return filled;
  nextOffset_ = offset + static_cast<int64_t>(*filled);
  bytesRead_.fetch_add(static_cast<int64_t>(*filled), std::memory_order_relaxed);
  runs_.advance(nextOffset_);
  if (runs_.takeNews(Clock::now())) link_.tellPosition(reader_, nextOffset_);
  return filled;
}

Result<std::size_t> CacheReader::fill(int64_t offset, char *buffer, std::size_t length) {
  Wait wait = readWait();
  std::size_t done = 0;
  int unreadable = 0;
  bool hasWaited = false;
  while (done < length && !isEnded_) {
    if (cancel_->isSet()) return makeError(code::kCancelled, "the read was cancelled");
    int64_t position = offset + static_cast<int64_t>(done);
    std::size_t copied = copyKept(position, buffer + done, length - done);
    Located::Copied fromFile;
    if (copied == 0 && !wantsData_) fromFile = located_.copy(position, buffer + done, length - done);
    copied += fromFile.lengthBytes;
    done += copied;
    // A stream of unknown size is passed on as it comes.
    if (copied > 0 && sizeBytes_ < 0) break;
    if (copied > 0) {
      unreadable = 0;
      continue;
    }
    bool isRefused = fromFile.cause == EACCES || fromFile.cause == EPERM;
    if (!fromFile.unreadablePath.empty() && (isRefused || ++unreadable > kMaxUnreadable)) wantsData_ = true;
    if (!std::exchange(hasWaited, true)) waits_.fetch_add(1, std::memory_order_relaxed);
    std::string unreadablePath = wantsData_ ? std::string() : fromFile.unreadablePath;
    Status asked = ask({reader_, position, static_cast<int64_t>(length - done), unreadablePath, wantsData_}, wait);
    if (!asked) return std::move(asked.error());
  }
  return done;
}

Status CacheReader::ask(const HostLink::Question &question, Wait &wait) {
  TimePoint start = Clock::now();
  Result<Reply> reply = link_.locate(question, wait);
  auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
  waitedMs_.fetch_add(took.count(), std::memory_order_relaxed);
  reconnects_.store(link_.reconnects(), std::memory_order_relaxed);
  if (!reply) return std::move(reply.error());
  runs_.told(question.start);
  return learn(std::move(*reply), question.start);
}

Status CacheReader::learn(Reply reply, int64_t position) {
  if (auto *extents = std::get_if<protocol::Extents>(&reply.answer.body)) {
    if (wantsData_) return makeError(code::kCacheUnreadable, "the cached file cannot be read, and the host sends no data");
    const ByteRange &asked = extents->run.front().range;
    if (position < asked.start || position >= asked.end) {
      return protocolError("the host answered with a range that the byte asked for is not in");
    }
    if (sizeBytes_ < 0 || extents->run.back().range.end > sizeBytes_) return protocolError("the host's range is past the end");
    for (const protocol::Extent &extent : extents->run) {
      if (!mayHold(place_, extent.path)) return protocolError("the host named a file that is no extent of its cache");
    }
    located_.learn(std::move(extents->run));
    return Done{};
  }
  if (auto *data = std::get_if<protocol::Data>(&reply.answer.body)) {
    int64_t end = data->start + static_cast<int64_t>(data->lengthBytes);
    if (position < data->start || position >= end || (sizeBytes_ >= 0 && end > sizeBytes_)) {
      return protocolError("the host answered with other bytes than those asked for");
    }
    kept_ = std::move(reply.raw);
    keptStart_ = data->start;
    return Done{};
  }
  if (std::holds_alternative<protocol::End>(reply.answer.body) && sizeBytes_ < 0) {
    isEnded_ = true;
    return Done{};
  }
  return protocolError("the host answered locate with something else");
}

std::size_t CacheReader::copyKept(int64_t offset, char *buffer, std::size_t length) {
  int64_t into = offset - keptStart_;
  if (into < 0 || into >= static_cast<int64_t>(kept_.size())) return 0;
  std::size_t copied = std::min(length, kept_.size() - static_cast<std::size_t>(into));
  std::memcpy(buffer, kept_.data() + into, copied);
  return copied;
}

void CacheReader::chooseReader(int64_t offset) {
  int64_t cancels = cancel_->count();
  if (std::exchange(seenCancels_, cancels) != cancels) runs_.forget();
  Runs::Choice choice = runs_.choose(offset);
  reader_ = choice.reader;
  for (int64_t released : choice.released) link_.releaseReader(released);
}

Wait CacheReader::readWait() {
  TimePoint now = Clock::now();
  return Wait{now + options_.timeout + kAnswerGrace, cancel_.get(), now + options_.slowReadAfter, options_.onSlowRead};
}

Result<std::size_t> CacheReader::refuseOffset(int64_t offset) const {
  if (offset < 0 || offset > protocol::kMaxPosition) return makeError(code::kUsage, "no such position");
  return makeError(code::kUsage, "this stream is of unknown size and can only be read in order");
}

std::optional<std::vector<ByteRange>> CacheReader::present() {
  if (sizeBytes_ < 0) return std::nullopt;
  std::lock_guard lock(mapMutex_);
  Wait wait{Clock::now() + kPresentDeadline, nullptr, TimePoint::max(), nullptr};
  if (mapConnection_ == nullptr || mapConnection_->isLost()) {
    mapConnection_.reset();
    bool nobodyListens;
    auto connected = Connection::connect(place_.socketPath, options_.client, wait, &nobodyListens);
    if (!connected) return std::nullopt;
    mapConnection_ = std::move(connected.value());
  }
  int64_t id = mapConnection_->nextId();
  Result<Reply> reply = mapConnection_->request(id, protocol::map(id, resource_.url, resource_.headers), wait);
  if (!reply) return std::nullopt;
  auto *map = std::get_if<protocol::Map>(&reply->answer.body);
  if (map == nullptr) return std::nullopt;
  return std::move(map->present);
}

ReaderStats CacheReader::stats() const {
  return {bytesRead_.load(std::memory_order_relaxed), reads_.load(std::memory_order_relaxed),
          waits_.load(std::memory_order_relaxed), waitedMs_.load(std::memory_order_relaxed),
          reconnects_.load(std::memory_order_relaxed)};
}

}  // namespace seekcache
