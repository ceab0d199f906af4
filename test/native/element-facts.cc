// What an application sees of seekcachesrc: queries, the location's rules, pulls at the borders, flushes, opening again, and
// two sources at once, the other one with two cookies. Compares bytes with local copies:
//   element-facts URI FILE OTHER_URI OTHER_FILE
// Each check that fails is printed; the exit code is 0 if none did.

#include <gst/gst.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "../../native/gst/seekcachesrc.h"

namespace {

int failures = 0;

void check(bool holds, const char *what, int line) {
  if (holds) return;
  std::fprintf(stderr, "element-facts.cc:%d: %s\n", line, what);
  failures++;
}
#define CHECK(condition) check(static_cast<bool>(condition), #condition, __LINE__)

struct Film {
  const char *uri;
  std::string copy;
  Film(const char *uri, const char *file) : uri(uri) {
    std::ifstream stream(file, std::ios::binary);
    copy.assign(std::istreambuf_iterator<char>(stream), {});
  }
  gint64 size() const { return static_cast<gint64>(copy.size()); }
};

class Source {
 public:
  explicit Source(const Film &film) : film_(film), element_(GST_ELEMENT(gst_object_ref_sink(gst_element_factory_make("seekcachesrc", nullptr)))), pad_(gst_element_get_static_pad(element_, "src")) {
    g_object_set(element_, "location", film.uri, nullptr);
  }
  ~Source() {
    close();
    gst_object_unref(pad_);
    gst_object_unref(element_);
  }
  void open() {
    CHECK(gst_pad_activate_mode(pad_, GST_PAD_MODE_PULL, TRUE));
    gst_element_set_state(element_, GST_STATE_PAUSED);
  }
  void close() { gst_element_set_state(element_, GST_STATE_NULL); }
  GstFlowReturn pull(gint64 offset, guint length, gsize *got) {
    GstBuffer *buffer = nullptr;
    GstFlowReturn flow = gst_pad_get_range(pad_, static_cast<guint64>(offset), length, &buffer);
    *got = buffer == nullptr ? 0 : gst_buffer_get_size(buffer);
    if (buffer != nullptr) CHECK(gst_buffer_memcmp(buffer, 0, film_.copy.data() + offset, *got) == 0);
    if (buffer != nullptr) gst_buffer_unref(buffer);
    return flow;
  }
  bool pulls(gint64 offset, guint length, gsize expected) {
    gsize got;
    return pull(offset, length, &got) == GST_FLOW_OK && got == expected;
  }
  GstElement *element() { return element_; }
  GstPad *pad() { return pad_; }

 private:
  const Film &film_;
  GstElement *element_;
  GstPad *pad_;
};

void checkScheduling(Source &source) {
  GstQuery *query = gst_query_new_scheduling();
  GstSchedulingFlags flags = GST_SCHEDULING_FLAG_BANDWIDTH_LIMITED;
  CHECK(gst_pad_query(source.pad(), query));
  gst_query_parse_scheduling(query, &flags, nullptr, nullptr, nullptr);
  CHECK(flags == GST_SCHEDULING_FLAG_SEEKABLE);
  CHECK(gst_query_has_scheduling_mode(query, GST_PAD_MODE_PULL) && gst_query_has_scheduling_mode(query, GST_PAD_MODE_PUSH));
  gst_query_unref(query);
}

void checkSeeking(Source &source, gint64 size) {
  GstQuery *query = gst_query_new_seeking(GST_FORMAT_BYTES);
  gboolean isSeekable = FALSE;
  gint64 start = -1, end = -1;
  CHECK(gst_element_query(source.element(), query));
  gst_query_parse_seeking(query, nullptr, &isSeekable, &start, &end);
  CHECK(isSeekable && start == 0 && end == size);
  gst_query_unref(query);
  gint64 duration = -1;
  CHECK(gst_element_query_duration(source.element(), GST_FORMAT_BYTES, &duration) && duration == size);
  CHECK(!gst_element_query_duration(source.element(), GST_FORMAT_TIME, &duration));
}

void checkLocation(Source &source, const Film &film) {
  GstURIHandler *handler = GST_URI_HANDLER(source.element());
  gchar *uri = gst_uri_handler_get_uri(handler);
  CHECK(g_strcmp0(uri, film.uri) == 0);
  g_free(uri);
  GError *error = nullptr;
  CHECK(!gst_uri_handler_set_uri(handler, "seekcache+http://127.0.0.1:1/other", &error));
  CHECK(g_error_matches(error, GST_URI_ERROR, GST_URI_ERROR_BAD_STATE));
  g_clear_error(&error);
  gchar *location = nullptr;
  g_object_get(source.element(), "location", &location, nullptr);
  CHECK(location != nullptr && g_str_has_suffix(film.uri, location));
  g_free(location);
}

void checkBorders(Source &source, gint64 size) {
  gsize got;
  CHECK(source.pulls(0, 1, 1) && source.pulls(size - 1, 1, 1) && source.pulls(size - 1, 4096, 1) && source.pulls(size - 100, 100, 100));
  CHECK(source.pull(size, 1, &got) == GST_FLOW_EOS && source.pull(size + 1, 4096, &got) == GST_FLOW_EOS);
  CHECK(source.pull(G_MAXINT64 - 1, 4096, &got) == GST_FLOW_EOS);
  CHECK(source.pulls(1000, 65536, 65536));
}

// A flush that comes before the read holds it off all the same, until it is over.
void checkFlush(Source &source) {
  gsize got;
  gst_pad_send_event(source.pad(), gst_event_new_flush_start());
  CHECK(source.pull(0, 4096, &got) == GST_FLOW_FLUSHING);
  gst_pad_send_event(source.pad(), gst_event_new_flush_stop(TRUE));
  CHECK(source.pulls(4096, 4096, 4096));
}

void checkStats(Source &source, gint64 size) {
  GstStructure *stats = nullptr;
  gint64 told = -1, reads = -1;
  g_object_get(source.element(), "stats", &stats, nullptr);
  CHECK(stats != nullptr && gst_structure_get_int64(stats, "size", &told) && told == size);
  CHECK(stats != nullptr && gst_structure_get_int64(stats, "reads", &reads) && reads > 0);
  if (stats != nullptr) gst_structure_free(stats);
}

void checkRefusals() {
  GstElement *source = GST_ELEMENT(gst_object_ref_sink(gst_element_factory_make("seekcachesrc", nullptr)));
  for (const char *uri : {"http://127.0.0.1/plain-is-not-ours", "file:///etc/passwd", "seekcache+ftp://h/f", "seekcache+http"}) {
    GError *error = nullptr;
    CHECK(!gst_uri_handler_set_uri(GST_URI_HANDLER(source), uri, &error));
    g_clear_error(&error);
  }
  CHECK(gst_uri_handler_get_uri(GST_URI_HANDLER(source)) == nullptr);
  CHECK(gst_element_set_state(source, GST_STATE_PAUSED) == GST_STATE_CHANGE_FAILURE);
  gst_element_set_state(source, GST_STATE_NULL);
  gst_object_unref(source);
}

}  // namespace

int main(int argc, char **argv) {
  gst_init(nullptr, nullptr);
  gst_seek_cache_src_register(nullptr);
  if (argc != 5) {
    std::fprintf(stderr, "usage: element-facts URI FILE OTHER_URI OTHER_FILE\n");
    return 2;
  }
  Film film(argv[1], argv[2]), other(argv[3], argv[4]);
  {
    Source source(film), second(other);
    const gchar *const cookies[] = {"a=1", "b=2", nullptr};
    g_object_set(second.element(), "cookies", cookies, nullptr);
    checkScheduling(source);
    for (int opening = 0; opening < 2; opening++) {
      source.open();
      checkScheduling(source);
      checkSeeking(source, film.size());
      checkLocation(source, film);
      checkBorders(source, film.size());
      checkFlush(source);
      checkStats(source, film.size());
      second.open();
      for (gint64 offset = 0; offset < 64; offset++) CHECK(source.pulls(offset * 4096, 4096, 4096) && second.pulls(offset * 8192, 4096, 4096));
      source.close();
      CHECK(second.pulls(77, 4096, 4096));
      second.close();
    }
  }
  checkRefusals();
  gst_deinit();
  std::printf("{\"failures\":%d}\n", failures);
  return failures == 0 ? 0 : 1;
}
