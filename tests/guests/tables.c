// Threads with descriptor tables of their own (unshare(CLONE_FILES)): one with other files under the same numbers, the other ends of
// pipes and sockets, another close-on-exec bit, shared offsets, POSIX locks of its own, an epoll, a pidfd; one with nothing at all.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "guest.h"

enum { SAME = 60, OTHER, PIPE, SOCKET, EVENT, EPOLL, PIDFD, LOCKED, MASTER, LAST };
static volatile int parted, damage, turn, echoed;

static int file(const char *name) {
    int fd = MUST(open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    CHECK(write(fd, name, strlen(name)) == (ssize_t)strlen(name), "write");
    return fd;
}

static void place(int fd, int number, int flags) {
    MUST(dup3(fd, number, flags));
    MUST(close(fd));
}

static void is(int fd, const char *name) {
    char text[32] = "";
    CHECK(pread(fd, text, sizeof text - 1, 0) == (ssize_t)strlen(name) && !strcmp(text, name), "fd %d is of \"%s\"", fd, text);
}

// How the file that `LOCKED` is in both tables is locked, seen from here.
static int lock_at(off_t at) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    MUST(fcntl(LOCKED, F_GETLK, &lock));
    CHECK(lock.l_type == F_UNLCK || lock.l_pid == getpid(), "a lock of pid %d", (int)lock.l_pid);
    return lock.l_type;
}

static void lock(off_t at, int how) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    MUST(fcntl(LOCKED, how, &lock));
}

static void spoil(void) {
    damage = 1;
    while (damage != 2) nap(100);
}

static void *apart(void *ends) {
    const int *their = ends;
    MUST(unshare(CLONE_FILES));
    place(file("other"), OTHER, O_CLOEXEC);
    MUST(dup3(SAME, SAME + 100, 0)), MUST(close(SAME)), MUST(dup3(SAME + 100, SAME, O_CLOEXEC)), MUST(close(SAME + 100));
    MUST(dup2(their[0], PIPE)), MUST(dup2(their[1], SOCKET));
    for (int i = 0; i < 4; i++) MUST(close(their[i]));
    place(MUST(eventfd(7, EFD_NONBLOCK)), EVENT, 0);
    place(MUST(epoll_create1(0)), EPOLL, O_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x123456789};
    MUST(epoll_ctl(EPOLL, EPOLL_CTL_ADD, EVENT, &event));
    place(MUST(syscall(SYS_pidfd_open, getpid(), 0)), PIDFD, O_CLOEXEC);
    lock(1, F_SETLK);
    MUST(close(MASTER));
    parted = 1;
    for (int last = 0; wait_on();) {
        is(OTHER, "other");
        CHECK(fcntl(OTHER, F_GETFD) == FD_CLOEXEC && fcntl(SAME, F_GETFD) == FD_CLOEXEC, "close-on-exec");
        CHECK(fcntl(MASTER, F_GETFD) == -1 && errno == EBADF && fcntl(LAST, F_GETFD) == -1, "descriptors of the process");
        CHECK(lock_at(0) == F_WRLCK && lock_at(1) == F_UNLCK && lock_at(2) == F_UNLCK, "locks");
        uint64_t count;
        CHECK(read(EVENT, &count, 8) == 8 && count == 7 && write(EVENT, &count, 8) == 8, "eventfd %llu", (unsigned long long)count);
        struct epoll_event found[2];
        CHECK(MUST(epoll_wait(EPOLL, found, 2, 0)) == 1 && found[0].data.u64 == 0x123456789, "epoll");
        MUST(syscall(SYS_pidfd_send_signal, PIDFD, 0, NULL, 0));
        struct stat st;
        MUST(fstat(PIPE, &st));
        char word[8] = "";
        if (turn != last) {
            last = turn;
            CHECK(lseek(SAME, 0, SEEK_CUR) == turn % 1000, "offset %ld", (long)lseek(SAME, 0, SEEK_CUR));
            CHECK(read(PIPE, word, 4) == 4 && !memcmp(word, "down", 4), "pipe: %s", word);
            CHECK(write(SOCKET, "back", 4) == 4, "socket");
            echoed = turn;
        }
        if (damage == 1) MUST(close(OTHER)), MUST(dup2(SAME, OTHER)), damage = 2;
    }
    is(OTHER, "other");
    // The process has its end no more: nobody else has the other.
    char text[16], last[8] = "";
    for (ssize_t n; (n = MUST(read(PIPE, text, 4))) > 0;) memcpy(last, text, n);
    CHECK(!strcmp(last, "last"), "the end of the pipe is \"%s\"", last);
    return NULL;
}

static void *bare(void *unused) {
    (void)unused;
    MUST(unshare(CLONE_FILES));
    MUST(syscall(SYS_close_range, 0, ~0u, 0));
    parted = 2;
    while (wait_on()) {
        int fd = open("/dev/null", O_RDONLY);
        CHECK(fd == 0 && close(fd) == 0, "the first free descriptor is %d", fd);
    }
    return NULL;
}

int main(void) {
    pthread_t thread, without;
    int ends[2], pair[2];
    MUST(pipe(ends)), MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    int theirs[4] = {ends[0], pair[1], ends[1], pair[0]};
    place(file("same"), SAME, 0), place(file("ours"), OTHER, 0), place(file("locked"), LOCKED, 0);
    place(MUST(open("/dev/zero", O_RDONLY)), MASTER, 0);
    lock(0, F_SETLK);
    PTHREAD(pthread_create(&thread, NULL, apart, theirs));
    while (parted != 1) nap(100);
    for (int i = 0; i < 2; i++) MUST(close(theirs[i]));
    place(ends[1], PIPE, 0), place(pair[0], SOCKET, 0);
    place(MUST(open("/dev/zero", O_RDONLY)), LAST, 0);
    PTHREAD(pthread_create(&without, NULL, bare, NULL));
    while (parted != 2) nap(100);
    ready();
    for (int i = 1; go_on(); i++) {
        is(OTHER, "ours"), is(SAME, "same"), is(LOCKED, "locked");
        CHECK(fcntl(SAME, F_GETFD) == 0 && fcntl(OTHER, F_GETFD) == 0, "close-on-exec");
        for (int fd = EVENT; fd <= PIDFD; fd++) CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF, "fd %d of the thread", fd);
        CHECK(lock_at(0) == F_UNLCK && lock_at(1) == F_WRLCK && lock_at(2) == F_UNLCK, "locks");
        MUST(lseek(SAME, i % 1000, SEEK_SET));
        CHECK(write(PIPE, "down", 4) == 4, "write");
        turn = i;
        for (int n = 0; echoed != i && !damage; n++) {
            CHECK(n < 50000, "no answer in turn %d", i);
            if (told("go")) goto end;
            nap(100);
        }
        char word[8] = "";
        CHECK(damage || (read(SOCKET, word, 4) == 4 && !memcmp(word, "back", 4)), "socket: %s", word);
    }
end:
    CHECK(write(PIPE, "last", 4) == 4, "write");
    MUST(close(PIPE));
    PTHREAD(pthread_join(thread, NULL));
    PTHREAD(pthread_join(without, NULL));
    lock(1, F_SETLKW); // the thread's went with its table, a moment after it
    return pass();
}
