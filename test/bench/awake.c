// awake: keeps every processor from falling asleep, at the priority that gives way to everything else.
//
// A virtual machine's processor that idles is given to other guests, and comes back late: the turn of whoever was waked is
// late by that, by milliseconds on a busy machine. Ends with whoever started it.
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();  // leaves the core to its other thread
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// It ends then as well, up to whoever started the first.
static void onChildEnd(int number) {
  (void)number;
  _exit(1);
}

int main(void) {
  const int processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
  const struct sched_param lowest = {0};
  if (sched_setscheduler(0, SCHED_IDLE, &lowest) != 0) return 1;
  signal(SIGCHLD, onChildEnd);
  int own = 0;
  while (own < processors - 1) {  // each starts the next, and takes it along when it ends
    const pid_t next = fork();
    if (next < 0) return 1;
    if (next > 0) break;
    own++;
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(own, &set);
  sched_setaffinity(0, sizeof set, &set);
  for (;;) relax();
}
