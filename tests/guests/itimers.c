// setitimer(2): the real-time one ticks on, the two of processor time keep what is left. In children
// alarm(2), and those two going off.
#include "guest.h"

#define SECOND 1000000000ll
static void spoil(void) {
    struct itimerval off = {{0, 0}, {0, 0}};
    MUST(setitimer(ITIMER_VIRTUAL, &off, NULL));
}

static volatile int64_t ticks;
static volatile int finish;
static void *taker(void *arg) {
    sigset_t alarm_only = *(sigset_t *)arg;
    while (!finish) {
        int signal;
        PTHREAD(sigwait(&alarm_only, &signal));
        ticks++;
    }
    return NULL;
}

// It comes once, at its time; a clock is read before and after.
static void alarmed(void) {
    int64_t from = now_ns(CLOCK_MONOTONIC), by;
    alarm(1000);
    by = now_ns(CLOCK_MONOTONIC);
    while (wait_on()) {
        struct itimerval now;
        int64_t before = now_ns(CLOCK_MONOTONIC);
        MUST(getitimer(ITIMER_REAL, &now));
        int64_t after = now_ns(CLOCK_MONOTONIC), left = now.it_value.tv_sec * SECOND + now.it_value.tv_usec * 1000;
        CHECK(!now.it_interval.tv_sec && !now.it_interval.tv_usec, "an alarm with a period");
        CHECK(left > from + 1000 * SECOND - after - SECOND / 5 && left < by + 1000 * SECOND - before + SECOND / 5, "%ld ns to the alarm, after %ld", left, after - from);
    }
    CHECK(alarm(1) > 900, "the time that was left");
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    PTHREAD(sigwait(&set, &signal));
    CHECK(alarm(0) == 0, "an alarm comes twice");
    _exit(0);
}

// Those of processor time go off again and again, as it is used.
static void at_work(void) {
    static const int signals[] = {SIGVTALRM, SIGPROF};
    struct itimerval often = {{0, 4000}, {0, 4000}};
    sigset_t both;
    sigemptyset(&both);
    for (int i = 0; i < 2; i++) sigaddset(&both, signals[i]);
    MUST(sigprocmask(SIG_BLOCK, &both, NULL));
    MUST(setitimer(ITIMER_VIRTUAL, &often, NULL)), MUST(setitimer(ITIMER_PROF, &often, NULL));
    while (wait_on())
        for (int i = 0; i < 2; i++) {
            sigset_t one;
            sigemptyset(&one);
            sigaddset(&one, signals[i]);
            int64_t from = now_ns(CLOCK_PROCESS_CPUTIME_ID);
            while (sigtimedwait(&one, NULL, &(struct timespec){0, 0}) < 0) {
                for (volatile int k = 0; k < 100000; k++) {}
                CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) - from < 2 * SECOND, "signal %d does not come", signals[i]);
            }
        }
    _exit(0);
}

int main(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = MUST(fork());
        if (!children[i]) i ? at_work() : alarmed();
    }
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, taker, &set));
    struct itimerval real = {{0, 10000}, {0, 10000}}, virtual = {{7, 0}, {5000, 0}}, prof = {{0, 300}, {6000, 0}}, now;
    int64_t start = now_ns(CLOCK_MONOTONIC), last_ticks = 0, last_at = start;
    MUST(setitimer(ITIMER_REAL, &real, NULL));
    MUST(setitimer(ITIMER_VIRTUAL, &virtual, NULL));
    MUST(setitimer(ITIMER_PROF, &prof, NULL));
    ready();
    long last_virtual = 5000, last_prof = 6000;
    while (go_on()) {
        MUST(getitimer(ITIMER_REAL, &now));
        CHECK(now.it_interval.tv_sec == 0 && now.it_interval.tv_usec == 10000, "period of the real one");
        CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_usec <= 10000, "%ld s left", (long)now.it_value.tv_sec);
        MUST(getitimer(ITIMER_VIRTUAL, &now));
        CHECK(now.it_interval.tv_sec == 7 && now.it_value.tv_sec <= last_virtual && now.it_value.tv_sec > 4900, "virtual: %ld s left", (long)now.it_value.tv_sec);
        last_virtual = now.it_value.tv_sec;
        MUST(getitimer(ITIMER_PROF, &now));
        CHECK(now.it_interval.tv_usec == 300 || now.it_interval.tv_usec == 4000 || now.it_interval.tv_sec == 0, "period");
        CHECK(now.it_value.tv_sec <= last_prof && now.it_value.tv_sec > 5900, "profiling: %ld s left", (long)now.it_value.tv_sec);
        last_prof = now.it_value.tv_sec;
        int64_t at = now_ns(CLOCK_MONOTONIC);
        if (ticks != last_ticks) last_ticks = ticks, last_at = at;
        CHECK(at - last_at < 3000000000ll, "no tick for three seconds");
    }
    int64_t due = (now_ns(CLOCK_MONOTONIC) - start) / 10000000;
    CHECK(ticks <= due + 2, "%ld ticks where %ld are due", ticks, due);
    CHECK(ticks > 0 || due < 3, "no tick at all where %ld are due", due);
    finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    for (int i = 0; i < 2; i++) join_child(children[i]);
    return pass();
}
