#include "host-link.h"

#include <algorithm>

#include "host-launch.h"

namespace seekcache {

namespace {

// A host that dies on every attempt is not started for ever.
constexpr int kMaxAttempts = 5;
constexpr auto kFirstPause = std::chrono::milliseconds(20);

int64_t remainingMs(const Wait &wait) {
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(wait.deadline - kAnswerGrace - Clock::now());
  return std::clamp<int64_t>(left.count(), 1, protocol::kMaxDeadlineMs);
}

}  // namespace

Status HostLink::open(Wait &wait) { return retry(wait); }

Result<Reply> HostLink::locate(const Question &question, Wait &wait) {
  for (int attempt = 1;; attempt++) {
    if (connection_ == nullptr || connection_->isLost()) {
      if (!opened_.sizeBytes && question.start > 0) {
        return makeError(code::kHostUnavailable, "the seekcache host has gone, and this stream cannot be taken up again");
      }
      Status again = retry(wait);
      if (!again) return std::move(again.error());
    }
    int64_t id = connection_->nextId();
    protocol::Locate fields{session_, question.reader, question.start, question.lengthBytes, remainingMs(wait),
                            question.unreadablePath, question.wantsData};
    Result<Reply> reply = connection_->request(id, protocol::locate(id, fields), wait);
    if (reply) return reply;
    // A host that has started anew behind the same socket does not know the session.
    bool isForgotten = reply.error().is(code::kNotFound);
    if (isForgotten) connection_.reset();
    bool isGone = isForgotten || (connection_->isLost() && reply.error().is(code::kHostUnavailable));
    if (!isGone || attempt == kMaxAttempts) return reply;
  }
}

void HostLink::tellPosition(int64_t reader, int64_t position) {
  if (connection_ != nullptr) connection_->note(protocol::position(session_, reader, position));
}

void HostLink::releaseReader(int64_t reader) {
  if (connection_ != nullptr) connection_->note(protocol::release(session_, reader));
}

// Opens, again and again while a host is on its way out or in.
Status HostLink::retry(Wait &wait) {
  auto pause = kFirstPause;
  for (int attempt = 1;; attempt++) {
    bool isWorthRetry = false;
    Status opened = openOnce(wait, &isWorthRetry);
    if (opened || !isWorthRetry || attempt == kMaxAttempts) return opened;
    Wait between{std::min(wait.deadline, Clock::now() + pause), wait.cancel, TimePoint::max(), nullptr};
    if (pollFor(-1, 0, between) == Polled::cancelled) return makeError(code::kCancelled, "opening was cancelled");
    pause *= 2;
  }
}

Status HostLink::openOnce(Wait &wait, bool *isWorthRetry) {
  if (wasOpened_) reconnects_++;
  Status reached = reach(wait, isWorthRetry);
  if (!reached) return reached;
  int64_t id = connection_->nextId();
  Result<Reply> reply =
      connection_->request(id, protocol::open(id, resource_.url, resource_.headers, remainingMs(wait), resource_.pulls), wait);
  if (!reply) {
    *isWorthRetry = connection_->isLost() && reply.error().is(code::kHostUnavailable);
    connection_.reset();
    return std::move(reply.error());
  }
  auto *opened = std::get_if<protocol::Opened>(&reply->answer.body);
  Status same = opened == nullptr ? makeError(code::kProtocol, "the host answered open with something else")
                                  : checkSame(*opened);
  if (!same) {
    connection_.reset();
    return same;
  }
  session_ = opened->session;
  if (!wasOpened_) opened_ = std::move(*opened);
  wasOpened_ = true;
  return Done{};
}

// Connects, and starts a host if nobody listens.
Status HostLink::reach(Wait &wait, bool *isWorthRetry) {
  connection_.reset();
  bool nobodyListens = false;
  auto connected = Connection::connect(place_.socketPath, client_, wait, &nobodyListens);
  if (!connected && nobodyListens && mayStartHost_) {
    Result<std::string> socket = launchHost(place_, wait);
    if (!socket) {
      // The lock is still a leaving host's.
      *isWorthRetry = socket.error().is("ERR_SEEKCACHE_CACHE_LOCKED");
      return std::move(socket.error());
    }
    connected = Connection::connect(*socket, client_, wait, &nobodyListens);
  }
  if (!connected) {
    // It was there and went away, or has not come back yet.
    *isWorthRetry = mayStartHost_ && connected.error().is(code::kHostUnavailable);
    return std::move(connected.error());
  }
  connection_ = std::move(connected.value());
  return Done{};
}

Status HostLink::checkSame(const protocol::Opened &again) const {
  if (!wasOpened_) return Done{};
  if (again.generation == opened_.generation && again.sizeBytes == opened_.sizeBytes) return Done{};
  return makeError(code::kOriginChanged, "the origin has another version of this file now; open it anew");
}

}  // namespace seekcache
