// Waiting calls with short timeouts, again and again: each ends by its timeout, never early, never by EINTR, never stuck.
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include "guest.h"

// From linux/futex.h, which musl does not bring.
#define FUTEX_WAIT 0
#define FUTEX_WAIT_BITSET 9
#define FUTEX_BITSET_MATCH_ANY 0xffffffff

#define MS 1000000ll
#define SHORT (30 * MS)
static volatile int damaged;
static void spoil(void) { damaged = 1; }

static const struct timespec brief = {0, SHORT};
static int silent[2];

static struct timespec after(clockid_t clock) {
    int64_t t = now_ns(clock) + SHORT;
    return (struct timespec){t / 1000000000, t % 1000000000};
}

static int by_nanosleep(void) { return nanosleep(&brief, NULL); }
static int by_clock_nanosleep(void) {
    struct timespec t = after(CLOCK_MONOTONIC);
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static int by_relative_clock_nanosleep(void) { return clock_nanosleep(CLOCK_BOOTTIME, 0, &brief, NULL); }
static int by_poll(void) {
    struct pollfd p = {silent[0], POLLIN, 0};
    return poll(&p, 1, SHORT / MS);
}
static int by_ppoll(void) { return ppoll(NULL, 0, &brief, NULL); }
static int by_select(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(silent[0], &set);
    return select(silent[0] + 1, &set, NULL, NULL, &(struct timeval){0, SHORT / 1000});
}
static int by_epoll(void) {
    static int ep = -1;
    if (ep < 0) ep = MUST(epoll_create1(0));
    struct epoll_event e;
    return epoll_wait(ep, &e, 1, SHORT / MS);
}
static int by_futex(void) {
    uint32_t word = 0;
    long n = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &brief, NULL, 0);
    return n == -1 && errno == ETIMEDOUT ? 0 : 1;
}
static int by_futex_absolute(void) {
    uint32_t word = 0;
    struct timespec t = after(CLOCK_MONOTONIC);
    long n = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY);
    return n == -1 && errno == ETIMEDOUT ? 0 : 1;
}
static int by_sigtimedwait(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    return sigtimedwait(&set, NULL, &brief) == -1 && errno == EAGAIN ? 0 : 1;
}
static int by_sem_timedwait(void) {
    sem_t s;
    MUST(sem_init(&s, 0, 0));
    struct timespec t = after(CLOCK_REALTIME);
    return sem_timedwait(&s, &t) == -1 && errno == ETIMEDOUT ? 0 : 1;
}
static int (*const calls[])(void) = {by_nanosleep, by_clock_nanosleep, by_relative_clock_nanosleep, by_poll, by_ppoll, by_select, by_epoll,
                                     by_futex, by_futex_absolute, by_sigtimedwait, by_sem_timedwait};
enum { CALLS = sizeof calls / sizeof *calls };
static volatile uint64_t rounds[CALLS];

static void *worker(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    sigset_t block;
    sigfillset(&block);
    PTHREAD(pthread_sigmask(SIG_SETMASK, &block, NULL));
    while (!told("go") || damaged) {
        int64_t from = now_ns(CLOCK_MONOTONIC);
        errno = 0;
        int result = calls[me]();
        int64_t took = now_ns(CLOCK_MONOTONIC) - from;
        if (damaged && me == 3) result = -1;
        CHECK(result == 0, "call %lu returned %d", me, result);
        // A deadline on the wall clock passes while a program is saved and dead: only that one may seem early.
        CHECK(took >= SHORT - MS || calls[me] == by_sem_timedwait, "call %lu took only %ld ns", me, took);
        CHECK(took < 10000 * MS, "call %lu took %ld ns", me, took);
        rounds[me]++;
    }
    return NULL;
}

int main(void) {
    pthread_t threads[CALLS];
    MUST(pipe(silent));
    for (uintptr_t i = 0; i < CALLS; i++) PTHREAD(pthread_create(&threads[i], NULL, worker, (void *)i));
    ready();
    uint64_t last[CALLS] = {0};
    int64_t checked = now_ns(CLOCK_MONOTONIC);
    while (go_on()) {
        if (now_ns(CLOCK_MONOTONIC) - checked < 15000 * MS) continue;
        for (int i = 0; i < CALLS; i++) {
            CHECK(rounds[i] > last[i], "call %d is stuck", i);
            last[i] = rounds[i];
        }
        checked = now_ns(CLOCK_MONOTONIC);
    }
    for (int i = 0; i < CALLS; i++) PTHREAD(pthread_join(threads[i], NULL));
    return pass();
}
