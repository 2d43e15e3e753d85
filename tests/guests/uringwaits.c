// Waits for completions, of io_uring and of Linux AIO, that are saved on the way: each ends when it should. Two threads for each
// call, one half a wait behind the other.
#include <linux/aio_abi.h>

#include "ring.h"

#define MS 1000000ll
#define WAIT (4000 * MS)
#define LATE (1500 * MS)
static volatile int damaged;
static void spoil(void) { damaged = 1; }

static const struct timespec wait_time = {WAIT / (1000 * MS), 0};
static struct ring rings[2];
static aio_context_t contexts[4];

static int by_uring(int who) {
    struct io_uring_getevents_arg arg = {.ts = (uintptr_t)&wait_time};
    int flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
    return syscall(SYS_io_uring_enter, rings[who].fd, 0, 1, flags, &arg, sizeof arg) == -1 && errno == ETIME ? 0 : 1;
}
static int by_getevents(int who) {
    struct io_event event;
    return syscall(SYS_io_getevents, contexts[who], 1, 1, &event, &wait_time);
}
static int by_pgetevents(int who) {
    struct io_event event;
    return syscall(333 /* io_pgetevents */, contexts[2 + who], 1, 1, &event, &wait_time, NULL);
}

static const struct call {
    const char *name;
    int (*run)(int);
} calls[] = {{"io_uring_enter", by_uring}, {"io_getevents", by_getevents}, {"io_pgetevents", by_pgetevents}};
enum { CALLS = sizeof calls / sizeof *calls };
static volatile uint64_t ends;

static void *worker(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    const struct call *call = &calls[me % CALLS];
    int64_t start = now_ns(CLOCK_MONOTONIC) + (me < CALLS ? 0 : WAIT / 2);
    while (now_ns(CLOCK_MONOTONIC) < start) nap(10000);
    while (!told("go") || damaged) {
        int64_t from = now_ns(CLOCK_MONOTONIC), stood = guest_stood_still();
        int result = call->run(me / CALLS);
        int64_t took = now_ns(CLOCK_MONOTONIC) - from;
        if (damaged && me == 1) took += 2 * LATE;
        CHECK(result == 0, "%s returned %d after %lld ms", call->name, result, took / MS);
        CHECK(took >= WAIT - MS, "%s took only %lld ms", call->name, took / MS);
        CHECK(took < WAIT + LATE + (damaged ? 0 : guest_stood_still() - stood), "%s took %lld ms", call->name, took / MS);
        __atomic_fetch_add(&ends, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return setup(&rings[0], 1, 0) < 0; // whether there are rings here at all
    for (int i = 0; i < 2; i++) MUST(setup(&rings[i], 2, 0));
    for (int i = 0; i < 4; i++) MUST(syscall(SYS_io_setup, 1, &contexts[i]));
    pthread_t threads[2 * CALLS];
    for (uintptr_t i = 0; i < 2 * CALLS; i++) PTHREAD(pthread_create(&threads[i], NULL, worker, (void *)i));
    ready();
    while (go_on()) {
        char text[32];
        int fd = MUST(open(guest_path("ends"), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        int n = snprintf(text, sizeof text, "%020lu\n", ends);
        CHECK(pwrite(fd, text, n, 0) == n, "ends");
        MUST(close(fd));
    }
    for (int i = 0; i < 2 * CALLS; i++) PTHREAD(pthread_join(threads[i], NULL));
    return pass();
}
