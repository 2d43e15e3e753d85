// Pipes: content, capacity, flags, a writer blocked on a full one, a reader blocked on an empty one, closed sides, sharing by fork.
#include "guest.h"

#define KEEP 5000
#define FLOOD 300000

static int kept[2];
static void spoil(void) {
    char c;
    CHECK(read(kept[0], &c, 1) == 1, "read");
}

static void put(int fd, uint64_t from, size_t n) {
    unsigned char b[KEEP];
    for (size_t i = 0; i < n; i++) b[i] = mix(from + i);
    CHECK(write(fd, b, n) == (ssize_t)n, "write");
}

static void get(int fd, uint64_t from, size_t n) {
    unsigned char b[KEEP];
    for (size_t at = 0; at < n;) {
        ssize_t got = MUST(read(fd, b, n - at));
        CHECK(got > 0, "end of file");
        for (ssize_t i = 0; i < got; i++) CHECK(b[i] == (unsigned char)mix(from + at + i), "byte %lu", from + at + i);
        at += got;
    }
}

static void only(int keep_read, int keep_write, int (*pipes)[2], int count) {
    for (int i = 0; i < count; i++)
        for (int side = 0; side < 2; side++)
            if (pipes[i][side] >= 0 && pipes[i][side] != keep_read && pipes[i][side] != keep_write) MUST(close(pipes[i][side]));
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    enum { FULL, EMPTY, PING, PONG, HALF, BROKEN, LARGE, HUGE, COUNT };
    int p[COUNT][2];
    MUST(pipe(kept));
    for (int i = 0; i < COUNT; i++) MUST(pipe2(p[i], i >= LARGE ? O_NONBLOCK | O_CLOEXEC : 0));
    MUST(fcntl(p[LARGE][1], F_SETPIPE_SZ, 262144));
    MUST(fcntl(p[PING][0], F_SETPIPE_SZ, 4096));
    MUST(fcntl(p[HUGE][0], F_SETPIPE_SZ, 1 << 20));
    put(kept[1], 0, KEEP);
    pid_t flooder = MUST(fork());
    if (!flooder) {
        only(-1, p[FULL][1], p, COUNT);
        MUST(close(kept[0])), MUST(close(kept[1]));
        static unsigned char flood[FLOOD];
        for (int i = 0; i < FLOOD; i++) flood[i] = mix(i * 3);
        // The kernel itself cuts a half-done write short when a process is stopped and goes on; it must say how far it got.
        for (ssize_t at = 0; at < FLOOD;) {
            ssize_t n = write(p[FULL][1], flood + at, FLOOD - at);
            CHECK(n > 0, "the blocked write returned %zd", n);
            at += n;
        }
        _exit(0);
    }
    pid_t waiter = MUST(fork());
    if (!waiter) {
        only(p[EMPTY][0], -1, p, COUNT);
        MUST(close(kept[0])), MUST(close(kept[1]));
        char word[8];
        ssize_t n = read(p[EMPTY][0], word, 8);
        CHECK(n == 5 && !memcmp(word, "hello", 5), "the blocked read returned %zd", n);
        CHECK(read(p[EMPTY][0], word, 8) == 0, "no end of file");
        _exit(0);
    }
    pid_t echo = MUST(fork());
    if (!echo) {
        only(p[PING][0], p[PONG][1], p, COUNT);
        MUST(close(kept[0])), MUST(close(kept[1]));
        uint64_t n, last = 0;
        ssize_t got;
        while ((got = read(p[PING][0], &n, 8)) == 8) {
            CHECK(n == last + 1, "%lu after %lu", n, last);
            last = n;
            CHECK(write(p[PONG][1], &n, 8) == 8, "write");
        }
        CHECK(got == 0, "echo's read");
        _exit(0);
    }
    MUST(close(p[FULL][1])), MUST(close(p[EMPTY][0])), MUST(close(p[PING][0])), MUST(close(p[PONG][1]));
    CHECK(write(p[HALF][1], "rest", 4) == 4, "write");
    MUST(close(p[HALF][1]));   // content, then end of file
    MUST(close(p[BROKEN][0])); // nobody reads any more
    // The children have had both as well, until they came to close them.
    struct pollfd cut[] = {{p[HALF][0], 0, 0}, {p[BROKEN][1], 0, 0}};
    while (poll(cut, 2, 0) != 2) nap(100);
    char block[4096];
    memset(block, 'L', sizeof block);
    for (int i = 0; i < 64; i++) CHECK(write(p[LARGE][1], block, 4096) == 4096, "block %d", i);
    CHECK(write(p[LARGE][1], block, 1) == -1 && errno == EAGAIN, "not full");
    // As full as it gets, but for what fits behind a page that was filled in part.
    static unsigned char huge[1 << 20];
    for (int i = 0; i < 1 << 20; i++) huge[i] = mix(i * 5);
    int filled = write(p[HUGE][1], huge, 1000);
    filled += write(p[HUGE][1], huge + filled, sizeof huge - filled);
    CHECK(filled > (1 << 20) - 4096, "filled with %d", filled);
    int waiting = 0;
    while (waiting < 65536) MUST(ioctl(p[FULL][0], FIONREAD, &waiting)), nap(100);
    ready();
    uint64_t turn = 0;
    while (go_on()) {
        turn++;
        uint64_t back;
        CHECK(write(p[PING][1], &turn, 8) == 8 && read(p[PONG][0], &back, 8) == 8 && back == turn, "ping-pong");
        size_t n = 1 + mix(turn) % 700;
        static uint64_t at;
        get(kept[0], at, n);
        put(kept[1], at + KEEP, n);
        at += n;
        MUST(ioctl(kept[0], FIONREAD, &waiting));
        CHECK(waiting == KEEP, "%d bytes in the pipe", waiting);
        MUST(ioctl(p[FULL][0], FIONREAD, &waiting));
        CHECK(waiting == 65536, "%d bytes in the full pipe", waiting);
        CHECK(fcntl(p[LARGE][0], F_GETPIPE_SZ) == 262144 && fcntl(p[PING][1], F_GETPIPE_SZ) == 4096, "capacity");
        CHECK(fcntl(p[LARGE][1], F_GETFL) == (O_WRONLY | O_NONBLOCK), "flags of the large pipe are %#x", fcntl(p[LARGE][1], F_GETFL));
        CHECK(fcntl(kept[0], F_GETFL) == O_RDONLY, "flags of the kept pipe are %#x", fcntl(kept[0], F_GETFL));
        CHECK(fcntl(p[BROKEN][1], F_GETFL) == O_WRONLY && fcntl(p[HALF][0], F_GETFL) == O_RDONLY, "flags of half pipes are %#x and %#x",
              fcntl(p[BROKEN][1], F_GETFL), fcntl(p[HALF][0], F_GETFL));
        CHECK(fcntl(p[LARGE][0], F_GETFD) == FD_CLOEXEC && fcntl(kept[0], F_GETFD) == 0, "close-on-exec");
        CHECK(write(p[LARGE][1], block, 1) == -1 && errno == EAGAIN, "the full non-blocking pipe takes more");
        MUST(ioctl(p[HUGE][0], FIONREAD, &waiting));
        CHECK(waiting == filled && fcntl(p[HUGE][1], F_GETPIPE_SZ) == 1 << 20, "%d of %d bytes in the pipe of 1 MiB", waiting, filled);
        CHECK(write(p[BROKEN][1], block, 1) == -1 && errno == EPIPE, "a pipe without readers");
        struct pollfd poll_half = {p[HALF][0], POLLIN, 0};
        CHECK(poll(&poll_half, 1, 0) == 1 && poll_half.revents == (POLLIN | POLLHUP), "half-closed pipe polls %#x", poll_half.revents);
    }
    CHECK(read(p[HALF][0], block, 16) == 4 && !memcmp(block, "rest", 4) && read(p[HALF][0], block, 16) == 0, "half-closed pipe");
    CHECK(write(p[EMPTY][1], "hello", 5) == 5, "write");
    MUST(close(p[EMPTY][1])), MUST(close(p[PING][1]));
    for (int at = 0; at < FLOOD;) {
        ssize_t n = MUST(read(p[FULL][0], block, sizeof block));
        CHECK(n > 0, "the flood ends after %d bytes", at);
        for (ssize_t i = 0; i < n; i++, at++) CHECK((unsigned char)block[i] == (unsigned char)mix(at * 3), "flood byte %d", at);
    }
    CHECK(read(p[FULL][0], block, 1) == 0, "more than the flood");
    for (int i = 0; i < 64; i++) {
        CHECK(read(p[LARGE][0], block, 4096) == 4096, "large block %d", i);
        for (int k = 0; k < 4096; k++) CHECK(block[k] == 'L', "large block %d", i);
    }
    static unsigned char got[1 << 20];
    CHECK(read(p[HUGE][0], got, sizeof got) == filled && !memcmp(got, huge, filled), "the content of the pipe of 1 MiB");
    join_child(flooder), join_child(waiter), join_child(echo);
    return pass();
}
