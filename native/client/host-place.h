// Where a host is: its cache directory and its socket, from the client's options and the environment, in the order that
// docs/PROTOCOL.md gives ("Starting a host"). Pure but for reading the environment; callable from any thread.

#pragma once

#include <string>
#include <vector>

namespace seekcache {

struct HostPlace {
  std::string cacheDir;
  std::string socketPath;
};

// An explicit option beats the environment. An explicit directory without a socket means the directory's own socket,
// whatever SEEKCACHE_SOCKET says: they would be two different hosts.
HostPlace hostPlace(const std::string &cacheDir, const std::string &socketPath);

// Whether a file that a host names may be an extent of its cache: it looks like one, and where the socket is that of our
// directory, it lies in there.
bool mayHold(const HostPlace &place, const std::string &path);

// The commands that may start a host, most wanted first, each as its words.
std::vector<std::vector<std::string>> hostCommands();

}  // namespace seekcache
