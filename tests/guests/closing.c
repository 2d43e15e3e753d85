// TCP connections on their way to their end, or not there yet: an end that stands behind bytes for which the receiver has no
// room (FIN_WAIT1), of both sides (CLOSING), of the one that heard the other's first (LAST_ACK), of one whose sender has
// closed; and connecting, while the other side has no room for more.
#include "tcp.h"

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif

enum { ONE, BOTH, LAST, GONE, KINDS };
static const char *const kinds[KINDS] = {"one side has ended", "both sides have ended", "one has ended after the other", "the other is closed"};
// A way from one end to the other; `held`: as many bytes are on it.
static struct way {
    int from, to;
    size_t held;
    uint64_t seed;
} ways[2][KINDS][2];

static int asking, waiting[2], late, door;
static struct sockaddr_in door_at, asking_at, late_at;
static volatile int connected;

static void spoil(void) {
    char byte;
    CHECK(recv(ways[0][ONE][0].to, &byte, 1, 0) == 1, "recv");
}

static unsigned char byte_of(uint64_t seed, uint64_t i) { return mix(seed * 1000003 + i / 64) >> i % 8; }

static int events_of(int fd) {
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    MUST(poll(&p, 1, 0));
    return p.revents;
}

// Sends as much as can be sent, which is more than the receiver takes.
static void flood(struct way *way, uint64_t seed) {
    static unsigned char bytes[10000];
    ssize_t n = 0;
    way->seed = seed;
    for (; n >= 0; way->held += n > 0 ? n : 0) {
        for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = byte_of(seed, way->held + i);
        n = send(way->from, bytes, sizeof bytes, MSG_DONTWAIT);
    }
    int there;
    MUST(ioctl(way->to, FIONREAD, &there));
    CHECK(errno == EAGAIN && way->held > (size_t)there + 50000, "%d of %zu bytes have arrived", there, way->held);
}

static void begins(const struct way *way, const char *what) {
    unsigned char bytes[1000];
    CHECK(recv(way->to, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT) == sizeof bytes, "%s: nothing to read", what);
    for (size_t i = 0; i < sizeof bytes; i++) CHECK(bytes[i] == byte_of(way->seed, i), "%s: byte %zu", what, i);
}

static void ends(const struct way *way, const char *what) {
    static unsigned char bytes[10000];
    size_t at = 0;
    for (ssize_t n; (n = recv(way->to, bytes, sizeof bytes, 0)) != 0; at += n) {
        CHECK(n > 0, "%s: after %zu of %zu bytes", what, at, way->held);
        for (ssize_t i = 0; i < n; i++) CHECK(bytes[i] == byte_of(way->seed, at + i), "%s: byte %zu", what, at + i);
    }
    CHECK(at == way->held, "%s: %zu of %zu bytes", what, at, way->held);
}

static void pair(int family, struct way *there, struct way *back) {
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr *a = family == AF_INET ? (void *)&a4 : (void *)&a6;
    socklen_t size = family == AF_INET ? sizeof a4 : sizeof a6;
    int listener = MUST(socket(family, SOCK_STREAM, 0)), near = MUST(socket(family, SOCK_STREAM, 0));
    // What is accepted inherits it.
    MUST(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &(int){20000}, sizeof(int)));
    MUST(setsockopt(near, SOL_SOCKET, SO_RCVBUF, &(int){20000}, sizeof(int)));
    MUST(bind(listener, a, size)), MUST(listen(listener, 1)), MUST(getsockname(listener, a, &size));
    MUST(connect(near, a, size));
    int far = MUST(accept(listener, NULL, NULL));
    MUST(close(listener));
    *there = (struct way){.from = near, .to = far};
    *back = (struct way){.from = far, .to = near};
}

static void make(int family, struct way (*all)[2]) {
    for (int kind = 0; kind < KINDS; kind++) {
        struct way *there = &all[kind][0], *back = &all[kind][1];
        pair(family, there, back);
        if (kind != LAST) flood(there, 10 * family + kind);
        if (kind == BOTH || kind == LAST) flood(back, 100 * family + kind);
        if (kind == GONE) MUST(close(there->from));
        else MUST(shutdown(there->from, SHUT_WR));
        if (kind == BOTH) MUST(shutdown(back->from, SHUT_WR));
        if (kind != LAST) continue;
        CHECK(state_of(back->from) == TCP_CLOSE_WAIT, "set-up: state %d", state_of(back->from));
        MUST(shutdown(back->from, SHUT_WR));
        CHECK(state_of(back->from) == TCP_LAST_ACK, "set-up: state %d", state_of(back->from));
    }
}

// A save has all that is on its way arrive, ends too: then a connection is one state nearer to its end, as it would be
// with a reader that is less slow. The kernel can bring that about by itself, and between two looks at it.
static void settle(const struct way *way, int kind) {
    for (int64_t until = now_ns(CLOCK_MONOTONIC) + 20000000000;; nap(1000)) {
        int near = kind == GONE ? -1 : state_of(way->from), far = state_of(way->to);
        if (kind == ONE ? (near == TCP_FIN_WAIT1 && far == TCP_ESTABLISHED) || (near == TCP_FIN_WAIT2 && far == TCP_CLOSE_WAIT)
            : kind == BOTH ? (near == TCP_FIN_WAIT1 && far == TCP_FIN_WAIT1) || (near == TCP_CLOSE && far == TCP_CLOSE)
            : kind == LAST ? (near == TCP_FIN_WAIT2 && far == TCP_LAST_ACK) || (near == TCP_CLOSE && far == TCP_CLOSE)
                           : far == TCP_ESTABLISHED || far == TCP_CLOSE_WAIT) return;
        CHECK(now_ns(CLOCK_MONOTONIC) < until, "%s: states %d and %d", kinds[kind], near, far);
    }
}

static void check(struct way (*all)[2]) {
    for (int kind = 0; kind < KINDS; kind++) {
        for (int i = 0; i < 2; i++)
            if (all[kind][i].held) begins(&all[kind][i], kinds[kind]);
        settle(&all[kind][0], kind);
        char byte = 0;
        if (kind != GONE) CHECK(send(all[kind][0].from, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == -1 && errno == EPIPE, "%s: it can send", kinds[kind]);
        if (kind == ONE) CHECK(send(all[ONE][1].from, "y", 1, 0) == 1 && recv(all[ONE][1].to, &byte, 1, 0) == 1 && byte == 'y', "the other way");
    }
}

static void *connects(void *unused) {
    (void)unused;
    CHECK(connect(late, (void *)&door_at, sizeof door_at) == 0, "connect");
    connected = 1;
    return NULL;
}

static int names(int fd, const struct sockaddr_in *a, int peers) {
    struct sockaddr_in now;
    socklen_t len = sizeof now;
    MUST(peers ? getpeername(fd, (void *)&now, &len) : getsockname(fd, (void *)&now, &len));
    return now.sin_port == a->sin_port && now.sin_addr.s_addr == a->sin_addr.s_addr;
}

int main(void) {
    make(AF_INET, ways[0]), make(AF_INET6, ways[1]);
    // Two wait to be accepted, and there is room for no other: for one, if they were to come now. Those who try have lower
    // numbers.
    socklen_t len = sizeof door_at;
    asking = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)), late = MUST(socket(AF_INET, SOCK_STREAM, 0));
    for (int i = 0; i < 2; i++) waiting[i] = MUST(socket(AF_INET, SOCK_STREAM, 0));
    door = MUST(socket(AF_INET, SOCK_STREAM, 0));
    door_at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    late_at = door_at;
    MUST(bind(door, (void *)&door_at, len)), MUST(listen(door, 1)), MUST(getsockname(door, (void *)&door_at, &len));
    for (int i = 0; i < 2; i++) MUST(connect(waiting[i], (void *)&door_at, len));
    MUST(listen(door, 0));
    // From the port of a connection that has just ended (TIME_WAIT), where the kernel lets us choose one.
    struct way there, back;
    pair(AF_INET, &there, &back);
    MUST(getsockname(there.from, (void *)&asking_at, &len));
    MUST(close(there.from)), MUST(close(there.to));
    unsigned port = ntohs(asking_at.sin_port), only = port << 16 | port, any = 0;
    int chosen = setsockopt(asking, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &only, sizeof only) == 0;
    CHECK(connect(asking, (void *)&door_at, len) == -1 && errno == EINPROGRESS, "connect");
    if (chosen) MUST(setsockopt(asking, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &any, sizeof any));
    MUST(getsockname(asking, (void *)&asking_at, &len));
    CHECK(!chosen || asking_at.sin_port == htons(port), "the port");
    MUST(bind(late, (void *)&late_at, len)), MUST(getsockname(late, (void *)&late_at, &len));
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, connects, NULL));
    while (state_of(late) != TCP_SYN_SENT) nap(100);
    ready();
    do {
        check(ways[0]), check(ways[1]);
        CHECK(state_of(asking) == TCP_SYN_SENT && events_of(asking) == 0, "asking: state %d", state_of(asking));
        CHECK(state_of(late) == TCP_SYN_SENT && !connected, "late: state %d", state_of(late));
        CHECK(state_of(waiting[0]) == TCP_ESTABLISHED && state_of(waiting[1]) == TCP_ESTABLISHED, "waiting: states %d and %d", state_of(waiting[0]), state_of(waiting[1]));
        CHECK(names(asking, &asking_at, 0) && names(late, &late_at, 0), "addresses");
    } while (go_on());
    for (int i = 0; i < 2; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            if (kind != LAST) ends(&ways[i][kind][0], kinds[kind]);
            if (kind == BOTH || kind == LAST) ends(&ways[i][kind][1], kinds[kind]);
        }
    char text[8];
    MUST(listen(door, 1));
    for (int i = 0; i < 4; i++) {
        int fd = MUST(accept(door, NULL, NULL));
        int client = names(fd, &asking_at, 1) ? asking : names(fd, &late_at, 1) ? late : 0;
        CHECK(!client == (i < 2), "the first are not those that waited");
        if (!client) continue;
        CHECK(poll(&(struct pollfd){client, POLLOUT, 0}, 1, 20000) == 1, "not connected");
        CHECK(send(client, "here", 4, 0) == 4 && recv(fd, text, 4, MSG_WAITALL) == 4 && !memcmp(text, "here", 4), "one that was connecting");
    }
    PTHREAD(pthread_join(thread, NULL));
    CHECK(getsockopt(asking, SOL_SOCKET, SO_ERROR, text, &(socklen_t){4}) == 0 && *(int *)text == 0, "an error");
    return pass();
}
