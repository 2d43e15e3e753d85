// Signals of POSIX timers that wait, blocked: there is one of each timer, in its place among others of its number, and it goes
// with its timer. The period goes on from where it was. (What is overrun before a resume is not known: documented.)
#include "guest.h"

#define SECOND 1000000000ll
#define PERIOD 50000000ll
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static int periodic, wall, process_time, once, deleted, disarmed, directed;
static int drops; // this kernel takes back what waits of a timer that is deleted or disarmed
static volatile int finish, up;
static int64_t phase, wall_phase;

static void set(int id, int64_t value, int64_t interval) {
    struct itimerspec t = {{interval / SECOND, interval % SECOND}, {value / SECOND, value % SECOND}};
    MUST(syscall(SYS_timer_settime, id, 0, &t, NULL));
}

static int make(clockid_t clock, int signal, pid_t thread) {
    struct sigevent e;
    memset(&e, 0, sizeof e);
    e.sigev_notify = thread ? SIGEV_THREAD_ID : SIGEV_SIGNAL, e.sigev_signo = signal, e.sigev_value.sival_int = signal;
    e.sigev_notify_thread_id = thread;
    int id = -1;
    MUST(syscall(SYS_timer_create, clock, &e, &id));
    return id;
}

static void spoil(void) { set(periodic, PERIOD, PERIOD); } // what waits goes

static sigset_t only(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    return set;
}

static int waits(int signal) {
    sigset_t set;
    MUST(sigpending(&set));
    return sigismember(&set, signal);
}

static int take(int signal, siginfo_t *info) {
    sigset_t set = only(signal);
    return sigtimedwait(&set, info, &(struct timespec){0, 0}) == signal;
}

// How many wait.
static int all(int signal) {
    siginfo_t info;
    int count = 0;
    while (take(signal, &info)) count++;
    return count;
}

// The same of a timer, which would go off again as soon as its signal is taken.
static int all_of(int id, int signal) {
    siginfo_t info;
    int count = take(signal, &info);
    set(id, 0, 0);
    return count + all(signal);
}

static int64_t now(clockid_t clock) {
    struct timespec t;
    MUST(clock_gettime(clock, &t));
    return t.tv_sec * SECOND + t.tv_nsec;
}

// Where in its period a clock is when the timer is due.
static int64_t phase_of(int id, clockid_t clock) {
    for (;;) {
        struct itimerspec t;
        int64_t before = now(clock);
        MUST(syscall(SYS_timer_gettime, id, &t));
        if (now(clock) - before < 200000) return (before + t.it_value.tv_sec * SECOND + t.it_value.tv_nsec) % PERIOD;
    }
}

static int64_t apart(int64_t a, int64_t b) {
    int64_t d = (a - b + PERIOD) % PERIOD;
    return d < PERIOD / 2 ? d : PERIOD - d;
}

static void *thread(void *unused) {
    (void)unused;
    directed = make(CLOCK_MONOTONIC, SIGRTMIN + 6, syscall(SYS_gettid));
    set(directed, PERIOD, PERIOD);
    while (!waits(SIGRTMIN + 6)) nap(1000);
    up = 1;
    for (; !finish; nap(1000)) CHECK(waits(SIGRTMIN + 6), "the signal for a thread has gone");
    CHECK(all_of(directed, SIGRTMIN + 6) == 1, "several signals for a thread");
    return NULL;
}

static void *eater(void *unused) { // of processor time, so that a timer on it goes off
    (void)unused;
    while (!waits(SIGRTMIN + 3)) sched_yield();
    return NULL;
}

int main(void) {
    sigset_t blocked;
    sigemptyset(&blocked);
    for (int i = 0; i < 10; i++) sigaddset(&blocked, SIGRTMIN + i);
    sigaddset(&blocked, SIGUSR1);
    MUST(pthread_sigmask(SIG_BLOCK, &blocked, NULL));

    once = make(CLOCK_BOOTTIME, SIGRTMIN + 9, 0);
    set(once, 1, 0);
    while (!waits(SIGRTMIN + 9)) nap(1000);
    set(once, 0, 0);
    drops = !all(SIGRTMIN + 9);

    // One that was sent before, the timer's, and one that is sent later.
    MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 1}));
    periodic = make(CLOCK_MONOTONIC, SIGRTMIN + 1, 0);
    set(periodic, PERIOD, PERIOD);
    wall = make(CLOCK_REALTIME, SIGRTMIN + 2, 0);
    set(wall, PERIOD, PERIOD);
    process_time = make(CLOCK_PROCESS_CPUTIME_ID, SIGRTMIN + 3, 0);
    set(process_time, 1000000, 1000000);
    deleted = make(CLOCK_MONOTONIC, SIGRTMIN + 4, 0), set(deleted, 1, 0);
    disarmed = make(CLOCK_MONOTONIC, SIGRTMIN + 5, 0), set(disarmed, 1, PERIOD);
    set(once, 1, 0);
    int standard = make(CLOCK_MONOTONIC, SIGUSR1, 0);
    set(standard, 1, PERIOD);
    nap(3 * PERIOD / 1000);
    MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 3}));
    pthread_t other, worker;
    PTHREAD(pthread_create(&worker, NULL, eater, NULL));
    PTHREAD(pthread_join(worker, NULL));
    PTHREAD(pthread_create(&other, NULL, thread, NULL));
    while (!up) nap(1000);
    // What is left of a time by the wall clock is what was left, however long the program was away.
    phase = phase_of(periodic, CLOCK_MONOTONIC), wall_phase = phase_of(wall, CLOCK_MONOTONIC);
    ready();
    while (go_on()) {
        CHECK(apart(phase_of(periodic, CLOCK_MONOTONIC), phase) < 1000000, "another phase");
        CHECK(apart(phase_of(wall, CLOCK_MONOTONIC), wall_phase) < 5000000, "another phase by the wall clock");
        for (int i = 1; i < 6; i++) CHECK(waits(SIGRTMIN + i), "signal %d has gone", i);
        CHECK(waits(SIGRTMIN + 9) && waits(SIGUSR1), "a signal has gone");
    }
    finish = 1;
    PTHREAD(pthread_join(other, NULL));

    siginfo_t first, second, third, none;
    CHECK(take(SIGRTMIN + 1, &first) && first.si_code == SI_QUEUE && first.si_value.sival_int == 1, "the first is another");
    CHECK(take(SIGRTMIN + 1, &second) && second.si_code == SI_TIMER && second.si_timerid == periodic, "the second is no timer's");
    CHECK(second.si_value.sival_int == SIGRTMIN + 1 && second.si_overrun >= 0, "value %d, overruns %d", second.si_value.sival_int, second.si_overrun);
    CHECK(take(SIGRTMIN + 1, &third) && third.si_code == SI_QUEUE && third.si_value.sival_int == 3, "the third is another");
    CHECK(!take(SIGRTMIN + 1, &none), "one more");
    int64_t taken = now(CLOCK_MONOTONIC);
    while (!take(SIGRTMIN + 1, &none)) nap(1000);
    CHECK(now(CLOCK_MONOTONIC) - taken < SECOND, "the timer does not go on");
    CHECK(all_of(wall, SIGRTMIN + 2) == 1 && all_of(process_time, SIGRTMIN + 3) == 1, "several signals of a timer");
    CHECK(all_of(standard, SIGUSR1) == 1 && all_of(once, SIGRTMIN + 9) == 1, "several signals of a timer");
    MUST(syscall(SYS_timer_delete, deleted));
    set(disarmed, 0, 0);
    CHECK(all(SIGRTMIN + 4) == !drops, "the signal of a deleted timer");
    CHECK(all(SIGRTMIN + 5) == !drops, "the signal of a disarmed timer");
    return pass();
}
