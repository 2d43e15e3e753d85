// io_uring(7): rings that belong to one thread (IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_DEFER_TASKRUN), the main one or another; with
// counts, completions that wait and requests not yet submitted. A ring that is not enabled yet.
#include "ring.h"

enum { SINGLE = 1 << 12, DEFER = 1 << 13, NO_ARRAY = 1 << 16 };
static struct ring mine, deferred, theirs, off;
static volatile int set_up, served;
static volatile uint64_t made, taken;

static void spoil(void) { ++*mine.cq_head; }

// The kernel lets nobody else use it.
static void not_for_us(struct ring *r) {
    CHECK(syscall(SYS_io_uring_enter, r->fd, 1, 0, 0, NULL, 0) == -1 && errno == EEXIST, "another thread may use a ring");
}

// A read that a thread of the kernel's does; its completion comes when the thread asks for it.
static void read_byte(struct ring *r, int pair[2], uint64_t data) {
    static __thread char got;
    CHECK(write(pair[1], "b", 1) == 1, "write");
    struct io_uring_sqe *sqe = make(r, IORING_OP_READ, data);
    sqe->fd = pair[0], sqe->flags = IOSQE_ASYNC, sqe->addr = (uintptr_t)&got, sqe->len = 1, sqe->off = -1;
    uint32_t waited = waiting(r);
    submit(r, waited + 1);
    await(r, waited + 1);
    CHECK(got == 'b' && waiting(r) == waited + 1, "%u completions wait", waiting(r));
}

static void *owner(void *unused) {
    (void)unused;
    int pair[2];
    MUST(pipe(pair));
    MUST(setup(&theirs, 4, SINGLE | DEFER | IORING_SETUP_CQSIZE));
    for (made = 0; made < 777; made++) read_byte(&theirs, pair, made), expect(&theirs, made, 1);
    for (taken = made; made < taken + 2; made++) read_byte(&theirs, pair, made);
    set_up = 1;
    while (wait_on()) {
        CHECK(waiting(&theirs) == 2, "%u completions wait", waiting(&theirs));
        not_for_us(&mine), not_for_us(&deferred);
        expect(&theirs, taken, 1), taken++;
        read_byte(&theirs, pair, made), made++;
        served = 1;
    }
    for (; taken < made; taken++) expect(&theirs, taken, 1);
    return NULL;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return setup(&mine, 1, SINGLE | DEFER) < 0; // whether there are such rings here at all
    int pair[2];
    MUST(pipe(pair));
    MUST(setup(&mine, 8, SINGLE)), MUST(setup(&deferred, 2, SINGLE | DEFER | NO_ARRAY));
    MUST(setup(&off, 4, IORING_SETUP_R_DISABLED));
    for (uint64_t i = 0; i < 1500; i++) {
        make(&mine, IORING_OP_NOP, i), submit(&mine, 0), expect(&mine, i, 0);
        read_byte(&deferred, pair, i), expect(&deferred, i, 1);
    }
    uint64_t first = 1500, next = first;
    for (; next < first + 3; next++) make(&mine, next % 2 ? IORING_OP_READ : IORING_OP_NOP, next), submit(&mine, 0);
    read_byte(&deferred, pair, 4000), read_byte(&deferred, pair, 4001);
    make(&deferred, IORING_OP_NOP, 4002); // not submitted
    make(&off, IORING_OP_NOP, 1);
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, owner, NULL));
    while (!set_up) nap(100);
    ready();
    while (go_on()) {
        CHECK(waiting(&mine) == 3 && waiting(&deferred) == 2, "%u and %u completions wait", waiting(&mine), waiting(&deferred));
        expect(&mine, first, first % 2 ? -EBADF : 0), first++;
        make(&mine, next % 2 ? IORING_OP_READ : IORING_OP_NOP, next), submit(&mine, 0), next++;
        CHECK(syscall(SYS_io_uring_enter, off.fd, 1, 0, 0, NULL, 0) == -1 && errno == EBADFD, "the ring is enabled");
    }
    PTHREAD(pthread_join(thread, NULL));
    CHECK(served, "the thread has not used its ring");
    for (; first < next; first++) expect(&mine, first, first % 2 ? -EBADF : 0);
    expect(&deferred, 4000, 1), expect(&deferred, 4001, 1);
    submit(&deferred, 1), await(&deferred, 1);
    expect(&deferred, 4002, 0);
    MUST(syscall(SYS_io_uring_register, off.fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
    submit(&off, 1);
    expect(&off, 1, 0);
    return pass();
}
