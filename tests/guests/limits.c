// Resource limits far below what the process has already: open files, memory, locked memory, threads, queued signals,
// file size, stack. They are as they were, and so is what is beyond them.
#include "guest.h"

#define HIGH 50
static const struct {
    int which;
    rlim_t soft, hard;
} limits[] = {
    {RLIMIT_NOFILE, 20, 30}, {RLIMIT_AS, 1 << 20, 2 << 20},      {RLIMIT_DATA, 4096, 8192}, {RLIMIT_MEMLOCK, 0, 0},  {RLIMIT_NPROC, 1, 1},
    {RLIMIT_SIGPENDING, 0, 0}, {RLIMIT_FSIZE, 4096, 1 << 20},    {RLIMIT_STACK, 8192, 16384}, {RLIMIT_CPU, 5000, 6000}, {RLIMIT_CORE, 0, 0},
    {RLIMIT_MSGQUEUE, 10, 20}, {RLIMIT_NICE, 0, 0},              {RLIMIT_RTPRIO, 0, 0},     {RLIMIT_RTTIME, 1000, 2000},
};
#define COUNT (sizeof limits / sizeof *limits)

static volatile int finish;
static char *locked;
static sigset_t queued;

static void spoil(void) {
    MUST(setrlimit(RLIMIT_CPU, &(struct rlimit){4000, 6000}));
}

static void *worker(void *arg) {
    (void)arg;
    while (!finish) nap(1000);
    return NULL;
}

static void check(void) {
    struct rlimit now;
    for (unsigned i = 0; i < COUNT; i++) {
        MUST(getrlimit(limits[i].which, &now));
        CHECK(now.rlim_cur == limits[i].soft && now.rlim_max == limits[i].hard, "limit %d: %lu %lu", limits[i].which, now.rlim_cur, now.rlim_max);
    }
    char text[8] = "";
    CHECK(pread(HIGH, text, 7, 0) == 7 && !strcmp(text, "content"), "the file beyond the limit");
    CHECK(fcntl(HIGH, F_DUPFD, 25) == -1 && errno == EINVAL, "RLIMIT_NOFILE is not enforced");
    CHECK(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM, "RLIMIT_AS is not enforced");
    CHECK(geteuid() == 0 || (mlock(locked, 8192) == -1 && (errno == EPERM || errno == ENOMEM)), "RLIMIT_MEMLOCK is not enforced");
    for (int i = 0; i < 8192; i++) CHECK(locked[i] == (char)i, "locked memory");
    sigset_t pending;
    MUST(sigpending(&pending));
    CHECK(sigismember(&pending, SIGRTMIN + 2) == 1, "a queued signal is lost");
}

int main(void) {
    pthread_t thread;
    sigemptyset(&queued);
    sigaddset(&queued, SIGRTMIN + 2);
    MUST(sigprocmask(SIG_BLOCK, &queued, NULL));
    PTHREAD(pthread_create(&thread, NULL, worker, NULL));
    for (int i = 0; i < 5; i++) MUST(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = i}));
    int fd = MUST(open("file", O_RDWR | O_CREAT, 0644));
    CHECK(write(fd, "content", 7) == 7, "write");
    CHECK(dup2(fd, HIGH) == HIGH, "dup2");
    MUST(close(fd));
    locked = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(locked != MAP_FAILED, "mmap");
    for (int i = 0; i < 8192; i++) locked[i] = i;
    for (unsigned i = 0; i < COUNT; i++) MUST(setrlimit(limits[i].which, &(struct rlimit){limits[i].soft, limits[i].hard}));
    ready();
    while (go_on()) check();
    siginfo_t info;
    for (int i = 0; i < 5; i++) {
        CHECK(sigtimedwait(&queued, &info, &(struct timespec){0, 0}) == SIGRTMIN + 2 && info.si_value.sival_int == i, "queued signal %d", i);
    }
    finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
