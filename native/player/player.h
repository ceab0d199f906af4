// Opens one URI, seeks in it, plays it, and reports each step.
//
// Threading: used by one thread; GStreamer's threads reach it only through the bus and the sinks' hand-off, which posts a
// message. Ownership: it owns the pipeline. Blocking: every step waits on the bus, at most the options' timeout; the calls
// into GStreamer that cannot be bounded are watched by an alarm that ends the process.

#pragma once

#include <gst/gst.h>

#include <atomic>

#include "options.h"

namespace seekcache::player {

class Player {
 public:
  explicit Player(const Options &options) : options_(options) {}
  ~Player();
  Player(const Player &) = delete;
  Player &operator=(const Player &) = delete;

  // The process's exit code.
  int run();

 private:
  enum class Awaited { settled, endOfStream, played };

  bool build();
  bool buildPlaybin();
  bool buildDecoder();
  GstElement *makeSink();
  bool open();
  bool dwell();
  bool seek(const Seek &seek);
  bool play();
  bool setState(GstState state);
  bool await(Awaited awaited);
  bool handle(GstMessage *message, Awaited awaited, bool *isDone);
  void handleBuffering(GstMessage *message);
  double durationSeconds() const;
  double positionSeconds() const;

  static void onSourceSetup(GstElement *, GstElement *source, gpointer player);
  static void onPadAdded(GstElement *, GstPad *pad, gpointer player);
  static void onHandoff(GstElement *sink, GstBuffer *buffer, GstPad *pad, gpointer player);

  const Options &options_;
  GstElement *pipeline_ = nullptr;
  GstBus *bus_ = nullptr;
  GstState target_ = GST_STATE_NULL;
  // Stream time at which a run is over; GST_CLOCK_TIME_NONE: at the end.
  std::atomic<GstClockTime> playUntil_{GST_CLOCK_TIME_NONE};
};

}  // namespace seekcache::player
