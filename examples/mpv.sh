#!/bin/sh
# Plays a URL in mpv through the cache: it opens and seeks at the speed of the link, and the second time at that of the
# disk. Everything else about mpv stays as it is, the place to resume at included.
#
#   examples/mpv.sh https://example.net/film.mkv [mpv's own options …]
#
# Without `seekcache run`, for every mpv that you start: link native/mpv/seekcache.lua into ~/.config/mpv/scripts.
set -eu
exec seekcache run -- mpv "$@"
