#include "runs.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

namespace seekcache {

namespace {

// The host's first window, about: what is nearer than this to a reader is fetched for it anyway.
constexpr int64_t kNearBytes = 1024 * 1024;
// Pictures, sound, subtitles, and one more.
constexpr std::size_t kMaxRuns = 4;
// A run is over that was not read while so much was read elsewhere.
constexpr int64_t kIdleBytes = 32 * 1024 * 1024;
// The host reads ahead of where it believes a reader to be; it is told each time that this has moved so far,
constexpr int64_t kNewsBytes = 1024 * 1024;
// but not more often than this while it moves at the speed of memory: telling took 1 to 9 ms of 130, every 2 ms.
constexpr auto kNewsInterval = std::chrono::milliseconds(10);
constexpr int64_t kMaxUntoldBytes = 64 * kNewsBytes;
constexpr int64_t kNeverTold = std::numeric_limits<int64_t>::min();

}  // namespace

Runs::Choice Runs::choose(int64_t offset) {
  std::vector<int64_t> released = std::exchange(forgotten_, {});
  std::size_t index = find(offset);
  if (index < runs_.size()) {
    goOn(index, released);
  } else {
    int64_t reader = runs_.empty() ? 1 : std::exchange(runs_.front().reader, 0);
    for (Run &run : runs_) release(run, released);
    runs_.insert(runs_.begin(), Run{reader, offset, kNeverTold, readBytes_});
    if (runs_.size() > kMaxRuns) runs_.pop_back();
  }
  for (Run &run : runs_) {
    if (readBytes_ - run.readAt > kIdleBytes) release(run, released);
  }
  return {runs_.front().reader, std::move(released)};
}

// The nearest one behind the offset, else the nearest one before it: demuxers step back a little now and then.
std::size_t Runs::find(int64_t offset) const {
  std::size_t best = runs_.size();
  int64_t bestDistance = kNearBytes;
  for (bool isBehind : {true, false}) {
    for (std::size_t i = 0; i < runs_.size(); i++) {
      int64_t distance = isBehind ? offset - runs_[i].position : runs_[i].position - offset;
      if (distance < 0 || distance >= bestDistance) continue;
      best = i;
      bestDistance = distance;
    }
    if (best < runs_.size()) return best;
  }
  return best;
}

void Runs::goOn(std::size_t index, std::vector<int64_t> &released) {
  std::rotate(runs_.begin(), runs_.begin() + static_cast<std::ptrdiff_t>(index), runs_.begin() + static_cast<std::ptrdiff_t>(index) + 1);
  Run &run = runs_.front();
  run.readAt = readBytes_;
  if (run.reader != 0) return;
  run.reader = freeReader();
  run.told = kNeverTold;
  // A number that was released and is taken again need not be given up in between.
  std::erase(released, run.reader);
}

void Runs::advance(int64_t end) {
  Run &run = runs_.front();
  readBytes_ += std::max<int64_t>(0, end - run.position);
  run.position = end;
  run.readAt = readBytes_;
}

void Runs::forget() {
  if (runs_.empty()) return;
  for (std::size_t i = 1; i < runs_.size(); i++) release(runs_[i], forgotten_);
  runs_.resize(1);
}

bool Runs::takeNews(TimePoint now) {
  Run &run = runs_.front();
  if (run.told != kNeverTold) {
    int64_t untold = std::abs(run.position - run.told);
    if (untold < kNewsBytes || (untold < kMaxUntoldBytes && now - newsAt_ < kNewsInterval)) return false;
  }
  newsAt_ = now;
  run.told = run.position;
  return true;
}

void Runs::release(Run &run, std::vector<int64_t> &released) {
  if (run.reader != 0) released.push_back(std::exchange(run.reader, 0));
}

int64_t Runs::freeReader() const {
  int64_t reader = 1;
  while (std::any_of(runs_.begin(), runs_.end(), [&](const Run &run) { return run.reader == reader; })) reader++;
  return reader;
}

}  // namespace seekcache
