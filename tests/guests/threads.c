// What belongs to each thread: its id, thread-local storage, name, affinity, nice value, policy and priority (real-time
// ones where they are permitted), alternate stack, signal mask.
#include "guest.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif
#ifndef SCHED_RESET_ON_FORK
#define SCHED_RESET_ON_FORK 0x40000000
#endif
#define THREADS 6
static __thread volatile uint64_t local = 7, local_array[100];
static pid_t tids[THREADS + 1];
static volatile int damaged;

static void spoil(void) { damaged = 1; }

struct seen {
    pid_t tid;
    char name[16];
    cpu_set_t cpus;
    int nice, policy, priority, io;
    stack_t alt;
    sigset_t mask;
    unsigned long slack;
};

static void look(struct seen *s) {
    memset(s, 0, sizeof *s);
    s->tid = syscall(SYS_gettid);
    MUST(prctl(PR_GET_NAME, s->name));
    MUST(sched_getaffinity(0, sizeof s->cpus, &s->cpus));
    errno = 0;
    s->nice = getpriority(PRIO_PROCESS, 0);
    s->policy = MUST(syscall(SYS_sched_getscheduler, 0)); // (musl refuses its own)
    struct sched_param param;
    MUST(syscall(SYS_sched_getparam, 0, &param));
    s->priority = param.sched_priority;
    s->io = MUST(syscall(SYS_ioprio_get, 1, 0));
    MUST(sigaltstack(NULL, &s->alt));
    PTHREAD(pthread_sigmask(SIG_SETMASK, NULL, &s->mask));
    s->slack = MUST(prctl(PR_GET_TIMERSLACK));
}

static void compare(const struct seen *a, const struct seen *b) {
    CHECK(a->tid == b->tid, "tid %d is now %d", a->tid, b->tid);
    CHECK(!strcmp(a->name, b->name), "name %s is now %s", a->name, b->name);
    CHECK(CPU_EQUAL(&a->cpus, &b->cpus), "affinity of %s", a->name);
    CHECK(a->nice == b->nice, "nice value %d is now %d", a->nice, b->nice);
    CHECK(a->policy == b->policy && a->priority == b->priority, "policy %#x of %d is now %#x of %d", a->policy, a->priority, b->policy, b->priority);
    CHECK(a->io == b->io, "io priority %#x is now %#x", a->io, b->io);
    CHECK(a->alt.ss_sp == b->alt.ss_sp && a->alt.ss_size == b->alt.ss_size && a->alt.ss_flags == b->alt.ss_flags, "alternate stack of %s", a->name);
    for (int s = 1; s < 65; s++) CHECK(sigismember(&a->mask, s) == sigismember(&b->mask, s), "mask of %s, signal %d", a->name, s);
    CHECK(a->slack == b->slack, "timer slack %lu is now %lu", a->slack, b->slack);
}

static void *worker(void *arg) {
    int me = (uintptr_t)arg;
    char name[16];
    snprintf(name, sizeof name, me == 2 ? "odd \\ (na)me\n" : "worker-%d", me);
    MUST(prctl(PR_SET_NAME, name));
    cpu_set_t all, one;
    MUST(sched_getaffinity(0, sizeof all, &all));
    CPU_ZERO(&one);
    int want = me % CPU_COUNT(&all);
    for (int c = 0; c < CPU_SETSIZE; c++)
        if (CPU_ISSET(c, &all) && want-- == 0) CPU_SET(c, &one);
    if (me % 2) MUST(sched_setaffinity(0, sizeof one, &one));
    MUST(setpriority(PRIO_PROCESS, 0, me));
    struct sched_param zero = {0}, low = {.sched_priority = 3}, lower = {.sched_priority = 2};
    if (me == 1) syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &low);
    if (me == 3) MUST(syscall(SYS_sched_setscheduler, 0, SCHED_BATCH | SCHED_RESET_ON_FORK, &zero));
    if (me == 4) MUST(syscall(SYS_sched_setscheduler, 0, SCHED_IDLE, &zero));
    if (me == 6) syscall(SYS_sched_setscheduler, 0, SCHED_RR | SCHED_RESET_ON_FORK, &lower);
    if (me == 5) MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6));
    MUST(prctl(PR_SET_TIMERSLACK, 60000 + me));
    stack_t alt = {.ss_sp = malloc(16384), .ss_size = 16384, .ss_flags = me == 5 ? (int)SS_AUTODISARM : 0};
    if (me != 1) MUST(sigaltstack(&alt, NULL));
    sigset_t mask;
    sigemptyset(&mask);
    for (int s = 34; s < 64; s++)
        if (mix(me * 64 + s) % 2) sigaddset(&mask, s);
    PTHREAD(pthread_sigmask(SIG_SETMASK, &mask, NULL));
    local = mix(me);
    volatile uint64_t *array;
    __asm__("" : "=r"(array) : "0"(local_array)); // (the compiler would fold indices into an offset that does not fit)
    for (int i = 0; i < 100; i++) array[i] = mix(me * 100 + i);
    struct seen first, again;
    look(&first);
    __atomic_store_n(&tids[me], first.tid, __ATOMIC_SEQ_CST);
    while (wait_on() || (me == 2 && damaged)) {
        look(&again);
        if (me == 2 && __atomic_exchange_n(&damaged, 0, __ATOMIC_RELAXED)) again.nice++;
        compare(&first, &again);
        CHECK(local == mix(me), "thread-local variable");
        for (int i = 0; i < 100; i++) CHECK(array[i] == mix(me * 100 + i), "thread-local array");
    }
    free(alt.ss_sp);
    return (void *)(uintptr_t)mix(me);
}

int main(void) {
    pthread_t threads[THREADS + 1];
    struct seen first, again;
    for (uintptr_t i = 1; i <= THREADS; i++) PTHREAD(pthread_create(&threads[i], NULL, worker, (void *)i));
    for (int i = 1; i <= THREADS; i++)
        while (!__atomic_load_n(&tids[i], __ATOMIC_SEQ_CST)) nap(100);
    MUST(prctl(PR_SET_NAME, "leader"));
    look(&first);
    ready();
    while (go_on() || damaged) {
        look(&again);
        compare(&first, &again);
        CHECK(local == 7, "thread-local variable of the first thread");
        for (int i = 1; i <= THREADS; i++)
            CHECK(told("go") || syscall(SYS_tgkill, getpid(), tids[i], 0) == 0, "thread %d is not %d", i, tids[i]);
    }
    for (int i = 1; i <= THREADS; i++) {
        void *result;
        PTHREAD(pthread_join(threads[i], &result));
        CHECK(result == (void *)(uintptr_t)mix(i), "result of thread %d", i);
    }
    return pass();
}
