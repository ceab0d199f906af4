// What a call of the client gives back: a value, or the error that stands in its place. The client is built without
// exceptions, so every failure is one of these; nothing here blocks, locks or allocates beyond its own strings.

#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace seekcache {

// The codes of docs/PROTOCOL.md that the client makes itself or tells apart. A host's other codes pass through as they are.
namespace code {
inline constexpr std::string_view kUsage = "ERR_SEEKCACHE_USAGE";
inline constexpr std::string_view kProtocol = "ERR_SEEKCACHE_PROTOCOL";
inline constexpr std::string_view kNotFound = "ERR_SEEKCACHE_NOT_FOUND";
inline constexpr std::string_view kCancelled = "ERR_SEEKCACHE_CANCELLED";
inline constexpr std::string_view kTimeout = "ERR_SEEKCACHE_TIMEOUT";
inline constexpr std::string_view kOriginUnreachable = "ERR_SEEKCACHE_ORIGIN_UNREACHABLE";
inline constexpr std::string_view kOriginStatus = "ERR_SEEKCACHE_ORIGIN_STATUS";
inline constexpr std::string_view kOriginChanged = "ERR_SEEKCACHE_ORIGIN_CHANGED";
inline constexpr std::string_view kHostUnavailable = "ERR_SEEKCACHE_HOST_UNAVAILABLE";
// The client's own: the host named a file that this process cannot read, time and again.
inline constexpr std::string_view kCacheUnreadable = "ERR_SEEKCACHE_CACHE_UNREADABLE";
}  // namespace code

struct Error {
  std::string code;
  // One line for a person. It holds no query string and no header value: those carry credentials.
  std::string message;
  // The origin's status where its answer was the cause, else 0.
  int httpStatus = 0;

  bool is(std::string_view other) const { return code == other; }
};

inline Error makeError(std::string_view code, std::string message) {
  return Error{std::string(code), std::move(message), 0};
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}
  Result(Error error) : state_(std::move(error)) {}

  bool ok() const { return std::holds_alternative<T>(state_); }
  explicit operator bool() const { return ok(); }
  // Only after ok().
  T &value() { return *std::get_if<T>(&state_); }
  T *operator->() { return std::get_if<T>(&state_); }
  T &operator*() { return value(); }
  // Only after !ok().
  Error &error() { return *std::get_if<Error>(&state_); }

 private:
  std::variant<T, Error> state_;
};

struct Done {};
using Status = Result<Done>;

}  // namespace seekcache
