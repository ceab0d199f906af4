/* The element's properties: their specifications, and their way in and out of Settings. */

#pragma once

#include <gst/gst.h>

#include "../client/cache-reader.h"
#include "settings.h"

namespace seekcache::gst {

enum Property : guint {
  kPropLocation = 1,
  kPropSocketPath,
  kPropCacheDir,
  kPropUserAgent,
  kPropCookies,
  kPropExtraHeaders,
  kPropTimeout,
  kPropStats,
};

void installProperties(GObjectClass *objectClass);

/* The settings' properties; false for an id that is none. `location` is not among them, since it can be refused. */
bool setProperty(Settings &settings, guint id, const GValue *value);
bool getProperty(const Settings &settings, guint id, GValue *value);

/* The structure of `stats`. */
GstStructure *statsStructure(CacheReader *reader);

}  // namespace seekcache::gst
