#include "wait.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

namespace seekcache {

namespace {

// Without a pipe the flag is looked at this often.
constexpr int kBlindPollMs = 20;

int timeoutMs(TimePoint until, TimePoint now) {
  if (until == TimePoint::max()) return -1;
  if (until <= now) return 0;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now).count();
  return static_cast<int>(std::min<long long>(left, std::numeric_limits<int>::max()));
}

}  // namespace

CancelSignal::CancelSignal() {
  int fds[2];
  if (pipe(fds) != 0) return;
  for (int fd : fds) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
  }
  readFd_ = fds[0];
  writeFd_ = fds[1];
}

CancelSignal::~CancelSignal() {
  if (readFd_ >= 0) close(readFd_);
  if (writeFd_ >= 0) close(writeFd_);
}

// The mutex keeps flag and pipe in step: a byte that is written after a concurrent clear would make every later poll
// return at once.
void CancelSignal::set() {
  std::lock_guard lock(mutex_);
  if (isSet_.exchange(true)) return;
  count_.fetch_add(1, std::memory_order_acq_rel);
  if (writeFd_ < 0) return;
  while (write(writeFd_, "c", 1) < 0 && errno == EINTR) {
  }
}

void CancelSignal::clear() {
  std::lock_guard lock(mutex_);
  if (!isSet_.exchange(false) || readFd_ < 0) return;
  char drained;
  while (read(readFd_, &drained, 1) < 0 && errno == EINTR) {
  }
}

Polled pollFor(int fd, short events, Wait &wait) {
  for (;;) {
    if (wait.cancel != nullptr && wait.cancel->isSet()) return Polled::cancelled;
    TimePoint now = Clock::now();
    if (wait.notice && now >= wait.noticeAt) {
      std::exchange(wait.notice, nullptr)();
      continue;
    }
    int ms = timeoutMs(wait.notice ? std::min(wait.deadline, wait.noticeAt) : wait.deadline, now);
    int cancelFd = wait.cancel == nullptr ? -1 : wait.cancel->fd();
    if (wait.cancel != nullptr && cancelFd < 0) ms = ms < 0 ? kBlindPollMs : std::min(ms, kBlindPollMs);
    pollfd polled[2] = {{fd, events, 0}, {cancelFd, POLLIN, 0}};
    int count = poll(polled, 2, ms);
    if (count < 0 && errno != EINTR && errno != EAGAIN) return Polled::timedOut;
    if (count > 0 && polled[0].revents != 0) return Polled::ready;
    if (Clock::now() >= wait.deadline) return Polled::timedOut;
  }
}

}  // namespace seekcache
