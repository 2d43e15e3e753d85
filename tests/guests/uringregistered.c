// io_uring(7): registered buffers and files, some far behind others with places left free, and an eventfd that counts
// completions; used by requests, by a ring of all and one of a single thread.
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "ring.h"

enum { SINGLE = 1 << 12, DEFER = 1 << 13, FILES = 13, BUFFERS = 12 };
static struct ring plain, single;
static char first[9000], second[4096];
static int file, pair[2], count;

static void spoil(void) { MUST(syscall(SYS_io_uring_register, plain.fd, IORING_UNREGISTER_FILES, NULL, 0)); }

// Busy polling of the network (IORING_REGISTER_NAPI), where the kernel has that: the kernel tells what there was before.
static int poll_network(struct ring *r, uint32_t timeout, uint8_t prefer) {
    struct {
        uint32_t timeout;
        uint8_t prefer, rest[11];
    } napi = {timeout, prefer, {0}};
    if (syscall(SYS_io_uring_register, r->fd, 28, &napi, 1)) return -1; // IORING_UNREGISTER_NAPI
    int before = napi.timeout * 10 + napi.prefer;
    napi.timeout = timeout, napi.prefer = prefer;
    MUST(syscall(SYS_io_uring_register, r->fd, 27, &napi, 1));
    return before;
}

static void prepare(struct ring *r) {
    struct iovec buffers[BUFFERS] = {[0] = {first + 5, 8000}, [BUFFERS - 1] = {second, sizeof second}};
    int files[FILES];
    for (int i = 0; i < FILES; i++) files[i] = -1;
    files[0] = file, files[FILES - 1] = pair[1];
    MUST(syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, buffers, BUFFERS));
    MUST(syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_FILES, files, FILES));
    MUST(syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_EVENTFD, &count, 1));
}

// A request with a registered file, and with a registered buffer unless that is -1.
static int ask(struct ring *r, int opcode, int place, int buffer, void *at, unsigned len, uint64_t offset) {
    struct io_uring_sqe *sqe = make(r, opcode, offset + 1);
    sqe->fd = place, sqe->flags = IOSQE_FIXED_FILE, sqe->addr = (uintptr_t)at, sqe->len = len, sqe->off = offset;
    sqe->buf_index = buffer;
    submit(r, 1), await(r, 1);
    uint64_t counted;
    CHECK(read(count, &counted, 8) == 8 && counted == 1, "the eventfd");
    struct io_uring_cqe *cqe = &r->cqes[*r->cq_head & r->cq_mask];
    CHECK(waiting(r) == 1 && cqe->user_data == offset + 1, "completion %llx", (unsigned long long)cqe->user_data);
    int result = cqe->res;
    __atomic_store_n(r->cq_head, *r->cq_head + 1, __ATOMIC_RELEASE);
    return result;
}

static void use(struct ring *r, uint64_t seed) {
    uint64_t offset = seed % 5000;
    memset(first, 0, sizeof first), memset(second, 0, sizeof second);
    CHECK(ask(r, IORING_OP_READ_FIXED, 0, 0, first + 100, 3000, offset) == 3000, "read into the first buffer");
    CHECK(ask(r, IORING_OP_READ_FIXED, 0, BUFFERS - 1, second, 4096, offset) == 4096, "read into the second buffer");
    for (int i = 0; i < 3000; i += 7) CHECK(first[100 + i] == (char)mix(offset + i) && second[i] == first[100 + i], "byte %d", i);
    // Beyond a buffer, and where there is none.
    CHECK(ask(r, IORING_OP_READ_FIXED, 0, 0, first + 8000, 6, 0) == -EFAULT, "a byte behind the first buffer");
    CHECK(ask(r, IORING_OP_READ_FIXED, 0, 1, second, 1, 0) == -EFAULT, "a buffer that there is not");
    CHECK(ask(r, IORING_OP_READ, 1, 0, second, 1, 0) == -EBADF && ask(r, IORING_OP_READ, 3, 0, second, 1, 0) == -EBADF, "free places");
    CHECK(ask(r, IORING_OP_READ, FILES, 0, second, 1, 0) == -EBADF, "a place too many");
    char text[8] = "";
    CHECK(ask(r, IORING_OP_WRITE, FILES - 1, 0, "socket", 6, 0) == 6 && read(pair[0], text, 8) == 6 && !strcmp(text, "socket"), "the socket");
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return setup(&plain, 1, 0) < 0;
    file = MUST(open("some numbers \\", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    static char content[16384];
    for (unsigned i = 0; i < sizeof content; i++) content[i] = mix(i);
    CHECK(write(file, content, sizeof content) == sizeof content, "write");
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    count = MUST(eventfd(0, EFD_NONBLOCK));
    MUST(setup(&plain, 4, 0)), MUST(setup(&single, 4, SINGLE | DEFER));
    prepare(&plain), prepare(&single);
    int polls = !poll_network(&plain, 50, 1) && !poll_network(&single, 70, 0);
    for (int i = 0; i < 10; i++) use(&plain, i * 77), use(&single, i * 99);
    ready();
    for (uint64_t i = 0; go_on(); i++) use(&plain, mix(i)), use(&single, mix(~i));
    use(&plain, 1), use(&single, 2);
    CHECK(!polls || (poll_network(&plain, 1, 0) == 501 && poll_network(&single, 1, 0) == 700), "the network is polled otherwise");
    return pass();
}
