// Count every operation that changes files under some folders; at the N-th: an error, a kill, a power cut, or a stop.
//
// Loaded with LD_PRELOAD. `faults_arm` starts counting; before it every call passes through. A kill in a write leaves half of
// it. A power cut leaves names as they are and says in the log which bytes were never flushed ("LOST device inode size"): the
// caller cuts those files back to that size. Not seen: operations of processes that start without this library, and io_uring.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH 4096
#define ROOTS 16
#define FILES 8192

enum action { COUNT, FAIL_ONCE, FAIL_FROM_HERE, KILL, POWER_CUT, STOP };
enum verdict { GO_ON, FAIL, WRITE_HALF_AND_DIE };

static char roots[ROOTS][PATH];
static int num_roots, log_fd = -1, error_number;
static long target, count;
static enum action action;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

// Which bytes of a file a power cut would keep.
static struct file { dev_t device; ino_t inode; long flushed; int dirty; } files[FILES];
static int num_files;

static struct file *file_of(const struct stat *status, long flushed) {
  for (int i = 0; i < num_files; i++)
    if (files[i].device == status->st_dev && files[i].inode == status->st_ino) return &files[i];
  if (num_files == FILES) return NULL;
  files[num_files] = (struct file){status->st_dev, status->st_ino, flushed, 0};
  return &files[num_files++];
}

static void set_file(int fd, long flushed, int dirty) {  // flushed < 0: as it is
  struct stat status;
  if (syscall(SYS_fstat, fd, &status)) return;
  pthread_mutex_lock(&mutex);
  struct file *file = file_of(&status, status.st_size);
  if (file) {
    file->dirty = dirty;
    if (flushed >= 0) file->flushed = flushed;
  }
  pthread_mutex_unlock(&mutex);
}

static void mark_dirty(int fd) { set_file(fd, -1, 1); }

static void mark_flushed(int fd) {
  struct stat status;
  if (!syscall(SYS_fstat, fd, &status)) set_file(fd, status.st_size, 0);
}

static void say(const char *line, int length) {
  if (log_fd >= 0) syscall(SYS_write, log_fd, line, length);
}

static void die(void) {
  syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
  for (;;) pause();
}

// ---- what the caller uses (by ctypes) ----

void faults_arm(const char *folders, long at, int what, int error, const char *log) {
  char copy[ROOTS * PATH], *rest = copy;
  snprintf(copy, sizeof copy, "%s", folders);
  if (log && *log) log_fd = syscall(SYS_openat, AT_FDCWD, log, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
  target = at, action = what, error_number = error, count = 0, num_files = 0, num_roots = 0;
  for (char *folder; num_roots < ROOTS && (folder = strsep(&rest, ":"));) snprintf(roots[num_roots++], PATH, "%s", folder);
}

void faults_cut_power(void) {
  char line[128];
  for (int i = 0; i < num_files; i++)
    if (files[i].dirty)
      say(line, snprintf(line, sizeof line, "LOST %lu %lu %ld\n", (unsigned long)files[i].device, (unsigned long)files[i].inode,
                         files[i].flushed));
  die();
}

// ---- which operations count ----

static int is_watched(const char *path) {
  for (int i = 0; i < num_roots; i++)
    if (!strncmp(path, roots[i], strlen(roots[i]))) return 1;
  return 0;
}

static int read_link(const char *link, char *path) {
  ssize_t length = syscall(SYS_readlink, link, path, PATH - 1);
  path[length < 0 ? 0 : length] = 0;
  return length >= 0;
}

static int watched_fd(int fd, char *path) {
  char link[64];
  if (!num_roots || fd <= 2) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  return read_link(link, path) && is_watched(path);
}

static int watched_at(int folder, const char *name, char *path) {
  char link[64] = "/proc/self/cwd", base[PATH];
  if (!num_roots || !name) return 0;
  if (folder != AT_FDCWD) snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  if (name[0] == '/') snprintf(path, PATH, "%s", name);
  else if (!read_link(link, base)) return 0;
  else snprintf(path, PATH, "%.2000s/%.2000s", base, name);
  return is_watched(path);
}

static int exists(const char *path) {
  struct stat status;
  return !syscall(SYS_newfstatat, AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW);
}

#define TAKES_ROOM 1
#define IS_WRITE 2
#define CHANGES_NOTHING 4  // on the disk: a folder that is there already, a name that is not

static enum verdict decide(const char *operation, const char *path, int kind) {
  char line[PATH + 64];
  pthread_mutex_lock(&mutex);
  long number = ++count;
  pthread_mutex_unlock(&mutex);
  int hit = number == target || (action == FAIL_FROM_HERE && number > target && target > 0);
  if (action == FAIL_FROM_HERE && !(kind & TAKES_ROOM)) hit = 0;
  const char *mark = hit && action != COUNT ? "HIT" : "OP";
  say(line, snprintf(line, sizeof line, "%s %ld %d %s %s\n", mark, number, kind, operation, path));
  if (!hit || action == COUNT) return GO_ON;
  if (action == KILL && kind & IS_WRITE) return WRITE_HALF_AND_DIE;
  if (action == KILL) die();
  if (action == STOP) return syscall(SYS_kill, syscall(SYS_getpid), SIGSTOP), GO_ON;
  if (action == POWER_CUT) faults_cut_power();
  errno = error_number;
  return FAIL;
}

// ---- the calls ----

static int is_change(int flags) { return flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR); }

static int open_at(int folder, const char *name, int flags, mode_t mode) {
  char path[PATH];
  struct stat status;
  if (!is_change(flags) || !watched_at(folder, name, path)) return syscall(SYS_openat, folder, name, flags, mode);
  int there = !syscall(SYS_newfstatat, folder, name, &status, 0);
  const char *operation = there ? flags & O_TRUNC ? "open-truncate" : "open" : "create";
  if (decide(operation, path, there ? flags & O_TRUNC ? 0 : CHANGES_NOTHING : TAKES_ROOM)) return -1;
  int fd = syscall(SYS_openat, folder, name, flags, mode);
  if (fd >= 0 && !there) set_file(fd, 0, 0);
  if (fd >= 0 && there && flags & O_TRUNC) set_file(fd, 0, 1);
  return fd;
}

#define MODE                                   \
  mode_t mode = 0;                             \
  if (flags & (O_CREAT | O_TMPFILE)) {         \
    va_list rest;                              \
    va_start(rest, flags);                     \
    mode = va_arg(rest, mode_t);               \
    va_end(rest);                              \
  }
int open(const char *name, int flags, ...) { MODE return open_at(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return open_at(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE return open_at(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE return open_at(folder, name, flags | O_LARGEFILE, mode); }
int creat(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static FILE *open_stream(const char *symbol, const char *name, const char *how) {
  FILE *(*next)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, symbol);
  char path[PATH];
  if (strpbrk(how, "wa+") && watched_at(AT_FDCWD, name, path) && decide("open-stream", path, TAKES_ROOM)) return NULL;
  return next(name, how);
}
FILE *fopen(const char *name, const char *how) { return open_stream("fopen", name, how); }
FILE *fopen64(const char *name, const char *how) { return open_stream("fopen64", name, how); }

// Writes: `half` does a part of it before the process dies.
#define WRITE(operation, fd, whole, half)                               \
  char path[PATH];                                                      \
  if (watched_fd(fd, path)) {                                           \
    mark_dirty(fd);                                                     \
    enum verdict verdict = decide(operation, path, TAKES_ROOM | IS_WRITE); \
    if (verdict == FAIL) return -1;                                     \
    if (verdict == WRITE_HALF_AND_DIE) {                                \
      half;                                                             \
      die();                                                            \
    }                                                                   \
  }                                                                     \
  return whole
ssize_t write(int fd, const void *bytes, size_t n) {
  WRITE("write", fd, syscall(SYS_write, fd, bytes, n), syscall(SYS_write, fd, bytes, n / 2));
}
ssize_t writev(int fd, const struct iovec *pieces, int n) {
  WRITE("write", fd, syscall(SYS_writev, fd, pieces, n), n ? syscall(SYS_write, fd, pieces[0].iov_base, pieces[0].iov_len / 2) : 0);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) {
  WRITE("write", fd, syscall(SYS_pwrite64, fd, bytes, n, at), syscall(SYS_pwrite64, fd, bytes, n / 2, at));
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) { return pwrite(fd, bytes, n, at); }
ssize_t sendfile(int fd, int from, off_t *at, size_t n) {
  WRITE("copy", fd, syscall(SYS_sendfile, fd, from, at, n), syscall(SYS_sendfile, fd, from, at, n / 2));
}
ssize_t sendfile64(int fd, int from, off64_t *at, size_t n) { return sendfile(fd, from, at, n); }
ssize_t copy_file_range(int from, off64_t *at, int fd, off64_t *to, size_t n, unsigned flags) {
  WRITE("copy", fd, syscall(SYS_copy_file_range, from, at, fd, to, n, flags),
        syscall(SYS_copy_file_range, from, at, fd, to, n / 2, flags));
}
int ftruncate(int fd, off_t n) { WRITE("truncate", fd, syscall(SYS_ftruncate, fd, n), (void)0); }
int ftruncate64(int fd, off64_t n) { return ftruncate(fd, n); }

static int flush(long call, int fd) {
  char path[PATH];
  if (!watched_fd(fd, path)) return syscall(call, fd);
  if (decide("flush", path, TAKES_ROOM)) return -1;
  int result = syscall(call, fd);
  mark_flushed(fd);
  return result;
}
int fsync(int fd) { return flush(SYS_fsync, fd); }
int fdatasync(int fd) { return flush(SYS_fdatasync, fd); }

void *mmap(void *address, size_t n, int access, int flags, int fd, off_t at) {
  char path[PATH];
  if (access & PROT_WRITE && flags & MAP_SHARED && watched_fd(fd, path)) {
    mark_dirty(fd);
    if (decide("map", path, TAKES_ROOM)) return MAP_FAILED;
  }
  return (void *)syscall(SYS_mmap, address, n, access, flags, fd, at);
}
void *mmap64(void *address, size_t n, int access, int flags, int fd, off64_t at) {
  return mmap(address, n, access, flags, fd, at);
}

#define ONE_NAME(operation, folder, kind, call)                                  \
  char path[PATH];                                                               \
  return watched_at(folder, name, path) && decide(operation, path, kind) ? -1 : call
#define REMOVES (exists(path) ? 0 : CHANGES_NOTHING)
#define MAKES (exists(path) ? CHANGES_NOTHING : TAKES_ROOM)
int unlink(const char *name) { ONE_NAME("unlink", AT_FDCWD, REMOVES, syscall(SYS_unlink, name)); }
int unlinkat(int at, const char *name, int flags) { ONE_NAME("unlink", at, REMOVES, syscall(SYS_unlinkat, at, name, flags)); }
int rmdir(const char *name) { ONE_NAME("rmdir", AT_FDCWD, REMOVES, syscall(SYS_rmdir, name)); }
int mkdir(const char *name, mode_t mode) { ONE_NAME("mkdir", AT_FDCWD, MAKES, syscall(SYS_mkdir, name, mode)); }
int mkdirat(int at, const char *name, mode_t mode) { ONE_NAME("mkdir", at, MAKES, syscall(SYS_mkdirat, at, name, mode)); }
int chmod(const char *name, mode_t mode) { ONE_NAME("chmod", AT_FDCWD, 0, syscall(SYS_chmod, name, mode)); }
int truncate(const char *name, off_t n) { ONE_NAME("truncate", AT_FDCWD, 0, syscall(SYS_truncate, name, n)); }
int truncate64(const char *name, off64_t n) { ONE_NAME("truncate", AT_FDCWD, 0, syscall(SYS_truncate, name, n)); }
int symlink(const char *to, const char *name) { ONE_NAME("symlink", AT_FDCWD, TAKES_ROOM, syscall(SYS_symlink, to, name)); }

#define TWO_NAMES(operation, folder, other, kind, call)                                   \
  char from[PATH], to[PATH], both[2 * PATH + 4];                                          \
  if (watched_at(folder, name, from) | watched_at(other, new_name, to)) {                 \
    snprintf(both, sizeof both, "%s -> %s", from, to);                                    \
    if (decide(operation, both, kind)) return -1;                                         \
  }                                                                                       \
  return call
int rename(const char *name, const char *new_name) {
  TWO_NAMES("rename", AT_FDCWD, AT_FDCWD, 0, syscall(SYS_rename, name, new_name));
}
int renameat(int at, const char *name, int to_at, const char *new_name) {
  TWO_NAMES("rename", at, to_at, 0, syscall(SYS_renameat, at, name, to_at, new_name));
}
int renameat2(int at, const char *name, int to_at, const char *new_name, unsigned flags) {
  TWO_NAMES("rename", at, to_at, 0, syscall(SYS_renameat2, at, name, to_at, new_name, flags));
}
int link(const char *name, const char *new_name) {
  TWO_NAMES("link", AT_FDCWD, AT_FDCWD, TAKES_ROOM, syscall(SYS_link, name, new_name));
}
int linkat(int at, const char *name, int to_at, const char *new_name, int flags) {
  TWO_NAMES("link", at, to_at, TAKES_ROOM, syscall(SYS_linkat, at, name, to_at, new_name, flags));
}
