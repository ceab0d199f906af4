// Opens, seeks and closes seekcachesrc many times over, in one process, while a second one stays open and is read in
// between; compares every pulled byte with a local copy, and says what the process holds after the first part of the cycles
// and at the end:
//   element-cycles [--cycles N] [--seed N] [--leak] URI FILE
// --leak keeps one source for ever: a tracer or sanitizer that finds nothing then is not looking. Prints one line of JSON;
// the exit code is 0 if every byte was right. What the numbers must be is the caller's to say.

#include <dirent.h>
#include <gst/gst.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "../../native/gst/seekcachesrc.h"

namespace {

constexpr GstClockTime kPatience = 60 * GST_SECOND;
constexpr guint kPullBytes = 8192;

std::string copy;
const char *uri;
long long wrong = 0;

void require(bool holds, const char *what) {
  if (holds) return;
  std::fprintf(stderr, "element-cycles: %s\n", what);
  wrong++;
}

GstElement *makeSource() {
  GstElement *source = gst_element_factory_make("seekcachesrc", nullptr);
  g_object_set(source, "location", uri, nullptr);
  return source;
}

void pull(GstPad *pad, guint64 offset) {
  GstBuffer *buffer = nullptr;
  GstFlowReturn flow = gst_pad_get_range(pad, offset, kPullBytes, &buffer);
  gsize expected = std::min<gsize>(kPullBytes, copy.size() - offset);
  require(flow == GST_FLOW_OK && gst_buffer_get_size(buffer) == expected &&
              gst_buffer_memcmp(buffer, 0, copy.data() + offset, expected) == 0,
          "a pull gave something else");
  if (buffer != nullptr) gst_buffer_unref(buffer);
}

class PulledSource {
 public:
  PulledSource() : source_(GST_ELEMENT(gst_object_ref_sink(makeSource()))), pad_(gst_element_get_static_pad(source_, "src")) {
    require(gst_pad_activate_mode(pad_, GST_PAD_MODE_PULL, TRUE), "the pad does not go into pull mode");
    gst_element_set_state(source_, GST_STATE_PAUSED);
  }
  ~PulledSource() {
    gst_element_set_state(source_, GST_STATE_NULL);
    gst_object_unref(pad_);
    gst_object_unref(source_);
  }
  void pullAt(guint64 offset) { pull(pad_, offset); }

 private:
  GstElement *source_;
  GstPad *pad_;
};

GstElement *makePipeline() {
  GstElement *pipeline = gst_pipeline_new(nullptr);
  GstElement *source = makeSource();
  GstElement *sink = gst_element_factory_make("fakesink", nullptr);
  gst_bin_add_many(GST_BIN(pipeline), source, sink, nullptr);
  gst_element_link(source, sink);
  return pipeline;
}

void pushAndSeek(guint64 offset) {
  GstElement *pipeline = makePipeline();
  gst_element_set_state(pipeline, GST_STATE_PAUSED);
  require(gst_element_get_state(pipeline, nullptr, nullptr, kPatience) == GST_STATE_CHANGE_SUCCESS, "no preroll");
  require(gst_element_seek_simple(pipeline, GST_FORMAT_BYTES, GST_SEEK_FLAG_FLUSH, static_cast<gint64>(offset)), "no seek");
  require(gst_element_get_state(pipeline, nullptr, nullptr, kPatience) == GST_STATE_CHANGE_SUCCESS, "no preroll after a seek");
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(pipeline);
}

void stopAtOnce() {
  GstElement *pipeline = makePipeline();
  gst_element_set_state(pipeline, GST_STATE_PLAYING);
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(pipeline);
}

void cycle(long long number, std::mt19937_64 &random) {
  auto anywhere = [&] { return random() % copy.size(); };
  switch (number % 3) {
    case 0: {
      PulledSource source;
      for (int i = 0; i < 3; i++) source.pullAt(anywhere());
      return;
    }
    case 1:
      return pushAndSeek(anywhere());
    default:
      return stopAtOnce();
  }
}

struct Held {
  long long fds = 0, residentBytes = 0, allocatedBytes = 0;
};

Held held() {
  Held now;
  malloc_trim(0);
  DIR *directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) now.fds++;
  closedir(directory);
  long long pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  now.residentBytes = pages * sysconf(_SC_PAGESIZE);
  now.allocatedBytes = static_cast<long long>(mallinfo2().uordblks);
  return now;
}

}  // namespace

int main(int argc, char **argv) {
  gst_init(nullptr, nullptr);
  gst_seek_cache_src_register(nullptr);
  unsigned long seed = std::random_device()();
  long long cycles = 100;
  int i = 1;
  for (; i < argc && std::strncmp(argv[i], "--", 2) == 0; i++) {
    if (std::strcmp(argv[i], "--leak") == 0) gst_element_factory_make("seekcachesrc", "kept-for-ever");
    else if (std::strcmp(argv[i], "--seed") == 0) seed = std::strtoul(argv[++i], nullptr, 10);
    else if (std::strcmp(argv[i], "--cycles") == 0) cycles = std::atoll(argv[++i]);
  }
  if (i + 2 != argc) {
    std::fprintf(stderr, "usage: element-cycles [--cycles N] [--seed N] [--leak] URI FILE\n");
    return 2;
  }
  uri = argv[i];
  std::ifstream file(argv[i + 1], std::ios::binary);
  copy.assign(std::istreambuf_iterator<char>(file), {});
  std::mt19937_64 random(seed);
  Held before, after;
  {
    PulledSource companion;
    long long warmUp = cycles / 5;
    for (long long number = 0; number < cycles && wrong == 0; number++) {
      if (number == warmUp) before = held();
      cycle(number, random);
      companion.pullAt(random() % copy.size());
    }
    after = held();
  }
  gst_deinit();
  std::printf("{\"seed\":%lu,\"cycles\":%lld,\"wrong\":%lld,\"fds\":[%lld,%lld],\"residentBytes\":[%lld,%lld],\"allocatedBytes\":[%lld,%lld]}\n",
              seed, cycles, wrong, before.fds, after.fds, before.residentBytes, after.residentBytes, before.allocatedBytes,
              after.allocatedBytes);
  return wrong == 0 ? 0 : 1;
}
