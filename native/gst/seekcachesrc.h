/* seekcachesrc: a GstAppSrc whose bytes come from a seekcache host.
 *
 * Threading: what GstBaseSrc says. create() runs in the streaming thread with the pad's stream lock held; unlock(),
 * queries and properties come from any thread and take only the element's own lock, which nobody holds while waiting.
 */

#pragma once

#include <gst/app/gstappsrc.h>
#include <gst/gst.h>

G_BEGIN_DECLS

#define GST_TYPE_SEEK_CACHE_SRC (gst_seek_cache_src_get_type())
#define GST_SEEK_CACHE_SRC(object) (reinterpret_cast<GstSeekCacheSrc *>(object))

typedef struct _GstSeekCacheSrc GstSeekCacheSrc;
typedef struct _GstSeekCacheSrcClass GstSeekCacheSrcClass;
typedef struct _GstSeekCacheSrcPrivate GstSeekCacheSrcPrivate;

struct _GstSeekCacheSrc {
  GstAppSrc parent;
  GstSeekCacheSrcPrivate *priv;
};

struct _GstSeekCacheSrcClass {
  GstAppSrcClass parent_class;
};

GType gst_seek_cache_src_get_type(void);

/* Registers the element as a feature of `plugin`, or of this process if NULL. */
gboolean gst_seek_cache_src_register(GstPlugin *plugin);

G_END_DECLS
