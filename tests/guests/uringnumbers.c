// io_uring(7): one ring that two threads have registered under numbers of their own (IORING_REGISTER_RING_FDS), and use so.
#include "ring.h"

enum { MAIN = 5, OTHER = 0, LAST = 15, BY_NUMBER = 1 << 4 };
static struct ring ring;
static volatile int turn, answer;

static int number(int wanted) {
    struct io_uring_rsrc_update update = {.offset = wanted, .data = ring.fd};
    MUST(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_RING_FDS, &update, 1));
    return update.offset;
}

static void spoil(void) {
    struct io_uring_rsrc_update update = {.offset = MAIN};
    MUST(syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_RING_FDS, &update, 1));
}

static int enter(int number, int count) {
    return syscall(SYS_io_uring_enter, number, count, 0, BY_NUMBER, NULL, 0);
}

static void use(int number, uint64_t data) {
    make(&ring, IORING_OP_NOP, data);
    __atomic_store_n(ring.sq_tail, ring.next, __ATOMIC_RELEASE);
    CHECK(enter(number, 1) == 1, "number %d", number);
    expect(&ring, data, 0);
    CHECK(enter(number + 1, 0) == -1 && errno == EBADF, "number %d", number + 1);
}

static void *other(void *unused) {
    (void)unused;
    CHECK(number(OTHER) == OTHER, "the number is another");
    for (answer = -1; wait_on();)
        if (turn != answer) use(OTHER, turn), answer = turn;
    return NULL;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return setup(&ring, 1, 0) < 0;
    MUST(setup(&ring, 4, 0));
    CHECK(number(MAIN) == MAIN && number(LAST) == LAST, "the number is another");
    turn = -1, answer = -2;
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, other, NULL));
    while (answer != -1) nap(100);
    ready();
    for (int i = 0; go_on(); i++) {
        use(MAIN, i);
        CHECK(enter(LAST, 0) == 0, "number %d", LAST);
        turn = i;
        for (int n = 0; answer != i && !told("go"); n++, nap(100)) CHECK(n < 50000, "no answer");
        if (answer != i) break;
    }
    PTHREAD(pthread_join(thread, NULL));
    use(MAIN, 7);
    return pass();
}
