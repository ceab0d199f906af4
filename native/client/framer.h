// Cuts what a host sends into messages: lines, and the raw bytes behind a `data`.
//
// Pure: bytes in, replies out; no I/O. Threading: one thread at a time. However the bytes are split, the same replies come
// out. What it keeps is bounded: a line of over 1 MiB is an error, and so is one that is no message.

#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "protocol.h"
#include "result.h"

namespace seekcache {

struct Reply {
  protocol::Answer answer;
  // The raw bytes of a `data`, else empty.
  std::string raw;
};

class Framer {
 public:
  void push(std::string_view bytes) { bytes_ += bytes; }

  // The next whole message with its raw bytes, if all of it has arrived. After an error the stream makes no more sense.
  Result<std::optional<Reply>> next();

 private:
  Result<bool> takeLine();

  std::string bytes_;
  // The message whose raw bytes have not all arrived.
  std::optional<protocol::Answer> awaiting_;
  // Bytes that are known to hold no newline, so that a long line is searched once.
  std::size_t searched_ = 0;
};

}  // namespace seekcache
