/* What the application asks of a seekcachesrc: its properties, as plain values, apart from the element's state.
 *
 * Values only; the element guards them with its lock and opens from a copy. */

#pragma once

#include <gst/gst.h>

#include <string>
#include <vector>

#include "../client/protocol.h"

namespace seekcache::gst {

struct Settings {
  Settings() = default;
  Settings(const Settings &other);
  Settings &operator=(const Settings &) = delete;
  ~Settings();

  /* http or https; empty: not set. */
  std::string url;
  std::string socketPath;
  std::string cacheDir;
  std::string userAgent;
  std::vector<std::string> cookies;
  GstStructure *extraHeaders = nullptr;
  guint timeoutSeconds = 60;
};

/* The request headers that the settings add up to. */
Headers requestHeaders(const Settings &settings);

/* Takes http(s) and seekcache+http(s). Empty if it is neither. */
std::string urlFromLocation(const char *location);

/* The URL in the scheme that only this element handles; NULL for an empty URL. */
gchar *uriFromUrl(const std::string &url);

}  // namespace seekcache::gst
