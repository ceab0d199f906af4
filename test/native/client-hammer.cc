// One CacheReader used from many threads at once, as its header allows: two read at random and compare every byte with a
// local copy, one cancels and resumes, one asks for statistics and the map of what is cached.
//   client-hammer [--seed N] [--seconds N] URL FILE
// Prints one line of JSON; the exit code is 0 only if no read was wrong, short or failed otherwise than by a cancel.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>

#include "../../native/client/cache-reader.h"

namespace {

using namespace seekcache;

constexpr std::size_t kMaxReadBytes = 256 * 1024;

struct Counts {
  std::atomic<long long> reads{0}, cancelled{0}, wrong{0}, failed{0}, cancels{0}, maps{0};
};

void readAtRandom(CacheReader &reader, const std::string &copy, unsigned long seed, const std::atomic<bool> &isOver, Counts &counts) {
  std::mt19937_64 random(seed);
  std::string buffer(kMaxReadBytes, '\0');
  while (!isOver) {
    std::size_t offset = random() % copy.size();
    std::size_t length = 1 + random() % (random() % 4 == 0 ? kMaxReadBytes : 4096);
    auto count = reader.read(static_cast<int64_t>(offset), buffer.data(), length);
    counts.reads++;
    if (!count && count.error().is(code::kCancelled)) {
      counts.cancelled++;
    } else if (!count) {
      std::fprintf(stderr, "%s: %s\n", count.error().code.c_str(), count.error().message.c_str());
      counts.failed++;
      return;
    } else if (*count != std::min(length, copy.size() - offset) || copy.compare(offset, *count, buffer.data(), *count) != 0) {
      counts.wrong++;
    }
  }
}

void cancelAtRandom(CacheReader &reader, unsigned long seed, const std::atomic<bool> &isOver, Counts &counts) {
  std::mt19937_64 random(seed);
  while (!isOver) {
    auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(random() % 3000);
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    reader.cancel();
    counts.cancels++;
    if (random() % 2 == 0) std::this_thread::yield();
    reader.resume();
  }
}

void inquire(CacheReader &reader, const std::atomic<bool> &isOver, Counts &counts) {
  while (!isOver) {
    auto present = reader.present();
    ReaderStats stats = reader.stats();
    if ((present && !present->empty() && present->back().end > reader.sizeBytes()) || stats.bytesRead < 0) counts.wrong++;
    counts.maps++;
  }
}

}  // namespace

int main(int argc, char **argv) {
  unsigned long seed = std::random_device()();
  double seconds = 3;
  int i = 1;
  for (; i + 1 < argc && std::strncmp(argv[i], "--", 2) == 0; i += 2) {
    if (std::strcmp(argv[i], "--seed") == 0) seed = std::strtoul(argv[i + 1], nullptr, 10);
    else if (std::strcmp(argv[i], "--seconds") == 0) seconds = std::atof(argv[i + 1]);
  }
  if (i + 2 != argc) {
    std::fprintf(stderr, "usage: client-hammer [--seed N] [--seconds N] URL FILE\n");
    return 2;
  }
  std::ifstream file(argv[i + 1], std::ios::binary);
  const std::string copy{std::istreambuf_iterator<char>(file), {}};
  auto opened = CacheReader::open(argv[i], {}, {});
  if (!opened || copy.empty()) {
    std::fprintf(stderr, "cannot open: %s\n", opened ? argv[i + 1] : opened.error().message.c_str());
    return 1;
  }
  CacheReader &reader = **opened;
  Counts counts;
  std::atomic<bool> isOver{false};
  std::thread threads[] = {std::thread([&] { readAtRandom(reader, copy, seed, isOver, counts); }),
                           std::thread([&] { readAtRandom(reader, copy, seed + 1, isOver, counts); }),
                           std::thread([&] { cancelAtRandom(reader, seed + 2, isOver, counts); }),
                           std::thread([&] { inquire(reader, isOver, counts); })};
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  isOver = true;
  for (std::thread &thread : threads) thread.join();
  std::printf("{\"seed\":%lu,\"reads\":%lld,\"cancelled\":%lld,\"cancels\":%lld,\"maps\":%lld,\"wrong\":%lld,\"failed\":%lld}\n", seed,
              counts.reads.load(), counts.cancelled.load(), counts.cancels.load(), counts.maps.load(), counts.wrong.load(), counts.failed.load());
  return counts.wrong + counts.failed == 0 ? 0 : 1;
}
