// disk-shim: preloaded into a process (LD_PRELOAD), it writes down what the process does to the files of one directory, and
// makes operations fail when it is told to.
//
// DISK_SHIM_DIR      the directory; all else is left alone
// DISK_SHIM_LOG      a file that gets every change in the order in which the system has taken them (format: see `record`)
// DISK_SHIM_CONTROL  a file of five int32 that a test reads and writes while the process runs: operations seen so far, the
//                    first to fail, how many fail, with which errno, and which kinds of operation count (bits: see `enum kind`);
//                    a negative errno is a signal that ends the process instead, before the operation; HANG: it never returns
//
// LMDB's own files fail only where that is asked for by name, and only when a head page of its data is written: its message of
// any other failed write overruns its buffer and may end the process. A full disk says so when it is asked for its free space,
// a read-only one when it is asked for access, so nothing should get that far.
//
// Only what Node, LMDB and the addon call is wrapped. One lock is held over each operation and its record, so that their orders agree.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

enum kind { OPEN = 1, WRITE = 2, READ = 4, SYNC = 8, NAME = 16, STATFS = 32, HEAD_PAGE = 64 };
enum record_type { R_CREATE = 1, R_WRITE, R_TRUNCATE, R_SYNC, R_RENAME, R_UNLINK, R_MKDIR, R_RMDIR };
enum { HANG = 10000, MAX_FDS = 4096, LMDB_HEAD_BYTES = 2 * 4096 };

struct control { volatile int32_t seen, first, count, error, kinds; };

static struct { ino_t inode; int is_tracked, is_dsync, never_fails; } fds[MAX_FDS];
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static const char *dir;
static size_t dir_length;
static int log_fd = -1;
static struct control *control;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
  dir = getenv("DISK_SHIM_DIR");
  if (dir == NULL) return;
  dir_length = strlen(dir);
  const char *log = getenv("DISK_SHIM_LOG");
  if (log != NULL) log_fd = REAL(open64)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const char *told = getenv("DISK_SHIM_CONTROL");
  if (told == NULL) return;
  int fd = REAL(open64)(told, O_RDWR | O_CLOEXEC);
  void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped != MAP_FAILED) control = mapped;
}

static int is_ours(const char *path) {
  return dir != NULL && strncmp(path, dir, dir_length) == 0 && (path[dir_length] == '/' || path[dir_length] == 0);
}

// Descriptors are closed by system calls that nobody sees: whether one is still the file that was opened, its inode tells.
static int is_file_of_ours(int fd) {
  struct stat64 found;
  return fd >= 0 && fd < MAX_FDS && fds[fd].is_tracked && fstat64(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_ino == fds[fd].inode;
}

static int fails(enum kind kind) {
  if (control == NULL || (control->kinds & kind) == 0) return 0;
  int32_t number = __atomic_fetch_add(&control->seen, 1, __ATOMIC_SEQ_CST);
  if (number < control->first || number >= control->first + control->count) return 0;
  if (control->error < 0) kill(getpid(), -control->error);
  while (control->error == HANG) pause();
  errno = control->error;
  return 1;
}

static int is_lmdb(const char *path) {
  size_t length = strlen(path);
  return length > 4 && strcmp(path + length - 4, ".mdb") == 0;
}

static int is_failing_now(int error) {
  return control != NULL && control->error == error && control->seen > control->first && control->seen < control->first + control->count;
}

static int fails_on(int fd, enum kind kind) {
  return !fds[fd].never_fails && fails(kind);
}

// {u32 type, u32 flags, u64 inode, i64 offset, u32 length of the name, u32 length of the data} name data
static void record(enum record_type type, int flags, ino_t inode, int64_t offset, const char *name, const struct iovec *data, int count, size_t length) {
  if (log_fd < 0) return;
  struct __attribute__((packed)) { uint32_t type, flags; uint64_t inode; int64_t offset; uint32_t name_length, length; } head = {
    type, (uint32_t)flags, inode, offset, name == NULL ? 0 : (uint32_t)strlen(name), (uint32_t)length,
  };
  char *bytes = malloc(sizeof head + head.name_length + length), *at = bytes + sizeof head;
  memcpy(bytes, &head, sizeof head);
  if (name != NULL) at = mempcpy(at, name, head.name_length);
  for (int i = 0; i < count && length > 0; i++) {
    size_t part = data[i].iov_len < length ? data[i].iov_len : length;
    at = mempcpy(at, data[i].iov_base, part);
    length -= part;
  }
  int saved = errno;
  if (REAL(write)(log_fd, bytes, (size_t)(at - bytes)) != at - bytes) abort();
  errno = saved;
  free(bytes);
}

#define LOCKED(type, expression) ({ pthread_mutex_lock(&lock); type locked_result = (expression); pthread_mutex_unlock(&lock); locked_result; })

static int opened(const char *path, int flags, mode_t mode) {
  int is_new = (flags & O_CREAT) != 0 && access(path, F_OK) != 0;
  int fd = REAL(open64)(path, flags, mode);
  struct stat64 found;
  if (fd < 0 || fd >= MAX_FDS || fstat64(fd, &found) != 0) return fd;
  fds[fd].inode = found.st_ino;
  fds[fd].is_tracked = S_ISREG(found.st_mode);
  fds[fd].is_dsync = (flags & O_DSYNC) != 0;
  fds[fd].never_fails = is_lmdb(path);
  if (is_new) record(R_CREATE, 0, found.st_ino, 0, path, NULL, 0, 0);
  else if ((flags & O_TRUNC) != 0) record(R_TRUNCATE, 0, found.st_ino, 0, NULL, NULL, 0, 0);
  return fd;
}

int open64(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0;
  va_end(more);
  if (!is_ours(path)) {
    int fd = REAL(open64)(path, flags, mode);
    if (fd >= 0 && fd < MAX_FDS) fds[fd].is_tracked = 0;
    return fd;
  }
  if (!is_lmdb(path) && fails(OPEN)) return -1;
  return LOCKED(int, opened(path, flags, mode));
}

static ssize_t noted(int fd, ssize_t done, off64_t offset, const struct iovec *data, int count) {
  if (done > 0) record(R_WRITE, fds[fd].is_dsync, fds[fd].inode, offset, NULL, data, count, (size_t)done);
  return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  if (!is_file_of_ours(fd)) return REAL(pwrite64)(fd, bytes, length, offset);
  if (fails_on(fd, WRITE)) return -1;
  if (fds[fd].never_fails && offset < LMDB_HEAD_BYTES && fails(HEAD_PAGE)) return -1;
  struct iovec data = { (void *)bytes, length };
  return LOCKED(ssize_t, noted(fd, REAL(pwrite64)(fd, bytes, length, offset), offset, &data, 1));
}

ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset) {
  if (!is_file_of_ours(fd)) return REAL(pwritev64)(fd, data, count, offset);
  if (fails_on(fd, WRITE)) return -1;
  return LOCKED(ssize_t, noted(fd, REAL(pwritev64)(fd, data, count, offset), offset, data, count));
}

static ssize_t written(int fd, const struct iovec *data, int count) {
  off64_t offset = lseek64(fd, 0, SEEK_CUR);
  return noted(fd, REAL(writev)(fd, data, count), offset, data, count);
}

ssize_t writev(int fd, const struct iovec *data, int count) {
  if (!is_file_of_ours(fd)) return REAL(writev)(fd, data, count);
  if (fails_on(fd, WRITE)) return -1;
  return LOCKED(ssize_t, written(fd, data, count));
}

ssize_t write(int fd, const void *bytes, size_t length) {
  if (!is_file_of_ours(fd)) return REAL(write)(fd, bytes, length);
  if (fails_on(fd, WRITE)) return -1;
  struct iovec data = { (void *)bytes, length };
  return LOCKED(ssize_t, written(fd, &data, 1));
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) {
  if (is_file_of_ours(fd) && fails_on(fd, READ)) return -1;
  return REAL(pread64)(fd, bytes, length, offset);
}

// A read that does not wait: where reads are to fail it has nothing, as with a disk that fails, and the one that follows it counts.
ssize_t preadv64v2(int fd, const struct iovec *data, int count, off64_t offset, int flags) {
  if (is_file_of_ours(fd) && control != NULL && (control->kinds & READ) != 0) {
    errno = EAGAIN;
    return -1;
  }
  return REAL(preadv64v2)(fd, data, count, offset, flags);
}

static int noted_sync(int fd, int result) {
  if (result == 0) record(R_SYNC, 0, fds[fd].inode, 0, NULL, NULL, 0, 0);
  return result;
}

int fdatasync(int fd) {
  if (!is_file_of_ours(fd)) return REAL(fdatasync)(fd);
  if (fails_on(fd, SYNC)) return -1;
  return LOCKED(int, noted_sync(fd, REAL(fdatasync)(fd)));
}

int fsync(int fd) {
  if (!is_file_of_ours(fd)) return REAL(fsync)(fd);
  if (fails_on(fd, SYNC)) return -1;
  return LOCKED(int, noted_sync(fd, REAL(fsync)(fd)));
}

static int noted_truncate(int fd, off64_t length, int result) {
  if (result == 0) record(R_TRUNCATE, 0, fds[fd].inode, length, NULL, NULL, 0, 0);
  return result;
}

int ftruncate64(int fd, off64_t length) {
  if (!is_file_of_ours(fd)) return REAL(ftruncate64)(fd, length);
  if (fails_on(fd, WRITE)) return -1;
  return LOCKED(int, noted_truncate(fd, length, REAL(ftruncate64)(fd, length)));
}

static int noted_name(enum record_type type, const char *path, const char *other, int result) {
  struct iovec data = { (void *)other, other == NULL ? 0 : strlen(other) };
  if (result == 0) record(type, 0, 0, 0, path, &data, other != NULL, data.iov_len);
  return result;
}

int rename(const char *from, const char *to) {
  if (!is_ours(from)) return REAL(rename)(from, to);
  if (fails(NAME)) return -1;
  return LOCKED(int, noted_name(R_RENAME, from, to, REAL(rename)(from, to)));
}

int unlink(const char *path) {
  if (!is_ours(path)) return REAL(unlink)(path);
  if (fails(NAME)) return -1;
  return LOCKED(int, noted_name(R_UNLINK, path, NULL, REAL(unlink)(path)));
}

int mkdir(const char *path, mode_t mode) {
  if (!is_ours(path)) return REAL(mkdir)(path, mode);
  if (fails(NAME)) return -1;
  return LOCKED(int, noted_name(R_MKDIR, path, NULL, REAL(mkdir)(path, mode)));
}

int rmdir(const char *path) {
  if (!is_ours(path)) return REAL(rmdir)(path);
  if (fails(NAME)) return -1;
  return LOCKED(int, noted_name(R_RMDIR, path, NULL, REAL(rmdir)(path)));
}

int statfs64(const char *path, struct statfs64 *found) {
  if (!is_ours(path)) return REAL(statfs64)(path, found);
  if (fails(STATFS)) return -1;
  int result = REAL(statfs64)(path, found);
  if (is_failing_now(ENOSPC)) found->f_bavail = found->f_bfree = 0;
  return result;
}

int access(const char *path, int mode) {
  if (is_ours(path) && (mode & W_OK) != 0 && is_failing_now(EROFS)) {
    errno = EROFS;
    return -1;
  }
  return REAL(access)(path, mode);
}
