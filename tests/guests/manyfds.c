// Ten thousand descriptors, and one with the highest number there may be; some of them under numbers that mean something else
// in a child, or watched under numbers that they no longer have.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "guest.h"

#define FIRST 20
static int count, highest, swapped[2], counters[2];
static void spoil(void) { MUST(dup2(counters[0], FIRST + 7)); }

static uint64_t count_of(int fd) {
    uint64_t value;
    CHECK(read(fd, &value, 8) == 8, "fd %d", fd);
    CHECK(write(fd, &value, 8) == 8, "fd %d", fd);
    return value;
}
// Each event counter holds the number it was made under.
static void look(int step, int first) {
    for (int fd = first; fd < FIRST + count; fd += step) CHECK(count_of(fd) == (uint64_t)fd, "fd %d is another", fd);
    CHECK(count_of(highest) == (uint64_t)highest, "the highest is another");
    CHECK(fcntl(highest, F_DUPFD, highest) == -1 && errno == EMFILE, "there is a higher one than the highest");
    for (int fd = first; fd < FIRST + count; fd += 101 * step) CHECK(fcntl(fd, F_GETFD) == (fd & 2 ? FD_CLOEXEC : 0), "close-on-exec of fd %d", fd);
}

int main(void) {
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    highest = limit.rlim_max - 1;
    count = highest < 11000 ? highest - 500 : 10300;
    CHECK(count > 1000, "a hard limit of %d open files is too low", highest + 1);
    for (int fd = FIRST; fd < FIRST + count; fd++) {
        int made = MUST(eventfd(fd, EFD_NONBLOCK));
        if (made != fd) {
            MUST(dup3(made, fd, 0)); // the first few leave a gap below
            MUST(close(made));
        }
        MUST(fcntl(fd, F_SETFD, fd & 2 ? FD_CLOEXEC : 0));
    }
    int made = MUST(eventfd(highest, EFD_NONBLOCK));
    MUST(dup2(made, highest));
    MUST(close(made));
    for (int i = 0; i < 2; i++) counters[i] = MUST(eventfd(1000000 + i, EFD_NONBLOCK));
    swapped[0] = FIRST + 100, swapped[1] = FIRST + 101;
    // Watched under numbers that others have now: 200 is watched as 201, 300 as a number that is closed.
    int epoll = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int closed = FIRST + 300, taken = FIRST + 201;
    int keep[] = {MUST(dup(closed)), MUST(dup(taken))};
    event.data.u32 = 300;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, closed, &event));
    event.data.u32 = 201;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, taken, &event));
    MUST(dup2(FIRST + 200, taken));
    MUST(close(closed));
    int turn_pipe[2], back_pipe[2];
    MUST(pipe(turn_pipe)), MUST(pipe(back_pipe));
    pid_t child = MUST(fork());
    if (!child) {
        MUST(close(turn_pipe[1])), MUST(close(back_pipe[0]));
        // Two numbers change places, and every odd one goes.
        int held = MUST(dup(swapped[0]));
        MUST(dup2(swapped[1], swapped[0])), MUST(dup2(held, swapped[1]));
        MUST(close(held));
        for (int fd = FIRST + 1; fd < FIRST + count; fd += 2)
            if (fd != swapped[1]) MUST(close(fd));
        char byte;
        while (read(turn_pipe[0], &byte, 1) == 1) {
            look(2, FIRST + 302);
            CHECK(count_of(swapped[0]) == (uint64_t)swapped[1] && count_of(swapped[1]) == (uint64_t)swapped[0], "numbers have changed places");
            CHECK(fcntl(FIRST + 501, F_GETFD) == -1 && errno == EBADF, "a number that was closed is open");
            CHECK(write(back_pipe[1], &byte, 1) == 1, "write");
        }
        _exit(0);
    }
    MUST(close(turn_pipe[0])), MUST(close(back_pipe[1]));
    ready();
    while (go_on()) {
        char byte = 'x';
        look(1, FIRST + 302);
        for (int fd = FIRST; fd < FIRST + 300; fd++) CHECK(count_of(fd) == (uint64_t)(fd == taken ? fd - 1 : fd), "fd %d is another", fd);
        CHECK(fcntl(closed, F_GETFD) == -1, "a number that was closed is open");
        for (int i = 0; i < 2; i++) {
            CHECK(count_of(keep[i]) == (uint64_t)(i ? taken : closed), "what is watched is another");
            CHECK(count_of(counters[i]) == 1000000u + i, "a counter is another");
        }
        // Both are told of again, since they were written to.
        struct epoll_event events[4];
        int n = MUST(epoll_wait(epoll, events, 4, 0));
        CHECK(n == 2 && events[0].data.u32 + events[1].data.u32 == 501, "%d events", n);
        CHECK(write(turn_pipe[1], &byte, 1) == 1 && read(back_pipe[0], &byte, 1) == 1, "the child");
    }
    MUST(close(turn_pipe[1]));
    join_child(child);
    return pass();
}
