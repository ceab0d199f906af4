// The control protocol's messages (docs/PROTOCOL.md is the specification; src/control/protocol.ts is the host's half).
//
// Pure: strings in, values out; no I/O, no state, callable from any thread. Whatever a host sends, however hostile,
// parse() gives back checked values or nothing: positions are integers of 0 to 2^53 - 1, ranges have start < end, a
// `data` is at most 256 KiB. Build functions give whole lines with their newline.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "result.h"

namespace seekcache {

using Header = std::pair<std::string, std::string>;
using Headers = std::vector<Header>;

// Bytes [start, end) of a resource.
struct ByteRange {
  int64_t start;
  int64_t end;
  friend bool operator==(const ByteRange &, const ByteRange &) = default;
};

namespace protocol {

inline constexpr int kVersion = 1;
inline constexpr std::size_t kMaxClientLineBytes = 64 * 1024;
inline constexpr std::size_t kMaxHostLineBytes = 1024 * 1024;
inline constexpr std::size_t kMaxDataBytes = 256 * 1024;
inline constexpr int64_t kMaxPosition = (int64_t{1} << 53) - 1;
// The host's bound on a request's deadline.
inline constexpr int64_t kMaxDeadlineMs = 3'600'000;

struct Hello {
  int64_t protocol;
  std::string version;
};

struct Opened {
  std::string session;
  // None: the origin does not tell it, and the session is read from 0 on, once, in order.
  std::optional<int64_t> sizeBytes;
  bool isSeekable;
  std::string contentType;
  std::string generation;
};

// The resource's bytes of `range` stand in the file from `fileOffset` on.
struct Extent {
  std::string path;
  int64_t fileOffset;
  ByteRange range;
};

// At least one, in order, without a gap: the one asked for, and what follows it.
struct Extents {
  std::vector<Extent> run;
};

// `lengthBytes` raw bytes follow the line.
struct Data {
  int64_t start;
  std::size_t lengthBytes;
};

struct End {};

struct Map {
  std::vector<ByteRange> present;
};

// An answer that the client never asks for. It is passed over.
struct Other {};

struct Answer {
  // 0: it belongs to the connection, not to a request.
  int64_t id = 0;
  std::variant<Hello, Opened, Extents, Data, End, Map, Error, Other> body;
};

// One line, without its newline. Nothing if it is not a message of this protocol.
std::optional<Answer> parse(std::string_view line);

struct Ready {
  std::string socket;
};

// The one line that a host writes to the pipe of whoever started it: where it listens, or why it does not.
Result<Ready> parseReady(std::string_view line);

std::string hello(std::string_view client);
std::string open(int64_t id, std::string_view url, const Headers &headers, int64_t deadlineMs, bool pulls = false);

struct Locate {
  std::string_view session;
  int64_t reader;
  int64_t start;
  int64_t lengthBytes;
  int64_t deadlineMs;
  // Empty: nothing was unreadable.
  std::string_view unreadablePath;
  // Set by a client that cannot read the cache's files at all.
  bool wantsData = false;
};
std::string locate(int64_t id, const Locate &fields);

std::string map(int64_t id, std::string_view url, const Headers &headers);
std::string position(std::string_view session, int64_t reader, int64_t position);
std::string release(std::string_view session, int64_t reader);
std::string cancel(int64_t request);

}  // namespace protocol
}  // namespace seekcache
