// SCHED_DEADLINE, of a thread and of the first one: run time, deadline and period, and the nice value that stays.
#include "guest.h"

static volatile int finish, up;
static const struct sched_attributes first = {.size = sizeof first, .policy = 6, .flags = 1, .runtime = 2000000, .deadline = 40000000, .period = 50000000}; // reset on fork
static const struct sched_attributes second = {.size = sizeof second, .policy = 6, .runtime = 1000000, .deadline = 30000000, .period = 30000000};

static void spoil(void) {
    struct sched_attributes other = {.size = sizeof other};
    MUST(syscall(SYS_sched_setattr, 0, &other, 0));
}

static void is(const struct sched_attributes *wanted) {
    struct sched_attributes now = {0};
    MUST(syscall(SYS_sched_getattr, 0, &now, sizeof now, 0));
    CHECK(now.policy == wanted->policy && now.flags == wanted->flags, "policy %u flags %lu", now.policy, (long)now.flags);
    CHECK(getpriority(PRIO_PROCESS, 0) == (wanted == &first ? 4 : 7), "nice value %d", getpriority(PRIO_PROCESS, 0));
    CHECK(now.runtime == wanted->runtime && now.deadline == wanted->deadline && now.period == wanted->period, "%lu of %lu every %lu", (long)now.runtime, (long)now.deadline, (long)now.period);
}

static void *thread(void *unused) {
    (void)unused;
    MUST(setpriority(PRIO_PROCESS, 0, 7));
    MUST(syscall(SYS_sched_setattr, 0, &second, 0));
    up = 1;
    for (; !finish; nap(1000)) is(&second);
    return NULL;
}

int main(void) {
    pthread_t other;
    PTHREAD(pthread_create(&other, NULL, thread, NULL));
    while (!up) sched_yield();
    MUST(setpriority(PRIO_PROCESS, 0, 4));
    MUST(syscall(SYS_sched_setattr, 0, &first, 0));
    ready();
    while (go_on()) is(&first);
    finish = 1;
    PTHREAD(pthread_join(other, NULL));
    return pass();
}
