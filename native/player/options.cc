#include "options.h"

#include <cstdlib>
#include <functional>
#include <map>

namespace seekcache::player {

const char kUsage[] =
    "usage: seekcache-player [options] URI\n"
    "\n"
    "Opens a URI without a screen or loudspeaker, seeks and plays, and prints what happened as lines of JSON.\n"
    "\n"
    "  --playbin3, --playbin, --decode-only   the element to play with (--decode-only: uridecodebin)\n"
    "  --seek PERCENT                         flushing seek to a part of the duration; may be repeated\n"
    "  --seek-time SECONDS                    the same by time\n"
    "  --accurate                             seek to the very frame, not to the key frame before\n"
    "  --dwell SECONDS                        stay paused so long before the first and after each seek\n"
    "  --play-seconds SECONDS                 then play so much of the film\n"
    "  --to-eos                               then play to the end\n"
    "  --sync                                 play in step with the clock (default: as fast as it goes)\n"
    "  --video, --audio                       only that kind of stream (default: both)\n"
    "  --source-property NAME=VALUE           set on the source element; may be repeated\n"
    "  --timeout SECONDS                      bound of each step (default: 60)\n";

namespace {

bool number(const std::string &text, double *value) {
  char *end = nullptr;
  *value = std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0' && *value >= 0 && *value < 1e9;
}

using Flags = std::map<std::string, std::function<void()>>;
// True if the value makes sense.
using Valued = std::map<std::string, std::function<bool(const std::string &)>>;

Flags flagsOf(Options &options) {
  return {
      {"--playbin3", [&] { options.element = "playbin3"; }},
      {"--playbin", [&] { options.element = "playbin"; }},
      {"--decode-only", [&] { options.element = "uridecodebin"; }},
      {"--accurate", [&] { options.isAccurate = true; }},
      {"--to-eos", [&] { options.isToEos = true; }},
      {"--sync", [&] { options.isSync = true; }},
      {"--video", [&] { options.wantsAudio = false; }},
      {"--audio", [&] { options.wantsVideo = false; }},
  };
}

bool addSeek(Options &options, const std::string &text, bool isPercent) {
  Seek seek{0, isPercent};
  if (!number(text, &seek.value) || (isPercent && seek.value > 100)) return false;
  options.seeks.push_back(seek);
  return true;
}

bool addSourceProperty(Options &options, const std::string &text) {
  std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) return false;
  options.sourceProperties.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  return true;
}

Valued valuedOf(Options &options) {
  return {
      {"--seek", [&](const std::string &text) { return addSeek(options, text, true); }},
      {"--seek-time", [&](const std::string &text) { return addSeek(options, text, false); }},
      {"--dwell", [&](const std::string &text) { return number(text, &options.dwellSeconds); }},
      {"--source-property", [&](const std::string &text) { return addSourceProperty(options, text); }},
      {"--timeout",
       [&](const std::string &text) { return number(text, &options.timeoutSeconds) && options.timeoutSeconds > 0; }},
      {"--play-seconds",
       [&](const std::string &text) {
         options.playSeconds = 0;
         return number(text, &*options.playSeconds);
       }},
  };
}

}  // namespace

std::optional<Options> parseOptions(int argc, char **argv, std::string *complaint) {
  Options options;
  Flags flags = flagsOf(options);
  Valued valued = valuedOf(options);
  for (int i = 1; i < argc; i++) {
    std::string word = argv[i];
    if (auto flag = flags.find(word); flag != flags.end()) {
      flag->second();
    } else if (auto option = valued.find(word); option != valued.end()) {
      if (i + 1 == argc || !option->second(argv[++i])) {
        *complaint = word + " needs a value that makes sense";
        return std::nullopt;
      }
    } else if (word.rfind("--", 0) == 0 || !options.uri.empty()) {
      *complaint = "not understood: " + word;
      return std::nullopt;
    } else {
      options.uri = word;
    }
  }
  if (options.uri.empty()) *complaint = "no URI is given";
  // --video and --audio together ask for both.
  if (!options.wantsVideo && !options.wantsAudio) options.wantsVideo = options.wantsAudio = true;
  return options.uri.empty() ? std::nullopt : std::optional(options);
}

}  // namespace seekcache::player
