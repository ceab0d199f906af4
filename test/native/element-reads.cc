// Reads ranges through seekcachesrc, many at a time, as lines on standard input ask for them:
//   ID MODE SOCKET TIMEOUT-SECONDS START END URI      MODE: pull, or push (from byte 0 on, whatever START is)
// Each read is an element of its own. For each one line of JSON says what came: bytes, their SHA-256, and the error as the
// element posted it, with the phase in which it did. Ends at the end of its input.

#include <gst/gst.h>

#include <atomic>
#include <cinttypes>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../../native/gst/seekcachesrc.h"

namespace {

constexpr int kThreads = 64;
constexpr guint kBlockBytes = 16 * 1024;
constexpr GstClockTime kPatience = 60 * GST_SECOND;

using Json = nlohmann::ordered_json;

struct Job {
  long long id = 0;
  std::string mode, socket, uri;
  guint timeoutSeconds = 0;
  guint64 start = 0, end = 0;
};

// What arrived, in order.
struct Received {
  GChecksum *sha256 = g_checksum_new(G_CHECKSUM_SHA256);
  guint64 bytes = 0;
  ~Received() { g_checksum_free(sha256); }

  void add(GstBuffer *buffer, guint64 limit) {
    GstMapInfo map;
    if (!gst_buffer_map(buffer, &map, GST_MAP_READ)) std::abort();
    gsize count = std::min<guint64>(map.size, limit - bytes);
    g_checksum_update(sha256, map.data, static_cast<gssize>(count));
    bytes += count;
    gst_buffer_unmap(buffer, &map);
  }
};

Json errorOf(GstMessage *message, const char *phase) {
  GError *error = nullptr;
  const GstStructure *details = nullptr;
  gst_message_parse_error(message, &error, nullptr);
  gst_message_parse_error_details(message, &details);
  guint httpStatus = 0;
  if (details != nullptr) gst_structure_get_uint(details, "http-status-code", &httpStatus);
  const gchar *code = details == nullptr ? nullptr : gst_structure_get_string(details, "seekcache-code");
  Json json = {{"phase", phase},
               {"domain", g_quark_to_string(error->domain)},
               {"gstCode", error->code},
               {"message", error->message},
               {"code", code == nullptr ? "" : code},
               {"httpStatus", httpStatus}};
  g_error_free(error);
  return json;
}

GstElement *makeSource(const Job &job) {
  GstElement *source = gst_element_factory_make("seekcachesrc", nullptr);
  g_object_set(source, "location", job.uri.c_str(), "socket-path", job.socket.c_str(), "timeout", job.timeoutSeconds,
               "blocksize", kBlockBytes, nullptr);
  return source;
}

Json pull(const Job &job, Received &received) {
  GstElement *source = makeSource(job);
  GstBus *bus = gst_bus_new();
  gst_element_set_bus(source, bus);
  GstPad *pad = gst_element_get_static_pad(source, "src");
  const char *phase = "open";
  if (gst_pad_activate_mode(pad, GST_PAD_MODE_PULL, TRUE)) {
    gst_element_set_state(source, GST_STATE_PAUSED);
    phase = "read";
    for (guint64 at = job.start; at < job.end;) {
      GstBuffer *buffer = nullptr;
      guint length = static_cast<guint>(std::min<guint64>(kBlockBytes, job.end - at));
      if (gst_pad_get_range(pad, at, length, &buffer) != GST_FLOW_OK) break;
      at += gst_buffer_get_size(buffer);
      received.add(buffer, job.end - job.start);
      gst_buffer_unref(buffer);
    }
  }
  GstMessage *message = gst_bus_pop_filtered(bus, GST_MESSAGE_ERROR);
  Json error = message == nullptr ? Json() : errorOf(message, phase);
  if (message != nullptr) gst_message_unref(message);
  gst_element_set_state(source, GST_STATE_NULL);
  gst_element_set_bus(source, nullptr);
  gst_object_unref(bus);
  gst_object_unref(pad);
  gst_object_unref(source);
  return error;
}

struct Push {
  Received &received;
  guint64 limit;
  std::atomic<bool> isEnough{false};
  GstElement *pipeline;
};

GstPadProbeReturn onBuffer(GstPad *, GstPadProbeInfo *info, gpointer data) {
  auto *push = static_cast<Push *>(data);
  if (push->isEnough) return GST_PAD_PROBE_DROP;
  push->received.add(GST_PAD_PROBE_INFO_BUFFER(info), push->limit);
  if (push->received.bytes == push->limit) {
    push->isEnough = true;
    gst_element_post_message(push->pipeline, gst_message_new_application(GST_OBJECT(push->pipeline), gst_structure_new_empty("enough")));
  }
  return GST_PAD_PROBE_OK;
}

Json push(const Job &job, Received &received) {
  GstElement *pipeline = gst_pipeline_new(nullptr);
  GstElement *source = makeSource(job), *sink = gst_element_factory_make("fakesink", nullptr);
  g_object_set(sink, "sync", FALSE, nullptr);
  gst_bin_add_many(GST_BIN(pipeline), source, sink, nullptr);
  gst_element_link(source, sink);
  Push state{received, job.end, {}, pipeline};
  GstPad *pad = gst_element_get_static_pad(sink, "sink");
  gst_pad_add_probe(pad, GST_PAD_PROBE_TYPE_BUFFER, onBuffer, &state, nullptr);
  GstBus *bus = gst_element_get_bus(pipeline);
  const char *phase = gst_element_set_state(pipeline, GST_STATE_PLAYING) == GST_STATE_CHANGE_FAILURE ? "open" : "read";
  GstMessage *message = gst_bus_timed_pop_filtered(bus, kPatience, GstMessageType(GST_MESSAGE_ERROR | GST_MESSAGE_EOS | GST_MESSAGE_APPLICATION));
  Json error;
  if (message == nullptr) error = {{"phase", phase}, {"message", "nothing came"}};
  else if (GST_MESSAGE_TYPE(message) == GST_MESSAGE_ERROR) error = errorOf(message, phase);
  if (message != nullptr) gst_message_unref(message);
  gst_element_set_state(pipeline, GST_STATE_NULL);
  gst_object_unref(bus);
  gst_object_unref(pad);
  gst_object_unref(pipeline);
  return error;
}

class Jobs {
 public:
  void add(Job job) {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(job));
    changed_.notify_one();
  }
  void end() {
    std::lock_guard lock(mutex_);
    isEnded_ = true;
    changed_.notify_all();
  }
  bool next(Job &job) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return isEnded_ || !waiting_.empty(); });
    if (waiting_.empty()) return false;
    job = std::move(waiting_.front());
    waiting_.pop_front();
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> waiting_;
  bool isEnded_ = false;
};

void work(Jobs &jobs, std::mutex &output) {
  for (Job job; jobs.next(job);) {
    Received received;
    Json error = job.mode == "push" ? push(job, received) : pull(job, received);
    Json line = {{"id", job.id}, {"bytes", received.bytes}, {"sha256", g_checksum_get_string(received.sha256)}, {"error", error}};
    std::lock_guard lock(output);
    std::printf("%s\n", line.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    std::fflush(stdout);
  }
}

}  // namespace

int main() {
  gst_init(nullptr, nullptr);
  gst_seek_cache_src_register(nullptr);
  Jobs jobs;
  std::mutex output;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) threads.emplace_back([&] { work(jobs, output); });
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    Job job;
    if (words >> job.id >> job.mode >> job.socket >> job.timeoutSeconds >> job.start >> job.end >> job.uri) jobs.add(std::move(job));
    else std::fprintf(stderr, "not a job: %s\n", line.c_str());
  }
  jobs.end();
  for (std::thread &thread : threads) thread.join();
  return 0;
}
