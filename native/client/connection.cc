#include "connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace seekcache {

namespace {

// Unsent notes beyond this are dropped: the host has stopped reading, and old positions are of no use to it.
constexpr std::size_t kMaxPendingBytes = protocol::kMaxClientLineBytes;
// On the stack of a thread that is not ours.
constexpr std::size_t kReceiveBytes = 16 * 1024;

#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif

int openSocket() {
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0) return -1;
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(fd, F_SETFL, O_NONBLOCK);
#ifdef SO_NOSIGPIPE
  int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
  return fd;
}

// A socket in a place that others can write to may be anybody's; ours says where files are.
bool isForeign(int fd) {
  uid_t user;
#ifdef SO_PEERCRED
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return true;
  user = peer.uid;
#else
  gid_t group;
  if (getpeereid(fd, &user, &group) != 0) return true;
#endif
  return user != geteuid() && user != 0;
}

Error cancelledError() { return makeError(code::kCancelled, "the wait for the seekcache host was cancelled"); }

Error timeoutError() { return makeError(code::kTimeout, "the seekcache host did not answer in time"); }

Error interruption(Polled polled) { return polled == Polled::cancelled ? cancelledError() : timeoutError(); }

}  // namespace

Result<std::unique_ptr<Connection>> Connection::connect(const std::string &socketPath, std::string_view client,
                                                        Wait &wait, bool *nobodyListens) {
  *nobodyListens = false;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socketPath.empty() || socketPath.size() >= sizeof address.sun_path) {
    return makeError(code::kUsage, "the socket's path " + socketPath + " is empty or too long for a Unix socket");
  }
  std::memcpy(address.sun_path, socketPath.c_str(), socketPath.size() + 1);
  int fd = openSocket();
  if (fd < 0) return makeError(code::kHostUnavailable, std::string("no socket: ") + std::strerror(errno));
  std::unique_ptr<Connection> connection(new Connection(fd));
  while (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
    int cause = errno;
    if (cause == EISCONN) break;
    if (cause == EINTR) continue;
    // EAGAIN is Linux's word for a full backlog: the host is alive and busy, so it is worth another try soon.
    if (cause == EAGAIN || cause == EINPROGRESS || cause == EALREADY) {
      Wait pause{std::min(wait.deadline, Clock::now() + std::chrono::milliseconds(5)), wait.cancel, {}, nullptr};
      if (pollFor(-1, 0, pause) == Polled::cancelled) return cancelledError();
      if (Clock::now() >= wait.deadline) return timeoutError();
      continue;
    }
    *nobodyListens = cause == ENOENT || cause == ECONNREFUSED || cause == ENOTSOCK;
    return makeError(code::kHostUnavailable, "no seekcache host at " + socketPath + ": " + std::strerror(cause));
  }
  if (isForeign(fd)) return makeError(code::kProtocol, "the socket " + socketPath + " belongs to another user");
  Status greeted = connection->sayHello(client, wait);
  if (!greeted) return std::move(greeted.error());
  return connection;
}

Connection::~Connection() {
  if (fd_ >= 0) close(fd_);
}

Status Connection::sayHello(std::string_view client, Wait &wait) {
  outgoing_ = protocol::hello(client);
  Result<Reply> reply = receive(wait);
  if (!reply) return std::move(reply.error());
  if (auto *error = std::get_if<Error>(&reply->answer.body)) return std::move(*error);
  auto *hello = std::get_if<protocol::Hello>(&reply->answer.body);
  if (hello == nullptr || hello->protocol != protocol::kVersion) {
    return lose(code::kProtocol, "the host at the socket does not speak version 1 of the control protocol");
  }
  return Done{};
}

Result<Reply> Connection::request(int64_t id, std::string line, Wait &wait) {
  if (isLost()) return makeError(code::kHostUnavailable, "the connection to the seekcache host is lost");
  if (line.size() > protocol::kMaxClientLineBytes) {
    return makeError(code::kUsage, "the URL and its headers are longer than 64 KiB");
  }
  outgoing_ += line;
  for (;;) {
    Result<Reply> reply = receive(wait);
    if (!reply) {
      if (!isLost()) note(protocol::cancel(id));
      return reply;
    }
    auto *error = std::get_if<Error>(&reply->answer.body);
    if (error != nullptr && reply->answer.id == 0) return lose(error->code, error->message);
    // Anything else with another id is the late answer of a request that was cancelled.
    if (reply->answer.id != id) continue;
    if (error != nullptr) return std::move(*error);
    return reply;
  }
}

void Connection::note(std::string line) {
  if (isLost() || outgoing_.size() + line.size() > kMaxPendingBytes) return;
  outgoing_ += line;
  flushSome();
}

// Where the host has closed the connection, nothing more is sent, but what it said before is still there to be read, and
// may say why. The end of the connection is found behind it.
void Connection::flushSome() {
  while (!outgoing_.empty()) {
    ssize_t sent = send(fd_, outgoing_.data(), outgoing_.size(), kSendFlags);
    if (sent > 0) {
      outgoing_.erase(0, static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return;
    } else if (errno != EINTR) {
      outgoing_.clear();
    }
  }
}

Result<Reply> Connection::receive(Wait &wait) {
  for (;;) {
    // A host that talks without end of other things must not keep us past the deadline.
    if (Clock::now() >= wait.deadline) return timeoutError();
    if (wait.cancel != nullptr && wait.cancel->isSet()) return cancelledError();
    flushSome();
    // A part of a message stays in incoming_ for the next call, so a cancelled wait loses nothing.
    Result<std::optional<Reply>> reply = incoming_.next();
    if (!reply) return lose(reply.error().code, reply.error().message);
    if (*reply) return std::move(**reply);
    short events = outgoing_.empty() ? POLLIN : POLLIN | POLLOUT;
    Polled polled = pollFor(fd_, events, wait);
    if (polled != Polled::ready) return interruption(polled);
    if (auto error = readSome()) return std::move(*error);
  }
}

std::optional<Error> Connection::readSome() {
  char piece[kReceiveBytes];
  ssize_t got = recv(fd_, piece, sizeof piece, 0);
  if (got > 0) {
    incoming_.push({piece, static_cast<std::size_t>(got)});
    return std::nullopt;
  }
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return std::nullopt;
  return lose(code::kHostUnavailable, "the seekcache host has gone");
}

Error Connection::lose(std::string_view code, std::string message) {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  outgoing_.clear();
  incoming_ = {};
  return makeError(code, std::move(message));
}

}  // namespace seekcache
