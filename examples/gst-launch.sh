#!/bin/sh
# Plays a URL in GStreamer through the cache, with the element seekcachesrc: write seekcache+https:// for https://.
#
#   examples/gst-launch.sh https://example.net/film.mkv [more properties of playbin3 …]
#
# `seekcache run` sets GST_PLUGIN_PATH, so any GStreamer program can stand in place of gst-launch-1.0. An element of a
# pipeline of your own is written: seekcachesrc location=https://example.net/film.mkv ! decodebin ! autovideosink
set -eu
if [ $# -eq 0 ]; then echo "usage: $0 URL [PROPERTY=VALUE …]" >&2; exit 2; fi
url=$1
shift

# Without a screen, as over ssh, it runs through the film as fast as it comes; properties given to this script win.
if [ "$(uname)" != Darwin ] && [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
  set -- video-sink=fakesink audio-sink=fakesink "$@"
fi

set -- run -- gst-launch-1.0 playbin3 uri="seekcache+$url" "$@"
if command -v seekcache >/dev/null; then exec seekcache "$@"; fi
exec node "$(dirname -- "$0")/../dist/cli/main.js" "$@" # not installed: the package that this file lies in
