/* Faults for tests, put before libc (LD_PRELOAD): at the n-th call of a kind on a path below a folder the process is
   killed, or the call fails. Nothing happens until faults_arm is called. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SYNC = 1, RENAME = 2, UNLINK = 4, WRITE = 8, READ = 16 };
enum { BEFORE = -1, AFTER = -2 }; /* else: the errno that calls fail with */

static char root[PATH_MAX];
static size_t root_length;
static char spared[PATH_MAX];
static int kinds, how;
static long wanted;
static int forever;
static long count;

void faults_arm(const char *folder, const char *not_below, int mask, long nth, int action, int from_then_on) {
    snprintf(spared, sizeof spared, "%s", not_below);
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    wanted = nth;
    how = action;
    forever = from_then_on;
    __atomic_store_n(&count, 0, __ATOMIC_SEQ_CST);
    kinds = mask;
}

long faults_count(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

static int is_below(const char *path) {
    if (spared[0] && strstr(path, spared)) return 0;
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int of_name(int folder, const char *path) {
    char base[PATH_MAX], whole[2 * PATH_MAX];
    if (!path) return 0;
    if (path[0] == '/') return is_below(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", base, path);
    return is_below(whole);
}

static int of_file(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts a call; 1 where it is the one that is to fail or to be the last. */
static int due(void) {
    long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    return now == wanted || (forever && now > wanted);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, #name);

#define FAULT(kind, concerns, call) \
    int saved = errno; \
    int is_due = (kinds & (kind)) && (concerns) && due(); \
    errno = saved; \
    if (is_due && how == BEFORE) die(); \
    if (is_due && how > 0) { errno = how; return -1; } \
    __typeof__(call) result = call; \
    if (is_due && how == AFTER) die(); \
    return result;

int fsync(int f) { REAL(int, fsync, int) FAULT(SYNC, of_file(f), real(f)) }
int fdatasync(int f) { REAL(int, fdatasync, int) FAULT(SYNC, of_file(f), real(f)) }
int rename(const char *a, const char *b) { REAL(int, rename, const char *, const char *) FAULT(RENAME, of_name(AT_FDCWD, b), real(a, b)) }
int renameat(int d, const char *a, int e, const char *b) { REAL(int, renameat, int, const char *, int, const char *) FAULT(RENAME, of_name(e, b), real(d, a, e, b)) }
int link(const char *a, const char *b) { REAL(int, link, const char *, const char *) FAULT(RENAME, of_name(AT_FDCWD, b), real(a, b)) }
int linkat(int d, const char *a, int e, const char *b, int g) { REAL(int, linkat, int, const char *, int, const char *, int) FAULT(RENAME, of_name(e, b), real(d, a, e, b, g)) }
int unlink(const char *a) { REAL(int, unlink, const char *) FAULT(UNLINK, of_name(AT_FDCWD, a), real(a)) }
int unlinkat(int d, const char *a, int g) { REAL(int, unlinkat, int, const char *, int) FAULT(UNLINK, of_name(d, a), real(d, a, g)) }
int rmdir(const char *a) { REAL(int, rmdir, const char *) FAULT(UNLINK, of_name(AT_FDCWD, a), real(a)) }

ssize_t write(int f, const void *b, size_t n) {
    REAL(ssize_t, write, int, const void *, size_t)
    if ((kinds & WRITE) && how == AFTER && n > 1 && of_file(f) && due()) { real(f, b, n / 2); die(); }
    FAULT(how == AFTER ? 0 : WRITE, of_file(f), real(f, b, n))
}
ssize_t pwrite64(int f, const void *b, size_t n, off64_t o) { REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t) FAULT(WRITE, of_file(f), real(f, b, n, o)) }
ssize_t read(int f, void *b, size_t n) { REAL(ssize_t, read, int, void *, size_t) FAULT(READ, of_file(f), real(f, b, n)) }
ssize_t pread64(int f, void *b, size_t n, off64_t o) { REAL(ssize_t, pread64, int, void *, size_t, off64_t) FAULT(READ, of_file(f), real(f, b, n, o)) }
