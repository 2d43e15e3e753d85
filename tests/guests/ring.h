// A ring of io_uring without a library, for guests.
#ifndef RING_H
#define RING_H
#include <linux/io_uring.h>

#include "guest.h"

struct ring {
    int fd;
    uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail, *array, *dropped, *sq_flags, sq_mask, cq_mask, next; // next: the program's own count
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
};

// `idle`, `cpu`, `with`: of a thread of the kernel that takes requests, where `flags` want one.
static inline int setup_polled(struct ring *r, uint32_t entries, uint32_t flags, uint32_t idle, uint32_t cpu, int with) {
    struct io_uring_params p = {.flags = flags, .cq_entries = 64, .sq_thread_idle = idle, .sq_thread_cpu = cpu, .wq_fd = with};
    r->fd = syscall(SYS_io_uring_setup, entries, &p);
    if (r->fd < 0) return -1;
    size_t size = p.cq_off.cqes + p.cq_entries * sizeof *r->cqes + p.sq_entries * 4;
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
    r->sqes = mmap(NULL, p.sq_entries * sizeof *r->sqes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
    CHECK(at != MAP_FAILED && r->sqes != MAP_FAILED, "mmap");
#define AT(offset) (void *)(at + (offset))
    r->sq_head = AT(p.sq_off.head), r->sq_tail = AT(p.sq_off.tail), r->dropped = AT(p.sq_off.dropped), r->sq_flags = AT(p.sq_off.flags);
    r->cq_head = AT(p.cq_off.head), r->cq_tail = AT(p.cq_off.tail), r->cqes = AT(p.cq_off.cqes);
    r->array = flags & (1 << 16) ? NULL : AT(p.sq_off.array);
    r->sq_mask = p.sq_entries - 1, r->cq_mask = p.cq_entries - 1;
    return 0;
}

static inline int setup(struct ring *r, uint32_t entries, uint32_t flags) { return setup_polled(r, entries, flags, 0, 0, 0); }

// Makes a request, without a call.
static inline struct io_uring_sqe *make(struct ring *r, int opcode, uint64_t data) {
    uint32_t place = r->next++ & r->sq_mask;
    struct io_uring_sqe *sqe = &r->sqes[place];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = opcode, sqe->user_data = data, sqe->fd = -1;
    if (r->array) r->array[place] = place;
    return sqe;
}

static inline void submit(struct ring *r, int wait) {
    uint32_t from = *r->sq_tail, count = r->next - from;
    __atomic_store_n(r->sq_tail, r->next, __ATOMIC_RELEASE);
    int n = syscall(SYS_io_uring_enter, r->fd, count, wait, wait ? IORING_ENTER_GETEVENTS : 0, NULL, 0);
    CHECK(n == (int)count, "%d of %u requests were taken", n, count);
    CHECK(*r->sq_head == r->next, "the kernel is at request %u of %u", *r->sq_head, r->next);
}

static inline uint32_t waiting(struct ring *r) { return __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE) - *r->cq_head; }

// Waits until so many completions wait: a call that has submitted something ends at any stop, like one that transfers.
static inline void await(struct ring *r, uint32_t count) {
    while (waiting(r) < count)
        CHECK(syscall(SYS_io_uring_enter, r->fd, 0, count, IORING_ENTER_GETEVENTS, NULL, 0) == 0, "waiting for completions");
}

// Takes a completion, which must be this one.
static inline void expect(struct ring *r, uint64_t data, int result) {
    CHECK(waiting(r) > 0, "completion %llx is not there", (unsigned long long)data);
    struct io_uring_cqe *cqe = &r->cqes[*r->cq_head & r->cq_mask];
    CHECK(cqe->user_data == data && cqe->res == result && cqe->flags == 0, "completion %llx with %d instead of %llx with %d",
          (unsigned long long)cqe->user_data, cqe->res, (unsigned long long)data, result);
    __atomic_store_n(r->cq_head, *r->cq_head + 1, __ATOMIC_RELEASE);
}
#endif
