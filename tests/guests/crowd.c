// A crowd of threads in one process, as many as its first argument says (2,000): at every call each comes and adds its word,
// from memory of its own. Small stacks; most of them sleep most of the time.
#include "guest.h"

#ifndef FUTEX_WAIT
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#endif
static int count = 2000;
static uint32_t call, come;
static uint64_t sum;
static __thread uint64_t word;
static volatile int finish, damaged;
static void spoil(void) { damaged = 1; }

static void *one(void *arg) {
    uint64_t me = (uintptr_t)arg;
    pid_t tid = syscall(SYS_gettid);
    word = mix(me);
    uint32_t heard = 0;
    for (;;) {
        __atomic_fetch_add(&sum, word, __ATOMIC_SEQ_CST);
        if (__atomic_add_fetch(&come, 1, __ATOMIC_SEQ_CST) == (uint32_t)count) syscall(SYS_futex, &come, FUTEX_WAKE, 1, NULL, NULL, 0);
        if (finish) return NULL;
        while (__atomic_load_n(&call, __ATOMIC_SEQ_CST) == heard) {
            long n = syscall(SYS_futex, &call, FUTEX_WAIT, heard, NULL, NULL, 0);
            CHECK(n == 0 || errno == EAGAIN, "futex");
        }
        heard++;
        CHECK(syscall(SYS_gettid) == tid, "thread %d is now %ld", tid, syscall(SYS_gettid));
    }
}

static void all_come(uint64_t expected) {
    for (uint32_t now; (now = __atomic_load_n(&come, __ATOMIC_SEQ_CST)) != (uint32_t)count;) syscall(SYS_futex, &come, FUTEX_WAIT, now, NULL, NULL, 0);
    if (damaged) sum++;
    CHECK(sum == expected, "the words of all add up to %#lx, not %#lx", sum, expected);
}

int main(int argc, char **argv) {
    if (argc > 1) count = atoi(argv[1]);
    pthread_attr_t small;
    PTHREAD(pthread_attr_init(&small));
    PTHREAD(pthread_attr_setstacksize(&small, 65536));
    uint64_t expected = 0;
    pthread_t *threads = calloc(count, sizeof *threads);
    CHECK(threads, "memory");
    for (int i = 0; i < count; i++) {
        expected += mix(i);
        PTHREAD(pthread_create(&threads[i], &small, one, (void *)(uintptr_t)i));
    }
    all_come(expected);
    ready();
    for (int going = 1; going;) {
        going = go_on();
        if (!going) finish = 1;
        sum = come = 0;
        __atomic_fetch_add(&call, 1, __ATOMIC_SEQ_CST);
        syscall(SYS_futex, &call, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
        all_come(expected);
    }
    for (int i = 0; i < count; i++) PTHREAD(pthread_join(threads[i], NULL));
    return pass();
}
