-- seekcache for mpv: http and https media play through the seekcache host, which keeps every byte on disk.
--
-- When mpv opens a URL, the URL is exchanged for one of the host's proxy on loopback, made from the host's state file
-- (docs/PROTOCOL.md): no process is started and nobody is asked, so opening costs no time. Only `stream-open-filename`
-- is changed: `path`, the title and watch-later keep the URL that the person gave. If there is no host one is started;
-- if that fails, or the proxy cannot play the file, mpv plays the original directly, as without this script.
--
-- Left alone is what is not one file of media, or what the host could not fetch in mpv's place: playlists, HLS and DASH,
-- loopback addresses, and URLs that need mpv's own cookie file, proxy or client certificate. URLs and headers carry
-- credentials, so no message holds either.
--
-- The host is told of seeks out of mpv's own cache that show no picture at once, since mpv does not leave a read that is
-- stalled for a seek. And a script of the person's own can give a fresh URL when one expires in the middle: with the option
-- `renew`, this script broadcasts `seekcache-renew URL STATUS` (a script message), and takes
-- `script-message-to seekcache renew FRESH-URL ["Name: value"]…` as the answer, without a URL as a refusal. Both need
-- curl, as Lua has no sockets.
--
-- All of it is one file, for mpv loads a script that is linked or copied by itself.
--
-- Options: script-opts/seekcache.conf, or --script-opts=seekcache-OPTION=VALUE.

local mp = require("mp")
local msg = require("mp.msg")
local utils = require("mp.utils")

local options = {
    enabled = true,
    -- The host's cache directory; empty: SEEKCACHE_CACHE_DIR, else the usual place.
    cache_dir = "",
    -- How to call seekcache; empty: the package that this file lies in, else SEEKCACHE_COMMAND, else `seekcache`.
    command = "",
    -- Start a host if there is none.
    start_host = true,
    -- Seconds that a start may delay a file; then it plays directly, and the next one finds the host.
    start_timeout = 5,
    -- Also for URLs on this machine, which seldom gain from a cache.
    intercept_loopback = false,
    -- Seconds that mpv reads ahead into its own memory; 0: as far as it does by itself.
    readahead_seconds = 5,
    -- Tell the host of seeks.
    seek_hints = true,
    -- Ask the person's own scripts for a fresh URL when one has expired.
    renew = false,
}
require("mp.options").read_options(options, "seekcache")

local SCRIPT_FILE = debug.getinfo(1, "S").source:gsub("^@", "")
-- ffmpeg keeps URLs in buffers of 4096 bytes and cuts longer ones without a word.
local MAX_URL_BYTES = 4000
-- What these options are while a file plays through the proxy. The host has been given the headers: loopback must not get
-- them again. Prefetching opens the next entry behind the back of every hook, directly and with these emptied options.
local WHILE_PROXIED = { ["http-header-fields"] = {}, ["referrer"] = "", ["prefetch-playlist"] = false }

-- mpv's default of cache-secs: all that its limits of memory allow.
local MPV_CACHE_SECONDS = 1000 * 60 * 60

-- A message to the host takes some ms; a question of the host's is answered within 25 s.
local MESSAGE_SECONDS, POLL_SECONDS = 5, 40
-- How long to wait before asking a host again that did not answer.
local RETRY_SECONDS = 1

-- What this file's load has come to: the exchange in force, and the originals that the proxy could not play.
local exchange = nil
local refused = {}

---------------------------------------------------------------------------------------------------------------- Text

local BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

local function base64url(bytes)
    local out = {}
    for i = 1, #bytes, 3 do
        local a, b, c = bytes:byte(i, i + 2)
        local bits = a * 65536 + (b or 0) * 256 + (c or 0)
        for digit = 0, (c and 3) or (b and 2) or 1 do
            local index = math.floor(bits / 64 ^ (3 - digit)) % 64 + 1
            out[#out + 1] = BASE64URL:sub(index, index)
        end
    end
    return table.concat(out)
end

-- The parts of an http(s) URL, or nil for anything else.
local function url_parts(url)
    local scheme, authority, rest = url:match("^(%a+)://([^/?#]*)(.*)$")
    scheme = scheme and scheme:lower()
    if (scheme ~= "http" and scheme ~= "https") or authority == "" then return nil end
    local place = (authority:match("@([^@]*)$") or authority):lower()
    return {
        place = place,
        host = place:match("^%[(.*)%]") or place:match("^[^:]*"),
        path = rest:match("^[^?#]*"),
    }
end

local function file_name(path)
    local name = path:match("([^/]*)$"):gsub("[^%w%-._~%%]", function(char)
        return ("%%%02X"):format(char:byte())
    end)
    return name == "" and "media" or name
end

---------------------------------------------------------------------------------------------------------- What plays

local function is_loopback(host)
    return host == "localhost" or host:match("%.localhost$") or host:match("^127%.") or host == "0.0.0.0"
        or host == "::1" or host == "::" or host:match("^::ffff:127%.")
end

local PLAYLISTS = { m3u = true, m3u8 = true, mpd = true, pls = true, xspf = true, asx = true, ism = true, cue = true }

local function is_playlist(path)
    local lower = path:lower()
    return PLAYLISTS[lower:match("%.(%w+)$") or ""] or lower:match("%.ism/") ~= nil
end

-- Why the host cannot fetch in mpv's place, or nil: the origin would not be reached the way that the person asked for.
local function not_transferable()
    if (mp.get_property("http-proxy") or "") ~= "" then return "an http-proxy is set" end
    if mp.get_property_bool("cookies") and (mp.get_property("cookies-file") or "") ~= "" then
        return "a cookies-file is set"
    end
    if (mp.get_property("tls-cert-file") or "") ~= "" then return "a client certificate is set" end
    for name in pairs(mp.get_property_native("stream-lavf-o") or {}) do
        if name == "headers" or name == "cookies" or name == "http_proxy" then
            return "stream-lavf-o sets " .. name
        end
    end
    return nil
end

-- Why this URL is played directly, or nil.
local function not_for_host(url, proxy)
    local parts = url_parts(url)
    if not parts then return "it is not on the web" end
    if is_playlist(parts.path) then return "it is a playlist" end
    if proxy and parts.place == url_parts(proxy).place then return "it is the host's own" end
    if is_loopback(parts.host) and not options.intercept_loopback then return "it is on this machine" end
    return nil
end

------------------------------------------------------------------------------------------------------------ The host

local function cache_dir()
    if options.cache_dir ~= "" then return mp.command_native({ "expand-path", options.cache_dir }) end
    local dir = os.getenv("SEEKCACHE_CACHE_DIR")
    if dir and dir ~= "" then return dir end
    local caches = os.getenv("XDG_CACHE_HOME")
    local home = os.getenv("HOME") or ""
    if caches and caches:sub(1, 1) == "/" then return caches .. "/seekcache" end
    local is_mac = utils.file_info("/System/Library/CoreServices") ~= nil
    return home .. (is_mac and "/Library/Caches/seekcache" or "/.cache/seekcache")
end

local function content_of(path)
    local file = io.open(path, "r")
    local content = file and file:read("*a")
    if file then file:close() end
    return content
end

-- Whether a process is one that was started as `… serve …`, and not another one that has a dead host's number by now.
-- Where the system does not tell (no /proc) it is taken for one.
local function is_host(pid)
    if not utils.file_info("/proc/self") then return true end
    return (content_of(("/proc/%d/cmdline"):format(tonumber(pid) or 0)) or ""):find("serve", 1, true) ~= nil
end

-- The proxy of the running host, or nil. Lua has no sockets and asking a process would cost what the cache saves, so this
-- believes the state file if its process runs; where that is wrong, loading fails and the original is played.
local function running_proxy()
    local state = utils.parse_json(content_of(utils.join_path(cache_dir(), "host.json")) or "")
    if type(state) ~= "table" or type(state.proxy) ~= "string" or state.protocol ~= 1 then return nil end
    if not url_parts(state.proxy) or not is_loopback(url_parts(state.proxy).host) then return nil end
    if not is_host(state.pid) then return nil end
    return (state.proxy:gsub("/+$", ""))
end

-- The host tells on descriptor 3 that it is ready; that is this shell's output. In a session or at least a process group
-- of its own it is not reached by a Ctrl-C that is meant for mpv.
local START_HOST = [[
script=$(readlink -f "$1" 2>/dev/null || printf %s "$1")
main=${script%/native/mpv/*}/dist/cli/main.js
set -f
if [ -n "$2" ]; then set -- "$3" $2
elif [ "$main" != "$script/dist/cli/main.js" ] && [ -f "$main" ] && command -v node >/dev/null; then
  set -- "$3" node "$main"
elif [ -n "$SEEKCACHE_COMMAND" ]; then set -- "$3" $SEEKCACHE_COMMAND
else set -- "$3" seekcache
fi
cache_dir=$1
shift
command -v "$1" >/dev/null || exit 127
exec 3>&1 </dev/null >/dev/null 2>&1
if command -v setsid >/dev/null; then setsid "$@" serve --background --ready-fd 3 --cache-dir "$cache_dir" &
else
  set -m
  "$@" serve --background --ready-fd 3 --cache-dir "$cache_dir" &
fi
]]

-- Starts a host and calls `done` with its proxy, or with nil when there is none within the time.
local function start_host(done)
    local timer
    local args = { "sh", "-c", START_HOST, "seekcache", SCRIPT_FILE, options.command, cache_dir() }
    local start = mp.command_native_async({
        name = "subprocess",
        args = args,
        capture_stdout = true,
        playback_only = false,
    }, function(_, result)
        timer:kill()
        local word = utils.parse_json(result and result.stdout or "")
        if type(word) == "table" and word.event == "ready" then
            msg.verbose("started a host")
            done(running_proxy())
        else
            msg.warn("the seekcache host could not be started, playing without it" ..
                (type(word) == "table" and word.code and (" (" .. word.code .. ")") or ""))
            done(nil)
        end
    end)
    timer = mp.add_timeout(options.start_timeout, function() mp.abort_async_command(start) end)
end

-------------------------------------------------------------------------------------------------------- The exchange

-- Name and value of a header line, or nil.
local function parse_header(line)
    return line:match("^%s*([^:%s]+)%s*:%s*(.-)%s*$")
end

-- Written by hand: an empty Lua table does not tell whether it is a list.
local function headers_json(headers)
    local out = {}
    for _, header in ipairs(headers) do
        out[#out + 1] = ("[%s,%s]"):format(utils.format_json(header[1]), utils.format_json(header[2]))
    end
    return "[" .. table.concat(out, ",") .. "]"
end

-- Name and value of every header that mpv itself would send for this file.
local function request_headers()
    local headers, has = {}, {}
    local function add(name, value)
        headers[#headers + 1] = { name, value }
        has[name:lower()] = true
    end
    for _, field in ipairs(mp.get_property_native("http-header-fields") or {}) do
        local name, value = parse_header(field)
        if name then add(name, value) end
    end
    local agent, referrer = mp.get_property("user-agent") or "", mp.get_property("referrer") or ""
    if agent ~= "" and not has["user-agent"] then add("User-Agent", agent) end
    if referrer ~= "" and not has["referer"] then add("Referer", referrer) end
    return headers
end

-- Tells this load's requests from those of other players and other loads.
local loads = 0
local function next_player()
    loads = loads + 1
    return ("mpv-%d-%d-%d"):format(utils.getpid(), math.floor(mp.get_time() * 1000), loads)
end

local function proxy_url(proxy, url, player)
    -- mpv takes a URL with spaces, as ffmpeg does; on the wire, and for the host, they are escaped.
    local escaped = url:gsub("[%c ]", function(char) return ("%%%02X"):format(char:byte()) end)
    local spec = ('{"url":%s,"headers":%s,"player":"%s"}'):format(
        utils.format_json(escaped), headers_json(request_headers()), player)
    return proxy .. "/u/" .. base64url(spec) .. "/" .. file_name(url_parts(url).path)
end

local function is_list(name) return name:sub(1, 6) == "edl://" end

-- The proxy's URL of one file, or nil and the reason why it has none.
local function proxied_file(proxy, url, player)
    local reason = not_for_host(url, proxy)
    if reason then return nil, reason end
    local instead = proxy_url(proxy, url, player)
    if #instead > MAX_URL_BYTES then return nil, "its URL and headers are too long" end
    return instead
end

-- What to open instead of `name`, or nil and the reason why `name` itself is opened.
local function proxied(proxy, name, player)
    if not is_list(name) then return proxied_file(proxy, name, player) end
    -- ytdl_hook's list of whole files; the fragments of a DASH stream are not worth an entry each.
    if name:find("!mp4_dash", 1, true) or name:find("init=", 1, true) then return nil, "it is a list of fragments" end
    local out, position, count = {}, 1, 0
    while true do
        local first, last, length = name:find("%%(%d+)%%", position)
        if not first then break end
        local value = name:sub(last + 1, last + tonumber(length))
        out[#out + 1] = name:sub(position, first - 1)
        local instead = proxied_file(proxy, value, player)
        if instead then count = count + 1 end
        out[#out + 1] = ("%%%d%%%s"):format(#(instead or value), instead or value)
        position = last + 1 + tonumber(length)
    end
    out[#out + 1] = name:sub(position)
    if count == 0 then return nil, "it is a list without web media" end
    return table.concat(out)
end

------------------------------------------------------------------------------------------------- Messages to the host

local curl_found = nil
local function has_curl()
    if curl_found ~= nil then return curl_found end
    curl_found = false
    for dir in (os.getenv("PATH") or ""):gmatch("[^:]+") do
        curl_found = curl_found or utils.file_info(dir .. "/curl") ~= nil
    end
    if not curl_found then msg.verbose("there is no curl: the host is told nothing") end
    return curl_found
end

local function may_hint() return options.seek_hints and has_curl() end

-- Asks the host, under the path of what plays, or tells it `body`. All that is secret goes over curl's standard input: a
-- process's arguments are for everybody to see. Returns what aborts it.
local function to_host(of, kind, body, seconds, done)
    local lines = { ("max-time = %d"):format(seconds), 'noproxy = "*"', "silent", "fail" }
    if body then
        lines[#lines + 1] = ('data = "%s"'):format((body:gsub('[\\"]', "\\%0")))
        lines[#lines + 1] = 'header = "Content-Type: application/json"'
    end
    -- All files of an EDL, but each once.
    local told = {}
    for spec in of.instead:gmatch("/u/([%w_-]+)/") do
        if not told[spec] then lines[#lines + 1] = ('url = "%s/%s/u/%s"'):format(of.proxy, kind, spec) end
        told[spec] = true
    end
    return mp.command_native_async({
        name = "subprocess",
        args = { "curl", "-q", "--config", "-" },
        stdin_data = table.concat(lines, "\n") .. "\n",
        capture_stdout = true,
        playback_only = false,
    }, function(_, result) done(type(result) == "table" and result or {}) end)
end

-- ffmpeg reconnects at the old place when the host has cut a read for a seek. Once is wanted, for what else may cut a
-- connection; the host refuses that for a seek, and ffmpeg's pauses before further tries would be the seek's.
-- Returns what to set for a file that is not proxied after all.
local function set_reconnection()
    local before = mp.get_property_native("stream-lavf-o") or {}
    local during = { reconnect_delay_max = "0" }
    for name, value in pairs(before) do during[name] = value end
    mp.set_property_native("file-local-options/stream-lavf-o", during)
    -- An empty table may be a list to mpv; this is what it sets by itself.
    return next(before) and before or { reconnect_delay_max = "7" }
end

-- The host reads ahead, onto the disk. mpv by itself would do so as well, up to 150 MiB, and then stand where nothing has come
-- yet when a seek comes: it obeys between two packets only, and there a packet takes as long as the link needs for it (a seek
-- back to a cached place took 46 ms instead of 13). A person's own value is kept.
-- Returns what to set for a file that is not proxied after all.
local function set_readahead()
    local before = mp.get_property_number("cache-secs")
    if options.readahead_seconds <= 0 or before ~= MPV_CACHE_SECONDS then return nil end
    mp.set_property_number("file-local-options/cache-secs", options.readahead_seconds)
    return before
end

-- What mpv holds it seeks in without the host. To cut its read then would look like the file's end to it.
local function is_held(time)
    local state = mp.get_property_native("demuxer-cache-state") or {}
    for _, range in ipairs(state["seekable-ranges"] or {}) do
        if range["start"] <= time and time <= range["end"] then return true end
    end
    return false
end

-- A seek that shows its picture within this is told to nobody: it was not stalled, and curl's start would take as much from
-- two cores as the seek itself (a seek to a cached place took 25 ms instead of 14).
local HINT_AFTER_SECONDS = 0.05

-- Of the seeks that have not shown a picture yet the last one, until it is told; then what aborts the telling.
local hint_due = nil
local hint_timer = nil
local telling = nil

local function forget_hint()
    hint_due = nil
    if hint_timer then hint_timer:kill() end
    hint_timer = nil
end

-- The picture is there, or the file has ended: what a slow curl would still say is not so any more.
local function withdraw_hint()
    forget_hint()
    if telling then mp.abort_async_command(telling) end
    telling = nil
end

-- Seconds since this machine's boot, or nil. By it the host tells requests of before a seek from the seek's own, however
-- long curl takes: who cuts those ends the film.
local function uptime_seconds()
    local file = io.open("/proc/uptime")
    if not file then return nil end
    local seconds = file:read("*n")
    file:close()
    return seconds
end

mp.register_event("seek", function()
    if not exchange or not may_hint() then return end
    local sought = uptime_seconds()
    local time, duration = mp.get_property_number("time-pos"), mp.get_property_number("duration")
    if not time or not duration or duration <= 0 or is_held(time) then return end
    hint_due = ('{"timeSeconds":%.3f,"durationSeconds":%.3f%s}'):format(
        math.max(time, 0), duration, sought and (',"uptimeSeconds":%.2f'):format(sought) or "")
    hint_timer = hint_timer or mp.add_timeout(HINT_AFTER_SECONDS, function()
        local body = hint_due
        forget_hint()
        local told
        told = to_host(exchange, "hint", body, MESSAGE_SECONDS, function(result)
            if telling == told then telling = nil end
            if result.status ~= 0 and not result.killed_by_us then msg.debug("the host was not told of the seek") end
        end)
        telling = told
    end)
end)

mp.register_event("playback-restart", withdraw_hint)

-- Until the file ends there is always one request open by which the host can ask for a fresh URL.
local listen_for_renewal
function listen_for_renewal(of)
    of.poll = to_host(of, "renewal", nil, POLL_SECONDS, function(result)
        if exchange ~= of then return end
        local question = utils.parse_json(result.stdout or "")
        if type(question) == "table" and question.renewal then
            of.question = question.renewal
            msg.verbose("the URL has expired: asking for a fresh one")
            mp.commandv("script-message", "seekcache-renew", of.original, tostring(question.httpStatus))
        end
        local pause = result.status == 0 and 0 or RETRY_SECONDS
        mp.add_timeout(pause, function()
            if exchange == of then listen_for_renewal(of) end
        end)
    end)
end

mp.register_script_message("renew", function(url, ...)
    local of = exchange
    if not of or not of.question then return end
    local fields = { ('"renewal":%d'):format(of.question) }
    if url and url ~= "" then fields[#fields + 1] = '"url":' .. utils.format_json(url) end
    local headers = {}
    for _, field in ipairs({ ... }) do
        local name, value = parse_header(field)
        if name then headers[#headers + 1] = { name, value } end
    end
    if #headers > 0 then fields[#fields + 1] = '"headers":' .. headers_json(headers) end
    of.question = nil
    to_host(of, "renewal", "{" .. table.concat(fields, ",") .. "}", MESSAGE_SECONDS, function(result)
        if result.status ~= 0 then msg.warn("the host did not accept the fresh URL") end
    end)
end)

mp.register_event("end-file", function()
    if exchange and exchange.poll then mp.abort_async_command(exchange.poll) end
    exchange = nil
    withdraw_hint()
end)

local function open_through(proxy)
    local original = mp.get_property("stream-open-filename")
    local instead, reason = proxied(proxy, original, next_player())
    if not instead then
        msg.verbose("left alone: " .. reason)
        return
    end
    local before = {}
    for name, value in pairs(WHILE_PROXIED) do
        local current = mp.get_property_native(name)
        -- An option that is unset must stay untouched: mpv gives it back as an empty text, which is a header.
        local is_set = type(current) == "table" and #current > 0 or type(current) ~= "table" and current ~= ""
        if is_set then
            before[name] = current
            mp.set_property_native("file-local-options/" .. name, value)
        end
    end
    if may_hint() then before["stream-lavf-o"] = set_reconnection() end
    before["cache-secs"] = set_readahead()
    mp.set_property("stream-open-filename", instead)
    exchange = { original = original, instead = instead, before = before, proxy = proxy }
    if options.renew and has_curl() then listen_for_renewal(exchange) end
end

-- Whether it is worth looking for a host, by what can be told without one.
local function is_candidate(name)
    if not options.enabled or not name or refused[name] then return false end
    local reason = not is_list(name) and not_for_host(name, nil) or not_transferable()
    if reason then msg.verbose("left alone: " .. reason) end
    return not reason
end

local function exchange_file(hook)
    if not is_candidate(mp.get_property("stream-open-filename")) then return end
    local started = mp.get_time()
    local proxy = running_proxy()
    if proxy then
        open_through(proxy)
        msg.debug(("exchanged in %.1f ms"):format((mp.get_time() - started) * 1000))
    elseif options.start_host then
        hook:defer()
        start_host(function(new_proxy)
            if new_proxy then open_through(new_proxy) end
            hook:cont()
        end)
    else
        msg.verbose("left alone: no host is running")
    end
end

mp.add_hook("on_load", 50, function(hook)
    exchange, refused = nil, {}
    withdraw_hint()
    exchange_file(hook)
end)

-- Before ytdl_hook (10), which must see what the person asked for and not a URL on loopback.
mp.add_hook("on_load_fail", 5, function()
    if not exchange or mp.get_property("stream-open-filename") ~= exchange.instead then return end
    msg.verbose("the proxy could not play it, trying the original")
    for name, value in pairs(exchange.before) do mp.set_property_native("file-local-options/" .. name, value) end
    mp.set_property("stream-open-filename", exchange.original)
    refused[exchange.original] = true
    exchange = nil
end)

-- The same URL for every server, in other letters: mpv loads a second time only what differs from the `path`.
local function respelled(url)
    local scheme, authority, rest = url:match("^(%a+://)([^/?#]*)(.*)$")
    if not authority:find("@", 1, true) then return scheme .. "@" .. authority .. rest end
    local place, port = authority:match("^(.*:)(%d+)$")
    if port then return scheme .. place .. "0" .. port .. rest end
    return scheme .. authority .. (scheme:lower() == "https://" and ":443" or ":80") .. rest
end

-- After ytdl_hook: what it has found behind a page is new; if it has found nothing, mpv tries the original.
mp.add_hook("on_load_fail", 50, function(hook)
    local name = mp.get_property("stream-open-filename")
    if name ~= mp.get_property("path") then
        exchange_file(hook)
    elseif refused[name] then
        mp.set_property("stream-open-filename", respelled(name))
    end
end)
