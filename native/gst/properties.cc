#include "properties.h"

namespace seekcache::gst {

namespace {

constexpr auto kReadWrite =
    static_cast<GParamFlags>(G_PARAM_READWRITE | G_PARAM_STATIC_STRINGS | GST_PARAM_MUTABLE_READY);

std::string stringOf(const GValue *value) {
  const gchar *text = g_value_get_string(value);
  return text == nullptr ? std::string() : std::string(text);
}

void setString(GValue *value, const std::string &text) {
  g_value_set_string(value, text.empty() ? nullptr : text.c_str());
}

gchar **copyStrings(const std::vector<std::string> &strings) {
  gchar **copy = g_new0(gchar *, strings.size() + 1);
  for (std::size_t i = 0; i < strings.size(); i++) copy[i] = g_strdup(strings[i].c_str());
  return copy;
}

std::vector<std::string> stringsOf(const GValue *value) {
  std::vector<std::string> strings;
  auto **list = static_cast<gchar **>(g_value_get_boxed(value));
  for (; list != nullptr && *list != nullptr; list++) strings.emplace_back(*list);
  return strings;
}

void installString(GObjectClass *objectClass, guint id, const char *name, const char *nick, const char *blurb) {
  g_object_class_install_property(objectClass, id, g_param_spec_string(name, nick, blurb, nullptr, kReadWrite));
}

}  // namespace

/* Names and types are souphttpsrc's where it has them, so that a `source-setup` handler works for both. */
void installProperties(GObjectClass *objectClass) {
  installString(objectClass, kPropLocation, "location", "Location",
                "URL to read: http://, https://, seekcache+http:// or seekcache+https://");
  installString(objectClass, kPropSocketPath, "socket-path", "Socket path",
                "Unix socket of the seekcache host (NULL = SEEKCACHE_SOCKET, else control.sock in the cache directory)");
  installString(objectClass, kPropCacheDir, "cache-dir", "Cache directory",
                "Cache directory of the seekcache host (NULL = SEEKCACHE_CACHE_DIR, else the user's cache directory)");
  installString(objectClass, kPropUserAgent, "user-agent", "User-Agent",
                "Value of the User-Agent HTTP request header field (NULL = the host's own)");
  g_object_class_install_property(
      objectClass, kPropCookies,
      g_param_spec_boxed("cookies", "Cookies", "HTTP request cookies", G_TYPE_STRV, kReadWrite));
  g_object_class_install_property(
      objectClass, kPropExtraHeaders,
      g_param_spec_boxed("extra-headers", "Extra headers", "Extra headers to append to the HTTP requests to the origin",
                         GST_TYPE_STRUCTURE, kReadWrite));
  g_object_class_install_property(
      objectClass, kPropTimeout,
      g_param_spec_uint("timeout", "Timeout", "Seconds after which opening or one blocked read fails (0 = one hour)", 0,
                        3600, 60, kReadWrite));
  g_object_class_install_property(
      objectClass, kPropStats,
      g_param_spec_boxed("stats", "Statistics",
                         "What was read since the source was opened: size (-1 = unknown), bytes-read, reads, waits "
                         "(reads that asked the host), wait-time (ms spent asking), reconnects",
                         GST_TYPE_STRUCTURE, static_cast<GParamFlags>(G_PARAM_READABLE | G_PARAM_STATIC_STRINGS)));
}

bool setProperty(Settings &settings, guint id, const GValue *value) {
  switch (id) {
    case kPropSocketPath:
      settings.socketPath = stringOf(value);
      return true;
    case kPropCacheDir:
      settings.cacheDir = stringOf(value);
      return true;
    case kPropUserAgent:
      settings.userAgent = stringOf(value);
      return true;
    case kPropCookies:
      settings.cookies = stringsOf(value);
      return true;
    case kPropExtraHeaders: {
      const GstStructure *given = gst_value_get_structure(value);
      if (settings.extraHeaders != nullptr) gst_structure_free(settings.extraHeaders);
      settings.extraHeaders = given == nullptr ? nullptr : gst_structure_copy(given);
      return true;
    }
    case kPropTimeout:
      settings.timeoutSeconds = g_value_get_uint(value);
      return true;
    default:
      return false;
  }
}

bool getProperty(const Settings &settings, guint id, GValue *value) {
  switch (id) {
    case kPropLocation:
      setString(value, settings.url);
      return true;
    case kPropSocketPath:
      setString(value, settings.socketPath);
      return true;
    case kPropCacheDir:
      setString(value, settings.cacheDir);
      return true;
    case kPropUserAgent:
      setString(value, settings.userAgent);
      return true;
    case kPropCookies:
      g_value_take_boxed(value, settings.cookies.empty() ? nullptr : copyStrings(settings.cookies));
      return true;
    case kPropExtraHeaders:
      gst_value_set_structure(value, settings.extraHeaders);
      return true;
    case kPropTimeout:
      g_value_set_uint(value, settings.timeoutSeconds);
      return true;
    default:
      return false;
  }
}

GstStructure *statsStructure(CacheReader *reader) {
  ReaderStats stats{};
  if (reader != nullptr) stats = reader->stats();
  return gst_structure_new("seekcachesrc-stats", "size", G_TYPE_INT64,
                           static_cast<gint64>(reader == nullptr ? -1 : reader->sizeBytes()), "bytes-read", G_TYPE_INT64,
                           static_cast<gint64>(stats.bytesRead), "reads", G_TYPE_INT64, static_cast<gint64>(stats.reads),
                           "waits", G_TYPE_INT64, static_cast<gint64>(stats.waits), "wait-time", G_TYPE_INT64,
                           static_cast<gint64>(stats.waitedMs), "reconnects", G_TYPE_INT64,
                           static_cast<gint64>(stats.reconnects), nullptr);
}

}  // namespace seekcache::gst
