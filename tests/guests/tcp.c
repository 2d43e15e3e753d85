// TCP on the loopback interface, IPv4 and IPv6: listening sockets, connections with bytes on their way in both directions,
// more than the receiver's buffer takes, half-closed and ended ones, and their options and addresses.
#include "tcp.h"

enum { SMALL = 3000, HUGE_ = 3 << 20 };

static int door4, door6, bound, idle, resetted, ended, orphan, left;
static int deaf, to_deaf, self;
static int near4, far4, near6, far6, mixed_near, mixed_far, half_near, half_far, slow_near, slow_far, busy_near, busy_far, waiting;
static uint64_t sent[2], got[2];
static uint16_t port4, port6, port_bound;
static unsigned char *huge;
static size_t huge_sent;

static void spoil(void) { MUST(setsockopt(near4, IPPROTO_TCP, TCP_KEEPIDLE, &(int){4000}, sizeof(int))); }

static unsigned char byte_of(uint64_t i) { return mix(i / 64) >> i % 8; }

static uint16_t port_of(const struct sockaddr_storage *a) {
    return ntohs(a->ss_family == AF_INET ? ((struct sockaddr_in *)a)->sin_port : ((struct sockaddr_in6 *)a)->sin6_port);
}

static uint16_t listens(int fd, int family) {
    struct sockaddr_storage a = {.ss_family = family};
    if (family == AF_INET) ((struct sockaddr_in *)&a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(bind(fd, (void *)&a, family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)));
    MUST(listen(fd, 7));
    socklen_t len = sizeof a;
    MUST(getsockname(fd, (void *)&a, &len));
    return port_of(&a);
}

static int connects(int family, uint16_t port) {
    int fd = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    MUST(connect(fd, family == AF_INET ? (void *)&a4 : (void *)&a6, family == AF_INET ? sizeof a4 : sizeof a6));
    return fd;
}

static void pair(int door, int family, uint16_t port, int *near, int *far) {
    *near = connects(family, port);
    *far = MUST(accept4(door, NULL, NULL, SOCK_CLOEXEC));
}

static int number(int fd, int level, int name) {
    int value = 0;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, level, name, &value, &len));
    return value;
}

// The addresses of both ends, noted at the start and compared ever after.
static struct { int fd; struct sockaddr_storage own, peer; } names[20];
static int named;

static void note(int fd) {
    socklen_t len = sizeof names->own;
    names[named].fd = fd;
    MUST(getsockname(fd, (void *)&names[named].own, &len));
    len = sizeof names->peer;
    MUST(getpeername(fd, (void *)&names[named++].peer, &len));
}

static void check_names(void) {
    for (int i = 0; i < named; i++) {
        struct sockaddr_storage own = {0}, peer = {0};
        socklen_t len = sizeof own;
        MUST(getsockname(names[i].fd, (void *)&own, &len));
        len = sizeof peer;
        MUST(getpeername(names[i].fd, (void *)&peer, &len));
        CHECK(!memcmp(&own, &names[i].own, sizeof own) && !memcmp(&peer, &names[i].peer, sizeof peer),
              "fd %d: port %d to %d, was %d to %d", names[i].fd, port_of(&own), port_of(&peer), port_of(&names[i].own), port_of(&names[i].peer));
    }
}

static int events_of(int fd) {
    struct pollfd p = {fd, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};
    MUST(poll(&p, 1, 0));
    return p.revents;
}

// What has been sent over a connection and not been read is still there, and what is sent now comes after it.
static void trickle(int way, int from, int to) {
    for (int i = 0; i < 3; i++) {
        unsigned char bytes[500];
        for (size_t at = 0; at < sizeof bytes; at++) bytes[at] = byte_of(sent[way] + at);
        CHECK(write(from, bytes, sizeof bytes) == sizeof bytes, "write");
        sent[way] += sizeof bytes;
    }
    int waits = 0;
    MUST(ioctl(to, FIONREAD, &waits));
    while (sent[way] - got[way] > SMALL) {
        unsigned char bytes[700];
        ssize_t n = MUST(read(to, bytes, sizeof bytes));
        CHECK(n > 0, "the end of a connection");
        for (ssize_t at = 0; at < n; at++) CHECK(bytes[at] == byte_of(got[way] + at), "byte %llu", (unsigned long long)got[way] + at);
        got[way] += n;
    }
}

static void check(void) {
    check_names();
    trickle(0, near4, far4);
    trickle(1, far4, near4);
    char text[64] = "";
    CHECK(recv(mixed_far, text, sizeof text, MSG_PEEK) == 5 && !memcmp(text, "mixed", 5), "IPv4 to IPv6: %s", text);
    CHECK(write(near6, "six", 3) == 3 && recv(far6, text, 3, MSG_WAITALL) == 3 && !memcmp(text, "six", 3), "IPv6");
    // The one side has said its last word, the other goes on.
    CHECK((state_of(half_near) == TCP_FIN_WAIT1 || state_of(half_near) == TCP_FIN_WAIT2) && state_of(half_far) == TCP_CLOSE_WAIT, "half closed: %d and %d", state_of(half_near), state_of(half_far));
    CHECK(recv(half_far, text, sizeof text, MSG_PEEK) == 4 && !memcmp(text, "last", 4), "half closed: %.4s", text);
    CHECK(write(half_far, "on", 2) == 2 && recv(half_near, text, 2, MSG_WAITALL) == 2 && !memcmp(text, "on", 2), "half closed");
    CHECK(state_of(orphan) == TCP_CLOSE_WAIT && recv(orphan, text, sizeof text, MSG_PEEK) == 6 && !memcmp(text, "closed", 6), "closed peer: state %d", state_of(orphan));
    CHECK(state_of(left) == TCP_CLOSE_WAIT && events_of(left) == (POLLIN | POLLOUT | POLLRDHUP) && recv(left, text, 1, 0) == 0, "left by its server: state %d", state_of(left));
    CHECK(state_of(ended) == TCP_CLOSE && (events_of(ended) & ~POLLOUT) == (POLLIN | POLLHUP | POLLRDHUP), "ended: state %d, events %#x", state_of(ended), events_of(ended));
    CHECK(recv(ended, text, sizeof text, MSG_PEEK) == 4, "ended");
    CHECK(state_of(resetted) == TCP_CLOSE && events_of(resetted) & POLLERR, "reset: state %d, events %#x", state_of(resetted), events_of(resetted));
    // It may be sent to all the same.
    CHECK(events_of(deaf) == (POLLIN | POLLOUT | POLLRDHUP) && recv(deaf, text, 1, 0) == 0, "deaf: events %#x", events_of(deaf));
    CHECK(write(to_deaf, "x", 1) == 1 && recv(deaf, text, 2, 0) == 1 && *text == 'x', "deaf");
    CHECK(write(deaf, "y", 1) == 1 && recv(to_deaf, text, 1, 0) == 1 && *text == 'y', "a deaf one can't send");
    CHECK(recv(self, text, sizeof text, 0) == 6 && !memcmp(text, "myself", 6) && write(self, "myself", 6) == 6, "one that is connected with itself");
    CHECK(state_of(idle) == TCP_CLOSE && events_of(idle) == (POLLOUT | POLLHUP), "idle: events %#x", events_of(idle));
    CHECK(state_of(door4) == TCP_LISTEN && state_of(door6) == TCP_LISTEN, "listening");
    CHECK(number(near4, IPPROTO_TCP, TCP_NODELAY) && !number(far4, IPPROTO_TCP, TCP_NODELAY), "TCP_NODELAY");
    CHECK(number(near4, SOL_SOCKET, SO_KEEPALIVE) == 1 && number(near4, IPPROTO_TCP, TCP_KEEPIDLE) == 77, "keepalive");
    CHECK(number(far4, IPPROTO_TCP, TCP_USER_TIMEOUT) == 12345 && number(far4, IPPROTO_IP, IP_TOS) == 0x10, "TCP_USER_TIMEOUT, IP_TOS");
    CHECK(number(slow_far, SOL_SOCKET, SO_RCVBUF) == 80000 && number(slow_far, SOL_SOCKET, SO_RCVLOWAT) == 5, "buffer %d", number(slow_far, SOL_SOCKET, SO_RCVBUF));
    CHECK(number(door6, IPPROTO_IPV6, IPV6_V6ONLY) == 0 && number(door4, SOL_SOCKET, SO_REUSEADDR) == 1 && number(near4, SOL_SOCKET, SO_REUSEADDR) == 0, "IPV6_V6ONLY, SO_REUSEADDR");
    CHECK((fcntl(slow_near, F_GETFL) & O_NONBLOCK) && !(fcntl(slow_far, F_GETFL) & O_NONBLOCK), "O_NONBLOCK");
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    MUST(getsockname(bound, (void *)&a, &len));
    CHECK(ntohs(a.sin_port) == port_bound, "bound to port %d", ntohs(a.sin_port));
    // A new connection through each door.
    int near, far;
    pair(door6, AF_INET6, port6, &near, &far);
    CHECK(write(near, "new", 3) == 3 && recv(far, text, 3, MSG_WAITALL) == 3, "a new connection");
    MUST(setsockopt(near, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
    MUST(close(near));
    MUST(close(far));
}

int main(void) {
    door4 = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(setsockopt(door4, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)));
    port4 = listens(door4, AF_INET);
    door6 = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    port6 = listens(door6, AF_INET6);
    pair(door4, AF_INET, port4, &near4, &far4);
    pair(door6, AF_INET6, port6, &near6, &far6);
    pair(door6, AF_INET, port6, &mixed_near, &mixed_far);
    pair(door4, AF_INET, port4, &half_near, &half_far);
    pair(door4, AF_INET, port4, &slow_near, &slow_far);
    pair(door4, AF_INET, port4, &busy_near, &busy_far);
    MUST(setsockopt(near4, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)));
    MUST(setsockopt(near4, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int)));
    MUST(setsockopt(near4, IPPROTO_TCP, TCP_KEEPIDLE, &(int){77}, sizeof(int)));
    MUST(setsockopt(far4, IPPROTO_TCP, TCP_USER_TIMEOUT, &(int){12345}, sizeof(int)));
    MUST(setsockopt(far4, IPPROTO_IP, IP_TOS, &(int){0x10}, sizeof(int)));
    CHECK(write(mixed_near, "mixed", 5) == 5 && write(half_near, "last", 4) == 4, "write");
    MUST(shutdown(half_near, SHUT_WR));
    // More on its way than the receiver has room for.
    MUST(setsockopt(slow_far, SOL_SOCKET, SO_RCVBUF, &(int){40000}, sizeof(int)));
    MUST(setsockopt(slow_far, SOL_SOCKET, SO_RCVLOWAT, &(int){5}, sizeof(int)));
    MUST(fcntl(slow_near, F_SETFL, O_NONBLOCK));
    huge = malloc(HUGE_);
    for (size_t i = 0; i < HUGE_; i++) huge[i] = byte_of(i);
    for (ssize_t n; huge_sent < HUGE_ && (n = write(slow_near, huge + huge_sent, HUGE_ - huge_sent)) > 0;) huge_sent += n;
    CHECK(huge_sent > 1 << 20, "only %zu bytes on their way", huge_sent);
    int peer;
    pair(door4, AF_INET, port4, &peer, &orphan);
    CHECK(write(peer, "closed", 6) == 6, "write");
    MUST(close(peer));
    pair(door4, AF_INET, port4, &left, &peer);
    MUST(close(peer));
    pair(door4, AF_INET, port4, &peer, &ended);
    CHECK(write(peer, "over", 4) == 4, "write");
    MUST(close(peer));
    MUST(shutdown(ended, SHUT_WR));
    pair(door4, AF_INET, port4, &peer, &resetted);
    MUST(setsockopt(peer, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
    MUST(close(peer));
    pair(door4, AF_INET, port4, &to_deaf, &deaf);
    MUST(shutdown(deaf, SHUT_RD));
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t own_len = sizeof own;
    self = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(self, (void *)&own, own_len)), MUST(getsockname(self, (void *)&own, &own_len)), MUST(connect(self, (void *)&own, own_len));
    CHECK(write(self, "myself", 6) == 6, "write");
    idle = MUST(socket(AF_INET, SOCK_STREAM, 0));
    bound = MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(bind(bound, (void *)&a, sizeof a));
    socklen_t len = sizeof a;
    MUST(getsockname(bound, (void *)&a, &len));
    port_bound = ntohs(a.sin_port);
    // One that nobody takes before the end.
    waiting = connects(AF_INET, port4);
    int all[] = {near4, far4, near6, far6, mixed_near, mixed_far, half_near, half_far, slow_near, slow_far, busy_near, busy_far, orphan, left, waiting, deaf, to_deaf, self};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) note(all[i]);
    // A child that answers, and waits in read most of the time.
    pid_t child = MUST(fork());
    if (child == 0) {
        MUST(close(busy_near));
        MUST(close(door4));
        uint64_t question;
        while (recv(busy_far, &question, 8, MSG_WAITALL) == 8) {
            question = mix(question);
            CHECK(write(busy_far, &question, 8) == 8, "write");
        }
        _exit(0);
    }
    MUST(close(busy_far));
    for (int i = 0; i < named; i++) {
        if (names[i].fd == busy_far) names[i] = names[--named];
    }
    FILE *ports = fopen("ports", "w"), *clients = fopen("clients", "w");
    CHECK(ports && fprintf(ports, "%d %d\n", port4, port_bound) > 0 && !fclose(ports), "ports");
    for (int i = 0; i < named; i++)
        if (names[i].fd == near4 || names[i].fd == left) CHECK(clients && fprintf(clients, "%d\n", port_of(&names[i].own)) > 0, "clients");
    MUST(fclose(clients));
    check();
    ready();
    uint64_t turn = 0;
    do {
        check();
        uint64_t answer;
        turn++;
        CHECK(write(busy_near, &turn, 8) == 8 && recv(busy_near, &answer, 8, MSG_WAITALL) == 8 && answer == mix(turn), "the other process's answer");
    } while (go_on());
    // The slow reader reads at last.
    unsigned char *bytes = malloc(HUGE_);
    CHECK(recv(slow_far, bytes, huge_sent, MSG_WAITALL) == (ssize_t)huge_sent && !memcmp(bytes, huge, huge_sent), "what was on its way");
    CHECK(recv(slow_far, bytes, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "a byte too many");
    int late = MUST(accept(door4, NULL, NULL));
    char text[16];
    CHECK(write(waiting, "late", 4) == 4 && recv(late, text, 4, MSG_WAITALL) == 4 && !memcmp(text, "late", 4), "the one that waited");
    CHECK(recv(resetted, text, 1, 0) == -1 && errno == ECONNRESET, "no reset");
    CHECK(recv(orphan, text, 16, 0) == 6 && recv(orphan, text, 1, 0) == 0, "no end");
    CHECK(recv(ended, text, 16, 0) == 4 && recv(ended, text, 1, 0) == 0, "no end");
    MUST(close(busy_near));
    join_child(child);
    return pass();
}
