// Many processes with several threads each, all busy with arithmetic and passing a number round in a ring of pipes.
#include "guest.h"

#define PROCESSES 10
#define THREADS 3
static int ring[PROCESSES][2];
static volatile int damaged, finish;
static void spoil(void) { damaged = 1; }

static void *busy(void *arg) {
    uint64_t seed = (uintptr_t)arg, x = seed, again = seed;
    for (uint64_t n = 0; !finish; n++) {
        for (int i = 0; i < 20000; i++) x = mix(x + i);
        for (int i = 0; i < 20000; i++) again = mix(again + i);
        CHECK(x == again, "arithmetic differs in turn %lu", n);
        nap(2000);
    }
    return NULL;
}

// Passes the number on, one higher, until it is zero.
static void pass_on(int me, int close_others) {
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) PTHREAD(pthread_create(&threads[i], NULL, busy, (void *)(me * 100 + i)));
    int in = ring[me][0], out = ring[(me + 1) % PROCESSES][1];
    for (int i = 0; close_others && i < PROCESSES; i++)
        for (int side = 0; side < 2; side++)
            if (ring[i][side] != in && ring[i][side] != out) MUST(close(ring[i][side]));
    for (;;) {
        uint64_t n;
        CHECK(read(in, &n, 8) == 8, "read");
        if (n) CHECK(n % PROCESSES == (uint64_t)me, "process %d got %lu", me, n);
        uint64_t next = n ? n + 1 : 0;
        CHECK(write(out, &next, 8) == 8, "write");
        if (!n) break;
    }
    finish = 1;
    for (int i = 0; i < THREADS; i++) PTHREAD(pthread_join(threads[i], NULL));
    _exit(0);
}

int main(void) {
    pid_t child[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) MUST(pipe(ring[i]));
    for (int i = 1; i < PROCESSES; i++) {
        child[i] = MUST(fork());
        if (!child[i]) pass_on(i, 1);
    }
    ready();
    uint64_t n = 1;
    CHECK(write(ring[1][1], &n, 8) == 8, "write");
    while (go_on()) {
        uint64_t got;
        CHECK(read(ring[0][0], &got, 8) == 8 && got == n + PROCESSES - 1, "the number came back as %lu", got);
        n = got + 1 + damaged;
        CHECK(write(ring[1][1], &n, 8) == 8, "write");
    }
    CHECK(read(ring[0][0], &n, 8) == 8, "read");
    n = 0;
    CHECK(write(ring[1][1], &n, 8) == 8, "write");
    CHECK(read(ring[0][0], &n, 8) == 8 && n == 0, "the end came back as %lu", n);
    for (int i = 1; i < PROCESSES; i++) join_child(child[i]);
    return pass();
}
