#include "framer.h"

#include <utility>

namespace seekcache {

Result<std::optional<Reply>> Framer::next() {
  if (!awaiting_) {
    Result<bool> isTaken = takeLine();
    if (!isTaken) return std::move(isTaken.error());
    if (!*isTaken) return std::optional<Reply>();
  }
  auto *data = std::get_if<protocol::Data>(&awaiting_->body);
  std::size_t rawBytes = data == nullptr ? 0 : data->lengthBytes;
  if (bytes_.size() < rawBytes) return std::optional<Reply>();
  Reply reply{*std::exchange(awaiting_, std::nullopt), bytes_.substr(0, rawBytes)};
  bytes_.erase(0, rawBytes);
  return std::optional<Reply>(std::move(reply));
}

// False if no whole line has arrived.
Result<bool> Framer::takeLine() {
  std::size_t end = bytes_.find('\n', searched_);
  if (end == std::string::npos) {
    searched_ = bytes_.size();
    if (searched_ > protocol::kMaxHostLineBytes) return makeError(code::kProtocol, "the host sent a line of over 1 MiB");
    return false;
  }
  awaiting_ = protocol::parse(std::string_view(bytes_).substr(0, end));
  if (!awaiting_) return makeError(code::kProtocol, "the host sent a line that is no message of the control protocol");
  bytes_.erase(0, end + 1);
  searched_ = 0;
  return true;
}

}  // namespace seekcache
