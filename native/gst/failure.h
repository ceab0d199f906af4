/* Turns the client's errors into the messages that GStreamer applications know. */

#pragma once

#include <gst/gst.h>

#include "../client/result.h"

namespace seekcache::gst {

/* What the element was doing when it failed. */
enum class During { open, read };

/* Posts `error` on the element's bus, with "http-status-code" and "seekcache-code" among its details. */
void postError(GstElement *element, const Error &error, During during);

}  // namespace seekcache::gst
