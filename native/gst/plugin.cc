/* The entry of libgstseekcache.so. The loader derives the entry's symbol from the file's name, so the two must agree. */

#include "seekcachesrc.h"

#define PACKAGE "seekcache"

static gboolean plugin_init(GstPlugin *plugin) { return gst_seek_cache_src_register(plugin); }

GST_PLUGIN_DEFINE(GST_VERSION_MAJOR, GST_VERSION_MINOR, seekcache, "Remote media files, cached and seekable",
                  plugin_init, SEEKCACHE_VERSION, "MIT/X11", PACKAGE, "https://www.npmjs.com/package/seekcache")
