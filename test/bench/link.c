// link: a long wire between two network namespaces, for measurements with the kernel's own TCP at both ends.
//
// usage: link NAMESPACE_A NAMESPACE_B RTT_MS MBIT QUEUE_MS
//
// Makes a TUN device "wire" in each namespace and carries packets between them. A direction sends at MBIT, one packet after
// the other; a packet that would wait longer than QUEUE_MS for its turn is dropped, as a full router buffer does; what was
// sent arrives half a round trip later. Prints "ready" when both devices exist; ends when its standard input is closed, so
// that it never outlives whoever started it.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PACKET = 2048, SLOTS = 1 << 14, READS_A_TURN = 64 };

struct packet {
  int64_t arrives_ns;
  int length;
  char bytes[MAX_PACKET];
};

// One direction: packets between `first` and `last` (counted without end) are on their way.
struct direction {
  int from, to;
  struct packet *slots;
  uint64_t first, last;
  int64_t idle_ns;  // when the sender has put its last packet on the wire
};

static int64_t half_trip_ns, max_wait_ns;
static double ns_per_byte;

static void fail(const char *what) {
  fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

// A device belongs to the namespace it was made in, its descriptor to us: so we only visit.
static int device_in(const char *name) {
  char path[256];
  snprintf(path, sizeof path, "/run/netns/%s", name);
  int namespace = open(path, O_RDONLY | O_CLOEXEC);
  if (namespace < 0 || setns(namespace, CLONE_NEWNET) != 0) fail(path);
  close(namespace);
  int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (device < 0) fail("/dev/net/tun");
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI, .ifr_name = "wire"};
  if (ioctl(device, TUNSETIFF, &request) != 0) fail("TUNSETIFF");
  return device;
}

static void take(struct direction *way) {
  for (int i = 0; i < READS_A_TURN; i++) {
    // When all slots are taken the packet is read into nothing, that is, dropped.
    static char scrap[MAX_PACKET];
    int is_full = way->last - way->first == SLOTS;
    struct packet *slot = &way->slots[way->last % SLOTS];
    ssize_t length = read(way->from, is_full ? scrap : slot->bytes, MAX_PACKET);
    if (length <= 0) return;
    int64_t now = now_ns();
    int64_t turn = way->idle_ns > now ? way->idle_ns : now;
    if (is_full || turn - now > max_wait_ns) continue;
    way->idle_ns = turn + (int64_t)(length * ns_per_byte);
    slot->length = (int)length;
    slot->arrives_ns = way->idle_ns + half_trip_ns;
    way->last++;
  }
}

// Hands over what has arrived; ns until the next packet does, or -1.
static int64_t deliver(struct direction *way) {
  while (way->first < way->last) {
    struct packet *slot = &way->slots[way->first % SLOTS];
    int64_t left = slot->arrives_ns - now_ns();
    if (left > 0) return left;
    // Nobody there to take it (the device is down): lost, as on a wire.
    if (write(way->to, slot->bytes, (size_t)slot->length) < 0 && errno == EAGAIN) return 0;
    way->first++;
  }
  return -1;
}

int main(int count, char **words) {
  if (count != 6) {
    fprintf(stderr, "usage: link NAMESPACE_A NAMESPACE_B RTT_MS MBIT QUEUE_MS\n");
    return 2;
  }
  half_trip_ns = (int64_t)(atof(words[3]) * 1e6 / 2);
  ns_per_byte = 8e3 / atof(words[4]);
  max_wait_ns = (int64_t)(atof(words[5]) * 1e6);
  int a = device_in(words[1]), b = device_in(words[2]);
  struct direction ways[2] = {{.from = a, .to = b}, {.from = b, .to = a}};
  for (int i = 0; i < 2; i++) {
    ways[i].slots = calloc(SLOTS, sizeof(struct packet));
    if (ways[i].slots == NULL) fail("memory");
  }
  // A wire is not late because somebody computes. Where that is not allowed the link is a little less exact.
  (void)setpriority(PRIO_PROCESS, 0, -15);
  puts("ready");
  fflush(stdout);
  for (;;) {
    int64_t wait = -1;
    for (int i = 0; i < 2; i++) {
      int64_t left = deliver(&ways[i]);
      if (left >= 0 && (wait < 0 || left < wait)) wait = left;
    }
    struct timespec timeout = {wait / 1000000000, wait % 1000000000};
    struct pollfd polled[3] = {{a, POLLIN, 0}, {b, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    if (ppoll(polled, 3, wait < 0 ? NULL : &timeout, NULL) < 0 && errno != EINTR) fail("ppoll");
    if (polled[2].revents != 0) return 0;
    for (int i = 0; i < 2; i++) take(&ways[i]);
  }
}
