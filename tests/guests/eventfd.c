// eventfd(2): counters, semaphores, a blocked reader and a blocked writer, sharing by fork.
#include <sys/eventfd.h>

#include "guest.h"

static int counter;
static void spoil(void) {
    uint64_t n;
    CHECK(read(counter, &n, 8) == 8, "read");
}

static int value_of(int fd, const char *key) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    slurp(path, text, sizeof text);
    char *at = strstr(text, key);
    CHECK(at, "no %s", key);
    return strtol(at + strlen(key), NULL, 16);
}

int main(void) {
    counter = MUST(eventfd(41, EFD_NONBLOCK | EFD_CLOEXEC));
    int semaphore = MUST(eventfd(5, EFD_SEMAPHORE | EFD_NONBLOCK));
    int empty = MUST(eventfd(0, 0)), full = MUST(eventfd(0, 0)), there = MUST(eventfd(0, 0)), back = MUST(eventfd(0, 0));
    uint64_t n = 0xfffffffffffffffeu, one = 1;
    CHECK(write(full, &n, 8) == 8, "write");
    pid_t reader = MUST(fork());
    if (!reader) {
        CHECK(read(empty, &n, 8) == 8 && n == 77, "the blocked reader got %lu", n);
        _exit(0);
    }
    pid_t writer = MUST(fork());
    if (!writer) {
        n = 3;
        CHECK(write(full, &n, 8) == 8, "the blocked writer");
        _exit(0);
    }
    pid_t echo = MUST(fork());
    if (!echo) {
        for (;;) {
            CHECK(read(there, &n, 8) == 8, "read");
            if (n == 1000000) _exit(0);
            n *= 2;
            CHECK(write(back, &n, 8) == 8, "write");
        }
    }
    ready();
    for (uint64_t turn = 1; go_on(); turn++) {
        n = turn;
        CHECK(write(there, &n, 8) == 8 && read(back, &n, 8) == 8 && n == turn * 2, "eventfds between processes");
        CHECK(write(counter, &one, 8) == 8, "write");
        if (turn % 2 == 0) {
            CHECK(read(counter, &n, 8) == 8 && n == 41 + 2, "counter is %lu", n);
            n = 41;
            CHECK(write(counter, &n, 8) == 8, "write");
        }
        CHECK(fcntl(counter, F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(counter, F_GETFD) == FD_CLOEXEC, "flags");
        CHECK(fcntl(empty, F_GETFL) == O_RDWR && fcntl(empty, F_GETFD) == 0, "flags");
    }
    CHECK(value_of(semaphore, "eventfd-count:") == 5, "semaphore count");
    for (int i = 0; i < 5; i++) CHECK(read(semaphore, &n, 8) == 8 && n == 1, "semaphore read %d gave %lu", i, n);
    CHECK(read(semaphore, &n, 8) == -1 && errno == EAGAIN, "the semaphore has more");
    n = 77;
    CHECK(write(empty, &n, 8) == 8, "write");
    CHECK(read(full, &n, 8) == 8 && n == 0xfffffffffffffffeu, "the full one had %lx", n);
    CHECK(read(full, &n, 8) == 8 && n == 3, "the blocked writer's value is %lu", n);
    n = 1000000;
    CHECK(write(there, &n, 8) == 8, "write");
    join_child(reader), join_child(writer), join_child(echo);
    CHECK(read(counter, &n, 8) == 8 && (n == 41 || n == 42), "counter is %lu at the end", n);
    return pass();
}
