// Anything at all as what a host sends: the client's frame reader and parser must give back checked values or nothing, the
// same ones however the bytes are cut, and what the client builds of any strings must be one line of JSON.
//
// LLVMFuzzerTestOneInput is libFuzzer's entry point. Built without libFuzzer, the program is its own driver, with mutations
// that follow from the seed alone:
//   protocol-fuzz [--seed N] [--execs N] [--artifact FILE] CORPUS_FILE...
// It runs the corpus and then mutations of it. Under the address sanitizer an input that fails is written to the artifact, to
// be kept in the corpus.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "../../native/client/framer.h"
#include "../../native/client/protocol.h"

namespace {

using namespace seekcache;

void require(bool holds, const char *what) {
  if (holds) return;
  std::fprintf(stderr, "protocol-fuzz: %s\n", what);
  std::abort();
}

bool isPosition(int64_t value) { return value >= 0 && value <= protocol::kMaxPosition; }

bool isRange(const ByteRange &range) { return isPosition(range.start) && isPosition(range.end) && range.start < range.end; }

bool isOneLine(const std::string &text) {
  for (unsigned char c : text) {
    if (c < 0x20 || c == 0x7F) return false;
  }
  return true;
}

void checkBody(const protocol::Answer &answer, const std::string &raw) {
  require(isPosition(answer.id), "an id that is no id");
  if (auto *opened = std::get_if<protocol::Opened>(&answer.body)) {
    require(!opened->session.empty(), "a session without a name");
    require(isPosition(opened->sizeBytes.value_or(0)), "a size that is none");
  } else if (auto *extents = std::get_if<protocol::Extents>(&answer.body)) {
    require(!extents->run.empty(), "no extent");
    for (const protocol::Extent &extent : extents->run) {
      require(isRange(extent.range) && isPosition(extent.fileOffset), "an extent that is none");
      require(!extent.path.empty() && extent.path[0] == '/' && extent.path.find('\0') == std::string::npos, "no path");
    }
    for (std::size_t i = 1; i < extents->run.size(); i++) {
      require(extents->run[i].range.start == extents->run[i - 1].range.end, "extents with a gap");
    }
  } else if (auto *data = std::get_if<protocol::Data>(&answer.body)) {
    require(data->lengthBytes >= 1 && data->lengthBytes <= protocol::kMaxDataBytes, "a data of a length that none has");
    require(isPosition(data->start) && isPosition(data->start + static_cast<int64_t>(data->lengthBytes)), "data past the end");
    require(raw.size() == data->lengthBytes, "other raw bytes than announced");
  } else if (auto *map = std::get_if<protocol::Map>(&answer.body)) {
    for (const ByteRange &range : map->present) require(isRange(range), "a range that is none");
  } else if (auto *error = std::get_if<Error>(&answer.body)) {
    require(!error->code.empty() && isOneLine(error->code) && isOneLine(error->message), "an error that is not one line");
    require(error->httpStatus == 0 || (error->httpStatus >= 100 && error->httpStatus <= 999), "no HTTP status");
  }
}

// What came out, in a form that two ways of cutting can be compared in.
std::string takeAll(Framer &framer, std::string &seen) {
  for (;;) {
    Result<std::optional<Reply>> reply = framer.next();
    if (!reply) return reply.error().code;
    if (!*reply) return {};
    checkBody((*reply)->answer, (*reply)->raw);
    seen += std::to_string((*reply)->answer.id) + ' ' + std::to_string((*reply)->answer.body.index()) + ' ' + (*reply)->raw + '\n';
  }
}

uint64_t hashOf(std::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (unsigned char c : bytes) hash = (hash ^ c) * 0x100000001b3ULL;
  return hash;
}

void frameInPieces(std::string_view bytes, std::string_view wholeSeen, std::string_view wholeEnd) {
  Framer framer;
  std::string seen, end;
  uint64_t random = hashOf(bytes);
  for (std::size_t at = 0; at < bytes.size() && end.empty();) {
    random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    std::size_t length = std::min<std::size_t>(bytes.size() - at, 1 + (random >> 33) % ((random >> 60) == 0 ? 4096 : 24));
    framer.push(bytes.substr(at, length));
    at += length;
    end = takeAll(framer, seen);
  }
  require(seen == wholeSeen && end == wholeEnd, "cut in pieces it says something else");
}

void checkLine(const std::string &line) {
  require(!line.empty() && line.find('\n') == line.size() - 1, "not one line");
  require(line.front() == '{' && nlohmann::json::accept(line), "not a JSON object");
}

void buildFrom(std::string_view bytes) {
  std::string text(bytes);
  Headers headers{{text.substr(0, text.size() / 2), text}, {"Cookie", text.substr(text.size() / 3)}};
  checkLine(protocol::hello(text));
  checkLine(protocol::open(1, text, headers, 5));
  checkLine(protocol::map(2, text, headers));
  checkLine(protocol::position(text, 1, 0));
  checkLine(protocol::locate(3, {text, 1, 0, 1, 5, text}));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, std::size_t size) {
  std::string_view bytes(reinterpret_cast<const char *>(data), size);
  Framer framer;
  framer.push(bytes);
  std::string seen;
  std::string end = takeAll(framer, seen);
  frameInPieces(bytes, seen, end);
  Result<protocol::Ready> ready = protocol::parseReady(bytes);
  if (ready) require(!ready->socket.empty(), "ready without a socket");
  // The dearest part, and the one where the bytes matter least.
  if (size < 512 && hashOf(bytes) % 8 == 0) buildFrom(bytes);
  return 0;
}

#ifndef SEEKCACHE_LIBFUZZER

#include <fstream>
#include <iterator>
#include <random>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace {

std::string current;

#ifdef __SANITIZE_ADDRESS__
const char *artifactFile = nullptr;

void keepCurrent() {
  if (artifactFile == nullptr) return;
  std::ofstream(artifactFile, std::ios::binary) << current;
}
#endif

constexpr std::string_view kWords[] = {
    "\"type\":\"", "extent", "opened", "data", "hello", "error", "map", "end", "\"id\":", "\"start\":", "\"end\":", "\"present\":[[",
    "\"lengthBytes\":", "\"path\":\"/", "\"fileOffset\":", "\"sizeBytes\":null", "\"isSeekable\":true", "\"httpStatus\":404",
    "0", "-1", "1.0", "1e3", "1e400", "9007199254740991", "9007199254740992", "18446744073709551615", "262144", "262145", "null",
    "\\u0000", "\\ud800", "\xff", "\xc3\x28", "\n", "{", "}", "[", "]", ",", "\"", "\\", "{\"event\":\"ready\",\"socket\":\"/s\"}\n"};

class Mutator {
 public:
  Mutator(std::vector<std::string> corpus, unsigned long seed) : corpus_(std::move(corpus)), random_(seed) {}

  std::string next() {
    std::string bytes = pick();
    for (std::size_t steps = 1 + random_() % 6; steps > 0; steps--) mutate(bytes);
    return bytes;
  }

 private:
  const std::string &pick() { return corpus_[random_() % corpus_.size()]; }

  std::size_t at(const std::string &bytes) { return bytes.empty() ? 0 : random_() % bytes.size(); }

  void mutate(std::string &bytes) {
    std::size_t place = at(bytes);
    switch (random_() % 8) {
      case 0:
        if (!bytes.empty()) bytes[place] = static_cast<char>(bytes[place] ^ (1 << random_() % 8));
        return;
      case 1:
        if (!bytes.empty()) bytes[place] = static_cast<char>(random_());
        return;
      case 2:
        bytes.erase(place, 1 + random_() % 16);
        return;
      case 3:
        bytes.insert(place, bytes.substr(at(bytes), 1 + random_() % 64));
        return;
      case 4: {
        // In place of a number, which is where most of the checks are.
        std::size_t digits = bytes.find_first_of("0123456789", place);
        if (digits == std::string::npos) return;
        std::size_t rest = bytes.find_first_not_of("0123456789.", digits);
        bytes.replace(digits, rest == std::string::npos ? rest : rest - digits, word());
        return;
      }
      case 5: {
        const std::string &other = pick();
        bytes = bytes.substr(0, place) + other.substr(at(other));
        return;
      }
      case 6:
        bytes.resize(place);
        return;
      default:
        bytes.insert(place, word());
    }
  }

  std::string_view word() { return kWords[random_() % std::size(kWords)]; }

  std::vector<std::string> corpus_;
  std::mt19937_64 random_;
};

void run(std::string input) {
  current = std::move(input);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(current.data()), current.size());
}

}  // namespace

int main(int argc, char **argv) {
  unsigned long seed = std::random_device()();
  long long execs = 100'000;
  int i = 1;
  for (; i + 1 < argc && std::strncmp(argv[i], "--", 2) == 0; i += 2) {
    if (std::strcmp(argv[i], "--seed") == 0) seed = std::strtoul(argv[i + 1], nullptr, 10);
    else if (std::strcmp(argv[i], "--execs") == 0) execs = std::atoll(argv[i + 1]);
#ifdef __SANITIZE_ADDRESS__
    else if (std::strcmp(argv[i], "--artifact") == 0) artifactFile = argv[i + 1];
#endif
  }
  std::vector<std::string> corpus;
  for (; i < argc; i++) {
    std::ifstream file(argv[i], std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "usage: protocol-fuzz [--seed N] [--execs N] [--artifact FILE] CORPUS_FILE...\n");
    return 2;
  }
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_set_death_callback(keepCurrent);
#endif
  for (const std::string &input : corpus) run(input);
  Mutator mutator(corpus, seed);
  for (long long exec = 0; exec < execs; exec++) run(mutator.next());
  std::printf("{\"seed\":%lu,\"corpus\":%zu,\"execs\":%lld}\n", seed, corpus.size(), execs);
  return 0;
}

#endif
