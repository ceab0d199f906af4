#!/bin/sh
# Plays a URL in GStreamer through the cache, with the element seekcachesrc: write seekcache+https:// for https://.
#
#   examples/gst-launch.sh https://example.net/film.mkv
#
# `seekcache run` sets GST_PLUGIN_PATH, so any GStreamer program can stand in place of gst-launch-1.0. An element of a
# pipeline of your own is written: seekcachesrc location=https://example.net/film.mkv ! decodebin ! autovideosink
set -eu
exec seekcache run -- gst-launch-1.0 playbin3 uri="seekcache+$1"
