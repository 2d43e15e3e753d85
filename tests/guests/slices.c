// The length of time slices, and utilization clamps: of threads of each policy that has some, of a child, and of the first
// thread, which has chosen none. Kernels before 6.12 have no slices to choose, and say 0; few have clamps (CONFIG_UCLAMP_TASK).
#include "guest.h"

static const struct sched_attributes chosen[] = {
    {.size = sizeof *chosen, .policy = SCHED_OTHER, .nice = 3, .runtime = 5000000, .util_min = 100, .util_max = 500},
    {.size = sizeof *chosen, .policy = SCHED_BATCH, .flags = 1, .nice = 1, .runtime = 20000000, .util_max = 1024}, // reset on fork
    {.size = sizeof *chosen, .policy = SCHED_IDLE, .nice = 2, .runtime = 7000000, .util_max = 300},
};
#define COUNT (int)(sizeof chosen / sizeof *chosen)

static volatile int finish, up;
static uint64_t usual;
static int clamps; // the kernel has them

static void choose(const struct sched_attributes *wanted) {
    struct sched_attributes first = *wanted;
    first.policy = wanted->policy == SCHED_IDLE ? SCHED_OTHER : wanted->policy; // IDLE keeps what was chosen before
    MUST(syscall(SYS_sched_setattr, 0, &first, 0));
    MUST(syscall(SYS_sched_setattr, 0, wanted, 0));
    first.flags = 0x78; // SCHED_FLAG_KEEP_ALL, SCHED_FLAG_UTIL_CLAMP
    if (clamps && wanted->util_max != 1024) MUST(syscall(SYS_sched_setattr, 0, &first, 0));
}

static void is(const struct sched_attributes *wanted, uint64_t slice) {
    struct sched_attributes now = {0};
    MUST(syscall(SYS_sched_getattr, 0, &now, sizeof now, 0));
    CHECK(now.policy == wanted->policy && now.flags == wanted->flags, "policy %u flags %lu", now.policy, (long)now.flags);
    CHECK(getpriority(PRIO_PROCESS, 0) == wanted->nice, "nice value %d", getpriority(PRIO_PROCESS, 0));
    CHECK(!clamps || (now.util_min == wanted->util_min && now.util_max == wanted->util_max), "policy %u: clamps %u and %u", now.policy, now.util_min, now.util_max);
    CHECK(now.runtime == slice, "policy %u: slices of %lu, not %lu", now.policy, (long)now.runtime, (long)slice);
}

static void spoil(void) {
    struct sched_attributes other = {.size = sizeof other, .runtime = 11000000};
    MUST(syscall(SYS_sched_setattr, 0, &other, 0));
    other.flags = 0x78;
    other.util_max = 200;
    if (clamps) MUST(syscall(SYS_sched_setattr, 0, &other, 0));
    if (!usual) usual = 1;
}

static void *thread(void *which) {
    const struct sched_attributes *wanted = which;
    choose(wanted);
    __atomic_add_fetch(&up, 1, __ATOMIC_SEQ_CST);
    for (; !finish; nap(1000)) is(wanted, usual ? wanted->runtime : 0);
    return NULL;
}

int main(void) {
    static const struct sched_attributes plain = {.size = sizeof plain, .util_max = 1024};
    struct sched_attributes now = {0};
    MUST(syscall(SYS_sched_getattr, 0, &now, sizeof now, 0));
    usual = now.runtime;
    clamps = now.util_max != 0;
    pthread_t threads[COUNT];
    for (int i = 0; i < COUNT; i++) PTHREAD(pthread_create(&threads[i], NULL, thread, (void *)&chosen[i]));
    while (up < COUNT) sched_yield();
    pid_t child = MUST(fork());
    if (!child) {
        choose(&chosen[0]);
        for (;; nap(1000)) is(&chosen[0], usual ? chosen[0].runtime : 0);
    }
    ready();
    while (go_on()) is(&plain, usual);
    finish = 1;
    for (int i = 0; i < COUNT; i++) PTHREAD(pthread_join(threads[i], NULL));
    CHECK(!waitpid(child, NULL, WNOHANG), "the child has ended");
    MUST(kill(child, SIGKILL));
    MUST(waitpid(child, NULL, 0));
    return pass();
}
