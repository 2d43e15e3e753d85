// Threads that are born and die all the time: some by the C library, some by clone(2) alone, which only the kernel's clearing
// of their ids tells to be gone. Each does its work once, and its end is heard of.
#include "guest.h"

#ifndef FUTEX_WAIT
#define FUTEX_WAIT 0
#endif
#define MAKERS 3
#define RAW (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)
static volatile int finish, damaged;
static uint64_t made[MAKERS], done[MAKERS];
static void spoil(void) { damaged = 1; }

struct work {
    uint64_t me, seed, result;
    pid_t tid;
};

static void *born(void *arg) {
    struct work *w = arg;
    pid_t tid = syscall(SYS_gettid);
    w->result = mix(w->seed);
    if (damaged) w->result++;

    w->tid = tid;
    __atomic_fetch_add(&done[w->me], 1, __ATOMIC_SEQ_CST);
    return arg;
}

static void by_library(struct work *w) {
    pthread_t thread;
    void *result;
    PTHREAD(pthread_create(&thread, NULL, born, w));
    PTHREAD(pthread_join(thread, &result));
    CHECK(result == w, "the thread's result");
}

// No thread-local storage of its own: no call of the C library that needs one.
static int raw_main(void *arg) {
    struct work *w = arg;
    w->result = mix(w->seed);
    if (damaged) w->result++;
    __atomic_fetch_add(&done[w->me], 1, __ATOMIC_SEQ_CST);
    return 0;
}

static void by_clone(struct work *w, char *stack, size_t size) {
    static __thread volatile pid_t alive;
    alive = -1;
    pid_t parent = 0;
    // CLONE_SETTLS is left out: it has its maker's, and never looks.
    int tid = MUST(clone(raw_main, stack + size, RAW | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID, w, &parent, NULL, &alive));
    CHECK(tid == parent, "the new thread is %d, or %d", tid, parent);
    w->tid = tid;
    for (pid_t now; (now = alive);) syscall(SYS_futex, &alive, FUTEX_WAIT, now, NULL, NULL, 0);
}

static void *maker(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    size_t size = 65536;
    char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    CHECK(stack != MAP_FAILED, "mmap");
    for (uint64_t turn = 0; !finish; turn++) {
        struct work w = {me, turn * MAKERS + me, 0, 0};
        if (turn % 2) by_library(&w);
        else by_clone(&w, stack, size);
        made[me]++;
        CHECK(w.result == mix(w.seed), "thread %lu of maker %lu did its work wrongly", turn, me);
        CHECK(w.tid > 0 && w.tid != syscall(SYS_gettid), "its id is %d", w.tid);
        uint64_t ended = __atomic_load_n(&done[me], __ATOMIC_SEQ_CST);
        CHECK(ended == made[me], "%lu threads were made, %lu did their work", made[me], ended);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[MAKERS];
    for (uintptr_t i = 0; i < MAKERS; i++) PTHREAD(pthread_create(&threads[i], NULL, maker, (void *)i));
    ready();
    uint64_t last = 0;
    while (go_on()) {
        while (made[0] == last) nap(100);
        last = made[0];
    }
    finish = 1;
    for (int i = 0; i < MAKERS; i++) PTHREAD(pthread_join(threads[i], NULL));
    return pass();
}
