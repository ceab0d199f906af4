#include "player.h"

#include <unistd.h>

#include <chrono>
#include <cmath>

#include "report.h"

namespace seekcache::player {

namespace {

constexpr char kPlayedMessage[] = "seekcache-player-played";
// GstPlayFlags has no public header.
constexpr guint kPlayFlagVideo = 1, kPlayFlagAudio = 2;
// How much longer than its timeout a step may block inside a call into GStreamer.
constexpr double kAlarmGraceSeconds = 5;

double msSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double seconds(gint64 time) { return time < 0 ? -1 : static_cast<double>(time) / GST_SECOND; }

void reportError(GstMessage *message) {
  GError *error = nullptr;
  gst_message_parse_error(message, &error, nullptr);
  const GstStructure *details = nullptr;
  gst_message_parse_error_details(message, &details);
  guint status = 0;
  std::string domain = g_quark_to_string(error->domain);
  if (details != nullptr && gst_structure_get_uint(details, "http-status-code", &status)) {
    report("error", {{"domain", domain}, {"code", static_cast<long long>(error->code)},
                     {"message", std::string(error->message)}, {"httpStatus", static_cast<long long>(status)}});
  } else {
    report("error", {{"domain", domain}, {"code", static_cast<long long>(error->code)},
                     {"message", std::string(error->message)}});
  }
  g_clear_error(&error);
}

void reportFailure(const std::string &what) {
  report("error", {{"domain", std::string("seekcache-player")}, {"code", 0LL}, {"message", what}});
}

}  // namespace

Player::~Player() {
  if (pipeline_ != nullptr) {
    setState(GST_STATE_NULL);
    gst_object_unref(pipeline_);
  }
  if (bus_ != nullptr) gst_object_unref(bus_);
}

int Player::run() {
  bool isFine = build() && open();
  for (const Seek &one : options_.seeks) isFine = isFine && dwell() && seek(one);
  isFine = isFine && dwell();
  if (isFine && (options_.playSeconds || options_.isToEos)) isFine = play();
  return isFine ? 0 : 1;
}

// The sinks take everything: no decoder is avoided because a format is unknown to them.
GstElement *Player::makeSink() {
  GstElement *sink = gst_element_factory_make("fakesink", nullptr);
  g_object_set(sink, "sync", static_cast<gboolean>(options_.isSync), "signal-handoffs", TRUE, nullptr);
  g_signal_connect(sink, "handoff", G_CALLBACK(onHandoff), this);
  return sink;
}

bool Player::build() {
  bool isPlaybin = options_.element != "uridecodebin";
  if (!(isPlaybin ? buildPlaybin() : buildDecoder())) {
    reportFailure("the element " + options_.element + " is not installed");
    return false;
  }
  bus_ = gst_element_get_bus(pipeline_);
  return true;
}

bool Player::buildPlaybin() {
  pipeline_ = gst_element_factory_make(options_.element.c_str(), nullptr);
  if (pipeline_ == nullptr) return false;
  gst_object_ref_sink(pipeline_);
  guint flags = (options_.wantsVideo ? kPlayFlagVideo : 0) | (options_.wantsAudio ? kPlayFlagAudio : 0);
  g_object_set(pipeline_, "uri", options_.uri.c_str(), "video-sink", makeSink(), "audio-sink", makeSink(), nullptr);
  gst_util_set_object_arg(G_OBJECT(pipeline_), "flags", std::to_string(flags).c_str());
  g_signal_connect(pipeline_, "source-setup", G_CALLBACK(onSourceSetup), this);
  return true;
}

bool Player::buildDecoder() {
  GstElement *decoder = gst_element_factory_make(options_.element.c_str(), nullptr);
  if (decoder == nullptr) return false;
  pipeline_ = gst_pipeline_new(nullptr);
  g_object_set(decoder, "uri", options_.uri.c_str(), nullptr);
  g_signal_connect(decoder, "source-setup", G_CALLBACK(onSourceSetup), this);
  g_signal_connect(decoder, "pad-added", G_CALLBACK(onPadAdded), this);
  gst_bin_add(GST_BIN(pipeline_), decoder);
  return true;
}

void Player::onSourceSetup(GstElement *, GstElement *source, gpointer player) {
  for (const auto &[name, value] : static_cast<Player *>(player)->options_.sourceProperties) {
    if (g_object_class_find_property(G_OBJECT_GET_CLASS(source), name.c_str()) == nullptr) {
      g_printerr("seekcache-player: the source %s has no property %s\n", G_OBJECT_TYPE_NAME(source), name.c_str());
      continue;
    }
    gst_util_set_object_arg(G_OBJECT(source), name.c_str(), value.c_str());
  }
}

// Unwanted kinds are decoded no further: an unlinked pad makes the decoder drop them.
void Player::onPadAdded(GstElement *, GstPad *pad, gpointer data) {
  auto *player = static_cast<Player *>(data);
  GstCaps *caps = gst_pad_get_current_caps(pad);
  const gchar *kind = caps == nullptr ? "" : gst_structure_get_name(gst_caps_get_structure(caps, 0));
  bool isWanted = (player->options_.wantsVideo && g_str_has_prefix(kind, "video/")) ||
                  (player->options_.wantsAudio && g_str_has_prefix(kind, "audio/"));
  if (caps != nullptr) gst_caps_unref(caps);
  if (!isWanted) return;
  GstElement *sink = player->makeSink();
  gst_bin_add(GST_BIN(player->pipeline_), sink);
  gst_element_sync_state_with_parent(sink);
  GstPad *sinkPad = gst_element_get_static_pad(sink, "sink");
  gst_pad_link(pad, sinkPad);
  gst_object_unref(sinkPad);
}

void Player::onHandoff(GstElement *sink, GstBuffer *buffer, GstPad *pad, gpointer data) {
  auto *player = static_cast<Player *>(data);
  GstClockTime until = player->playUntil_.load();
  if (until == GST_CLOCK_TIME_NONE || !GST_BUFFER_PTS_IS_VALID(buffer)) return;
  GstEvent *event = gst_pad_get_sticky_event(pad, GST_EVENT_SEGMENT, 0);
  if (event == nullptr) return;
  const GstSegment *segment;
  gst_event_parse_segment(event, &segment);
  guint64 time = gst_segment_to_stream_time(segment, GST_FORMAT_TIME, GST_BUFFER_PTS(buffer));
  gst_event_unref(event);
  if (time == GST_CLOCK_TIME_NONE || time < until) return;
  // Once a run, whichever stream gets there first.
  if (!player->playUntil_.compare_exchange_strong(until, GST_CLOCK_TIME_NONE)) return;
  gst_element_post_message(sink, gst_message_new_application(GST_OBJECT(sink), gst_structure_new_empty(kPlayedMessage)));
}

bool Player::open() {
  auto start = std::chrono::steady_clock::now();
  if (!setState(GST_STATE_PAUSED) || !await(Awaited::settled)) return false;
  double ms = msSince(start);
  GstQuery *query = gst_query_new_seeking(GST_FORMAT_TIME);
  gboolean isSeekable = FALSE;
  if (gst_element_query(pipeline_, query)) gst_query_parse_seeking(query, nullptr, &isSeekable, nullptr, nullptr);
  gst_query_unref(query);
  report("open", {{"ms", ms}, {"durationSeconds", durationSeconds()}, {"seekable", isSeekable != FALSE}});
  return true;
}

bool Player::dwell() {
  auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(options_.dwellSeconds);
  for (auto left = end - std::chrono::steady_clock::now(); left.count() > 0; left = end - std::chrono::steady_clock::now()) {
    auto wait = static_cast<GstClockTime>(std::chrono::duration_cast<std::chrono::nanoseconds>(left).count());
    GstMessage *message = gst_bus_timed_pop_filtered(bus_, wait, GST_MESSAGE_ERROR);
    if (message == nullptr) continue;
    reportError(message);
    gst_message_unref(message);
    return false;
  }
  return true;
}

bool Player::seek(const Seek &seek) {
  double target = seek.isPercent ? durationSeconds() * seek.value / 100 : seek.value;
  auto flags = static_cast<GstSeekFlags>(GST_SEEK_FLAG_FLUSH |
                                         (options_.isAccurate ? GST_SEEK_FLAG_ACCURATE : GST_SEEK_FLAG_KEY_UNIT));
  auto start = std::chrono::steady_clock::now();
  alarm(static_cast<unsigned>(std::ceil(options_.timeoutSeconds + kAlarmGraceSeconds)));
  gboolean isTaken = gst_element_seek_simple(pipeline_, GST_FORMAT_TIME, flags, static_cast<gint64>(target * GST_SECOND));
  alarm(0);
  if (!isTaken) {
    reportFailure("the pipeline refused a seek to " + std::to_string(target) + " s");
    return false;
  }
  if (!await(Awaited::settled)) return false;
  report("seek", {{"targetSeconds", target}, {"ms", msSince(start)}, {"landedSeconds", positionSeconds()}});
  return true;
}

bool Player::play() {
  double from = positionSeconds();
  auto start = std::chrono::steady_clock::now();
  if (options_.playSeconds) playUntil_ = static_cast<GstClockTime>((from + *options_.playSeconds) * GST_SECOND);
  if (!setState(GST_STATE_PLAYING)) return false;
  if (options_.playSeconds) {
    if (!await(Awaited::played)) return false;
    report("played", {{"seconds", *options_.playSeconds}, {"ms", msSince(start)}});
  }
  if (!options_.isToEos) return true;
  if (!await(Awaited::endOfStream)) return false;
  report("eos", {{"ms", msSince(start)}});
  return true;
}

// set_state can block in a source that opens, which nothing can interrupt: the alarm's handler ends the process.
bool Player::setState(GstState state) {
  alarm(static_cast<unsigned>(std::ceil(options_.timeoutSeconds + kAlarmGraceSeconds)));
  target_ = state;
  GstStateChangeReturn change = gst_element_set_state(pipeline_, state);
  alarm(0);
  if (change != GST_STATE_CHANGE_FAILURE) return true;
  // The source's own error, which says why, is on the bus.
  GstMessage *message = bus_ == nullptr ? nullptr : gst_bus_pop_filtered(bus_, GST_MESSAGE_ERROR);
  if (message == nullptr) {
    reportFailure("the pipeline cannot change its state");
    return false;
  }
  reportError(message);
  gst_message_unref(message);
  return false;
}

bool Player::await(Awaited awaited) {
  auto timeout = static_cast<GstClockTime>(options_.timeoutSeconds * GST_SECOND);
  auto start = std::chrono::steady_clock::now();
  for (bool isDone = false; !isDone;) {
    auto spent = static_cast<GstClockTime>(msSince(start) * GST_MSECOND);
    GstMessage *message = spent >= timeout ? nullptr : gst_bus_timed_pop(bus_, timeout - spent);
    if (message == nullptr) {
      reportFailure("nothing more happened within the timeout");
      return false;
    }
    bool isFine = handle(message, awaited, &isDone);
    gst_message_unref(message);
    if (!isFine) return false;
  }
  return true;
}

bool Player::handle(GstMessage *message, Awaited awaited, bool *isDone) {
  switch (GST_MESSAGE_TYPE(message)) {
    case GST_MESSAGE_ERROR:
      reportError(message);
      return false;
    case GST_MESSAGE_ASYNC_DONE:
      *isDone = awaited == Awaited::settled;
      return true;
    case GST_MESSAGE_EOS:
      // A run may be longer than what is left of the film.
      *isDone = awaited != Awaited::settled;
      return true;
    case GST_MESSAGE_APPLICATION:
      *isDone = awaited == Awaited::played && gst_message_has_name(message, kPlayedMessage);
      return true;
    case GST_MESSAGE_BUFFERING:
      handleBuffering(message);
      return true;
    default:
      return true;
  }
}

// As a player for people does: it stands still while the pipeline fills up.
void Player::handleBuffering(GstMessage *message) {
  gint percent;
  gst_message_parse_buffering(message, &percent);
  if (percent == 0 || percent == 100) report("buffering", {{"percent", static_cast<long long>(percent)}});
  if (target_ != GST_STATE_PLAYING) return;
  gst_element_set_state(pipeline_, percent < 100 ? GST_STATE_PAUSED : GST_STATE_PLAYING);
}

double Player::durationSeconds() const {
  gint64 duration = -1;
  gst_element_query_duration(pipeline_, GST_FORMAT_TIME, &duration);
  return seconds(duration);
}

double Player::positionSeconds() const {
  gint64 position = -1;
  gst_element_query_position(pipeline_, GST_FORMAT_TIME, &position);
  return seconds(position);
}

}  // namespace seekcache::player
