/* The element's answers to queries: pure but for the query that is filled in. */

#pragma once

#include <gst/gst.h>

#include <vector>

#include "../client/protocol.h"

namespace seekcache::gst {

void answerScheduling(GstQuery *query, bool isSeekable);
bool answerDuration(GstQuery *query, int64_t sizeBytes);
bool answerSeeking(GstQuery *query, bool isSeekable, int64_t sizeBytes);

/* From what is cached, in bytes or per cent. False for other formats: the source knows no time. */
bool answerBuffering(GstQuery *query, const std::vector<ByteRange> &present, int64_t sizeBytes);

}  // namespace seekcache::gst
