#include "settings.h"

#include <cstring>

namespace seekcache::gst {

namespace {

constexpr char kSchemePrefix[] = "seekcache+";

void addHeader(Headers &headers, const char *name, const GValue *value) {
  GValue text = G_VALUE_INIT;
  g_value_init(&text, G_TYPE_STRING);
  if (g_value_transform(value, &text) && g_value_get_string(&text) != nullptr) {
    headers.emplace_back(name, g_value_get_string(&text));
  }
  g_value_unset(&text);
}

/* A field is one value, or an array or list of values for a header that occurs more than once. */
gboolean addField(GQuark field, const GValue *value, gpointer data) {
  auto &headers = *static_cast<Headers *>(data);
  const char *name = g_quark_to_string(field);
  if (GST_VALUE_HOLDS_ARRAY(value)) {
    for (guint i = 0; i < gst_value_array_get_size(value); i++) addHeader(headers, name, gst_value_array_get_value(value, i));
  } else if (GST_VALUE_HOLDS_LIST(value)) {
    for (guint i = 0; i < gst_value_list_get_size(value); i++) addHeader(headers, name, gst_value_list_get_value(value, i));
  } else {
    addHeader(headers, name, value);
  }
  return TRUE;
}

bool startsWith(const char *text, const char *prefix) { return g_ascii_strncasecmp(text, prefix, std::strlen(prefix)) == 0; }

}  // namespace

Settings::Settings(const Settings &other)
    : url(other.url),
      socketPath(other.socketPath),
      cacheDir(other.cacheDir),
      userAgent(other.userAgent),
      cookies(other.cookies),
      extraHeaders(other.extraHeaders == nullptr ? nullptr : gst_structure_copy(other.extraHeaders)),
      timeoutSeconds(other.timeoutSeconds) {}

Settings::~Settings() {
  if (extraHeaders != nullptr) gst_structure_free(extraHeaders);
}

Headers requestHeaders(const Settings &settings) {
  Headers headers;
  if (!settings.userAgent.empty()) headers.emplace_back("User-Agent", settings.userAgent);
  std::string cookies;
  for (const std::string &cookie : settings.cookies) cookies += (cookies.empty() ? "" : "; ") + cookie;
  if (!cookies.empty()) headers.emplace_back("Cookie", cookies);
  if (settings.extraHeaders != nullptr) gst_structure_foreach(settings.extraHeaders, addField, &headers);
  return headers;
}

std::string urlFromLocation(const char *location) {
  if (location == nullptr) return {};
  const char *url = startsWith(location, kSchemePrefix) ? location + std::strlen(kSchemePrefix) : location;
  return startsWith(url, "http://") || startsWith(url, "https://") ? std::string(url) : std::string();
}

gchar *uriFromUrl(const std::string &url) {
  return url.empty() ? nullptr : g_strconcat(kSchemePrefix, url.c_str(), nullptr);
}

}  // namespace seekcache::gst
