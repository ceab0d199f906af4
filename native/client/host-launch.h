// Starts a host, as docs/PROTOCOL.md says ("Starting a host"), and waits for its word.
//
// Threading: callable from any thread; the process may have many, so the child runs only async-signal-safe code before
// exec. Ownership: the host belongs to nobody: it runs in a session of its own, outlives this process, and leaves no
// zombie (it is a grandchild) and no inherited descriptor. Blocking: until the host is ready, at most 15 s or the Wait's
// deadline. Cancel: the Wait's signal ends the wait within milliseconds; the host that was started goes on starting.

#pragma once

#include <string>

#include "host-place.h"
#include "result.h"
#include "wait.h"

namespace seekcache {

// Gives the socket that the host listens at.
Result<std::string> launchHost(const HostPlace &place, Wait &wait);

}  // namespace seekcache
