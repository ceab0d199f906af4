#include "answers.h"

#include <algorithm>

namespace seekcache::gst {

namespace {

int64_t total(const std::vector<ByteRange> &ranges) {
  int64_t sum = 0;
  for (const ByteRange &range : ranges) sum += range.end - range.start;
  return sum;
}

gint64 inFormat(int64_t position, int64_t sizeBytes, GstFormat format) {
  if (format == GST_FORMAT_BYTES) return position;
  return static_cast<gint64>(gst_util_uint64_scale(static_cast<guint64>(position), GST_FORMAT_PERCENT_MAX,
                                                   static_cast<guint64>(std::max<int64_t>(sizeBytes, 1))));
}

}  // namespace

/* No BANDWIDTH_LIMITED: it makes playbin put a queue2 in front of the demuxer and read everything twice over. */
void answerScheduling(GstQuery *query, bool isSeekable) {
  gst_query_set_scheduling(query, isSeekable ? GST_SCHEDULING_FLAG_SEEKABLE : GST_SCHEDULING_FLAG_SEQUENTIAL, 1, -1, 0);
  gst_query_add_scheduling_mode(query, GST_PAD_MODE_PUSH);
  if (isSeekable) gst_query_add_scheduling_mode(query, GST_PAD_MODE_PULL);
}

bool answerDuration(GstQuery *query, int64_t sizeBytes) {
  GstFormat format;
  gst_query_parse_duration(query, &format, nullptr);
  if (format != GST_FORMAT_BYTES || sizeBytes < 0) return false;
  gst_query_set_duration(query, GST_FORMAT_BYTES, sizeBytes);
  return true;
}

bool answerSeeking(GstQuery *query, bool isSeekable, int64_t sizeBytes) {
  GstFormat format;
  gst_query_parse_seeking(query, &format, nullptr, nullptr, nullptr);
  if (format != GST_FORMAT_BYTES) return false;
  gst_query_set_seeking(query, GST_FORMAT_BYTES, isSeekable, 0, sizeBytes);
  return true;
}

bool answerBuffering(GstQuery *query, const std::vector<ByteRange> &present, int64_t sizeBytes) {
  GstFormat format;
  gst_query_parse_buffering_range(query, &format, nullptr, nullptr, nullptr);
  if (sizeBytes < 0 || (format != GST_FORMAT_BYTES && format != GST_FORMAT_PERCENT)) return false;
  int64_t presentBytes = total(present);
  gint percent = sizeBytes == 0 ? 100 : static_cast<gint>(presentBytes * 100.0 / static_cast<double>(sizeBytes));
  bool isComplete = presentBytes >= sizeBytes;
  gst_query_set_buffering_percent(query, !isComplete, std::clamp(percent, 0, isComplete ? 100 : 99));
  gst_query_set_buffering_stats(query, GST_BUFFERING_DOWNLOAD, -1, -1, isComplete ? 0 : -1);
  gint64 start = present.empty() ? 0 : inFormat(present.front().start, sizeBytes, format);
  gint64 stop = present.empty() ? 0 : inFormat(present.back().end, sizeBytes, format);
  gst_query_set_buffering_range(query, format, start, stop, isComplete ? 0 : -1);
  for (const ByteRange &range : present) {
    gst_query_add_buffering_range(query, inFormat(range.start, sizeBytes, format), inFormat(range.end, sizeBytes, format));
  }
  return true;
}

}  // namespace seekcache::gst
