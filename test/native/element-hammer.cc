// Pulls random ranges from seekcachesrc while another thread flushes it and two more ask it queries and set
// and get properties, and compares every byte with a local copy:
//   element-hammer [--property NAME=VALUE]... [--seed N] [--seconds N] URI FILE
// Prints one line of JSON; the exit code is 0 only if no buffer was wrong or short.

#include <fcntl.h>
#include <gst/gst.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "../../native/gst/seekcachesrc.h"

namespace {

struct LocalCopy {
  const char *bytes = nullptr;
  guint64 size = 0;
  bool open(const char *path) {
    int fd = ::open(path, O_RDONLY);
    struct stat facts {};
    if (fd < 0 || fstat(fd, &facts) != 0) return false;
    size = static_cast<guint64>(facts.st_size);
    void *mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    bytes = mapped == MAP_FAILED ? nullptr : static_cast<const char *>(mapped);
    return bytes != nullptr;
  }
};

struct Counts {
  long long pulls = 0, flushing = 0, wrong = 0, isShort = 0, failed = 0;
};

// Small reads as demuxers make them, large ones as queues do, and the very end.
guint randomLength(std::mt19937_64 &random) {
  switch (random() % 4) {
    case 0: return 1 + random() % 64;
    case 1: return 1 + random() % 4096;
    default: return 1 + random() % (512 * 1024);
  }
}

void pullOnce(GstPad *pad, const LocalCopy &copy, std::mt19937_64 &random, Counts &counts) {
  guint64 offset = random() % 8 == 0 ? copy.size - 1 - random() % 4096 : random() % copy.size;
  guint length = randomLength(random);
  // Every fourth pull brings its own buffer.
  bool isOwn = random() % 4 == 0;
  GstBuffer *buffer = isOwn ? gst_buffer_new_allocate(nullptr, length, nullptr) : nullptr;
  GstBuffer *own = buffer;
  GstFlowReturn flow = gst_pad_get_range(pad, offset, length, &buffer);
  counts.pulls++;
  if (flow == GST_FLOW_FLUSHING) counts.flushing++;
  else if (flow != GST_FLOW_OK) counts.failed++;
  if (flow == GST_FLOW_OK) {
    guint64 expected = std::min<guint64>(length, copy.size - offset);
    if (gst_buffer_get_size(buffer) != expected || (isOwn && buffer != own)) counts.isShort++;
    else if (gst_buffer_memcmp(buffer, 0, copy.bytes + offset, expected) != 0) counts.wrong++;
    gst_buffer_unref(buffer);
  } else if (own != nullptr) {
    gst_buffer_unref(own);
  }
}

// Flushes at random distances from the puller's work: the busy wait reaches the microseconds in which races live.
long long flushUntil(GstPad *pad, const std::atomic<bool> &isOver, unsigned long seed) {
  std::mt19937_64 random(seed ^ 0x9e3779b97f4a7c15ULL);
  long long flushes = 0;
  while (!isOver.load()) {
    auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(random() % 600);
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    gst_pad_send_event(pad, gst_event_new_flush_start());
    gst_pad_send_event(pad, gst_event_new_flush_stop(TRUE));
    flushes++;
  }
  return flushes;
}

// What applications ask in the midst of everything. Gives the number of rounds, negative if an answer was wrong.
long long inquireUntil(GstElement *source, guint64 size, const std::atomic<bool> &isOver) {
  long long rounds = 0;
  bool isRight = true;
  GstQuery *queries[] = {gst_query_new_seeking(GST_FORMAT_BYTES), gst_query_new_scheduling(), gst_query_new_uri(),
                         gst_query_new_buffering(GST_FORMAT_PERCENT)};
  while (!isOver.load() && isRight) {
    gint64 duration = -1;
    isRight = gst_element_query_duration(source, GST_FORMAT_BYTES, &duration) && duration == static_cast<gint64>(size);
    for (GstQuery *query : queries) gst_element_query(source, query);
    GstStructure *stats = nullptr;
    gchar *location = nullptr, *userAgent = nullptr;
    g_object_set(source, "user-agent", rounds % 2 == 0 ? "hammer" : "a long name that is not kept inside of a string", nullptr);
    g_object_get(source, "stats", &stats, "location", &location, "user-agent", &userAgent, nullptr);
    gst_structure_free(stats);
    g_free(location);
    g_free(userAgent);
    rounds++;
  }
  for (GstQuery *query : queries) gst_query_unref(query);
  return isRight ? rounds : -1;
}

[[noreturn]] void usage() {
  std::fprintf(stderr, "usage: element-hammer [--property NAME=VALUE]... [--seed N] [--seconds N] URI FILE\n");
  std::exit(2);
}

}  // namespace

int main(int argc, char **argv) {
  gst_init(nullptr, nullptr);
  gst_seek_cache_src_register(nullptr);
  GstElement *source = gst_element_factory_make("seekcachesrc", nullptr);
  unsigned long seed = std::random_device()();
  double seconds = 5;
  int i = 1;
  for (; i + 1 < argc && std::strncmp(argv[i], "--", 2) == 0; i += 2) {
    std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--seed") seed = std::strtoul(value.c_str(), nullptr, 10);
    else if (flag == "--seconds") seconds = std::atof(value.c_str());
    else if (flag == "--property" && value.find('=') != std::string::npos)
      gst_util_set_object_arg(G_OBJECT(source), value.substr(0, value.find('=')).c_str(), value.substr(value.find('=') + 1).c_str());
    else usage();
  }
  LocalCopy copy;
  if (i + 2 != argc || !copy.open(argv[i + 1]) || copy.size < 8192) usage();
  g_object_set(source, "location", argv[i], nullptr);
  GstPad *pad = gst_element_get_static_pad(source, "src");
  if (!gst_pad_activate_mode(pad, GST_PAD_MODE_PULL, TRUE)) {
    std::fprintf(stderr, "the pad does not go into pull mode\n");
    return 1;
  }
  gst_element_set_state(source, GST_STATE_PAUSED);

  std::atomic<bool> isOver{false};
  long long flushes = 0, inquiries = 0, moreInquiries = 0;
  std::thread flusher([&] { flushes = flushUntil(pad, isOver, seed); });
  std::thread inquirer([&] { inquiries = inquireUntil(source, copy.size, isOver); });
  std::thread another([&] { moreInquiries = inquireUntil(source, copy.size, isOver); });
  std::mt19937_64 random(seed);
  Counts counts;
  auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end && counts.failed == 0) pullOnce(pad, copy, random, counts);
  isOver = true;
  flusher.join();
  inquirer.join();
  another.join();
  gst_element_set_state(source, GST_STATE_NULL);
  gst_object_unref(pad);
  gst_object_unref(source);
  std::printf("{\"seed\":%lu,\"pulls\":%lld,\"flushes\":%lld,\"flushed\":%lld,\"inquiries\":%lld,\"wrong\":%lld,\"short\":%lld,\"failed\":%lld}\n", seed,
              counts.pulls, flushes, counts.flushing, inquiries, counts.wrong, counts.isShort, counts.failed);
  return counts.wrong + counts.isShort + counts.failed == 0 && inquiries > 0 && moreInquiries > 0 ? 0 : 1;
}
