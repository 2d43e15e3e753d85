// UDP datagrams that were sent as one (UDP_SEGMENT) and wait as one (UDP_GRO), over IPv4 and IPv6, with the length of their
// pieces; and one beside them that is alone.
#include "guest.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

enum { PIECE = 100, ALL = 350, ALONE = 7, LARGE_PIECE = 1200, LARGE = 30000 };

static const struct { int length, piece; } waits[] = {{ALL, PIECE}, {ALONE, 0}, {LARGE, LARGE_PIECE}};
static int receivers[2];

static void spoil(void) {
    char byte;
    MUST(recv(receivers[0], &byte, 1, 0));
}

static unsigned char byte_of(int which, int i) { return mix(which * 100000 + i); }

// The next datagram must be this one.
static void is(int fd, int which, int flags) {
    static unsigned char bytes[LARGE + 1];
    union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, flags | MSG_DONTWAIT);
    CHECK(n == waits[which].length, "%zd bytes instead of %d", n, waits[which].length);
    int piece = 0;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c) {
        CHECK(c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO, "another message beside it");
        memcpy(&piece, CMSG_DATA(c), sizeof piece);
    }
    CHECK(piece == waits[which].piece, "pieces of %d bytes instead of %d", piece, waits[which].piece);
    for (ssize_t i = 0; i < n; i++) CHECK(bytes[i] == byte_of(which, i), "byte %zd", i);
}

static void check(void) {
    for (int i = 0; i < 2; i++) {
        int value;
        socklen_t size = sizeof value;
        is(receivers[i], 0, MSG_PEEK);
        MUST(getsockopt(receivers[i], IPPROTO_UDP, UDP_GRO, &value, &size));
        CHECK(value == 1, "UDP_GRO");
    }
}

int main(void) {
    for (int v6 = 0; v6 < 2; v6++) {
        struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct sockaddr *a = v6 ? (void *)&a6 : (void *)&a4;
        socklen_t size = v6 ? sizeof a6 : sizeof a4;
        int fd = receivers[v6] = MUST(socket(a->sa_family, SOCK_DGRAM, 0));
        MUST(setsockopt(fd, IPPROTO_UDP, UDP_GRO, &(int){1}, sizeof(int)));
        MUST(bind(fd, a, size));
        MUST(getsockname(fd, a, &size));
        int sender = MUST(socket(a->sa_family, SOCK_DGRAM, 0));
        MUST(connect(sender, a, size));
        for (size_t which = 0; which < sizeof waits / sizeof *waits; which++) {
            static unsigned char bytes[LARGE];
            for (int i = 0; i < waits[which].length; i++) bytes[i] = byte_of(which, i);
            MUST(setsockopt(sender, IPPROTO_UDP, UDP_SEGMENT, &waits[which].piece, sizeof(int)));
            CHECK(send(sender, bytes, waits[which].length, 0) == waits[which].length, "send");
        }
    }
    check();
    ready();
    do check();
    while (go_on());
    for (int i = 0; i < 2; i++) {
        for (size_t which = 0; which < sizeof waits / sizeof *waits; which++) is(receivers[i], which, 0);
        char byte;
        CHECK(recv(receivers[i], &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "more datagrams");
    }
    return pass();
}
