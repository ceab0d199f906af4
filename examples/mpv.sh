#!/bin/sh
# Plays a URL in mpv through the cache: it opens and seeks at the speed of the link, and the second time at that of the
# disk. Everything else about mpv stays as it is, the place to resume at included.
#
#   examples/mpv.sh https://example.net/film.mkv [mpv's own options …]
#
# Without `seekcache run`, for every mpv that you start: link native/mpv/seekcache.lua into ~/.config/mpv/scripts.
set -eu
if [ $# -eq 0 ]; then echo "usage: $0 URL [OPTION …]" >&2; exit 2; fi

# Without a screen, as over ssh, it plays into nothing; options given to this script come later and win.
if [ "$(uname)" != Darwin ] && [ -z "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; then
  set -- --vo=null --ao=null "$@"
fi

set -- run -- mpv "$@"
if command -v seekcache >/dev/null; then exec seekcache "$@"; fi
exec node "$(dirname -- "$0")/../dist/cli/main.js" "$@" # not installed: the package that this file lies in
