// The client's half of the control protocol against hostile hosts: lines that are no messages, framing in every split,
// answers that come late, hosts that stop in the middle. Each failed check is printed; the exit code is their number.

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "../../native/client/cache-reader.h"
#include "../../native/client/connection.h"
#include "../../native/client/located.h"
#include "../../native/client/protocol.h"
#include "../../native/client/runs.h"

using namespace seekcache;

namespace {

#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif

int failures = 0;

void check(bool holds, const char *what, int line) {
  if (holds) return;
  std::fprintf(stderr, "client-test.cc:%d: %s\n", line, what);
  failures++;
}
#define CHECK(condition) check(static_cast<bool>(condition), #condition, __LINE__)

// A host of one connection, which runs `script` in a thread of its own.
class ScriptedHost {
 public:
  explicit ScriptedHost(std::function<void(int)> script) {
    directory_ = "/tmp/seekcache-client-test-XXXXXX";
    CHECK(mkdtemp(directory_.data()) != nullptr);
    path_ = directory_ + "/s";
    listener_ = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    CHECK(bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 && listen(listener_, 4) == 0);
    thread_ = std::thread([this, script = std::move(script)] {
      int fd = accept(listener_, nullptr, nullptr);
      if (fd < 0) return;
      // Who comes again finds nobody.
      unlink(path_.c_str());
      script(fd);
      close(fd);
    });
  }
  ~ScriptedHost() {
    shutdown(listener_, SHUT_RDWR);
    join();
    close(listener_);
    unlink(path_.c_str());
    rmdir(directory_.c_str());
  }
  const std::string &path() const { return path_; }
  // Until the script is over and the connection closed.
  void join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::string directory_;
  std::string path_;
  int listener_;
  std::thread thread_;
};

// One line from the client; empty at its end.
std::string readLine(int fd) {
  std::string line;
  char byte;
  while (read(fd, &byte, 1) == 1) {
    if (byte == '\n') return line;
    line += byte;
  }
  return {};
}

void say(int fd, const std::string &bytes) {
  for (std::size_t sent = 0; sent < bytes.size();) {
    ssize_t count = send(fd, bytes.data() + sent, bytes.size() - sent, kSendFlags);
    if (count <= 0) return;
    sent += static_cast<std::size_t>(count);
  }
}

const std::string kHello = "{\"type\":\"hello\",\"protocol\":1,\"version\":\"0.1.0\",\"pid\":1}\n";
const std::string kOpened =
    "{\"id\":1,\"type\":\"opened\",\"session\":\"s1\",\"sizeBytes\":100,\"contentType\":null,\"validator\":null,"
    "\"generation\":\"g\",\"isSeekable\":true,\"proxyUrl\":\"\",\"fileName\":\"f\"}\n";

// What every host says first.
void greet(int fd) {
  readLine(fd);
  say(fd, kHello);
  readLine(fd);
  say(fd, kOpened);
}

Result<std::unique_ptr<CacheReader>> openAt(const ScriptedHost &host, std::chrono::seconds timeout = std::chrono::seconds(60)) {
  ReaderOptions options;
  options.socketPath = host.path();
  options.mayStartHost = false;
  options.timeout = timeout;
  return CacheReader::open("http://h/f", {}, options);
}

Wait shortWait() { return {Clock::now() + std::chrono::seconds(10), nullptr, TimePoint::max(), nullptr}; }

template <typename T>
bool isA(const char *line) {
  auto answer = protocol::parse(line);
  return answer && std::holds_alternative<T>(answer->body);
}

void linesThatAreNoMessages() {
  const char *hostile[] = {
      "", " ", "null", "[]", "1", "\"x\"", "{", "{}", "{\"type\":1}", "{\"type\":\"extent\"}", "{\"id\":0,\"type\":\"end\"}",
      "{\"id\":-1,\"type\":\"end\"}", "{\"id\":1.5,\"type\":\"end\"}", "{\"id\":\"1\",\"type\":\"end\"}",
      "{\"id\":9007199254740992,\"type\":\"end\"}", "{\"id\":1e400,\"type\":\"end\"}",
      // Positions: negative, reversed, empty, too big, not integers, missing.
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":-1,\"end\":5}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":5,\"end\":4}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":5,\"end\":5}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":18446744073709551615}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0.5,\"start\":0,\"end\":5}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"start\":0,\"end\":5}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"f\",\"fileOffset\":0,\"start\":0,\"end\":5}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\\u0000g\",\"fileOffset\":0,\"start\":0,\"end\":5}",
      "{\"id\":1,\"type\":\"extent\",\"path\":[],\"fileOffset\":0,\"start\":0,\"end\":5}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":null}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":{}}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":[1]}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":[[]]}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":[{}]}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":[{\"path\":\"/g\",\"fileOffset\":0,\"start\":6,\"end\":9}]}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":[{\"path\":\"/g\",\"fileOffset\":0,\"start\":5,\"end\":5}]}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":[{\"path\":\"g\",\"fileOffset\":0,\"start\":5,\"end\":9}]}",
      "{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":5,\"next\":[{\"path\":\"/g\",\"fileOffset\":0,\"start\":4,\"end\":9}]}",
      "{\"id\":1,\"type\":\"data\",\"start\":0,\"lengthBytes\":0}",
      "{\"id\":1,\"type\":\"data\",\"start\":0,\"lengthBytes\":262145}",
      "{\"id\":1,\"type\":\"data\",\"start\":9007199254740991,\"lengthBytes\":1}",
      "{\"id\":1,\"type\":\"opened\",\"session\":\"s\",\"sizeBytes\":-1,\"generation\":\"g\",\"isSeekable\":true}",
      "{\"id\":1,\"type\":\"opened\",\"session\":\"\",\"sizeBytes\":1,\"generation\":\"g\",\"isSeekable\":true}",
      "{\"id\":1,\"type\":\"opened\",\"session\":\"s\",\"sizeBytes\":1,\"isSeekable\":true}",
      "{\"id\":1,\"type\":\"opened\",\"session\":\"s\",\"sizeBytes\":1,\"generation\":\"g\",\"isSeekable\":1}",
      "{\"id\":1,\"type\":\"map\",\"present\":[[0,1],[2]]}", "{\"id\":1,\"type\":\"map\",\"present\":[0,1]}",
      "{\"id\":1,\"type\":\"map\",\"present\":{}}", "{\"type\":\"error\"}", "{\"type\":\"end\"}", "{\"type\":\"hello\"}",
      "{\"id\":1,\"type\":\"end\"} x", "\xff\xfe", "{\"id\":1,\"type\":\"\xff\"}"};
  for (const char *line : hostile) {
    if (protocol::parse(line)) std::fprintf(stderr, "accepted: %s\n", line), failures++;
  }
  CHECK(!protocol::parse(std::string(protocol::kMaxHostLineBytes, '[')));
  CHECK(!protocol::parse(std::string(protocol::kMaxHostLineBytes + 1, ' ')));
  std::string nested = "{\"id\":1,\"type\":\"x\",\"deep\":" + std::string(200000, '[') + std::string(200000, ']') + "}";
  CHECK(isA<protocol::Other>(nested.c_str()));
}

void linesThatAreMessages() {
  CHECK(isA<protocol::Hello>(kHello.c_str()));
  CHECK(isA<protocol::Opened>(kOpened.c_str()));
  CHECK(isA<protocol::End>("{\"id\":1,\"type\":\"end\",\"unknown\":{}}"));
  CHECK(isA<protocol::Extents>("{\"id\":1.0,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":0,\"start\":0,\"end\":9007199254740991}"));
  auto run = protocol::parse("{\"id\":1,\"type\":\"extent\",\"path\":\"/f\",\"fileOffset\":7,\"start\":0,\"end\":5,\"next\":[{\"path\":\"/g\",\"fileOffset\":0,\"start\":5,\"end\":9}]}");
  CHECK(run && std::get<protocol::Extents>(run->body).run.size() == 2 && std::get<protocol::Extents>(run->body).run[1].path == "/g");
  CHECK(isA<protocol::Data>("{\"id\":1,\"type\":\"data\",\"start\":0,\"lengthBytes\":262144}"));
  CHECK(isA<protocol::Map>("{\"id\":1,\"type\":\"map\",\"sizeBytes\":null,\"present\":[[0,65536],[131072,131073]]}"));
  auto error = protocol::parse("{\"id\":7,\"type\":\"error\",\"code\":\"ERR_SEEKCACHE_ORIGIN_STATUS\",\"message\":\"a\\nb\",\"httpStatus\":404}");
  CHECK(error && std::get<Error>(error->body).httpStatus == 404 && std::get<Error>(error->body).message == "a b");
  CHECK(protocol::open(1, "http://h/\xff", {{"a", "\xc3\x28"}}, 5).back() == '\n');
  CHECK(protocol::locate(2, {"s", 1, 0, 1, 5, {}}).find("unreadable") == std::string::npos);
  CHECK(!protocol::parseReady("{\"event\":\"ready\"}").ok() && !protocol::parseReady("").ok());
  CHECK(protocol::parseReady("{\"event\":\"error\",\"code\":\"E\",\"message\":\"m\"}").error().is("E"));
}

// What a connection says of a host that greets with `bytes` and then closes.
std::string greetedWith(const std::string &bytes) {
  ScriptedHost host([&](int fd) {
    readLine(fd);
    say(fd, bytes);
  });
  Wait wait = shortWait();
  bool nobodyListens;
  auto connected = Connection::connect(host.path(), "test", wait, &nobodyListens);
  return connected ? "ok" : connected.error().code;
}

void greetings() {
  CHECK(greetedWith(kHello) == "ok");
  CHECK(greetedWith("{\"type\":\"hello\",\"protocol\":2,\"version\":\"9\"}\n") == code::kProtocol);
  CHECK(greetedWith("{\"type\":\"error\",\"code\":\"ERR_SEEKCACHE_PROTOCOL\",\"message\":\"1 and 2\"}\n") == code::kProtocol);
  CHECK(greetedWith("HTTP/1.1 400 Bad Request\r\n\r\n") == code::kProtocol);
  CHECK(greetedWith("") == code::kHostUnavailable);
  CHECK(greetedWith(kHello.substr(0, 10)) == code::kHostUnavailable);
  CHECK(greetedWith(std::string(2 * protocol::kMaxHostLineBytes, 'x')) == code::kProtocol);
}

// Every message cut in every place arrives whole, and late answers with their raw bytes are passed over.
void framing() {
  const std::string raw = "\n{\"id\":9}\n x";
  const std::string bytes = kHello + "{\"id\":90,\"type\":\"data\",\"start\":0,\"lengthBytes\":5}\n\nabc\n" +
                            "{\"id\":91,\"type\":\"error\",\"code\":\"E\",\"message\":\"late\"}\n" +
                            "{\"id\":1,\"type\":\"data\",\"start\":3,\"lengthBytes\":" + std::to_string(raw.size()) + "}\n" + raw;
  for (std::size_t cut = 1; cut < bytes.size(); cut++) {
    ScriptedHost host([&](int fd) {
      readLine(fd);
      say(fd, bytes.substr(0, cut));
      if (cut >= kHello.size()) readLine(fd);
      say(fd, bytes.substr(cut));
      readLine(fd);
    });
    Wait wait = shortWait();
    bool nobodyListens;
    auto connected = Connection::connect(host.path(), "test", wait, &nobodyListens);
    CHECK(connected.ok());
    if (!connected) return;
    auto reply = (*connected)->request(1, "{\"id\":1}\n", wait);
    CHECK(reply.ok() && reply->raw == raw);
    if (!reply) return;
  }
}

void cancelledRequests() {
  ScriptedHost host([&](int fd) {
    readLine(fd);
    say(fd, kHello);
    readLine(fd);
    CHECK(readLine(fd) == "{\"request\":1,\"type\":\"cancel\"}");
    readLine(fd);
    CHECK(readLine(fd) == "{\"request\":9,\"type\":\"cancel\"}");
    readLine(fd);
    say(fd, "{\"id\":1,\"type\":\"error\",\"code\":\"ERR_SEEKCACHE_CANCELLED\",\"message\":\"\"}\n{\"id\":2,\"type\":\"end\"}\n");
    readLine(fd);
  });
  CancelSignal cancel;
  Wait wait = shortWait();
  wait.cancel = &cancel;
  bool nobodyListens;
  auto connected = Connection::connect(host.path(), "test", wait, &nobodyListens);
  CHECK(connected.ok());
  wait.noticeAt = Clock::now();
  wait.notice = [&] { cancel.set(); };
  auto cancelled = (*connected)->request(1, "{\"id\":1}\n", wait);
  CHECK(!cancelled && cancelled.error().is(code::kCancelled));
  // Sticky until cleared.
  CHECK(!(*connected)->request(9, "{\"id\":9}\n", wait));
  cancel.clear();
  auto next = (*connected)->request(2, "{\"id\":2}\n", wait);
  CHECK(next.ok() && std::holds_alternative<protocol::End>(next->answer.body));
}

// A host that says why and closes is heard, also by a client that finds the connection closed when it sends.
void lastWords() {
  ScriptedHost host([&](int fd) {
    readLine(fd);
    say(fd, kHello);
    readLine(fd);
    say(fd, "{\"type\":\"error\",\"code\":\"ERR_SEEKCACHE_PROTOCOL\",\"message\":\"no such note\"}\n");
  });
  Wait wait = shortWait();
  bool nobodyListens;
  auto connected = Connection::connect(host.path(), "test", wait, &nobodyListens);
  CHECK(connected.ok());
  (*connected)->note("{}\n");
  host.join();
  auto reply = (*connected)->request(1, "{\"id\":1}\n", wait);
  CHECK(!reply && reply.error().is(code::kProtocol) && reply.error().message == "no such note");
  CHECK((*connected)->isLost());
}

// What a read of byte 50 says if the host answers its locate with `answer`.
std::string readAnsweredWith(const std::string &answer, std::string *read = nullptr) {
  ScriptedHost host([&](int fd) {
    greet(fd);
    readLine(fd);
    say(fd, answer);
    readLine(fd);
  });
  auto opened = openAt(host, std::chrono::seconds(5));
  CHECK(opened.ok());
  char buffer[10];
  auto count = (*opened)->read(50, buffer, 4);
  if (count && read != nullptr) read->assign(buffer, *count);
  return count ? "ok" : count.error().code;
}

void answersToReads() {
  std::string read;
  CHECK(readAnsweredWith("{\"id\":2,\"type\":\"data\",\"start\":49,\"lengthBytes\":6}\nabcdef", &read) == "ok" && read == "bcde");
  CHECK(readAnsweredWith("{\"id\":2,\"type\":\"data\",\"start\":51,\"lengthBytes\":1}\na") == code::kProtocol);
  CHECK(readAnsweredWith("{\"id\":2,\"type\":\"data\",\"start\":98,\"lengthBytes\":3}\nabc") == code::kProtocol);
  CHECK(readAnsweredWith("{\"id\":2,\"type\":\"end\"}\n") == code::kProtocol);
  CHECK(readAnsweredWith("{\"id\":2,\"type\":\"ok\"}\n") == code::kProtocol);
  CHECK(readAnsweredWith("{\"id\":2,\"type\":\"extent\",\"path\":\"/dev/null\",\"fileOffset\":0,\"start\":0,\"end\":101}\n") == code::kProtocol);
  CHECK(readAnsweredWith("{\"id\":2,\"type\":\"extent\",\"path\":\"/dev/null\",\"fileOffset\":0,\"start\":60,\"end\":70}\n") == code::kProtocol);
  const std::string followed =
      "{\"id\":2,\"type\":\"extent\",\"path\":\"/nonexistent/extents/0123456789abcdef/0-0123456789abcdef\",\"fileOffset\":0,\"start\":0,\"end\":60,\"next\":";
  const std::string next = "\"path\":\"/nonexistent/extents/0123456789abcdef/1-0123456789abcdef\",\"fileOffset\":0,\"start\":60,\"end\":";
  CHECK(readAnsweredWith(followed + "[{" + next + "101}]}\n") == code::kProtocol);
  CHECK(readAnsweredWith(followed + "[{" + next + "80},{\"path\":\"/etc/passwd\",\"fileOffset\":0,\"start\":80,\"end\":100}]}\n") == code::kProtocol);
  CHECK(readAnsweredWith("{\"id\":2,\"type\":\"error\",\"code\":\"ERR_SEEKCACHE_TIMEOUT\",\"message\":\"\"}\n") == code::kTimeout);
}

// A host that leaves in the midst of any message, at every byte of it: an error, never a hang or a wrong byte.
void hostsThatLeave() {
  const std::string bytes = kHello + kOpened + "{\"id\":2,\"type\":\"data\",\"start\":50,\"lengthBytes\":6}\nabcdef";
  for (std::size_t cut = 0; cut <= bytes.size(); cut++) {
    ScriptedHost host([&](int fd) {
      readLine(fd);
      say(fd, bytes.substr(0, cut));
    });
    auto opened = openAt(host);
    CHECK(opened.ok() == (cut >= kHello.size() + kOpened.size()) || (!opened && opened.error().is(code::kHostUnavailable)));
    if (!opened) continue;
    char buffer[6];
    auto count = (*opened)->read(50, buffer, sizeof buffer);
    CHECK(count ? cut == bytes.size() && *count == 6 && std::string(buffer, 6) == "abcdef" : count.error().is(code::kHostUnavailable));
  }
}

void locatedRanges() {
  char path[] = "/tmp/seekcache-located-XXXXXX";
  int fd = mkstemp(path);
  CHECK(write(fd, "0123456789", 10) == 10);
  close(fd);
  Located located;
  char buffer[16];
  CHECK(located.copy(100, buffer, 4).lengthBytes == 0);
  located.learn({{path, 2, {100, 104}}});
  located.learn({{path, 6, {104, 107}}});
  CHECK(located.copy(101, buffer, 16).lengthBytes == 6 && std::string(buffer, 6) == "345678");
  CHECK(located.copy(107, buffer, 1).lengthBytes == 0);
  located.learn({{path, 0, {500, 504}}, {path, 8, {504, 506}}});
  CHECK(located.copy(500, buffer, 16).lengthBytes == 4 && located.copy(504, buffer + 4, 12).lengthBytes == 2);
  CHECK(std::string(buffer, 6) == "012389");
  // Longer than the file: what there is, and the path to complain of.
  located.learn({{path, 9, {200, 204}}});
  auto copied = located.copy(200, buffer, 4);
  CHECK(copied.lengthBytes == 1 && copied.unreadablePath == path);
  CHECK(located.copy(101, buffer, 1).unreadablePath.empty());
  unlink(path);
  located.learn({{path, 0, {300, 304}}});
  CHECK(located.copy(300, buffer, 4).unreadablePath == path);
  located.learn({{"/dev/zero", 0, {400, 404}}});
  CHECK(located.copy(400, buffer, 4).unreadablePath == "/dev/zero");
}

// The readers that reads at these offsets, each of 1000 bytes, go to; with the numbers released before, as "-n".
std::string readersOf(Runs &runs, std::initializer_list<int64_t> offsets) {
  std::string readers;
  for (int64_t offset : offsets) {
    Runs::Choice choice = runs.choose(offset);
    for (int64_t released : choice.released) readers.append(" -").append(std::to_string(released));
    readers.append(" ").append(std::to_string(choice.reader));
    runs.advance(offset + 1000);
  }
  return readers;
}

constexpr int64_t kMiB = 1024 * 1024;

void readersOfRuns() {
  {
    Runs runs;
    // One place, with small steps either way; then seeks: one reader, which goes along.
    CHECK(readersOf(runs, {0, 1000, 500, 2000, 900 * 1024, 1000}) == " 1 1 1 1 1 1");
    CHECK(readersOf(runs, {50 * kMiB, 20 * kMiB, 90 * kMiB}) == " 1 1 1");
  }
  {
    Runs runs;
    // To and fro: who comes back gets a reader of its own, and both keep theirs.
    CHECK(readersOf(runs, {0, 50 * kMiB, 1000, 50 * kMiB + 1000, 2000, 50 * kMiB + 2000}) == " 1 1 2 1 2 1");
    // A third place that is a seek takes the last reader along and ends the other; back again, and both have one.
    CHECK(readersOf(runs, {80 * kMiB, 80 * kMiB + 1000}) == " -2 1 1");
    CHECK(readersOf(runs, {3000, 80 * kMiB + 2000}) == " 2 1");
    // After a flush nobody comes back.
    runs.forget();
    CHECK(readersOf(runs, {3000, 4000}) == " -2 1 1");
  }
  {
    Runs runs;
    // Three in turn, the nearest behind of two that are close, and one that falls silent.
    CHECK(readersOf(runs, {0, 50 * kMiB, 90 * kMiB, 1000, 50 * kMiB + 1000, 90 * kMiB + 1000}) == " 1 1 1 2 3 1");
    CHECK(readersOf(runs, {50 * kMiB + 2000, 1000}) == " 3 2");
    for (int i = 0; i < 40; i++) {
      runs.choose(2000 + i * kMiB);
      runs.advance(2000 + (i + 1) * kMiB);
    }
    CHECK(readersOf(runs, {2000 + 40 * kMiB, 50 * kMiB + 3000}) == " 2 1");
  }
  {
    Runs runs;
    // News: a new place, then each MiB, and what the host was asked for is known to it.
    TimePoint now = Clock::now();
    runs.choose(0);
    runs.advance(1000);
    CHECK(runs.takeNews(now) && !runs.takeNews(now));
    now += std::chrono::milliseconds(10);
    runs.advance(kMiB + 500);
    CHECK(!runs.takeNews(now));
    runs.advance(kMiB + 1000);
    CHECK(runs.takeNews(now));
    runs.choose(50 * kMiB);
    runs.told(50 * kMiB);
    runs.advance(50 * kMiB + 1000);
    CHECK(!runs.takeNews(now));
  }
  {
    Runs runs;
    // At the speed of memory not each MiB, but before much is untold; and at once when time has passed.
    TimePoint now = Clock::now();
    int told = 0;
    runs.choose(0);
    for (int i = 1; i <= 512; i++) {
      runs.advance(i * kMiB);
      told += runs.takeNews(now) ? 1 : 0;
    }
    CHECK(told == 8);
    runs.advance(512 * kMiB + 100);
    now += std::chrono::milliseconds(10);
    CHECK(runs.takeNews(now) && !runs.takeNews(now));
  }
}

}  // namespace

// A client that cannot read the files, whatever the host repairs, asks for the bytes; a host that sends none is an error.
void filesOutOfReach() {
  const std::string extent =
      ",\"type\":\"extent\",\"path\":\"/nonexistent/extents/0123456789abcdef/0-0123456789abcdef\",\"fileOffset\":0,\"start\":0,\"end\":100}\n";
  for (bool hostSendsData : {true, false}) {
    int asked = 0;
    ScriptedHost host([&](int fd) {
      greet(fd);
      for (int id = 2; id < 20; id++) {
        std::string line = readLine(fd);
        if (line.empty()) return;
        if (line.find("locate") == std::string::npos) continue;
        bool wantsData = line.find("\"wantsData\":true") != std::string::npos;
        asked += wantsData ? 100 : 1;
        if (wantsData && hostSendsData) {
          say(fd, "{\"id\":" + std::to_string(id) + ",\"type\":\"data\",\"start\":0,\"lengthBytes\":100}\n" + std::string(100, 'x'));
        } else {
          say(fd, "{\"id\":" + std::to_string(id) + extent);
        }
      }
    });
    auto reader = openAt(host);
    CHECK(reader.ok());
    if (!reader) return;
    char buffer[100];
    auto got = (*reader)->read(0, buffer, sizeof buffer);
    CHECK(hostSendsData ? got.ok() && *got == 100 && buffer[99] == 'x' : !got && got.error().is(code::kCacheUnreadable));
    CHECK(asked == 104);
    reader->reset();
  }
}

// What the host tells of along with what was asked for is not asked for.
void runsOfFiles() {
  namespace fs = std::filesystem;
  char dir[] = "/tmp/seekcache-run-XXXXXX";
  CHECK(mkdtemp(dir) != nullptr);
  const fs::path folder = fs::path(dir) / "extents" / "0123456789abcdef";
  fs::create_directories(folder);
  auto place = [&](int index, char content, int start, int end) {
    fs::path file = folder / (std::to_string(index) + "-0123456789abcdef");
    std::ofstream(file) << std::string(static_cast<std::size_t>(end - start), content);
    return "\"path\":\"" + file.string() + "\",\"fileOffset\":0,\"start\":" + std::to_string(start) + ",\"end\":" + std::to_string(end);
  };
  const std::string answer =
      ",\"type\":\"extent\"," + place(0, 'a', 0, 40) + ",\"next\":[{" + place(1, 'b', 40, 60) + "},{" + place(2, 'c', 60, 90) + "}]}\n";
  int asked = 0;
  ScriptedHost host([&](int fd) {
    greet(fd);
    for (std::string line = readLine(fd); !line.empty(); line = readLine(fd)) {
      if (line.find("locate") == std::string::npos) continue;
      asked++;
      say(fd, "{\"id\":2" + answer);
    }
  });
  auto reader = openAt(host);
  CHECK(reader.ok());
  if (!reader) return;
  char buffer[90];
  auto got = (*reader)->read(0, buffer, sizeof buffer);
  CHECK(got.ok() && *got == 90 && std::string(buffer, 90) == std::string(40, 'a') + std::string(20, 'b') + std::string(30, 'c'));
  CHECK((*reader)->read(50, buffer, 20).ok() && std::string(buffer, 20) == std::string(10, 'b') + std::string(10, 'c'));
  reader->reset();
  host.join();
  CHECK(asked == 1);
  fs::remove_all(dir);
}

int main() {
  linesThatAreNoMessages();
  linesThatAreMessages();
  greetings();
  framing();
  cancelledRequests();
  lastWords();
  answersToReads();
  hostsThatLeave();
  locatedRanges();
  readersOfRuns();
  filesOutOfReach();
  runsOfFiles();
  std::printf("{\"failures\":%d}\n", failures);
  return failures == 0 ? 0 : 1;
}
