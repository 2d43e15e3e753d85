// Waits of some seconds that are saved on the way: each ends when it should, neither early nor with the time it had waited
// before a save added to it. Two threads for each call, one half a wait behind the other: one of them is always far in.
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/select.h>

#include "guest.h"

#define FUTEX_WAIT 0
#define MS 1000000ll
#define WAIT (4000 * MS)
#define LATE (1500 * MS)
static volatile int damaged;
static void spoil(void) { damaged = 1; }

static const struct timespec wait_time = {WAIT / (1000 * MS), 0};

static int by_nanosleep(void) { return nanosleep(&wait_time, NULL); }
static int by_nanosleep_with_rest(void) {
    struct timespec rest;
    return nanosleep(&wait_time, &rest);
}
static int by_clock_nanosleep(void) { return clock_nanosleep(CLOCK_BOOTTIME, 0, &wait_time, NULL); }
static int by_absolute_sleep(void) {
    int64_t end = now_ns(CLOCK_MONOTONIC) + WAIT;
    struct timespec t = {end / (1000 * MS), end % (1000 * MS)};
    return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static int by_poll(void) { return poll(NULL, 0, WAIT / MS); }
static int by_ppoll(void) { return ppoll(NULL, 0, &wait_time, NULL); }
static int by_select(void) { return select(0, NULL, NULL, NULL, &(struct timeval){WAIT / (1000 * MS), 0}); }
static int by_epoll(void) {
    static __thread int ep = -1;
    if (ep < 0) ep = MUST(epoll_create1(0));
    struct epoll_event e;
    return epoll_wait(ep, &e, 1, WAIT / MS);
}
static int by_epoll_pwait(void) {
    static __thread int ep = -1;
    if (ep < 0) ep = MUST(epoll_create1(0));
    struct epoll_event e;
    sigset_t all;
    sigfillset(&all);
    return epoll_pwait(ep, &e, 1, WAIT / MS, &all);
}
static int by_futex(void) {
    uint32_t word = 0;
    long n = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &wait_time, NULL, 0);
    return n == -1 && errno == ETIMEDOUT ? 0 : 1;
}
static int by_epoll_pwait2(void) {
    static __thread int ep = -1;
    if (ep < 0) ep = MUST(epoll_create1(0));
    struct epoll_event e;
    return syscall(441 /* epoll_pwait2 */, ep, &e, 1, &wait_time, NULL, 8);
}
static int by_sigtimedwait(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    return sigtimedwait(&set, NULL, &wait_time) == -1 && errno == EAGAIN ? 0 : 1;
}
static int semaphores;
static int by_semtimedop(void) {
    struct sembuf down = {0, -1, 0};
    return semtimedop(semaphores, &down, 1, &wait_time) == -1 && errno == EAGAIN ? 0 : 1;
}
static const struct call {
    const char *name;
    int (*run)(void);
} calls[] = {
    {"nanosleep", by_nanosleep}, {"nanosleep with a rest", by_nanosleep_with_rest}, {"clock_nanosleep", by_clock_nanosleep},
    {"clock_nanosleep to a time", by_absolute_sleep}, {"poll", by_poll}, {"ppoll", by_ppoll}, {"select", by_select},
    {"epoll_wait", by_epoll}, {"epoll_pwait", by_epoll_pwait}, {"futex", by_futex},
    {"epoll_pwait2", by_epoll_pwait2}, {"sigtimedwait", by_sigtimedwait}, {"semtimedop", by_semtimedop},
};
enum { CALLS = sizeof calls / sizeof *calls };
static volatile uint64_t *ends;

static void *worker(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    const struct call *call = &calls[me % CALLS];
    // The second half starts later, by a call that is not on trial.
    int64_t start = now_ns(CLOCK_MONOTONIC) + (me < CALLS ? 0 : WAIT / 2);
    while (now_ns(CLOCK_MONOTONIC) < start) nap(10000);
    while (!told("go") || damaged) {
        int64_t from = now_ns(CLOCK_MONOTONIC), stood = guest_stood_still();
        errno = 0;
        int result = call->run();
        int64_t took = now_ns(CLOCK_MONOTONIC) - from;
        if (damaged && me == 4) took += 2 * LATE;
        CHECK(result == 0, "%s returned %d", call->name, result);
        CHECK(took >= WAIT - MS, "%s took only %lld ms", call->name, took / MS);
        CHECK(took < WAIT + LATE + (damaged ? 0 : guest_stood_still() - stood), "%s took %lld ms", call->name, took / MS);
        __atomic_fetch_add(ends, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[2 * CALLS];
    ends = calloc(1, sizeof *ends);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 3);
    MUST(sigprocmask(SIG_BLOCK, &one, NULL));
    semaphores = MUST(semget(IPC_PRIVATE, 1, 0600));
    FILE *note = fopen(guest_path("ipcs"), "w");
    CHECK(note && fprintf(note, "ipcrm -s %d\n", semaphores) > 0 && fclose(note) == 0, "ipcs");
    for (uintptr_t i = 0; i < 2 * CALLS; i++) PTHREAD(pthread_create(&threads[i], NULL, worker, (void *)i));
    ready();
    while (go_on()) {
        char text[32];
        int fd = MUST(open(guest_path("ends"), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        int n = snprintf(text, sizeof text, "%020lu\n", *ends);
        CHECK(pwrite(fd, text, n, 0) == n, "ends");
        MUST(close(fd));
    }
    for (int i = 0; i < 2 * CALLS; i++) PTHREAD(pthread_join(threads[i], NULL));
    MUST(semctl(semaphores, 0, IPC_RMID));
    return pass();
}
