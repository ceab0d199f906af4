// seekcache-player: a player without screen or loudspeaker, for demonstrations, tests and measurements. Prints NDJSON;
// exits with 0 if all went well, 1 if not, 2 if the command line makes no sense.

#include <gst/gst.h>
#include <signal.h>
#include <unistd.h>

#include <string>

#include "options.h"
#include "player.h"

namespace {

// A call into GStreamer that does not come back. Only async-signal-safe calls here.
void onAlarm(int) {
  static const char line[] =
      "{\"event\":\"error\",\"domain\":\"seekcache-player\",\"code\":0,\"message\":\"GStreamer does not come back\"}\n";
  ssize_t ignored = write(STDOUT_FILENO, line, sizeof line - 1);
  (void)ignored;
  _exit(1);
}

// The plugin that was built beside this program serves if no other is installed.
void findPlugin() {
  GstElementFactory *factory = gst_element_factory_find("seekcachesrc");
  if (factory != nullptr) {
    gst_object_unref(factory);
    return;
  }
  GError *error = nullptr;
  gchar *program = g_file_read_link("/proc/self/exe", &error);
  g_clear_error(&error);
  if (program == nullptr) return;
  gchar *folder = g_path_get_dirname(program);
  gchar *plugins = g_build_filename(folder, "gstreamer-1.0", nullptr);
  gst_registry_scan_path(gst_registry_get(), plugins);
  g_free(plugins);
  g_free(folder);
  g_free(program);
}

}  // namespace

int main(int argc, char **argv) {
  std::string complaint;
  auto options = seekcache::player::parseOptions(argc, argv, &complaint);
  if (!options) {
    g_printerr("seekcache-player: %s\n\n%s", complaint.c_str(), seekcache::player::kUsage);
    return 2;
  }
  signal(SIGALRM, onAlarm);
  gst_init(nullptr, nullptr);
  findPlugin();
  int code = seekcache::player::Player(*options).run();
  // For GStreamer's leak tracer, which reports here.
  gst_deinit();
  return code;
}
