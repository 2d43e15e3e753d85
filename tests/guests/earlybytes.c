// TCP connections that nobody has accepted yet, over which bytes have been sent: they stay where they are, in their order, with
// their addresses, options and all that was sent. At last they are accepted, and answered.
#include "guest.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <linux/tcp.h> // newer than netinet/tcp.h
#include <sys/epoll.h>
#include <sys/socket.h>

enum { LARGE = 60000, MARK = 3 };
// Of tcp_info.
enum { ESTABLISHED = 1 };

static struct {
    int family;
    int length;   // what is sent
    int shut;     // and nothing more
    int urgent;   // the byte at MARK is urgent
    int deaf;     // nothing is to be received
    int chosen;   // the program has chosen the port
    int elsewhere; // a child has it, too
    int fd;
    struct sockaddr_storage name;
} all[] = {
    {.family = AF_INET, .length = 5},
    {.family = AF_INET},
    {.family = AF_INET, .length = LARGE},
    {.family = AF_INET, .length = 700, .shut = 1},
    {.family = AF_INET, .length = 0, .shut = 1},
    {.family = AF_INET, .length = 9, .urgent = 1},
    {.family = AF_INET, .length = 33, .chosen = 1},
    {.family = AF_INET, .length = 12, .deaf = 1},
    {.family = AF_INET, .length = 0, .deaf = 1},
    {.family = AF_INET, .length = 13, .deaf = 1, .shut = 1},
    {.family = AF_INET, .length = 1, .elsewhere = 1},
    {.family = AF_INET6, .length = 44},
    {.family = AF_INET6, .length = LARGE, .shut = 1},
    {.family = AF_INET6},
};
enum { COUNT = sizeof all / sizeof *all };
static int door4, door6, epoll, peeks;

static void spoil(void) { CHECK(send(all[1].fd, "?", 1, 0) == 1, "a byte too many"); }

static unsigned char byte_of(int i, int at) { return mix(i * 100000 + at); }

static int number(int fd, int level, int name) {
    int value = 0;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, level, name, &value, &len));
    return value;
}

static int opens(int family, int port) {
    int fd = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_storage a = {.ss_family = family};
    if (family == AF_INET) ((struct sockaddr_in *)&a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else ((struct sockaddr_in6 *)&a)->sin6_addr = in6addr_loopback;
    if (port >= 0) MUST(bind(fd, (void *)&a, family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)));
    return fd;
}

static void reach_out(int i) {
    struct sockaddr_storage door;
    socklen_t len = sizeof door;
    MUST(getsockname(all[i].family == AF_INET ? door4 : door6, (void *)&door, &len));
    int fd = all[i].fd = opens(all[i].family, all[i].chosen ? 0 : -1);
    MUST(connect(fd, (void *)&door, len));
    len = sizeof all[i].name;
    MUST(getsockname(fd, (void *)&all[i].name, &len));
    for (int at = 0; at < all[i].length;) {
        unsigned char bytes[LARGE];
        int end = all[i].urgent && at < MARK ? MARK : all[i].urgent && at == MARK ? MARK + 1 : all[i].length;
        for (int b = at; b < end; b++) bytes[b - at] = byte_of(i, b);
        int flags = all[i].urgent && at == MARK ? MSG_OOB : 0;
        at += MUST(send(fd, bytes, end - at, flags));
    }
    if (all[i].shut) MUST(shutdown(fd, SHUT_WR));
    if (all[i].deaf) MUST(shutdown(fd, SHUT_RD));
    if (peeks && i % 3) MUST(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &(int){i % 3 - 1}, sizeof(int)));
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){100 + i}, sizeof(int)));
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){i & 1}, sizeof(int)));
    MUST(fcntl(fd, F_SETFL, i & 2 ? O_RDWR | O_NONBLOCK : O_RDWR));
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.u32 = i};
    if (!all[i].deaf) MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e));
}

static void check_one(int i) {
    int fd = all[i].fd;
    struct sockaddr_storage name = {0};
    socklen_t len = sizeof name;
    MUST(getsockname(fd, (void *)&name, &len));
    CHECK(!memcmp(&name, &all[i].name, sizeof name), "%d: another name", i);
    CHECK(number(fd, SOL_SOCKET, SO_ERROR) == 0, "%d: an error", i);
    CHECK(number(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 100 + i && number(fd, IPPROTO_TCP, TCP_NODELAY) == (i & 1), "%d: options", i);
    CHECK(number(fd, IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE */) == 0, "%d: a range of ports", i);
    CHECK((fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (i & 2 ? O_RDWR | O_NONBLOCK : O_RDWR), "%d: flags", i);
    if (peeks) CHECK(number(fd, SOL_SOCKET, SO_PEEK_OFF) == i % 3 - 1, "%d: peeks at %d", i, number(fd, SOL_SOCKET, SO_PEEK_OFF));
    struct pollfd p = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    MUST(poll(&p, 1, 0));
    short heard = !all[i].deaf ? 0 : all[i].shut ? POLLIN | POLLRDHUP | POLLHUP : POLLIN | POLLRDHUP;
    CHECK(p.revents == (POLLOUT | heard), "%d: events %#x", i, p.revents);
    struct tcp_info info;
    len = sizeof info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
    CHECK((info.tcpi_state == ESTABLISHED) == !all[i].shut, "%d: state %d", i, info.tcpi_state);
    CHECK(info.tcpi_bytes_sent == (unsigned)all[i].length, "%d: %u bytes sent", i, (unsigned)info.tcpi_bytes_sent);
}

static void check(void) {
    struct epoll_event e;
    CHECK(MUST(epoll_wait(epoll, &e, 1, 0)) == 0, "an event %#x of %d", e.events, e.data.u32);
    for (int i = 0; i < COUNT; i++) check_one(i);
}

static void answer(int i) {
    struct sockaddr_storage from = {0};
    socklen_t len = sizeof from;
    int fd = MUST(accept4(all[i].family == AF_INET ? door4 : door6, (void *)&from, &len, SOCK_CLOEXEC));
    CHECK(!memcmp(&from, &all[i].name, sizeof from), "%d: somebody else is first", i);
    if (all[i].urgent) {
        MUST(setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &(int){1}, sizeof(int)));
        unsigned char front[LARGE];
        CHECK(recv(fd, front, sizeof front, MSG_PEEK) == MARK, "%d: the mark is elsewhere", i);
    }
    for (int at = 0; at < all[i].length;) {
        unsigned char bytes[LARGE];
        int n = MUST(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
        CHECK(n > 0 && at + n <= all[i].length, "%d: %d more bytes at %d", i, n, at);
        for (int b = 0; b < n; b++) CHECK(bytes[b] == byte_of(i, at + b), "%d: byte %d", i, at + b);
        at += n;
    }
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);
    CHECK(all[i].shut ? n == 0 : n == -1 && errno == EAGAIN, "%d: %zd at the end", i, n);
    // Who is shut on both sides answers it with a reset.
    if (all[i].shut && all[i].deaf) return;
    CHECK(send(fd, "well", 4, 0) == 4, "%d: an answer", i);
    char text[4];
    MUST(fcntl(all[i].fd, F_SETFL, O_RDWR));
    CHECK(recv(all[i].fd, text, 4, MSG_WAITALL) == 4 && !memcmp(text, "well", 4), "%d: the answer", i);
}

int main(void) {
    epoll = MUST(epoll_create1(EPOLL_CLOEXEC));
    MUST(listen(door4 = opens(AF_INET, 0), 20));
    MUST(listen(door6 = opens(AF_INET6, 0), 20));
    // From Linux 6.9 on.
    peeks = setsockopt(door4, SOL_SOCKET, SO_PEEK_OFF, &(int){-1}, sizeof(int)) == 0;
    for (int i = 0; i < COUNT; i++) reach_out(i);
    pid_t child = MUST(fork());
    if (child == 0) {
        for (int i = 0; i < COUNT; i++)
            if (!all[i].elsewhere) MUST(close(all[i].fd));
        while (wait_on())
            for (int i = 0; i < COUNT; i++)
                if (all[i].elsewhere) check_one(i);
        exit(0);
    }
    ready();
    while (go_on())
        if (!guest_spoilt) check();
    join_child(child);
    for (int i = 0; i < COUNT; i++) answer(i);
    return pass();
}
