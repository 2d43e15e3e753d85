// UNIX connections that nobody has accepted yet, over which something has been sent: it stays where it is, in its order, and so
// do flags, options and epolls of the clients; some are gone, one waits for an answer all the time. At last they are accepted, and answered.
#include "guest.h"
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { LARGE = 90000, MARK = 3 };
enum { PATH, ABSTRACT, PACKETS, DOORS };

static struct {
    int door;
    int length;  // what is sent
    int packets; // in so many parts; 0: one
    int shut;    // and nothing more
    int urgent;  // the byte at MARK is urgent
    int twice;   // it has a second number
    int waits;   // a thread waits for the answer
    int patient; // it has a time-out (SO_RCVTIMEO), with which that thread waits
    int gone;    // it is closed as soon as it has sent all
    int named;   // it has an abstract name of its own
    int fd, other;
} all[] = {
    {.door = PATH, .length = 5},
    {.door = PATH},
    {.door = PATH, .length = 20, .gone = 1},
    {.door = PATH, .length = LARGE},
    {.door = PATH, .length = 700, .shut = 1},
    {.door = PATH, .shut = 1},
    {.door = PATH, .length = 9, .urgent = 1},
    {.door = PATH, .gone = 1, .named = 1},
    {.door = PATH, .length = 33, .twice = 1, .patient = 1},
    {.door = PATH, .length = 12, .waits = 1, .patient = 1},
    {.door = ABSTRACT, .length = 44},
    {.door = ABSTRACT, .length = 1, .shut = 1},
    {.door = PACKETS, .length = 30, .packets = 3},
    {.door = PACKETS, .length = 60, .packets = 4, .gone = 1, .named = 1},
    {.door = PACKETS, .length = 4},
};
enum { COUNT = sizeof all / sizeof *all };
static int doors[DOORS], epoll;
static const struct timeval time_out = {500, 0};
static pthread_t waiter;

static void spoil(void) { CHECK(send(all[1].fd, "?", 1, 0) == 1, "a byte too many"); }

static unsigned char byte_of(int i, int at) { return mix(i * 100000 + at); }

static int number(int fd, int name) {
    int value = 0;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, name, &value, &len));
    return value;
}

static socklen_t name_of(int i, struct sockaddr_un *name) {
    *name = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "earlymessage %d %d", (int)getpid(), i);
    return offsetof(struct sockaddr_un, sun_path) + (all[i].named ? 1 + n : 0);
}

static void reach_out(int i) {
    struct sockaddr_un door;
    socklen_t len = sizeof door;
    MUST(getsockname(doors[all[i].door], (void *)&door, &len));
    int fd = all[i].fd = MUST(socket(AF_UNIX, all[i].door == PACKETS ? SOCK_SEQPACKET : SOCK_STREAM, 0));
    if (i & 1) MUST(fcntl(fd, F_SETFD, FD_CLOEXEC));
    struct sockaddr_un mine;
    socklen_t size = name_of(i, &mine);
    if (all[i].named) MUST(bind(fd, (void *)&mine, size));
    MUST(connect(fd, (void *)&door, len));
    if (i & 4) MUST(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){150000}, sizeof(int)));
    for (int at = 0; at < all[i].length;) {
        static unsigned char bytes[LARGE];
        int end = all[i].urgent && at < MARK ? MARK : all[i].urgent && at == MARK ? MARK + 1 : all[i].length;
        if (all[i].packets) end = at + all[i].length / all[i].packets;
        for (int b = at; b < end; b++) bytes[b - at] = byte_of(i, b);
        at += MUST(send(fd, bytes, end - at, all[i].urgent && at == MARK ? MSG_OOB : 0));
    }
    if (all[i].gone) {
        MUST(close(fd));
        return;
    }
    if (all[i].shut) MUST(shutdown(fd, SHUT_WR));
    MUST(setsockopt(fd, SOL_SOCKET, SO_PRIORITY, &(int){i & 3}, sizeof(int)));
    MUST(fcntl(fd, F_SETFL, i & 2 && !all[i].waits ? O_RDWR | O_NONBLOCK : O_RDWR));
    if (all[i].patient) MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time_out, sizeof time_out));
    if (all[i].twice) all[i].other = MUST(fcntl(fd, F_DUPFD_CLOEXEC, 900));
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.u64 = 0x100000000 + i};
    if (!all[i].waits) MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].twice ? all[i].other : fd, &e));
}

static void check_one(int i) {
    int fd = all[i].fd;
    CHECK(number(fd, SO_ERROR) == 0, "%d: an error", i);
    CHECK(number(fd, SO_PRIORITY) == (i & 3), "%d: its priority", i);
    CHECK(number(fd, SO_SNDBUF) == (i & 4 ? 300000 : number(doors[PATH], SO_SNDBUF)), "%d: its buffer: %d", i, number(fd, SO_SNDBUF));
    CHECK(fcntl(fd, F_GETFD) == (i & 1 ? FD_CLOEXEC : 0), "%d: close-on-exec", i);
    CHECK(fcntl(fd, F_GETFL) == (i & 2 && !all[i].waits ? O_RDWR | O_NONBLOCK : O_RDWR), "%d: flags", i);
    struct timeval time;
    socklen_t len = sizeof time;
    MUST(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, &len));
    CHECK(time.tv_sec == (all[i].patient ? time_out.tv_sec : 0) && time.tv_usec == 0, "%d: its time-out is %d", i, (int)time.tv_sec);
    struct ucred peer;
    len = sizeof peer;
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len));
    CHECK(peer.pid == getpid() && peer.uid == geteuid(), "%d: its peer is %d", i, peer.pid);
    struct pollfd p = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    MUST(poll(&p, 1, 0));
    // A stream with much on its way may have no room.
    CHECK((p.revents & ~POLLOUT) == 0 && (p.revents || all[i].length == LARGE), "%d: events %#x", i, p.revents);
    if (all[i].twice) {
        struct stat a, b;
        MUST(fstat(fd, &a));
        MUST(fstat(all[i].other, &b));
        CHECK(a.st_ino == b.st_ino, "%d: its numbers are of two sockets", i);
        CHECK(fcntl(all[i].other, F_GETFD) == FD_CLOEXEC, "%d: close-on-exec of its other number", i);
    }
}

static void check(void) {
    struct epoll_event e;
    CHECK(MUST(epoll_wait(epoll, &e, 1, 0)) == 0, "an event %#x of %d", e.events, (int)e.data.u32);
    for (int i = 0; i < COUNT; i++)
        if (!all[i].gone) check_one(i);
}

static void *wait_for_answer(void *arg) {
    char text[4];
    int fd = *(int *)arg;
    CHECK(recv(fd, text, 4, MSG_WAITALL) == 4 && !memcmp(text, "well", 4), "the answer that is waited for");
    return NULL;
}

static void answer(int i) {
    int fd = MUST(accept4(doors[all[i].door], NULL, NULL, SOCK_CLOEXEC));
    struct ucred peer;
    socklen_t len = sizeof peer;
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len));
    CHECK(peer.pid == getpid(), "%d: %d has connected", i, peer.pid);
    struct sockaddr_un name, expected;
    len = sizeof name;
    MUST(getpeername(fd, (void *)&name, &len));
    CHECK(len == name_of(i, &expected) && !memcmp(&name, &expected, len), "%d: another name, of %d bytes", i, (int)len);
    if (all[i].urgent) {
        static unsigned char front[LARGE];
        MUST(setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &(int){1}, sizeof(int)));
        CHECK(recv(fd, front, sizeof front, MSG_PEEK) == MARK, "%d: the mark is elsewhere", i);
    }
    for (int at = 0; at < all[i].length;) {
        static unsigned char bytes[LARGE];
        int n = MUST(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
        CHECK(n > 0 && at + n <= all[i].length, "%d: %d more bytes at %d", i, n, at);
        CHECK(!all[i].packets || n == all[i].length / all[i].packets, "%d: a packet of %d", i, n);
        for (int b = 0; b < n; b++) CHECK(bytes[b] == byte_of(i, at + b), "%d: byte %d", i, at + b);
        at += n;
    }
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
    CHECK(all[i].shut || all[i].gone ? n == 0 : n == -1 && errno == EAGAIN, "%d: %zd at the end", i, n);
    if (all[i].gone) {
        CHECK(send(fd, "well", 4, MSG_NOSIGNAL) == -1 && errno == EPIPE, "%d: it is there", i);
        return;
    }
    CHECK(send(fd, "well", 4, 0) == 4, "%d: an answer", i);
    if (all[i].waits) {
        CHECK(pthread_join(waiter, NULL) == 0, "join");
        return;
    }
    struct epoll_event e;
    CHECK(MUST(epoll_wait(epoll, &e, 1, 5000)) == 1 && e.data.u64 == 0x100000000u + i && e.events == EPOLLIN, "%d: no event, or %#x", i, e.events);
    char text[4];
    CHECK(recv(all[i].twice ? all[i].other : all[i].fd, text, 4, 0) == 4 && !memcmp(text, "well", 4), "%d: the answer", i);
}

int main(void) {
    epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int door = 0; door < DOORS; door++) {
        int fd = doors[door] = MUST(socket(AF_UNIX, (door == PACKETS ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC, 0));
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        if (door != ABSTRACT) snprintf(name.sun_path, sizeof name.sun_path, "door%d", door);
        MUST(bind(fd, (void *)&name, door == ABSTRACT ? sizeof(sa_family_t) : sizeof name));
        MUST(listen(fd, 20));
    }
    for (int i = 0; i < COUNT; i++) {
        reach_out(i);
        if (all[i].waits) MUST(-pthread_create(&waiter, NULL, wait_for_answer, &all[i].fd));
    }
    ready();
    while (go_on())
        if (!guest_spoilt) check();
    for (int i = 0; i < COUNT; i++) answer(i);
    return pass();
}
