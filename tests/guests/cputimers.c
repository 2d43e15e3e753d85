// POSIX timers on CPU time: each goes on to measure the thread it was made for, running or disarmed, made by the thread
// itself or by another. And a one-shot timer for one thread, set again at each signal: if one signal is lost, it is at rest.
#include "guest.h"

#define SECOND 1000000000ll
#define FAR (1000 * SECOND)
#define THREADS 3
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static volatile int armed[THREADS], idle[THREADS], by_other[THREADS], damaged;
static volatile uint64_t links;
static int chain = -1;
static pthread_barrier_t gate;

static void set(int id, int64_t value) {
    struct itimerspec t = {{0, 0}, {value / SECOND, value % SECOND}};
    MUST(syscall(SYS_timer_settime, id, 0, &t, NULL));
}
static int64_t left(int id) {
    struct itimerspec t;
    MUST(syscall(SYS_timer_gettime, id, &t));
    return t.it_value.tv_sec * SECOND + t.it_value.tv_nsec;
}
static int make(clockid_t clock, int notify, int signal, pid_t thread) {
    struct sigevent e;
    memset(&e, 0, sizeof e);
    e.sigev_notify = notify, e.sigev_signo = signal, e.sigev_notify_thread_id = thread;
    int id = -1;
    MUST(syscall(SYS_timer_create, clock, &e, &id));
    return id;
}
static void spoil(void) { set(armed[1], FAR / 2), damaged = 1; }

static void on_link(int s) {
    (void)s;
    links++;
    set(chain, 200000);
}

// Works until `by`, a timer that is known to measure this thread, has lost that much. What `id` loses meanwhile is no less,
// and no more than `by` loses from before to after; but for what a save lets the thread work between looking at the one and
// at the other. (The thread's clock itself starts anew at a resume.)
#define BETWEEN 1000000
static void measure(int id, int by, int64_t work) {
    int64_t outer = left(by), before = left(id), inner = left(by);
    while (inner - left(by) < work) {}
    int64_t lost = before - left(id), most = outer - left(by);
    CHECK(lost >= work - BETWEEN && lost <= most + BETWEEN, "timer %d lost %ld ns where %ld to %ld were used", id, lost, work, most);
}

static void *worker(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    armed[me] = make(CLOCK_THREAD_CPUTIME_ID, SIGEV_NONE, 0, 0);
    idle[me] = make(CLOCK_THREAD_CPUTIME_ID, SIGEV_NONE, 0, 0);
    set(armed[me], FAR);
    if (me == 0) {
        chain = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 1, syscall(SYS_gettid));
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, SIGRTMIN + 1);
        PTHREAD(pthread_sigmask(SIG_UNBLOCK, &one, NULL));
        set(chain, 200000);
    }
    pthread_barrier_wait(&gate);
    pthread_barrier_wait(&gate);
    int64_t last = FAR;
    while (!told("go") || (me == 1 && damaged)) {
        measure(armed[me], by_other[me], 1500000 * (me + 1));
        CHECK(left(idle[me]) == 0, "a timer that was never set is running");
        int64_t now = left(armed[me]);
        CHECK(now < last && now > FAR - 100 * SECOND, "time left went from %ld to %ld", last, now);
        last = now;
        if (me != 0) nap(2000);
        else usleep(2000); // interrupted by the timer, rightly
    }
    set(idle[me], FAR);
    measure(idle[me], by_other[me], 3000000);
    return NULL;
}

int main(void) {
    struct sigaction act = {.sa_handler = on_link, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGRTMIN + 1, &act, NULL));
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 1);
    MUST(sigprocmask(SIG_BLOCK, &one, NULL));
    PTHREAD(pthread_barrier_init(&gate, NULL, THREADS + 1));
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) PTHREAD(pthread_create(&threads[i], NULL, worker, (void *)i));
    pthread_barrier_wait(&gate);
    for (int i = 0; i < THREADS; i++) {
        clockid_t clock;
        PTHREAD(pthread_getcpuclockid(threads[i], &clock));
        by_other[i] = make(clock, SIGEV_NONE, 0, 0);
        set(by_other[i], FAR);
    }
    pthread_barrier_wait(&gate);
    ready();
    uint64_t last = 0;
    int64_t seen = now_ns(CLOCK_MONOTONIC);
    while (go_on()) {
        int64_t now = now_ns(CLOCK_MONOTONIC);
        if (links != last) last = links, seen = now;
        CHECK(now - seen < 20 * SECOND, "the signal of the one-shot timer is lost");
    }
    for (int i = 0; i < THREADS; i++) PTHREAD(pthread_join(threads[i], NULL));
    return pass();
}
