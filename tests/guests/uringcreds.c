// io_uring(7): credentials that are registered for requests (IORING_REGISTER_PERSONALITY), with a number in between left free, of a ring for
// all, one of a single thread, and one whose requests a thread of the kernel takes.
#include "ring.h"

enum { SQPOLL = 1 << 1, SINGLE = 1 << 12, DEFER = 1 << 13 };
static struct ring rings[3];

static void spoil(void) { MUST(syscall(SYS_io_uring_register, rings[0].fd, IORING_UNREGISTER_PERSONALITY, NULL, 3)); }

// What a request comes to in the name of a number.
static int as(struct ring *r, int number) {
    make(r, IORING_OP_NOP, number)->personality = number;
    __atomic_store_n(r->sq_tail, r->next, __ATOMIC_SEQ_CST);
    int wake = r == &rings[2] ? IORING_ENTER_SQ_WAKEUP : 0;
    CHECK(syscall(SYS_io_uring_enter, r->fd, 1, 0, wake, NULL, 0) == 1, "a request");
    await(r, 1);
    struct io_uring_cqe *cqe = &r->cqes[*r->cq_head & r->cq_mask];
    CHECK(cqe->user_data == (uint64_t)number, "completion %llx", (unsigned long long)cqe->user_data);
    __atomic_store_n(r->cq_head, *r->cq_head + 1, __ATOMIC_RELEASE);
    return cqe->res;
}

static void look(void) {
    for (struct ring *r = rings; r < rings + 3; r++)
        CHECK(!as(r, 0) && !as(r, 1) && !as(r, 3), "ring %d does not know a number", (int)(r - rings));
}

int main(int argc, char **argv) {
    (void)argv;
    // Who may be anybody is refused.
    if (argc > 1) return !geteuid() || setup(&rings[0], 1, SQPOLL) < 0;
    MUST(setup(&rings[0], 4, 0)), MUST(setup(&rings[1], 4, SINGLE | DEFER)), MUST(setup_polled(&rings[2], 4, SQPOLL, 20, 0, 0));
    for (struct ring *r = rings; r < rings + 3; r++) {
        for (int i = 1; i < 4; i++) CHECK(syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_PERSONALITY, NULL, 0) == i, "number %d", i);
        MUST(syscall(SYS_io_uring_register, r->fd, IORING_UNREGISTER_PERSONALITY, NULL, 2));
    }
    look();
    ready();
    while (go_on()) look();
    look();
    for (struct ring *r = rings; r < rings + 3; r++) {
        CHECK(as(r, 2) == -EINVAL, "a number that is not given out");
        CHECK(syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_PERSONALITY, NULL, 0) == 4, "the next number");
    }
    return pass();
}
