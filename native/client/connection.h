// One connection to a host: hello, requests and their answers, notes.
//
// Threading: one thread at a time uses a connection; only the CancelSignal of a Wait is touched from others. Ownership:
// it owns its socket. Blocking: connect() and request() wait for the host, at most until their Wait's deadline. Cancel:
// the Wait's signal ends them within milliseconds, and the connection stays usable: the host is told to drop the request,
// half-sent lines are completed by the next call, late answers are passed over.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "framer.h"
#include "protocol.h"
#include "result.h"
#include "wait.h"

namespace seekcache {

class Connection {
 public:
  // Connects and exchanges hellos. `nobodyListens` tells the failure that starting a host can cure.
  static Result<std::unique_ptr<Connection>> connect(const std::string &socketPath, std::string_view client, Wait &wait,
                                                     bool *nobodyListens);
  ~Connection();
  Connection(const Connection &) = delete;
  Connection &operator=(const Connection &) = delete;

  int64_t nextId() { return ++lastId_; }

  // Sends the request `line`, which carries `id`, and gives its answer; a host's `error` answer becomes an Error. After
  // an error that is not the host's, cancellation or the deadline, isLost() is true.
  Result<Reply> request(int64_t id, std::string line, Wait &wait);

  // Sends a message that has no answer. Never waits: what the socket does not take now goes out with a later call, and a
  // note is dropped if the host has not read for long.
  void note(std::string line);

  // The host is gone or talks nonsense. Nothing more can be asked of this connection.
  bool isLost() const { return fd_ < 0; }

 private:
  explicit Connection(int fd) : fd_(fd) {}

  Status sayHello(std::string_view client, Wait &wait);
  void flushSome();
  Result<Reply> receive(Wait &wait);
  std::optional<Error> readSome();
  Error lose(std::string_view code, std::string message);

  int fd_;
  int64_t lastId_ = 0;
  std::string outgoing_;
  Framer incoming_;
};

}  // namespace seekcache
