// Which of a session's readers asks for a byte: a player may read in several places in turn, as a demuxer does in a file
// whose pictures and sound lie far apart, and one reader that jumps to and fro would be a seek to the host each time.
//
// Pure: offsets in, reader numbers out. A jump to a new place is a seek: the reader goes along, and the others are released.
// Only who comes back to where it left off gets a reader beside the others, so that a seek leaves no demand behind.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "wait.h"

namespace seekcache {

class Runs {
 public:
  struct Choice {
    int64_t reader;
    // Readers whose demand is over.
    std::vector<int64_t> released;
  };
  // The reader for a read at `offset`, nearest behind it.
  Choice choose(int64_t offset);

  // The chosen reader has read up to `end`.
  void advance(int64_t end);

  // The player has flushed: it will not come back to where it was.
  void forget();

  // Whether the host should hear where the chosen reader is now; true once for each place.
  bool takeNews(TimePoint now);
  // The host knows that the chosen reader is at `position`.
  void told(int64_t position) { runs_.front().told = position; }
  int64_t position() const { return runs_.front().position; }

 private:
  struct Run {
    // 0: a place that was left, which has no reader.
    int64_t reader;
    // The next byte.
    int64_t position;
    int64_t told;
    // What had been read in all when this run was last read.
    int64_t readAt;
  };

  std::size_t find(int64_t offset) const;
  void goOn(std::size_t index, std::vector<int64_t> &released);
  void release(Run &run, std::vector<int64_t> &released);
  int64_t freeReader() const;

  // The latest first; never empty after choose().
  std::vector<Run> runs_;
  std::vector<int64_t> forgotten_;
  TimePoint newsAt_{};
  int64_t readBytes_ = 0;
};

}  // namespace seekcache
