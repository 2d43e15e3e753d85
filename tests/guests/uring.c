// io_uring(7): rings with nothing under way keep their counts, completions that wait, and requests not yet submitted;
// without an index array; after a worker thread; with requests dropped; waited for by a thread; shared by fork.
#include "ring.h"

static struct ring busy, plain, unsent, lossy, slept, shared;
static void spoil(void) { ++*busy.cq_head; }

static volatile int woken;
static void *sleeper(void *unused) {
    (void)unused;
    int n = syscall(SYS_io_uring_enter, slept.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    CHECK(n == 0, "waiting for a completion gave %d", n);
    CHECK(told("go"), "the sleeper woke up early");
    expect(&slept, 99, 0);
    woken = 1;
    return NULL;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return setup(&busy, 1, 0) < 0; // whether there are rings here at all
    MUST(setup(&busy, 8, 0)), MUST(setup(&plain, 16, 1 << 16 | IORING_SETUP_CQSIZE)), MUST(setup(&unsent, 4, 0));
    MUST(setup(&lossy, 2, 0)), MUST(setup(&slept, 1, 0)), MUST(setup(&shared, 4, IORING_SETUP_CLAMP));
    int copy = MUST(fcntl(busy.fd, F_DUPFD_CLOEXEC, 50)), pair[2];
    MUST(pipe(pair));
    // Thousands of requests, in uneven numbers.
    for (uint64_t i = 0; i < 3001;) {
        uint64_t first = i, count = 1 + i % 7;
        for (; i < first + count; i++) make(&busy, IORING_OP_NOP, i);
        submit(&busy, 0);
        for (uint64_t done = first; done < i; done++) expect(&busy, done, 0);
    }
    // Some are done by a thread of the kernel's.
    static char got[4][8];
    for (int i = 0; i < 4; i++) {
        CHECK(write(pair[1], "ringing", 8) == 8, "write");
        struct io_uring_sqe *sqe = make(&plain, IORING_OP_READ, 1000 + i);
        sqe->fd = pair[0], sqe->flags = IOSQE_ASYNC, sqe->addr = (uintptr_t)got[i], sqe->len = 8, sqe->off = -1;
        submit(&plain, i + 1);
        CHECK(!strcmp(got[i], "ringing"), "\"%s\"", got[i]);
    }
    // Made and announced, but not submitted; and one not even announced.
    for (int i = 0; i < 3; i++) make(&unsent, i == 1 ? IORING_OP_READ : IORING_OP_NOP, 500 + i);
    __atomic_store_n(unsent.sq_tail, unsent.next - 1, __ATOMIC_RELEASE);
    // An index that can't be drops the request.
    make(&lossy, IORING_OP_NOP, 1), make(&lossy, IORING_OP_NOP, 2);
    lossy.array[0] = 77;
    __atomic_store_n(lossy.sq_tail, 2, __ATOMIC_RELEASE);
    while (*lossy.sq_head != 2) syscall(SYS_io_uring_enter, lossy.fd, 2 - *lossy.sq_head, 0, 0, NULL, 0);
    CHECK(*lossy.dropped == 1, "dropped %u", *lossy.dropped);
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, sleeper, NULL));
    make(&shared, IORING_OP_NOP, 7);
    submit(&shared, 1);
    pid_t child = MUST(fork());
    if (child == 0) {
        while (wait_on()) CHECK(waiting(&shared) == 1, "%u completions in the child", waiting(&shared));
        expect(&shared, 7, 0);
        make(&shared, IORING_OP_NOP, 8);
        submit(&shared, 1);
        _exit(0);
    }
    // Three completions always wait.
    uint64_t made = 1 << 20, taken = made;
    for (; made < taken + 3; made++) make(&busy, made % 2 ? IORING_OP_READ : IORING_OP_NOP, mix(made));
    submit(&busy, 0);
    ready();
    while (go_on()) {
        CHECK(waiting(&busy) == 3, "%u completions wait", waiting(&busy));
        for (int more = made % 3 + 1; more > 0; more--) {
            expect(&busy, mix(taken), taken % 2 ? -EBADF : 0), taken++;
            make(&busy, made % 2 ? IORING_OP_READ : IORING_OP_NOP, mix(made)), made++;
        }
        submit(&busy, 0);
        CHECK(waiting(&plain) == 4 && waiting(&unsent) == 0 && waiting(&lossy) == 1 && waiting(&slept) == 0, "completions");
        CHECK(*unsent.sq_tail - *unsent.sq_head == 2 && *lossy.dropped == 1 && !woken, "counts");
        CHECK(fcntl(copy, F_GETFD) == FD_CLOEXEC, "the copy");
    }
    for (int i = 0; i < 4; i++) expect(&plain, 1000 + i, 8);
    make(&plain, IORING_OP_NOP, 5);
    submit(&plain, 1);
    expect(&plain, 5, 0);
    __atomic_store_n(unsent.sq_tail, unsent.next, __ATOMIC_RELEASE);
    // A request that fails may end a call, the next takes the rest.
    while (*unsent.sq_head != 3) MUST(syscall(SYS_io_uring_enter, unsent.fd, 3 - *unsent.sq_head, 0, 0, NULL, 0));
    expect(&unsent, 500, 0), expect(&unsent, 501, -EBADF), expect(&unsent, 502, 0);
    expect(&lossy, 2, 0);
    make(&slept, IORING_OP_NOP, 99);
    submit(&slept, 0);
    PTHREAD(pthread_join(thread, NULL));
    busy.fd = copy;
    make(&busy, IORING_OP_NOP, 4);
    submit(&busy, 0);
    while (taken < made) expect(&busy, mix(taken), taken % 2 ? -EBADF : 0), taken++;
    expect(&busy, 4, 0);
    join_child(child);
    CHECK(*shared.sq_head == 2 && waiting(&shared) == 1, "the child's request");
    expect(&shared, 8, 0);
    return pass();
}
