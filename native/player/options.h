// The player's command line. Values only.

#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace seekcache::player {

struct Seek {
  // Of the duration, if `isPercent`.
  double value;
  bool isPercent;
};

struct Options {
  std::string uri;
  // playbin3, playbin or uridecodebin; with the last the streams are decoded without playbin's own machinery.
  std::string element = "playbin3";
  // In the order of the command line.
  std::vector<Seek> seeks;
  // Media time to play through after the seeks.
  std::optional<double> playSeconds;
  bool isToEos = false;
  bool isAccurate = false;
  // In step with the clock, as for a person; otherwise as fast as the decoders go.
  bool isSync = false;
  bool wantsVideo = true;
  bool wantsAudio = true;
  // Stands still, paused, before the first and after each seek, as a person who looks does: the queues fill up.
  double dwellSeconds = 0;
  // Bounds each step: opening, each seek, each run.
  double timeoutSeconds = 60;
  std::vector<std::pair<std::string, std::string>> sourceProperties;
};

extern const char kUsage[];

// Nothing, with the reason in `complaint`, if the arguments make no sense.
std::optional<Options> parseOptions(int argc, char **argv, std::string *complaint);

}  // namespace seekcache::player
