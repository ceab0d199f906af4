// How fast a read that waits for bytes which do not come is ended, by a flush and by going to NULL, in pull mode and in
// push mode:
//   element-cancel [--limit-ms N] [--property NAME=VALUE]... URI OFFSET
// OFFSET is where the bytes do not come. That the read waits is known from the element's buffering message, so nothing
// here sleeps. Prints one line of JSON with milliseconds; the exit code is 0 if each was below the limit, 100.

#include <gst/gst.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../../native/gst/seekcachesrc.h"

namespace {

constexpr GstClockTime kPatience = 20 * GST_SECOND;

using Properties = std::vector<std::pair<std::string, std::string>>;

double msOf(auto &&action) {
  auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

GstElement *makeSource(const Properties &properties, const char *uri) {
  GstElement *source = gst_element_factory_make("seekcachesrc", "source");
  for (const auto &[name, value] : properties) gst_util_set_object_arg(G_OBJECT(source), name.c_str(), value.c_str());
  g_object_set(source, "location", uri, nullptr);
  return source;
}

void awaitBuffering(GstBus *bus, gint wanted) {
  for (;;) {
    GstMessage *message = gst_bus_timed_pop_filtered(bus, kPatience, GstMessageType(GST_MESSAGE_BUFFERING | GST_MESSAGE_ERROR));
    if (message == nullptr || GST_MESSAGE_TYPE(message) == GST_MESSAGE_ERROR) {
      std::fprintf(stderr, "no read came to wait\n");
      std::exit(1);
    }
    gint percent = -1;
    gst_message_parse_buffering(message, &percent);
    gst_message_unref(message);
    if (percent == wanted) return;
  }
}

// Pulls at `offset` in a thread of its own until the pull is ended.
class WaitingPull {
 public:
  WaitingPull(GstPad *pad, GstBus *bus, guint64 offset) : thread_([this, pad, offset] { pull(pad, offset); }) {
    awaitBuffering(bus, 0);
  }
  // FALSE if the pull ended in another way than by flushing.
  bool join() {
    thread_.join();
    return flow_ == GST_FLOW_FLUSHING;
  }

 private:
  void pull(GstPad *pad, guint64 offset) {
    GstBuffer *buffer = nullptr;
    flow_ = gst_pad_get_range(pad, offset, 4096, &buffer);
    if (buffer != nullptr) gst_buffer_unref(buffer);
  }
  GstFlowReturn flow_ = GST_FLOW_OK;
  std::thread thread_;
};

void measurePull(const Properties &properties, const char *uri, guint64 offset, double *flushMs, double *nullMs) {
  GstElement *source = makeSource(properties, uri);
  GstBus *bus = gst_bus_new();
  gst_element_set_bus(source, bus);
  GstPad *pad = gst_element_get_static_pad(source, "src");
  if (!gst_pad_activate_mode(pad, GST_PAD_MODE_PULL, TRUE)) std::exit(1);
  gst_element_set_state(source, GST_STATE_PAUSED);
  {
    WaitingPull pull(pad, bus, offset);
    bool isFlushed = false;
    *flushMs = msOf([&] {
      gst_pad_send_event(pad, gst_event_new_flush_start());
      isFlushed = pull.join();
    });
    if (!isFlushed) *flushMs = 1e6;
  }
  awaitBuffering(bus, 100);
  gst_pad_send_event(pad, gst_event_new_flush_stop(TRUE));
  {
    WaitingPull pull(pad, bus, offset);
    *nullMs = msOf([&] { gst_element_set_state(source, GST_STATE_NULL); });
    if (!pull.join()) *nullMs = 1e6;
  }
  gst_element_set_bus(source, nullptr);
  gst_object_unref(bus);
  gst_object_unref(pad);
  gst_object_unref(source);
}

void measurePush(const Properties &properties, const char *uri, guint64 offset, double *seekMs, double *nullMs) {
  GstElement *pipeline = gst_pipeline_new(nullptr);
  GstElement *source = makeSource(properties, uri);
  GstElement *sink = gst_element_factory_make("fakesink", nullptr);
  g_object_set(sink, "sync", FALSE, nullptr);
  gst_bin_add_many(GST_BIN(pipeline), source, sink, nullptr);
  gst_element_link(source, sink);
  GstBus *bus = gst_element_get_bus(pipeline);
  gst_element_set_state(pipeline, GST_STATE_PAUSED);
  gst_element_get_state(pipeline, nullptr, nullptr, kPatience);
  auto seek = [&](guint64 to) {
    gst_element_seek_simple(pipeline, GST_FORMAT_BYTES, GST_SEEK_FLAG_FLUSH, static_cast<gint64>(to));
  };
  seek(offset);
  awaitBuffering(bus, 0);
  *seekMs = msOf([&] { seek(0); });
  awaitBuffering(bus, 100);
  seek(offset);
  awaitBuffering(bus, 0);
  *nullMs = msOf([&] { gst_element_set_state(pipeline, GST_STATE_NULL); });
  gst_object_unref(bus);
  gst_object_unref(pipeline);
}

}  // namespace

int main(int argc, char **argv) {
  gst_init(nullptr, nullptr);
  gst_seek_cache_src_register(nullptr);
  Properties properties;
  double limitMs = 100;
  int i = 1;
  for (; i + 1 < argc && std::strncmp(argv[i], "--", 2) == 0; i += 2) {
    std::string text = argv[i + 1];
    if (std::strcmp(argv[i], "--limit-ms") == 0) limitMs = std::atof(text.c_str());
    if (text.find('=') != std::string::npos) properties.emplace_back(text.substr(0, text.find('=')), text.substr(text.find('=') + 1));
  }
  if (i + 2 != argc) {
    std::fprintf(stderr, "usage: element-cancel [--limit-ms N] [--property NAME=VALUE]... URI OFFSET\n");
    return 2;
  }
  guint64 offset = std::strtoull(argv[i + 1], nullptr, 10);
  double pullFlush, pullNull, pushSeek, pushNull;
  measurePull(properties, argv[i], offset, &pullFlush, &pullNull);
  measurePush(properties, argv[i], offset, &pushSeek, &pushNull);
  std::printf("{\"pullFlushMs\":%.2f,\"pullNullMs\":%.2f,\"pushSeekMs\":%.2f,\"pushNullMs\":%.2f}\n", pullFlush, pullNull,
              pushSeek, pushNull);
  return std::max({pullFlush, pullNull, pushSeek, pushNull}) < limitMs ? 0 : 1;
}
