// One resource opened at a host, through the host's deaths: a lost connection is made again, with a new host if need be,
// and the resource opened again, which must then be the same version of the same bytes.
//
// Threading: one thread at a time; only the Wait's signal is touched from others. Ownership: it owns its connection.
// Blocking: open() and locate() until their Wait's deadline. Cancel: the Wait's signal ends both within milliseconds, and
// the next call goes on from there.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "connection.h"
#include "host-place.h"
#include "protocol.h"
#include "result.h"
#include "wait.h"

namespace seekcache {

// How much later than the deadline that the host is told the client gives up, as the Node client: the host's own error says
// more, and on a busy machine it was more than a second late.
inline constexpr auto kAnswerGrace = std::chrono::seconds(5);

struct Resource {
  std::string url;
  Headers headers;
  // Its demuxer pulls: the host fetches early what such a one reads next.
  bool pulls = false;
};

class HostLink {
 public:
  HostLink(Resource resource, HostPlace place, std::string client, bool mayStartHost)
      : resource_(std::move(resource)), place_(std::move(place)), client_(std::move(client)), mayStartHost_(mayStartHost) {}

  Status open(Wait &wait);

  // Valid after open(); these facts never change.
  const protocol::Opened &opened() const { return opened_; }

  struct Question {
    int64_t reader;
    int64_t start;
    int64_t lengthBytes;
    // Empty: none.
    std::string unreadablePath;
    bool wantsData = false;
  };
  // The answer holds an Extent, a Data or an End.
  Result<Reply> locate(const Question &question, Wait &wait);

  void tellPosition(int64_t reader, int64_t position);
  void releaseReader(int64_t reader);

  int64_t reconnects() const { return reconnects_; }

 private:
  Status openOnce(Wait &wait, bool *isWorthRetry);
  Status reach(Wait &wait, bool *isWorthRetry);
  Status retry(Wait &wait);
  Status checkSame(const protocol::Opened &again) const;

  Resource resource_;
  HostPlace place_;
  std::string client_;
  bool mayStartHost_;
  std::unique_ptr<Connection> connection_;
  bool wasOpened_ = false;
  protocol::Opened opened_;
  // The session of the present connection; opened_ keeps the first one's facts.
  std::string session_;
  int64_t reconnects_ = 0;
};

}  // namespace seekcache
