/* The element. Why GstAppSrc's `create` and `do_seek` are overridden: appsrc's queue hands out stale buffers after a flush
 * in pull mode, so no byte passes through it. The rest of appsrc stays out of the way: it is started, stopped and unlocked
 * along with us, and told the size. */

#include "seekcachesrc.h"

#include <algorithm>
#include <memory>
#include <mutex>

#include "../client/cache-reader.h"
#include "answers.h"
#include "failure.h"
#include "properties.h"
#include "settings.h"

GST_DEBUG_CATEGORY_STATIC(gst_seek_cache_src_debug);
#define GST_CAT_DEFAULT gst_seek_cache_src_debug

using seekcache::CacheReader;
using seekcache::CancelSignal;
using seekcache::gst::During;
using seekcache::gst::Settings;

namespace {

/* Two to four reads a seek, and filesrc's speed when everything is cached. */
constexpr guint kBlockSizeBytes = 256 * 1024;

GstElementClass *parentClass = nullptr;

}  // namespace

struct _GstSeekCacheSrcPrivate {
  /* Guards settings and the pointer to the reader. Never held while waiting. */
  std::mutex mutex;
  Settings settings;
  std::shared_ptr<CacheReader> reader;
  /* Outlives readers, so that an unlock is never lost between two of them. */
  std::shared_ptr<CancelSignal> cancelSignal = std::make_shared<CancelSignal>();
  /* Streaming thread only: a buffering message of 0 is out, and 100 must follow. */
  bool isBuffering = false;
};

namespace {

std::shared_ptr<CacheReader> readerOf(GstSeekCacheSrc *self) {
  std::lock_guard lock(self->priv->mutex);
  return self->priv->reader;
}

void postBuffering(GstSeekCacheSrc *self, gint percent) {
  GST_DEBUG_OBJECT(self, "buffering %d %%", percent);
  GstMessage *message = gst_message_new_buffering(GST_OBJECT(self), percent);
  gst_message_set_buffering_stats(message, GST_BUFFERING_DOWNLOAD, -1, -1, percent == 100 ? 0 : -1);
  gst_element_post_message(GST_ELEMENT(self), message);
}

/* Called by the streaming thread in the midst of a read that has outlasted the grace time: short waits, as every cold
 * seek has, are not worth pausing a pipeline for. */
void noteSlowRead(GstSeekCacheSrc *self) {
  self->priv->isBuffering = true;
  postBuffering(self, 0);
}

void endSlowRead(GstSeekCacheSrc *self) {
  if (std::exchange(self->priv->isBuffering, false)) postBuffering(self, 100);
}

/* Opening and closing */

seekcache::ReaderOptions readerOptions(GstSeekCacheSrc *self, const Settings &settings) {
  seekcache::ReaderOptions options;
  options.cacheDir = settings.cacheDir;
  options.socketPath = settings.socketPath;
  options.client = "gstreamer/" SEEKCACHE_VERSION;
  options.pulls = true;
  options.timeout = std::chrono::seconds(settings.timeoutSeconds == 0 ? 3600 : settings.timeoutSeconds);
  options.onSlowRead = [self] { noteSlowRead(self); };
  options.cancelSignal = self->priv->cancelSignal;
  return options;
}

gboolean start(GstBaseSrc *base) {
  GstSeekCacheSrc *self = GST_SEEK_CACHE_SRC(base);
  Settings settings = [&] {
    std::lock_guard lock(self->priv->mutex);
    return Settings(self->priv->settings);
  }();
  if (settings.url.empty()) {
    GST_ELEMENT_ERROR(self, RESOURCE, NOT_FOUND, ("No URL is set"), ("set the property location, or a URI"));
    return FALSE;
  }
  /* The pad's last deactivation left it set; basesrc clears it only after start(). */
  self->priv->cancelSignal->clear();
  auto opened = CacheReader::open(settings.url, seekcache::gst::requestHeaders(settings), readerOptions(self, settings));
  if (!opened) {
    seekcache::gst::postError(GST_ELEMENT(self), opened.error(), During::open);
    return FALSE;
  }
  std::shared_ptr<CacheReader> reader = std::move(opened.value());
  GST_INFO_OBJECT(self, "opened: %" G_GINT64_FORMAT " bytes, %s", static_cast<gint64>(reader->sizeBytes()),
                  reader->isSeekable() ? "seekable" : "not seekable");
  GstAppSrc *appsrc = GST_APP_SRC(self);
  gst_app_src_set_stream_type(appsrc,
                              reader->isSeekable() ? GST_APP_STREAM_TYPE_RANDOM_ACCESS : GST_APP_STREAM_TYPE_STREAM);
  gst_app_src_set_size(appsrc, reader->sizeBytes());
  /* appsrc's start() takes its format from this property; the source deals in bytes, whatever was set. */
  g_object_set(self, "format", GST_FORMAT_BYTES, nullptr);
  if (!GST_BASE_SRC_CLASS(parentClass)->start(base)) return FALSE;
  std::lock_guard lock(self->priv->mutex);
  self->priv->reader = std::move(reader);
  return TRUE;
}

gboolean stop(GstBaseSrc *base) {
  GstSeekCacheSrc *self = GST_SEEK_CACHE_SRC(base);
  std::shared_ptr<CacheReader> reader;
  {
    std::lock_guard lock(self->priv->mutex);
    reader = std::move(self->priv->reader);
  }
  return GST_BASE_SRC_CLASS(parentClass)->stop(base);
}

/* The flag is sticky: an unlock that comes before the wait still ends it. */
gboolean unlock(GstBaseSrc *base) {
  GST_SEEK_CACHE_SRC(base)->priv->cancelSignal->set();
  return GST_BASE_SRC_CLASS(parentClass)->unlock(base);
}

gboolean unlockStop(GstBaseSrc *base) {
  GST_SEEK_CACHE_SRC(base)->priv->cancelSignal->clear();
  return GST_BASE_SRC_CLASS(parentClass)->unlock_stop(base);
}

/* Reading */

gboolean getSize(GstBaseSrc *base, guint64 *size) {
  auto reader = readerOf(GST_SEEK_CACHE_SRC(base));
  if (reader == nullptr || reader->sizeBytes() < 0) return FALSE;
  *size = static_cast<guint64>(reader->sizeBytes());
  return TRUE;
}

gboolean isSeekable(GstBaseSrc *base) {
  auto reader = readerOf(GST_SEEK_CACHE_SRC(base));
  return reader != nullptr && reader->isSeekable();
}

gboolean doSeek(GstBaseSrc *base, GstSegment *segment) {
  if (segment->format != GST_FORMAT_BYTES) return FALSE;
  if (!isSeekable(base) && segment->start != 0) return FALSE;
  segment->position = segment->start;
  segment->time = segment->start;
  return TRUE;
}

GstFlowReturn flowOf(GstSeekCacheSrc *self, const seekcache::Error &error) {
  if (error.is(seekcache::code::kCancelled)) return GST_FLOW_FLUSHING;
  seekcache::gst::postError(GST_ELEMENT(self), error, During::read);
  return GST_FLOW_ERROR;
}

/* Fills `buffer` from `offset` on, and cuts it to what the resource's end left. */
GstFlowReturn fill(GstSeekCacheSrc *self, CacheReader *reader, guint64 offset, guint length, GstBuffer *buffer) {
  GstMapInfo map;
  if (!gst_buffer_map(buffer, &map, GST_MAP_WRITE)) {
    GST_ELEMENT_ERROR(self, RESOURCE, READ, ("The buffer to read into is not writable"), (nullptr));
    return GST_FLOW_ERROR;
  }
  auto count = reader->read(static_cast<int64_t>(offset), map.data, std::min<gsize>(length, map.size));
  gst_buffer_unmap(buffer, &map);
  endSlowRead(self);
  if (!count) return flowOf(self, count.error());
  if (*count == 0) return GST_FLOW_EOS;
  if (*count != gst_buffer_get_size(buffer)) gst_buffer_resize(buffer, 0, static_cast<gssize>(*count));
  GST_BUFFER_OFFSET(buffer) = offset;
  GST_BUFFER_OFFSET_END(buffer) = offset + *count;
  return GST_FLOW_OK;
}

GstFlowReturn create(GstBaseSrc *base, guint64 offset, guint length, GstBuffer **buffer) {
  GstSeekCacheSrc *self = GST_SEEK_CACHE_SRC(base);
  auto reader = readerOf(self);
  if (reader == nullptr) return GST_FLOW_FLUSHING;
  if (reader->sizeBytes() >= 0) {
    auto size = static_cast<guint64>(reader->sizeBytes());
    if (offset >= size) return GST_FLOW_EOS;
    length = static_cast<guint>(std::min<guint64>(length, size - offset));
  }
  /* In pull mode a caller may bring the buffer; then it stays the caller's, whatever happens. */
  GstBuffer *target = *buffer;
  if (target == nullptr) {
    GstFlowReturn allocated = GST_BASE_SRC_GET_CLASS(base)->alloc(base, offset, length, &target);
    if (allocated != GST_FLOW_OK) return allocated;
  }
  GstFlowReturn flow = fill(self, reader.get(), offset, length, target);
  if (flow == GST_FLOW_OK) {
    *buffer = target;
  } else if (*buffer == nullptr) {
    gst_buffer_unref(target);
  }
  GST_LOG_OBJECT(self, "%u bytes at %" G_GUINT64_FORMAT ": %s", length, offset, gst_flow_get_name(flow));
  return flow;
}

/* Queries */

bool answerUri(GstSeekCacheSrc *self, GstQuery *query) {
  gchar *uri;
  {
    std::lock_guard lock(self->priv->mutex);
    uri = seekcache::gst::uriFromUrl(self->priv->settings.url);
  }
  if (uri == nullptr) return false;
  gst_query_set_uri(query, uri);
  g_free(uri);
  return true;
}

bool answerBuffering(GstQuery *query, CacheReader *reader) {
  auto present = reader->present();
  return present && seekcache::gst::answerBuffering(query, *present, reader->sizeBytes());
}

bool answer(GstSeekCacheSrc *self, GstQuery *query) {
  if (GST_QUERY_TYPE(query) == GST_QUERY_URI) return answerUri(self, query);
  auto reader = readerOf(self);
  /* Asked before the source is open, which is when typefind asks: pull is promised, and where the origin cannot keep it
   * activation in pull mode fails and push is taken. GstBaseSrc would open and close the source only to know. */
  if (GST_QUERY_TYPE(query) == GST_QUERY_SCHEDULING) {
    seekcache::gst::answerScheduling(query, reader == nullptr || reader->isSeekable());
    return true;
  }
  if (reader == nullptr) return false;
  switch (GST_QUERY_TYPE(query)) {
    case GST_QUERY_DURATION:
      return seekcache::gst::answerDuration(query, reader->sizeBytes());
    case GST_QUERY_SEEKING:
      return seekcache::gst::answerSeeking(query, reader->isSeekable(), reader->sizeBytes());
    case GST_QUERY_BUFFERING:
      return answerBuffering(query, reader.get());
    default:
      return false;
  }
}

gboolean query(GstBaseSrc *base, GstQuery *query) {
  return answer(GST_SEEK_CACHE_SRC(base), query) || GST_BASE_SRC_CLASS(parentClass)->query(base, query);
}

/* appsrc puts serialized events, EOS among them, into the queue that nothing reads here; its parent class does not. */
gboolean sendEvent(GstElement *element, GstEvent *event) {
  auto *baseSrcClass = static_cast<GstElementClass *>(g_type_class_peek(GST_TYPE_BASE_SRC));
  return baseSrcClass->send_event(element, event);
}

/* Location and URI */

bool setLocation(GstSeekCacheSrc *self, const char *location, GError **error) {
  std::string url = seekcache::gst::urlFromLocation(location);
  if (url.empty() && location != nullptr && *location != '\0') {
    g_set_error(error, GST_URI_ERROR, GST_URI_ERROR_BAD_URI, "\"%s\" is no http or https URL", location);
    return false;
  }
  std::lock_guard lock(self->priv->mutex);
  if (self->priv->reader != nullptr) {
    g_set_error(error, GST_URI_ERROR, GST_URI_ERROR_BAD_STATE, "the location cannot change while the source is open");
    return false;
  }
  self->priv->settings.url = std::move(url);
  return true;
}

GstURIType uriType(GType) { return GST_URI_SRC; }

const gchar *const *uriProtocols(GType) {
  static const gchar *const protocols[] = {"seekcache+http", "seekcache+https", nullptr};
  return protocols;
}

gchar *getUri(GstURIHandler *handler) {
  GstSeekCacheSrc *self = GST_SEEK_CACHE_SRC(handler);
  std::lock_guard lock(self->priv->mutex);
  return seekcache::gst::uriFromUrl(self->priv->settings.url);
}

gboolean setUri(GstURIHandler *handler, const gchar *uri, GError **error) {
  return setLocation(GST_SEEK_CACHE_SRC(handler), uri, error);
}

void uriHandlerInit(gpointer interface, gpointer) {
  auto *uriHandler = static_cast<GstURIHandlerInterface *>(interface);
  uriHandler->get_type = uriType;
  uriHandler->get_protocols = uriProtocols;
  uriHandler->get_uri = getUri;
  uriHandler->set_uri = setUri;
}

/* GObject */

void setProperty(GObject *object, guint id, const GValue *value, GParamSpec *spec) {
  GstSeekCacheSrc *self = GST_SEEK_CACHE_SRC(object);
  if (id == seekcache::gst::kPropLocation) {
    GError *error = nullptr;
    if (!setLocation(self, g_value_get_string(value), &error)) {
      GST_WARNING_OBJECT(self, "location not set: %s", error->message);
      g_clear_error(&error);
    }
    return;
  }
  std::lock_guard lock(self->priv->mutex);
  if (!seekcache::gst::setProperty(self->priv->settings, id, value)) G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
}

void getProperty(GObject *object, guint id, GValue *value, GParamSpec *spec) {
  GstSeekCacheSrc *self = GST_SEEK_CACHE_SRC(object);
  if (id == seekcache::gst::kPropStats) {
    g_value_take_boxed(value, seekcache::gst::statsStructure(readerOf(self).get()));
    return;
  }
  std::lock_guard lock(self->priv->mutex);
  if (!seekcache::gst::getProperty(self->priv->settings, id, value)) G_OBJECT_WARN_INVALID_PROPERTY_ID(object, id, spec);
}

void finalize(GObject *object) {
  delete GST_SEEK_CACHE_SRC(object)->priv;
  G_OBJECT_CLASS(parentClass)->finalize(object);
}

void classInit(gpointer klass, gpointer) {
  parentClass = static_cast<GstElementClass *>(g_type_class_peek_parent(klass));
  auto *objectClass = G_OBJECT_CLASS(klass);
  objectClass->set_property = setProperty;
  objectClass->get_property = getProperty;
  objectClass->finalize = finalize;
  seekcache::gst::installProperties(objectClass);

  auto *baseClass = GST_BASE_SRC_CLASS(klass);
  baseClass->start = start;
  baseClass->stop = stop;
  baseClass->unlock = unlock;
  baseClass->unlock_stop = unlockStop;
  baseClass->get_size = getSize;
  baseClass->is_seekable = isSeekable;
  baseClass->do_seek = doSeek;
  baseClass->create = create;
  baseClass->query = query;

  GST_ELEMENT_CLASS(klass)->send_event = sendEvent;
  gst_element_class_set_static_metadata(GST_ELEMENT_CLASS(klass), "Seekcache source", "Source/Network",
                                        "Reads a remote file over HTTP through a seekcache host, which caches it on disk",
                                        "seekcache contributors");
}

void instanceInit(GTypeInstance *instance, gpointer) {
  GstSeekCacheSrc *self = GST_SEEK_CACHE_SRC(instance);
  self->priv = new GstSeekCacheSrcPrivate;
  gst_base_src_set_blocksize(GST_BASE_SRC(self), kBlockSizeBytes);
  gst_base_src_set_format(GST_BASE_SRC(self), GST_FORMAT_BYTES);
}

GType registerType() {
  GType type = g_type_register_static_simple(GST_TYPE_APP_SRC, "GstSeekCacheSrc", sizeof(GstSeekCacheSrcClass),
                                             classInit, sizeof(GstSeekCacheSrc), instanceInit, GTypeFlags(0));
  static const GInterfaceInfo uriHandler = {uriHandlerInit, nullptr, nullptr};
  g_type_add_interface_static(type, GST_TYPE_URI_HANDLER, &uriHandler);
  return type;
}

}  // namespace

/* Not G_DEFINE_TYPE: plugin and Node addon hold the same element, and both may be loaded in one process. The second uses
 * the type of the first. */
GType gst_seek_cache_src_get_type(void) {
  static gsize type = 0;
  if (g_once_init_enter(&type)) {
    GST_DEBUG_CATEGORY_INIT(gst_seek_cache_src_debug, "seekcachesrc", 0, "seekcache source");
    GType known = g_type_from_name("GstSeekCacheSrc");
    g_once_init_leave(&type, known != 0 ? known : registerType());
  }
  return type;
}

gboolean gst_seek_cache_src_register(GstPlugin *plugin) {
  return gst_element_register(plugin, "seekcachesrc", GST_RANK_MARGINAL, GST_TYPE_SEEK_CACHE_SRC);
}
