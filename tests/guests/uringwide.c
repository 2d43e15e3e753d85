// io_uring(7): entries of twice the size, for completions (CQE32), requests (SQE128) and both; in rings of one page and of more,
// with and without an index array, and in some that nobody has used yet. Completions wait with all their 32 bytes, and requests
// with all their 128 are announced or only prepared.
#include "ring.h"

#define NO_ARRAY (1u << 16)
struct wide {
    struct ring r;
    size_t sqe, cqe; // bytes of each
    uint64_t made, taken;
};

static int open_wide(struct wide *w, uint32_t entries, uint32_t flags) {
    struct io_uring_params p = {.flags = flags};
    struct ring *r = &w->r;
    if ((r->fd = syscall(SYS_io_uring_setup, entries, &p)) < 0) return -1;
    w->sqe = flags & IORING_SETUP_SQE128 ? 128 : 64, w->cqe = flags & IORING_SETUP_CQE32 ? 32 : 16;
    char *at = mmap(NULL, p.cq_off.cqes + p.cq_entries * w->cqe + (flags & NO_ARRAY ? 0 : p.sq_entries * 4), PROT_READ | PROT_WRITE,
                    MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
    r->sqes = mmap(NULL, p.sq_entries * w->sqe, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
    CHECK(at != MAP_FAILED && r->sqes != MAP_FAILED, "mmap");
    r->sq_head = AT(p.sq_off.head), r->sq_tail = AT(p.sq_off.tail), r->cq_head = AT(p.cq_off.head), r->cq_tail = AT(p.cq_off.tail);
    r->cqes = AT(p.cq_off.cqes), r->array = flags & NO_ARRAY ? NULL : AT(p.sq_off.array);
    r->sq_mask = p.sq_entries - 1, r->cq_mask = p.cq_entries - 1;
    return 0;
}

static struct wide used[18], fresh[7];

static struct io_uring_sqe *request(struct wide *w, uint32_t place) {
    return (void *)((char *)w->r.sqes + (place & w->r.sq_mask) * w->sqe);
}

static struct io_uring_cqe *completion(struct wide *w, uint32_t place) {
    return (void *)((char *)w->r.cqes + (place & w->r.cq_mask) * w->cqe);
}

static void spoil(void) { completion(&used[0], *used[0].r.cq_head)->big_cqe[1]++; }

static void describe(struct wide *w, uint64_t number, unsigned char *to) {
    struct io_uring_sqe sqe = {.opcode = number % 2 ? IORING_OP_READ : IORING_OP_NOP, .fd = -1, .user_data = mix(number)};
    memcpy(to, &sqe, 64);
    for (size_t i = 64; i < w->sqe; i += 8) memcpy(to + i, &(uint64_t){mix(number * 100 + i)}, 8);
}

// Prepares `count` requests, of which the last is not announced.
static void prepare(struct wide *w, int count) {
    for (int i = 0; i < count; i++, w->made++, w->r.next++) {
        describe(w, w->made, (unsigned char *)request(w, w->r.next));
        if (w->r.array) w->r.array[w->r.next & w->r.sq_mask] = w->r.next & w->r.sq_mask;
    }
    __atomic_store_n(w->r.sq_tail, w->r.next - 1, __ATOMIC_RELEASE);
}

static void fill(struct wide *w) {
    uint32_t from = *w->r.cq_tail;
    __atomic_store_n(w->r.sq_tail, w->r.next, __ATOMIC_RELEASE);
    // A request that fails may end a call, the next takes the rest.
    while (*w->r.sq_head != w->r.next)
        MUST(syscall(SYS_io_uring_enter, w->r.fd, w->r.next - *w->r.sq_head, 0, 0, NULL, 0));
    // The second half of a completion is the program's to write once it is there.
    for (uint32_t at = from; w->cqe == 32 && at != *w->r.cq_tail; at++) {
        uint64_t number = w->taken + (at - *w->r.cq_head);
        completion(w, at)->big_cqe[0] = mix(number + 7777), completion(w, at)->big_cqe[1] = mix(number + 8888);
    }
}

static void judge(struct wide *w, uint32_t at, uint64_t number) {
    struct io_uring_cqe *cqe = completion(w, at);
    CHECK(cqe->user_data == mix(number) && cqe->res == (number % 2 ? -EBADF : 0) && cqe->flags == 0,
          "completion %llu: %llx with %d", (unsigned long long)number, (unsigned long long)cqe->user_data, cqe->res);
    CHECK(w->cqe == 16 || (cqe->big_cqe[0] == mix(number + 7777) && cqe->big_cqe[1] == mix(number + 8888)),
          "second half of completion %llu", (unsigned long long)number);
}

// Three requests more are done, and completions taken until three wait.
static void step(struct wide *w) {
    fill(w);
    while (waiting(&w->r) > 3) {
        judge(w, *w->r.cq_head, w->taken++);
        __atomic_store_n(w->r.cq_head, *w->r.cq_head + 1, __ATOMIC_RELEASE);
    }
    prepare(w, 3);
}

static void look(struct wide *w) {
    CHECK(waiting(&w->r) == 3 && *w->r.sq_tail - *w->r.sq_head == 2, "%u completions and %u requests wait", waiting(&w->r),
          *w->r.sq_tail - *w->r.sq_head);
    for (int i = 0; i < 3; i++) {
        judge(w, *w->r.cq_head + i, w->taken + i);
        unsigned char is[128];
        describe(w, w->made - 3 + i, is);
        CHECK(!memcmp(request(w, w->r.next - 3 + i), is, w->sqe), "request %llu", (unsigned long long)w->made - 3 + i);
    }
}

int main(int argc, char **argv) {
    (void)argv;
    static const uint32_t kinds[] = {IORING_SETUP_CQE32, IORING_SETUP_SQE128, IORING_SETUP_CQE32 | IORING_SETUP_SQE128};
    static const uint32_t sizes[] = {4, 32, 256};
    int rings = 0, unused = 0;
    if (argc > 1) return open_wide(&used[0], 1, kinds[2] | NO_ARRAY) < 0; // whether there are such rings here at all
    for (int kind = 0; kind < 3; kind++) {
        for (int size = 0; size < 3; size++) {
            MUST(open_wide(&used[rings++], sizes[size], kinds[kind]));
            MUST(open_wide(&used[rings++], sizes[size], kinds[kind] | NO_ARRAY));
        }
        MUST(open_wide(&fresh[unused++], 4, kinds[kind]));
        MUST(open_wide(&fresh[unused++], 256, kinds[kind] | NO_ARRAY));
    }
    MUST(open_wide(&fresh[unused++], 4, IORING_SETUP_CQE32 | NO_ARRAY));
    for (int i = 0; i < rings; i++) {
        prepare(&used[i], 3);
        for (int round = 0; round < 12; round++) step(&used[i]);
    }
    ready();
    while (go_on())
        for (int i = 0; i < rings; i++) look(&used[i]), step(&used[i]);
    for (int i = 0; i < rings; i++) look(&used[i]), step(&used[i]), look(&used[i]);
    for (int i = 0; i < unused; i++) prepare(&fresh[i], 3), step(&fresh[i]), look(&fresh[i]), step(&fresh[i]), look(&fresh[i]);
    return pass();
}
