// timer_create(2): ids (with gaps), signal and value, a timer for one thread, remaining time, period, absolute deadlines, overruns;
// international atomic time, and the processor time of another process.
#include "guest.h"

#ifndef CLOCK_TAI
#define CLOCK_TAI 11
#endif

#define SECOND 1000000000ll
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static int quiet;
static void set(int id, int flags, int64_t value, int64_t interval) {
    struct itimerspec t = {{interval / SECOND, interval % SECOND}, {value / SECOND, value % SECOND}};
    MUST(syscall(SYS_timer_settime, id, flags, &t, NULL));
}
static void spoil(void) { set(quiet, 0, 500 * SECOND, 0); }

static int make(clockid_t clock, int notify, int signal, long value, pid_t thread) {
    struct sigevent e;
    memset(&e, 0, sizeof e);
    e.sigev_notify = notify, e.sigev_signo = signal, e.sigev_value.sival_ptr = (void *)value;
    e.sigev_notify_thread_id = thread;
    int id = -1;
    MUST(syscall(SYS_timer_create, clock, notify < 0 ? NULL : &e, &id));
    return id;
}
static int64_t left(int id, int64_t *interval) {
    struct itimerspec t;
    MUST(syscall(SYS_timer_gettime, id, &t));
    if (interval) *interval = t.it_interval.tv_sec * SECOND + t.it_interval.tv_nsec;
    return t.it_value.tv_sec * SECOND + t.it_value.tv_nsec;
}

static volatile pid_t worker_tid;
static volatile int worker_hits, hits, last_value, finish;
static void on_worker(int s, siginfo_t *info, void *c) {
    (void)s, (void)c;
    CHECK(syscall(SYS_gettid) == worker_tid, "the signal for one thread came to another");
    CHECK(info->si_value.sival_int == 0x77, "value");
    worker_hits++;
}

static void *taker(void *arg) { // takes the process-wide one, with its value
    (void)arg;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 1);
    while (!finish) {
        siginfo_t info;
        if (sigtimedwait(&one, &info, &(struct timespec){1, 0}) < 0) continue;
        CHECK(info.si_code == SI_TIMER, "code %d", info.si_code);
        last_value = info.si_value.sival_int;
        hits += 1 + info.si_overrun;
    }
    return NULL;
}

static void *worker(void *unused) {
    (void)unused;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 2);
    PTHREAD(pthread_sigmask(SIG_UNBLOCK, &one, NULL));
    worker_tid = syscall(SYS_gettid);
    while (!finish) {
        struct timespec t = {0, 50000000};
        nanosleep(&t, NULL); // interrupted by the timer, rightly
    }
    return NULL;
}

int main(void) {
    sigset_t block;
    sigemptyset(&block);
    for (int i = 1; i < 5; i++) sigaddset(&block, SIGRTMIN + i);
    MUST(sigprocmask(SIG_BLOCK, &block, NULL));
    struct sigaction act = {.sa_sigaction = on_worker, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGRTMIN + 2, &act, NULL));
    pthread_t threads[2];
    PTHREAD(pthread_create(&threads[0], NULL, worker, NULL));
    PTHREAD(pthread_create(&threads[1], NULL, taker, NULL));
    while (!worker_tid) nap(100);
    int gap[5];
    for (int i = 0; i < 5; i++) gap[i] = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    int ticking = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 0x1234, 0);
    for (int i = 0; i < 5; i++)
        if (i != 2) MUST(syscall(SYS_timer_delete, gap[i]));
    int own = make(CLOCK_BOOTTIME, SIGEV_THREAD_ID, SIGRTMIN + 2, 0x77, worker_tid);
    quiet = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    int absolute = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 3, 0);
    int real = make(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 3, 4, 0);
    int over = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 4, 5, 0);
    int cpu = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_NONE, 0, 0, 0);
    int unset = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 6, 0);
    int tai = make(CLOCK_TAI, SIGEV_NONE, 0, 0, 0);
    pid_t child = MUST(fork());
    if (!child) {
        while (wait_on()) {
            int64_t end = now_ns(CLOCK_PROCESS_CPUTIME_ID) + SECOND / 1000;
            while (now_ns(CLOCK_PROCESS_CPUTIME_ID) < end) {}
        }
        _exit(0);
    }
    clockid_t its;
    PTHREAD(clock_getcpuclockid(child, &its));
    int other = make(its, SIGEV_NONE, 0, 0, 0);
    int64_t start = now_ns(CLOCK_MONOTONIC), set_by, deadline = start + 2000 * SECOND, real_deadline = now_ns(CLOCK_REALTIME) + 3000 * SECOND, interval;
    set(gap[2], 0, 4000 * SECOND, 0);
    set(ticking, 0, 10000000, 10000000);
    set(own, 0, 15000000, 15000000);
    set(quiet, 0, 1000 * SECOND, 3 * SECOND);
    set_by = now_ns(CLOCK_MONOTONIC);
    set(absolute, TIMER_ABSTIME, deadline, 0);
    set(real, TIMER_ABSTIME, real_deadline, 0);
    set(over, 0, 1000000, 1000000); // its signal stays blocked: it overruns
    set(cpu, 0, 1000 * SECOND, 0);
    set(other, 0, 1000 * SECOND, 0);
    int64_t tai_deadline = now_ns(CLOCK_TAI) + 5000 * SECOND;
    set(tai, TIMER_ABSTIME, tai_deadline, 0);
    ready();
    int64_t last = left(quiet, NULL), seen_at = start, last_other = 1000 * SECOND, other_at = start;
    int last_hits = 0, last_worker = 0;
    while (go_on()) {
        // The clocks before and after: who reads them may be kept waiting.
        int64_t now = now_ns(CLOCK_MONOTONIC), real_now = now_ns(CLOCK_REALTIME);
        int64_t remaining = left(quiet, &interval), until = left(absolute, NULL), real_until = left(real, NULL);
        int64_t later = now_ns(CLOCK_MONOTONIC), real_later = now_ns(CLOCK_REALTIME);
        CHECK(interval == 3 * SECOND, "period %ld", interval);
        CHECK(remaining <= last && remaining > 900 * SECOND, "remaining time went from %ld to %ld", last, remaining);
        CHECK(remaining > start + 1000 * SECOND - later - SECOND / 5 && remaining < set_by + 1000 * SECOND - now + SECOND / 5,
              "%ld ns are left, started at %ld, it is %ld", remaining, start, now);
        last = remaining;
        CHECK(until > deadline - later - SECOND / 5 && until < deadline - now + SECOND / 5, "%ld ns to %ld, it is %ld", until, deadline, now);
        // The kernel does not tell that it was absolute: time spent dead shows, nothing else may.
        CHECK(real_until > real_deadline - real_later - SECOND / 5 && real_until < real_deadline - real_now + 60 * SECOND,
              "%ld ns to %ld, it is %ld", real_until, real_deadline, real_now);
        CHECK(left(unset, NULL) == 0, "a timer that was never set is running");
        CHECK(left(cpu, NULL) > 900 * SECOND && left(cpu, NULL) <= 1000 * SECOND, "processor-time timer");
        CHECK(left(gap[2], NULL) > 3900 * SECOND, "the timer between the gaps");
        int64_t of_other = left(other, NULL), tai_now = now_ns(CLOCK_TAI), tai_until = left(tai, NULL);
        CHECK(of_other <= last_other && of_other > 900 * SECOND, "the other process's time went from %ld to %ld", last_other, of_other);
        if (of_other < last_other) last_other = of_other, other_at = now;
        CHECK(now - other_at < 20 * SECOND, "the other process's time stands still");
        CHECK(tai_until > tai_deadline - now_ns(CLOCK_TAI) - SECOND / 5 && tai_until < tai_deadline - tai_now + 60 * SECOND, "%ld ns of atomic time", tai_until);
        for (int i = 0; i < 5; i++) {
            struct itimerspec t;
            if (i != 2) CHECK(syscall(SYS_timer_gettime, gap[i], &t) == -1 && errno == EINVAL, "a deleted timer exists");
        }
        if (hits > last_hits && worker_hits > last_worker) last_hits = hits, last_worker = worker_hits, seen_at = now;
        CHECK(now - seen_at < 20 * SECOND, "a timer stands still: %d %d", hits, worker_hits);
    }
    // It may have been told to finish before the first tick.
    while (!hits) nap(1000);
    CHECK(last_value == 0x1234, "value %#x", last_value);
    int64_t due = (now_ns(CLOCK_MONOTONIC) - start) / 10000000;
    CHECK(hits <= due + 2, "%d ticks where %ld are due", hits, due);
    sigset_t one;
    siginfo_t info;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 4);
    CHECK(sigtimedwait(&one, &info, &(struct timespec){1, 0}) == SIGRTMIN + 4 && info.si_value.sival_int == 5, "the blocked timer's signal");
    int later = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    CHECK(later != ticking && later != own && later != quiet && later != absolute && later != over && later != unset, "a new timer took an id in use");
    finish = 1;
    for (int i = 0; i < 2; i++) PTHREAD(pthread_join(threads[i], NULL));
    join_child(child);
    return pass();
}
