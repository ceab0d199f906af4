#include "protocol.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace seekcache::protocol {

namespace {

using Json = nlohmann::json;

// Invalid UTF-8 is replaced: nlohmann's default is to throw, which ends the process in a build without exceptions.
std::string line(const Json &message) {
  return message.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

Json headerList(const Headers &headers) {
  Json list = Json::array();
  for (const auto &[name, value] : headers) list.push_back(Json::array({name, value}));
  return list;
}

const Json *member(const Json &object, const char *key) {
  auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

const std::string *text(const Json &object, const char *key) {
  const Json *value = member(object, key);
  return value == nullptr ? nullptr : value->get_ptr<const std::string *>();
}

// Absent and null both read as empty.
std::string optionalText(const Json &object, const char *key) {
  const std::string *value = text(object, key);
  return value == nullptr ? std::string() : *value;
}

// JavaScript's integers: a host written in it may print 1e3 or 5.0, so an integral float counts.
std::optional<int64_t> integer(const Json *value) {
  if (value == nullptr) return std::nullopt;
  if (value->is_number_unsigned()) {
    uint64_t number = value->get<uint64_t>();
    if (number > static_cast<uint64_t>(kMaxPosition)) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value->is_number_float()) {
    double number = value->get<double>();
    if (!(number >= 0 && number <= static_cast<double>(kMaxPosition))) return std::nullopt;
    auto whole = static_cast<int64_t>(number);
    if (static_cast<double>(whole) != number) return std::nullopt;
    return whole;
  }
  return std::nullopt;
}

std::optional<ByteRange> range(std::optional<int64_t> start, std::optional<int64_t> end) {
  if (!start || !end || *start >= *end) return std::nullopt;
  return ByteRange{*start, *end};
}

std::optional<Hello> parseHello(const Json &message) {
  auto version = integer(member(message, "protocol"));
  if (!version) return std::nullopt;
  return Hello{*version, optionalText(message, "version")};
}

std::optional<Opened> parseOpened(const Json &message) {
  const std::string *session = text(message, "session");
  const std::string *generation = text(message, "generation");
  const Json *seekable = member(message, "isSeekable");
  const Json *size = member(message, "sizeBytes");
  if (session == nullptr || session->empty() || generation == nullptr || size == nullptr) return std::nullopt;
  if (seekable == nullptr || !seekable->is_boolean()) return std::nullopt;
  Opened opened{*session, std::nullopt, seekable->get<bool>(), optionalText(message, "contentType"), *generation};
  if (size->is_null()) return opened;
  opened.sizeBytes = integer(size);
  if (!opened.sizeBytes) return std::nullopt;
  return opened;
}

std::optional<Extent> parseExtent(const Json &message) {
  const std::string *path = text(message, "path");
  auto fileOffset = integer(member(message, "fileOffset"));
  auto bytes = range(integer(member(message, "start")), integer(member(message, "end")));
  if (path == nullptr || !fileOffset || !bytes) return std::nullopt;
  // A relative path would be looked up in the player's working directory; a NUL would cut it short.
  if (path->empty() || path->front() != '/' || path->find('\0') != std::string::npos) return std::nullopt;
  return Extent{*path, *fileOffset, *bytes};
}

std::optional<Extents> parseExtents(const Json &message) {
  auto asked = parseExtent(message);
  if (!asked) return std::nullopt;
  Extents extents{{std::move(*asked)}};
  const Json *next = member(message, "next");
  if (next == nullptr) return extents;
  if (!next->is_array()) return std::nullopt;
  for (const Json &one : *next) {
    auto extent = parseExtent(one);
    if (!extent || extent->range.start != extents.run.back().range.end) return std::nullopt;
    extents.run.push_back(std::move(*extent));
  }
  return extents;
}

std::optional<Data> parseData(const Json &message) {
  auto start = integer(member(message, "start"));
  auto length = integer(member(message, "lengthBytes"));
  if (!start || !length || *length < 1 || *length > static_cast<int64_t>(kMaxDataBytes)) return std::nullopt;
  if (*start > kMaxPosition - *length) return std::nullopt;
  return Data{*start, static_cast<std::size_t>(*length)};
}

std::optional<Map> parseMap(const Json &message) {
  const Json *present = member(message, "present");
  if (present == nullptr || !present->is_array()) return std::nullopt;
  Map map;
  map.present.reserve(present->size());
  for (const Json &pair : *present) {
    if (!pair.is_array() || pair.size() != 2) return std::nullopt;
    auto bytes = range(integer(&pair[0]), integer(&pair[1]));
    if (!bytes) return std::nullopt;
    map.present.push_back(*bytes);
  }
  return map;
}

// A message is shown to people and put into logs: one line, of bounded length.
std::string oneLine(std::string message) {
  constexpr std::size_t kMaxMessageBytes = 1000;
  if (message.size() > kMaxMessageBytes) {
    std::size_t cut = kMaxMessageBytes;
    while (cut > 0 && (static_cast<unsigned char>(message[cut]) & 0xC0) == 0x80) cut--;
    message.resize(cut);
  }
  std::replace_if(message.begin(), message.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, ' ');
  return message;
}

std::optional<Error> parseError(const Json &message) {
  const std::string *code = text(message, "code");
  if (code == nullptr || code->empty()) return std::nullopt;
  auto status = integer(member(message, "httpStatus"));
  bool isStatus = status && *status >= 100 && *status <= 999;
  return Error{oneLine(*code), oneLine(optionalText(message, "message")), isStatus ? static_cast<int>(*status) : 0};
}

template <typename T>
bool put(Answer &answer, std::optional<T> body) {
  if (!body) return false;
  answer.body = std::move(*body);
  return true;
}

bool parseBody(Answer &answer, const std::string &type, const Json &message) {
  if (type == "error") return put(answer, parseError(message));
  if (type == "hello") return put(answer, parseHello(message));
  if (answer.id == 0) return false;
  if (type == "opened") return put(answer, parseOpened(message));
  if (type == "extent") return put(answer, parseExtents(message));
  if (type == "data") return put(answer, parseData(message));
  if (type == "map") return put(answer, parseMap(message));
  if (type == "end") return put(answer, std::optional(End{}));
  return put(answer, std::optional(Other{}));
}

}  // namespace

std::optional<Answer> parse(std::string_view raw) {
  if (raw.size() > kMaxHostLineBytes) return std::nullopt;
  Json message = Json::parse(raw, nullptr, false);
  if (!message.is_object()) return std::nullopt;
  const std::string *type = text(message, "type");
  if (type == nullptr) return std::nullopt;
  Answer answer;
  if (const Json *id = member(message, "id"); id != nullptr) {
    auto number = integer(id);
    if (!number || *number < 1) return std::nullopt;
    answer.id = *number;
  }
  if (!parseBody(answer, *type, message)) return std::nullopt;
  return answer;
}

Result<Ready> parseReady(std::string_view raw) {
  Json message = Json::parse(raw, nullptr, false);
  const std::string *event = message.is_object() ? text(message, "event") : nullptr;
  if (event != nullptr && *event == "ready") {
    const std::string *socket = text(message, "socket");
    if (socket != nullptr && !socket->empty()) return Ready{*socket};
  }
  if (event != nullptr && *event == "error") {
    if (auto error = parseError(message)) return *error;
  }
  return makeError(code::kHostUnavailable, "the host that was started did not say where it listens");
}

std::string hello(std::string_view client) {
  return line({{"type", "hello"}, {"protocol", kVersion}, {"client", client}});
}

std::string open(int64_t id, std::string_view url, const Headers &headers, int64_t deadlineMs, bool pulls) {
  Json message = {{"type", "open"}, {"id", id}, {"url", url}, {"headers", headerList(headers)}, {"deadlineMs", deadlineMs}};
  if (pulls) message["pulls"] = true;
  return line(message);
}

std::string locate(int64_t id, const Locate &fields) {
  Json message = {{"type", "locate"},       {"id", id},
                  {"session", fields.session}, {"reader", fields.reader},
                  {"start", fields.start},     {"lengthBytes", fields.lengthBytes},
                  {"deadlineMs", fields.deadlineMs}};
  if (!fields.unreadablePath.empty()) message["unreadable"] = fields.unreadablePath;
  if (fields.wantsData) message["wantsData"] = true;
  return line(message);
}

std::string map(int64_t id, std::string_view url, const Headers &headers) {
  return line({{"type", "map"}, {"id", id}, {"url", url}, {"headers", headerList(headers)}});
}

std::string position(std::string_view session, int64_t reader, int64_t position) {
  return line({{"type", "position"}, {"session", session}, {"reader", reader}, {"position", position}});
}

std::string release(std::string_view session, int64_t reader) {
  return line({{"type", "release"}, {"session", session}, {"reader", reader}});
}

std::string cancel(int64_t request) { return line({{"type", "cancel"}, {"request", request}}); }

}  // namespace seekcache::protocol
