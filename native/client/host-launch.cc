#include "host-launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

#include "protocol.h"

namespace seekcache {

namespace {

// Node starts in some 50 ms, a large index opens in under a second; beyond this the host hangs.
constexpr auto kStartDeadline = std::chrono::seconds(15);
constexpr std::size_t kMaxReadyLineBytes = 64 * 1024;
constexpr int kReadyFd = 3;
// What the child writes to the pipe when exec finds no such program.
constexpr std::string_view kExecFailed = "exec failed\n";

struct Fd {
  int fd = -1;
  ~Fd() { reset(); }
  void reset() {
    if (fd >= 0) close(fd);
    fd = -1;
  }
};

bool makePipe(Fd &readEnd, Fd &writeEnd) {
  int fds[2];
  if (pipe(fds) != 0) return false;
  readEnd.fd = fds[0];
  writeEnd.fd = fds[1];
  for (int fd : fds) fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(readEnd.fd, F_SETFL, O_NONBLOCK);
  return true;
}

// From here to execInChild everything runs in a forked child: no allocation, no locks.

void closeFrom(int first, int openMax) {
#ifdef SYS_close_range
  if (syscall(SYS_close_range, first, ~0U, 0) == 0) return;
#endif
  for (int fd = first; fd < openMax; fd++) close(fd);
}

void restoreSignals() {
  for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void execInChild(char *const *words, int pipeFd, int openMax) {
  setsid();
  restoreSignals();
  // The pipe first moves out of the way of 0 to 3, where dup2 below would overwrite it.
  int word = fcntl(pipeFd, F_DUPFD, kReadyFd + 1);
  int null = open("/dev/null", O_RDWR);
  if (word < 0 || null < 0) _exit(127);
  for (int standard = 0; standard <= 2; standard++) dup2(null, standard);
  dup2(word, kReadyFd);
  closeFrom(kReadyFd + 1, openMax);
  execvp(words[0], words);
  ssize_t ignored = write(kReadyFd, kExecFailed.data(), kExecFailed.size());
  (void)ignored;
  _exit(127);
}

// Forks twice, so that init, not this process, buries the host.
bool spawn(const std::vector<std::string> &words, int pipeFd) {
  std::vector<char *> arguments;
  for (const std::string &word : words) arguments.push_back(const_cast<char *>(word.c_str()));
  arguments.push_back(nullptr);
  int openMax = static_cast<int>(std::clamp(sysconf(_SC_OPEN_MAX), 256L, 65536L));
  pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    pid_t host = fork();
    if (host == 0) execInChild(arguments.data(), pipeFd, openMax);
    _exit(host < 0 ? 1 : 0);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    // ECHILD: the program ignores SIGCHLD, and the child has been buried for us.
    if (errno != EINTR) return true;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// The first line from the pipe; empty if it ended without one.
Result<std::string> readWord(int fd, Wait &wait) {
  std::string word;
  char piece[1024];
  for (;;) {
    ssize_t got = read(fd, piece, sizeof piece);
    if (got > 0) {
      word.append(piece, static_cast<std::size_t>(got));
      if (std::size_t end = word.find('\n'); end != std::string::npos) return word.substr(0, end + 1);
      if (word.size() > kMaxReadyLineBytes) return std::string();
    } else if (got == 0) {
      return std::string();
    } else if (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK) {
      return makeError(code::kHostUnavailable, std::string("reading from the new host: ") + std::strerror(errno));
    } else if (Polled polled = pollFor(fd, POLLIN, wait); polled == Polled::cancelled) {
      return makeError(code::kCancelled, "the start of the seekcache host was cancelled");
    } else if (polled == Polled::timedOut) {
      return makeError(code::kTimeout, "the seekcache host did not get ready in time");
    }
  }
}

Result<std::string> launchWith(const std::vector<std::string> &words, Wait &wait) {
  Fd readEnd, writeEnd;
  if (!makePipe(readEnd, writeEnd) || !spawn(words, writeEnd.fd)) {
    return makeError(code::kHostUnavailable, std::string("cannot start a process: ") + std::strerror(errno));
  }
  writeEnd.reset();
  return readWord(readEnd.fd, wait);
}

}  // namespace

Result<std::string> launchHost(const HostPlace &place, Wait &wait) {
  Wait start = wait;
  start.deadline = std::min(wait.deadline, Clock::now() + kStartDeadline);
  for (std::vector<std::string> words : hostCommands()) {
    std::string program = words.size() > 1 ? words[1] : words[0];
    words.insert(words.end(), {"serve", "--background", "--ready-fd", std::to_string(kReadyFd), "--cache-dir",
                               place.cacheDir, "--socket", place.socketPath});
    Result<std::string> word = launchWith(words, start);
    // A notice that was given during the start must not be given again.
    wait.notice = start.notice;
    if (!word) return word;
    if (*word == kExecFailed) continue;
    if (word->empty()) {
      return makeError(code::kHostUnavailable,
                       "the seekcache host (" + program + ") left without a word; run \"seekcache serve\" to see why");
    }
    Result<protocol::Ready> ready = protocol::parseReady(*word);
    if (!ready) return std::move(ready.error());
    return std::move(ready->socket);
  }
  return makeError(code::kHostUnavailable,
                   "no seekcache host runs at " + place.socketPath +
                       " and none can be started: put seekcache on PATH or name it in SEEKCACHE_COMMAND");
}

}  // namespace seekcache
