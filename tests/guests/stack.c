// Stacks: a deep recursion that is held half way, unwinds over checked locals, and grows again after a resume.
#include "guest.h"

static int depth_now, damaged;
static pthread_barrier_t done;

static __attribute__((noinline)) uint64_t descend(int depth, int bottom, int main_thread) {
    uint64_t local[32];
    for (int i = 0; i < 32; i++) local[i] = mix(depth * 32 + i);
    __asm__ volatile("" ::"r"(local) : "memory");
    uint64_t sum = depth;
    if (depth < bottom) {
        if (main_thread && depth % 64 == 0 && bottom > 2000) go_on();
        sum += descend(depth + 1, bottom, main_thread);
    }
    if (main_thread && __atomic_exchange_n(&damaged, 0, __ATOMIC_RELAXED)) local[3]++;
    for (int i = 0; i < 32; i++) CHECK(local[i] == mix(depth * 32 + i), "local %d at depth %d of %d", i, depth, bottom);
    return sum;
}

static void spoil(void) { damaged = 1; }

static void *worker(void *unused) {
    (void)unused;
    for (int round = 0; wait_on(); round++) {
        int bottom = 100 + round % 900;
        uint64_t want = (uint64_t)bottom * (bottom + 1) / 2;
        CHECK(descend(0, bottom, 0) == want, "sum in the thread");
    }
    pthread_barrier_wait(&done);
    return NULL;
}

int main(void) {
    pthread_t thread;
    PTHREAD(pthread_barrier_init(&done, NULL, 2));
    PTHREAD(pthread_create(&thread, NULL, worker, NULL));
    ready();
    // Each round is deeper than the one before, so that the main stack has to grow after a resume as well.
    for (int round = 0; !told("go") || damaged; round++) {
        int bottom = 2001 + round * 500 % 15000;
        depth_now = bottom;
        uint64_t want = (uint64_t)bottom * (bottom + 1) / 2;
        CHECK(descend(0, bottom, 1) == want, "sum");
    }
    pthread_barrier_wait(&done);
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
