// What a reader knows about where bytes are: the host's answers, and the extent files open to read them.
//
// Threading: one thread at a time. Ownership: it owns at most kMaxFiles descriptors. Blocking: only in pread of a local
// file. What the host once said stays true (docs/PROTOCOL.md, locate), so nothing here is dropped but for room or because
// a file cannot be read.

#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "protocol.h"

namespace seekcache {

class Located {
 public:
  Located() = default;
  ~Located();
  Located(const Located &) = delete;
  Located &operator=(const Located &) = delete;

  // What the host has said: the extent asked for, and what follows it.
  void learn(std::vector<protocol::Extent> run);

  struct Copied {
    // 0: the bytes at `offset` are not known, or not readable.
    std::size_t lengthBytes = 0;
    // The file that should have held them but could not be read; it is forgotten.
    std::string unreadablePath;
    int cause = 0;
  };
  // Copies what one extent holds of [offset, offset + length).
  Copied copy(int64_t offset, char *buffer, std::size_t length);

 private:
  // An extent is 16 MiB, so this spans a GiB of positions that cost no question: two answers of a host that tells of 32.
  static constexpr std::size_t kMaxExtents = 64;
  // Two streams far apart in a badly interleaved file, each across an extent's border.
  static constexpr std::size_t kMaxFiles = 4;

  struct File {
    std::string path;
    int fd;
  };

  void learnOne(protocol::Extent extent);
  protocol::Extent *find(int64_t offset);
  int open(const std::string &path, int *cause);
  void forget(const std::string &path);

  // Both in order of use, the latest first.
  std::vector<protocol::Extent> extents_;
  std::vector<File> files_;
};

}  // namespace seekcache
