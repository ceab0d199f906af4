#include "report.h"

#include <cstdio>

namespace seekcache::player {

namespace {

std::string quoted(const std::string &text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    char escape[8];
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      out += escape;
    } else {
      out += static_cast<char>(c);
    }
  }
  out += '"';
  return out;
}

std::string json(const Field &field) {
  if (auto *text = std::get_if<std::string>(&field)) return quoted(*text);
  if (auto *flag = std::get_if<bool>(&field)) return *flag ? "true" : "false";
  if (auto *integer = std::get_if<long long>(&field)) return std::to_string(*integer);
  char number[64];
  std::snprintf(number, sizeof number, "%.3f", *std::get_if<double>(&field));
  return number;
}

}  // namespace

void report(const char *event, std::initializer_list<std::pair<const char *, Field>> fields) {
  std::string line = "{\"event\":";
  line += quoted(event);
  for (const auto &[name, field] : fields) line.append(",").append(quoted(name)).append(":").append(json(field));
  std::fprintf(stdout, "%s}\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace seekcache::player
