#include "host-place.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <string_view>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

namespace seekcache {

namespace {

// build/Release/gstreamer-1.0 is three levels below the package; a few more for packagings that nest deeper.
constexpr int kMaxLevelsUp = 6;

std::string fromEnvironment(const char *name) {
  const char *value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::string defaultCacheDir() {
  if (std::string dir = fromEnvironment("SEEKCACHE_CACHE_DIR"); !dir.empty()) return dir;
  // The XDG specification says to ignore a relative path.
  if (std::string xdg = fromEnvironment("XDG_CACHE_HOME"); !xdg.empty() && xdg[0] == '/') return xdg + "/seekcache";
#ifdef __APPLE__
  return fromEnvironment("HOME") + "/Library/Caches/seekcache";
#else
  return fromEnvironment("HOME") + "/.cache/seekcache";
#endif
}

std::string realPath(const std::string &path) {
  char *resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return {};
  std::string result(resolved);
  std::free(resolved);
  return result;
}

std::string executablePath() {
#ifdef __APPLE__
  char path[PATH_MAX];
  uint32_t size = sizeof path;
  return _NSGetExecutablePath(path, &size) == 0 ? realPath(path) : std::string();
#else
  return realPath("/proc/self/exe");
#endif
}

// The file that this code was loaded from. For code of the program itself dladdr gives argv[0], which need not be a path.
std::string ownFile() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void *>(&hostPlace), &info) == 0 || info.dli_fname == nullptr) return executablePath();
  std::string name = info.dli_fname;
  std::string path = name.find('/') == std::string::npos ? std::string() : realPath(name);
  return path.empty() ? executablePath() : path;
}

// The package's command-line program, if this code lies in a package. Both files are asked for, so that a stray
// dist/cli/main.js of something else above us is not run.
std::string packageProgram() {
  std::string dir = ownFile();
  for (int level = 0; level < kMaxLevelsUp; level++) {
    std::size_t slash = dir.rfind('/');
    if (slash == std::string::npos || slash == 0) return {};
    dir.resize(slash);
    std::string program = dir + "/dist/cli/main.js";
    std::string manifest = dir + "/package.json";
    if (access(program.c_str(), R_OK) == 0 && access(manifest.c_str(), R_OK) == 0) return program;
  }
  return {};
}

std::vector<std::string> splitAtSpaces(const std::string &command) {
  std::vector<std::string> words;
  std::size_t start = 0;
  while ((start = command.find_first_not_of(' ', start)) != std::string::npos) {
    std::size_t end = command.find(' ', start);
    words.push_back(command.substr(start, end == std::string::npos ? end : end - start));
    start = end == std::string::npos ? command.size() : end;
  }
  return words;
}

bool isHex(std::string_view text) {
  return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// The directory in which a path of the shape ROOT/extents/GENERATION/NUMBER-RANDOM lies; empty if it has another shape.
std::string rootOf(std::string_view path) {
  constexpr std::string_view kFolder = "/extents";
  std::size_t name = path.rfind('/');
  if (path.size() >= PATH_MAX || name == std::string_view::npos || name == 0) return {};
  std::size_t dash = path.find('-', name);
  if (dash == std::string_view::npos || dash == name + 1 || !isHex(path.substr(dash + 1))) return {};
  if (path.substr(name + 1, dash - name - 1).find_first_not_of("0123456789") != std::string_view::npos) return {};
  std::size_t generation = path.rfind('/', name - 1);
  if (generation == std::string_view::npos || !isHex(path.substr(generation + 1, name - generation - 1))) return {};
  std::string_view folder = path.substr(0, generation);
  if (folder.size() <= kFolder.size() || folder.substr(folder.size() - kFolder.size()) != kFolder) return {};
  std::string root(folder.substr(0, folder.size() - kFolder.size()));
  return (root + "/").find("/../") == std::string::npos ? root : std::string();
}

}  // namespace

HostPlace hostPlace(const std::string &cacheDir, const std::string &socketPath) {
  HostPlace place{cacheDir.empty() ? defaultCacheDir() : cacheDir, socketPath};
  if (place.socketPath.empty() && cacheDir.empty()) place.socketPath = fromEnvironment("SEEKCACHE_SOCKET");
  if (place.socketPath.empty()) place.socketPath = place.cacheDir + "/control.sock";
  return place;
}

bool mayHold(const HostPlace &place, const std::string &path) {
  std::string root = rootOf(path);
  if (root.empty()) return false;
  if (place.socketPath != place.cacheDir + "/control.sock" || root == place.cacheDir) return true;
  std::string real = realPath(root);
  return !real.empty() && real == realPath(place.cacheDir);
}

std::vector<std::vector<std::string>> hostCommands() {
  std::vector<std::vector<std::string>> commands;
  if (std::string program = packageProgram(); !program.empty()) commands.push_back({"node", program});
  if (auto words = splitAtSpaces(fromEnvironment("SEEKCACHE_COMMAND")); !words.empty()) commands.push_back(words);
  commands.push_back({"seekcache"});
  return commands;
}

}  // namespace seekcache
