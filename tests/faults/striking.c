/* Strikes the nth call that changes files below one folder, counted over all threads and children of a program.
 *
 * Preloaded (LD_PRELOAD) by tests/faults/striking.py, told what to do by the environment:
 *   STRIKE_BELOW  the folder                STRIKE_COUNT  a file of 8 bytes: how many calls there were so far
 *   STRIKE_AT     which call (1 ...)        STRIKE_HOW    KILL, TEAR, SHORT or the number of an error
 *   STRIKE_SAY    a file that gets a line about the strike
 * KILL ends the process before the call; TEAR carries out half of a write and ends it then; SHORT carries out half of a
 * write and says so. TEAR and SHORT strike writes of more than a sector only, so only these are counted then: what fits
 * into one neither the cache nor a disk takes by half.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum { SECTOR = 512 };

static const char *below, *how, *say;
static size_t below_length;
static uint64_t at;
static uint64_t *count;

__attribute__((constructor)) static void begin(void)
{
    below = getenv("STRIKE_BELOW");
    how = getenv("STRIKE_HOW");
    say = getenv("STRIKE_SAY");
    if (!below || !how || !say) return;
    below_length = strlen(below);
    at = strtoull(getenv("STRIKE_AT"), NULL, 10);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, getenv("STRIKE_COUNT"), O_RDWR | O_CLOEXEC, 0);
    void *page = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (page != MAP_FAILED) count = page;
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether this call is to be struck; it has been told of then. */
static int strikes(const char *call, const char *path, size_t length)
{
    if (!count || strncmp(path, below, below_length) || (path[below_length] != '/' && path[below_length])) return 0;
    if (length <= SECTOR && (!strcmp(how, "TEAR") || !strcmp(how, "SHORT"))) return 0;
    if (__atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST) != at) return 0;
    char line[PATH_MAX + 64];
    int end = snprintf(line, sizeof line, "struck %d %s %s\n", (int)getpid(), call, path + below_length);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, say, O_WRONLY | O_APPEND | O_CLOEXEC, 0);
    syscall(SYS_write, fd, line, (size_t)end);
    syscall(SYS_close, fd);
    if (!strcmp(how, "KILL")) die();
    return 1;
}

static int strikes_write(const char *call, int fd, size_t length)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t end = count ? readlink(link, path, sizeof path - 1) : -1;
    if (end <= 0) return 0;
    path[end] = 0;
    return strikes(call, path, length);
}

static int strikes_fd(const char *call, int fd) { return strikes_write(call, fd, 0); }

static int failed(void)
{
    errno = atoi(how);
    return -1;
}

ssize_t write(int fd, const void *content, size_t length)
{
    if (!strikes_write("write", fd, length)) return REAL(write)(fd, content, length);
    if (atoi(how)) return failed();
    ssize_t done = REAL(write)(fd, content, length / 2);
    if (!strcmp(how, "TEAR")) die();
    return done;
}

ssize_t pwrite64(int fd, const void *content, size_t length, off64_t offset)
{
    if (!strikes_write("pwrite", fd, length)) return REAL(pwrite64)(fd, content, length, offset);
    if (atoi(how)) return failed();
    ssize_t done = REAL(pwrite64)(fd, content, length / 2, offset);
    if (!strcmp(how, "TEAR")) die();
    return done;
}

ssize_t pwrite(int fd, const void *content, size_t length, off_t offset) { return pwrite64(fd, content, length, offset); }

int fsync(int fd) { return strikes_fd("fsync", fd) ? failed() : REAL(fsync)(fd); }
int fdatasync(int fd) { return strikes_fd("fdatasync", fd) ? failed() : REAL(fdatasync)(fd); }
int ftruncate64(int fd, off64_t size) { return strikes_fd("ftruncate", fd) ? failed() : REAL(ftruncate64)(fd, size); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int posix_fallocate64(int fd, off64_t begin_, off64_t length)
{
    return strikes_fd("fallocate", fd) ? atoi(how) : REAL(posix_fallocate64)(fd, begin_, length);
}
int posix_fallocate(int fd, off_t begin_, off_t length) { return posix_fallocate64(fd, begin_, length); }

int rename(const char *old, const char *new) { return strikes("rename", new, 0) ? failed() : REAL(rename)(old, new); }
int renameat(int old_fd, const char *old, int new_fd, const char *new)
{
    return strikes("rename", new, 0) ? failed() : REAL(renameat)(old_fd, old, new_fd, new);
}
int unlink(const char *path) { return strikes("unlink", path, 0) ? failed() : REAL(unlink)(path); }
int unlinkat(int fd, const char *path, int flags)
{
    return strikes("unlink", path, 0) ? failed() : REAL(unlinkat)(fd, path, flags);
}
int mkdir(const char *path, mode_t mode) { return strikes("mkdir", path, 0) ? failed() : REAL(mkdir)(path, mode); }

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    if ((flags & (O_CREAT | O_TRUNC)) && strikes("open", path, 0)) return failed();
    return REAL(open64)(path, flags, mode);
}
int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    return open64(path, flags, mode);
}
