// What every guest shares: a guest sets up one kind of state, says "ready", checks that state again and again until
// it is told to finish, and judges itself. It talks with the harness through files in the directory it starts in:
//
//   (stdout)   "ready" once it is set up; "PASS" as its last word
//   beat       a counter that grows while it lives
//   go         made by the harness: finish, with the last checks
//   spoil      made by the harness: damage your own state as a bad resume would (proves that the guest can fail)
//   fails.log  a line from any process of the guest that found something wrong
#ifndef GUEST_H
#define GUEST_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// What getdents64(2) gives.
struct linux_dirent64 {
    uint64_t ino;
    int64_t off;
    unsigned short len;
    unsigned char type;
    char name[];
};

// What sched_getattr(2) gives.
struct sched_attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
};

static char guest_dir[PATH_MAX];
static uint64_t guest_beats;
static int guest_spoilt;

// Damages the state this guest is about. Every guest has one.
static void spoil(void);

__attribute__((constructor)) static void guest_start(void) {
    if (!getcwd(guest_dir, sizeof guest_dir)) _exit(1);
}

static inline const char *guest_path(const char *name) {
    static __thread char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", guest_dir, name);
    return path;
}

__attribute__((noreturn, format(printf, 3, 4))) static void fail_at(const char *file, int line, const char *format, ...) {
    int error = errno;
    char why[512], text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    const char *base = strrchr(file, '/');
    int n = snprintf(text, sizeof text, "FAIL: %s:%d: pid %d: %s (errno %d)\n", base ? base + 1 : file, line, (int)getpid(), why, error);
    int fd = open(guest_path("fails.log"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, n) != n) abort();
    if (write(1, text, n) != n) _exit(2);
    _exit(1);
}

// CHECK(condition, "what was wrong", …)
#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) fail_at(__FILE__, __LINE__, __VA_ARGS__);                                                    \
    } while (0)
// A call that must not return -1.
#define MUST(call)                                                                                                     \
    ({                                                                                                                 \
        __typeof__(call) must_result_ = (call);                                                                        \
        if (must_result_ == (__typeof__(call))-1) fail_at(__FILE__, __LINE__, "%s", #call);                            \
        must_result_;                                                                                                  \
    })
// A pthread call, which returns its error.
#define PTHREAD(call)                                                                                                  \
    do {                                                                                                               \
        errno = (call);                                                                                                \
        if (errno) fail_at(__FILE__, __LINE__, "%s", #call);                                                           \
    } while (0)

static inline uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// A short rest; every guest's main loop takes one, so that a save finds it asleep about as often as running.
static inline void nap(long microseconds) {
    struct timespec t = {microseconds / 1000000, microseconds % 1000000 * 1000};
    CHECK(nanosleep(&t, NULL) == 0, "nanosleep was interrupted");
}

static inline int64_t now_ns(clockid_t clock) {
    struct timespec t;
    MUST(clock_gettime(clock, &t));
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

// Time in which the main thread has not come by here, in pieces of 0.3 s and more: on a busy machine a resume takes as long
// or longer, and whoever waits then ends late by that. Asked by others, it counts a piece that has not ended.
static volatile int64_t guest_last_beat, guest_gaps;

static inline void mind_the_gap(void) {
    int64_t now = now_ns(CLOCK_MONOTONIC), gap = now - guest_last_beat;
    if (guest_last_beat && gap >= 300000000) guest_gaps += gap;
    guest_last_beat = now;
}

__attribute__((unused)) static int64_t guest_stood_still(void) {
    int64_t last = guest_last_beat, gaps = guest_gaps, since = now_ns(CLOCK_MONOTONIC) - last;
    return gaps + (last && since >= 300000000 ? since : 0);
}

static inline int told(const char *name) { return access(guest_path(name), F_OK) == 0; }

static inline void beat(void) {
    mind_the_gap();
    char text[32];
    int n = snprintf(text, sizeof text, "%020llu\n", (unsigned long long)++guest_beats);
    int fd = MUST(open(guest_path("beat"), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    CHECK(pwrite(fd, text, n, 0) == n, "beat");
    MUST(close(fd));
}

static inline void say(const char *text) {
    ssize_t n = strlen(text);
    CHECK(write(1, text, n) == n, "stdout");
}

static inline void ready(void) { say("ready\n"); }

// Before "ready": what is not permitted here, and so not looked at. The harness passes it on.
__attribute__((unused)) static inline void left_out(const char *what) {
    char line[128];
    snprintf(line, sizeof line, "SKIP %s\n", what);
    say(line);
}

// For the main loop of a guest's first process: a beat, a rest, and whether to go on.
static inline int go_on(void) {
    beat();
    nap(1000);
    if (!guest_spoilt && told("spoil")) {
        guest_spoilt = 1;
        spoil();
        say("spoilt\n");
        return 1; // whoever reads that may say "go" at once, before there was a check
    }
    return !told("go");
}

// The same for its other processes and threads: no beat.
__attribute__((unused)) static inline int wait_on(void) {
    nap(1000);
    return !told("go");
}

static inline int pass(void) {
    say("PASS\n");
    return 0;
}

// Waits for a child that must exit with 0.
__attribute__((unused)) static inline void join_child(pid_t pid) {
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid %d", (int)pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child %d ended with %#x", (int)pid, status);
}

// The whole of a small /proc file.
__attribute__((unused)) static inline ssize_t slurp(const char *path, char *buffer, size_t size) {
    int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
    size_t n = 0;
    ssize_t got;
    while ((got = MUST(read(fd, buffer + n, size - 1 - n))) > 0) n += got;
    MUST(close(fd));
    buffer[n] = 0;
    return n;
}

// What the kernel tells of a descriptor, from the first line with this word on; nothing if there is none.
__attribute__((unused)) static inline void fdinfo_from(const char *word, int fd, char *out, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    slurp(path, out, size);
    char *at = strstr(out, word);
    memmove(out, at ? at : "", at ? strlen(at) + 1 : 1);
}

#endif
