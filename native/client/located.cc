#include "located.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace seekcache {

namespace {

// Whether both say the same about where the file's bytes belong, and leave no gap between them.
bool continues(const protocol::Extent &known, const protocol::Extent &news) {
  return known.path == news.path && known.range.start - known.fileOffset == news.range.start - news.fileOffset &&
         known.range.start <= news.range.end && news.range.start <= known.range.end;
}

}  // namespace

Located::~Located() {
  for (const File &file : files_) close(file.fd);
}

void Located::learn(std::vector<protocol::Extent> run) {
  // The one asked for last: it is the last to be dropped for room.
  for (auto extent = run.rbegin(); extent != run.rend(); ++extent) learnOne(std::move(*extent));
}

// An answer about a range that is still filling is followed by another that goes on where it ended: they become one, so
// that a long read does not push everything else out.
void Located::learnOne(protocol::Extent extent) {
  auto known = std::find_if(extents_.begin(), extents_.end(), [&](const auto &one) { return continues(one, extent); });
  if (known != extents_.end()) {
    if (known->range.start < extent.range.start) {
      extent.fileOffset = known->fileOffset;
      extent.range.start = known->range.start;
    }
    extent.range.end = std::max(extent.range.end, known->range.end);
    extents_.erase(known);
  }
  extents_.insert(extents_.begin(), std::move(extent));
  if (extents_.size() > kMaxExtents) extents_.pop_back();
}

Located::Copied Located::copy(int64_t offset, char *buffer, std::size_t length) {
  protocol::Extent *extent = find(offset);
  if (extent == nullptr) return {};
  Copied copied;
  int fd = open(extent->path, &copied.cause);
  auto wanted = static_cast<std::size_t>(std::min<int64_t>(static_cast<int64_t>(length), extent->range.end - offset));
  int64_t fileOffset = extent->fileOffset + (offset - extent->range.start);
  while (fd >= 0 && copied.lengthBytes < wanted) {
    ssize_t got = pread(fd, buffer + copied.lengthBytes, wanted - copied.lengthBytes,
                        static_cast<off_t>(fileOffset + static_cast<int64_t>(copied.lengthBytes)));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      copied.cause = got < 0 ? errno : ENODATA;
      break;
    }
    copied.lengthBytes += static_cast<std::size_t>(got);
  }
  if (copied.lengthBytes < wanted) {
    copied.unreadablePath = extent->path;
    forget(copied.unreadablePath);
  }
  return copied;
}

protocol::Extent *Located::find(int64_t offset) {
  auto found = std::find_if(extents_.begin(), extents_.end(), [&](const auto &one) {
    return one.range.start <= offset && offset < one.range.end;
  });
  if (found == extents_.end()) return nullptr;
  std::rotate(extents_.begin(), found, found + 1);
  return &extents_.front();
}

int Located::open(const std::string &path, int *cause) {
  auto found = std::find_if(files_.begin(), files_.end(), [&](const File &file) { return file.path == path; });
  if (found != files_.end()) {
    std::rotate(files_.begin(), found, found + 1);
    return files_.front().fd;
  }
  // O_NONBLOCK: should the path be a FIFO, open must not wait for a writer.
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  struct stat facts {};
  if (fd >= 0 && (fstat(fd, &facts) != 0 || !S_ISREG(facts.st_mode))) {
    close(fd);
    fd = -1;
    errno = EINVAL;
  }
  if (fd < 0) {
    *cause = errno;
    return -1;
  }
  files_.insert(files_.begin(), File{path, fd});
  if (files_.size() > kMaxFiles) {
    close(files_.back().fd);
    files_.pop_back();
  }
  return fd;
}

void Located::forget(const std::string &path) {
  std::string forgotten = path;
  std::erase_if(extents_, [&](const auto &extent) { return extent.path == forgotten; });
  std::erase_if(files_, [&](const File &file) {
    if (file.path != forgotten) return false;
    close(file.fd);
    return true;
  });
}

}  // namespace seekcache
