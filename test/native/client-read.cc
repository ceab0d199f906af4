// Reads a resource through CacheReader to standard output, and says on standard error, as one line of JSON, how it went:
//   client-read [--cache-dir DIR] [--socket PATH] [--header NAME:VALUE]... [--offset N] [--length N] [--block N]
//               [--timeout MS] [--present] URL

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../../native/client/cache-reader.h"

namespace {

struct Arguments {
  std::string url;
  seekcache::Headers headers;
  seekcache::ReaderOptions options;
  int64_t offset = 0;
  int64_t length = std::numeric_limits<int64_t>::max();
  std::size_t block = 256 * 1024;
  bool wantsPresent = false;
};

[[noreturn]] void usage() {
  std::fprintf(stderr, "usage: client-read [--cache-dir DIR] [--socket PATH] [--header NAME:VALUE]... [--offset N] "
                       "[--length N] [--block N] [--timeout MS] [--present] URL\n");
  std::exit(2);
}

Arguments parseArguments(int argc, char **argv) {
  Arguments arguments;
  for (int i = 1; i < argc; i++) {
    std::string flag = argv[i];
    if (flag.rfind("--", 0) != 0) {
      arguments.url = flag;
      continue;
    }
    if (flag == "--present") {
      arguments.wantsPresent = true;
      continue;
    }
    if (i + 1 == argc) usage();
    std::string value = argv[++i];
    if (flag == "--cache-dir") arguments.options.cacheDir = value;
    else if (flag == "--socket") arguments.options.socketPath = value;
    else if (flag == "--offset") arguments.offset = std::atoll(value.c_str());
    else if (flag == "--length") arguments.length = std::atoll(value.c_str());
    else if (flag == "--block") arguments.block = static_cast<std::size_t>(std::atoll(value.c_str()));
    else if (flag == "--timeout") arguments.options.timeout = std::chrono::milliseconds(std::atoll(value.c_str()));
    else if (flag == "--header" && value.find(':') != std::string::npos)
      arguments.headers.emplace_back(value.substr(0, value.find(':')), value.substr(value.find(':') + 1));
    else usage();
  }
  if (arguments.url.empty() || arguments.block == 0) usage();
  return arguments;
}

int fail(const seekcache::Error &error) {
  std::fprintf(stderr, "{\"event\":\"error\",\"code\":\"%s\",\"httpStatus\":%d,\"message\":\"", error.code.c_str(), error.httpStatus);
  for (char c : error.message) std::fprintf(stderr, c == '"' || c == '\\' ? "\\%c" : "%c", c);
  std::fprintf(stderr, "\"}\n");
  return 1;
}

bool writeAll(const char *bytes, std::size_t length) {
  while (length > 0) {
    ssize_t written = write(STDOUT_FILENO, bytes, length);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes += written;
    length -= static_cast<std::size_t>(written);
  }
  return true;
}

void printPresent(seekcache::CacheReader &reader) {
  auto present = reader.present();
  std::fprintf(stderr, ",\"present\":");
  if (!present) {
    std::fprintf(stderr, "null");
    return;
  }
  std::fprintf(stderr, "[");
  for (std::size_t i = 0; i < present->size(); i++) {
    std::fprintf(stderr, "%s[%lld,%lld]", i == 0 ? "" : ",", static_cast<long long>((*present)[i].start),
                 static_cast<long long>((*present)[i].end));
  }
  std::fprintf(stderr, "]");
}

}  // namespace

int main(int argc, char **argv) {
  Arguments arguments = parseArguments(argc, argv);
  auto opened = seekcache::CacheReader::open(arguments.url, arguments.headers, arguments.options);
  if (!opened) return fail(opened.error());
  seekcache::CacheReader &reader = **opened;
  std::vector<char> buffer(arguments.block);
  int64_t done = 0;
  while (done < arguments.length) {
    auto wanted = static_cast<std::size_t>(std::min<int64_t>(static_cast<int64_t>(buffer.size()), arguments.length - done));
    auto count = reader.read(arguments.offset + done, buffer.data(), wanted);
    if (!count) return fail(count.error());
    if (*count == 0) break;
    if (!writeAll(buffer.data(), *count)) return 1;
    done += static_cast<int64_t>(*count);
  }
  seekcache::ReaderStats stats = reader.stats();
  std::fprintf(stderr, "{\"event\":\"read\",\"sizeBytes\":%lld,\"bytes\":%lld,\"reads\":%lld,\"waits\":%lld,\"waitedMs\":%lld,\"reconnects\":%lld",
               static_cast<long long>(reader.sizeBytes()), static_cast<long long>(done), static_cast<long long>(stats.reads),
               static_cast<long long>(stats.waits), static_cast<long long>(stats.waitedMs),
               static_cast<long long>(stats.reconnects));
  if (arguments.wantsPresent) printPresent(reader);
  std::fprintf(stderr, "}\n");
  return 0;
}
