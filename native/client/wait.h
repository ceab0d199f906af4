// How a wait of the client ends early: a cancel from another thread, or a deadline.
//
// Threading: a CancelSignal may be set, cleared and asked from any thread. `set` is sticky: a wait that begins after it
// ends at once, until `clear`. It takes only the signal's own mutex, which nobody holds while waiting, so it returns in
// microseconds whatever the reader is doing. Ownership: it owns its pipe. Blocking: nothing here blocks but pollFor.

#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>

namespace seekcache {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

// A flag with a file descriptor that is readable while it is set (a pipe: macOS has no eventfd).
class CancelSignal {
 public:
  CancelSignal();
  ~CancelSignal();
  CancelSignal(const CancelSignal &) = delete;
  CancelSignal &operator=(const CancelSignal &) = delete;

  void set();
  void clear();
  bool isSet() const { return isSet_.load(std::memory_order_acquire); }
  // How often it was set.
  int64_t count() const { return count_.load(std::memory_order_acquire); }
  // -1 if no pipe could be made: then a cancel is noticed at the end of a poll of at most 20 ms.
  int fd() const { return readFd_; }

 private:
  std::atomic<bool> isSet_{false};
  std::atomic<int64_t> count_{0};
  std::mutex mutex_;
  int readFd_ = -1;
  int writeFd_ = -1;
};

// The terms of one blocking call. `notice` is called once, in the waiting thread, if the wait is still on at `noticeAt`.
struct Wait {
  TimePoint deadline;
  const CancelSignal *cancel = nullptr;
  TimePoint noticeAt = TimePoint::max();
  std::function<void()> notice;
};

enum class Polled { ready, cancelled, timedOut };

// Waits until `fd` has one of `events` (poll's; a hang-up counts), the cancel or the deadline. With fd -1 it is a pause
// that can be cancelled.
Polled pollFor(int fd, short events, Wait &wait);

}  // namespace seekcache
