// UDP and UDP-Lite, IPv4 and IPv6: bound and connected sockets, what waits in them with its senders and borders, sockets
// that share a port, multicast groups, errors, options. On the loopback interface only.
#include "guest.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#ifndef IPPROTO_UDPLITE
#define IPPROTO_UDPLITE 136
#endif

static int unbound, quiet, server4, server6, client4, client6, mixed, wild, twins[2], askers[2], refused, group, sourced, group6, lite, big, deaf, self, self6, gone_port;
static struct sockaddr_storage at4, at6, at_wild, at_twin, at_mixed, at_group, from_gone, at_big;
static const char GROUP[] = "239.255.71.9", SOURCE[] = "127.0.0.1";

static void spoil(void) {
    char byte;
    CHECK(recv(server4, &byte, 1, 0) == 1, "spoil");
}

static socklen_t size(const struct sockaddr_storage *a) { return a->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6); }

static struct sockaddr_storage address(int family, const char *text, uint16_t port) {
    struct sockaddr_storage a = {.ss_family = family};
    struct sockaddr_in *a4 = (void *)&a;
    struct sockaddr_in6 *a6 = (void *)&a;
    CHECK(inet_pton(family, text, family == AF_INET ? (void *)&a4->sin_addr : (void *)&a6->sin6_addr) == 1, "inet_pton %s", text);
    a4->sin_port = htons(port);
    return a;
}

static struct sockaddr_storage name(int fd) {
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    MUST(getsockname(fd, (void *)&a, &len));
    return a;
}

static int open_at(int family, int protocol, const char *text, uint16_t port, struct sockaddr_storage *at) {
    int fd = MUST(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, protocol));
    struct sockaddr_storage a = address(family, text, port);
    MUST(bind(fd, (void *)&a, size(&a)));
    a = name(fd);
    if (at) *at = a;
    return fd;
}

static void send_to(int fd, const char *text, struct sockaddr_storage to) {
    ssize_t n = strlen(text);
    CHECK(sendto(fd, text, n, 0, (void *)&to, size(&to)) == n, "sendto: %s", text);
}

static int number(int fd, int level, int name) {
    int value = 0;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, level, name, &value, &len));
    return value;
}

static void set(int fd, int level, int name, int value) { MUST(setsockopt(fd, level, name, &value, sizeof value)); }

static int same(const struct sockaddr_storage *a, const struct sockaddr_storage *b) { return !memcmp(a, b, size(a)); }

// The first datagram is this one, from this address; it stays.
static void first(int fd, const char *text, const struct sockaddr_storage *from) {
    char got[128];
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    // On a busy machine even the loopback device takes a moment.
    MUST(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 5000));
    ssize_t n = recvfrom(fd, got, sizeof got, MSG_PEEK | MSG_DONTWAIT, (void *)&a, &len);
    CHECK(n == (ssize_t)strlen(text) && !memcmp(got, text, n), "fd %d: %zd bytes, %.*s instead of %s", fd, n, (int)(n < 0 ? 0 : n), got, text);
    CHECK(!from || same(&a, from), "fd %d: %s from port %d instead of %d", fd, text, ntohs(((struct sockaddr_in *)&a)->sin_port), ntohs(((struct sockaddr_in *)from)->sin_port));
}

// The same, and it is taken.
static void next(int fd, const char *text, const struct sockaddr_storage *from) {
    first(fd, text, from);
    char got[128];
    CHECK(recv(fd, got, sizeof got, 0) == (ssize_t)strlen(text), "%s", text);
}

static void nothing(int fd) {
    char byte;
    CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "fd %d: something is left", fd);
}

static struct sockaddr_storage start[32];

static void names(int check) {
    int fds[] = {quiet, server4, server6, client4, client6, mixed, wild, twins[0], twins[1], refused, group, sourced, group6, lite, big, deaf, self, self6};
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        struct sockaddr_storage now = name(fds[i]);
        if (check) CHECK(same(&now, &start[i]), "fd %d has another address", fds[i]);
        start[i] = now;
    }
}

static int events_of(int fd) {
    struct pollfd p = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    MUST(poll(&p, 1, 0));
    return p.revents;
}

static uint32_t turn;

static void check(void) {
    names(1);
    first(server4, "one", &start[3]);
    first(server6, "six", &start[4]);
    first(wild, "to wild", NULL);
    first(self, "myself", &start[16]);
    first(self6, "myself, too", &start[17]);
    // Two that share a port, each with its own.
    first(twins[0], "left", NULL);
    first(twins[1], "right", NULL);
    struct sockaddr_storage peer = {0};
    socklen_t len = sizeof peer;
    MUST(getpeername(client4, (void *)&peer, &len));
    CHECK(same(&peer, &at4), "client4 is connected to port %d", ntohs(((struct sockaddr_in *)&peer)->sin_port));
    CHECK(getpeername(server4, (void *)&peer, &len) == -1 && errno == ENOTCONN, "server4 is connected");
    CHECK(events_of(refused) & POLLERR, "refused: events %#x", events_of(refused));
    CHECK((events_of(deaf) & (POLLIN | POLLRDHUP | POLLHUP)) == (POLLIN | POLLRDHUP), "deaf: events %#x", events_of(deaf));
    // Datagrams go to and fro.
    char text[32];
    sprintf(text, "turn %u", ++turn);
    send_to(mixed, text, at_wild.ss_family ? address(AF_INET6, "::ffff:127.0.0.1", ntohs(((struct sockaddr_in *)&at_mixed)->sin_port)) : at_mixed);
    struct sockaddr_storage mapped = address(AF_INET6, "::ffff:127.0.0.1", ntohs(((struct sockaddr_in *)&at_mixed)->sin_port));
    next(mixed, text, &mapped);
    // Groups.
    first(group, "to the group", NULL);
    set(unbound, IPPROTO_IP, IP_MULTICAST_LOOP, 1);
    CHECK(number(quiet, SOL_SOCKET, SO_BROADCAST) == 1 && number(quiet, IPPROTO_IP, IP_TTL) == 9 && number(quiet, IPPROTO_IP, IP_MULTICAST_TTL) == 3, "options of quiet");
    CHECK(number(quiet, SOL_SOCKET, SO_RCVBUF) == 50000 && number(quiet, IPPROTO_IP, IP_RECVERR) == 1, "options of quiet: %d", number(quiet, SOL_SOCKET, SO_RCVBUF));
    CHECK(number(server6, IPPROTO_IPV6, IPV6_RECVPKTINFO) == 1 && number(server6, IPPROTO_IPV6, IPV6_V6ONLY) == 1, "options of server6");
    CHECK(number(server4, SOL_SOCKET, SO_REUSEADDR) == 0 && number(server4, SOL_SOCKET, SO_PEEK_OFF) == -1 && !number(server4, IPPROTO_IP, 20), "options of server4");
    CHECK(number(twins[0], SOL_SOCKET, SO_REUSEPORT) == 1, "SO_REUSEPORT");
    CHECK(number(lite, IPPROTO_UDPLITE, 10) == 8, "UDPLITE_SEND_CSCOV");
    CHECK((fcntl(wild, F_GETFL) & O_NONBLOCK) && !(fcntl(server4, F_GETFL) & O_NONBLOCK), "O_NONBLOCK");
    CHECK(number(server4, SOL_SOCKET, SO_RCVBUF) == number(unbound, SOL_SOCKET, SO_RCVBUF), "a buffer has grown");
    struct sockaddr_storage a = name(unbound);
    CHECK(ntohs(((struct sockaddr_in *)&a)->sin_port) == 0, "unbound has a port");
}

static struct group_filter filter_of(int fd, int level, struct sockaddr_storage of) {
    struct { struct group_filter f; struct sockaddr_storage more[4]; } all = {0};
    all.f.gf_interface = if_nametoindex("lo");
    all.f.gf_group = of;
    all.f.gf_numsrc = 4;
    socklen_t len = sizeof all;
    MUST(getsockopt(fd, level, MCAST_MSFILTER, &all, &len));
    return all.f;
}

static void join(int fd, int level, struct sockaddr_storage of) {
    struct group_req request = {.gr_interface = if_nametoindex("lo"), .gr_group = of};
    MUST(setsockopt(fd, level, MCAST_JOIN_GROUP, &request, sizeof request));
}

int main(void) {
    unbound = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    quiet = open_at(AF_INET, 0, "127.0.0.1", 0, NULL);
    set(quiet, SOL_SOCKET, SO_BROADCAST, 1);
    set(quiet, SOL_SOCKET, SO_RCVBUF, 25000);
    set(quiet, IPPROTO_IP, IP_TTL, 9);
    set(quiet, IPPROTO_IP, IP_MULTICAST_TTL, 3);
    set(quiet, IPPROTO_IP, IP_RECVERR, 1);
    server4 = open_at(AF_INET, 0, "127.0.0.1", 0, &at4);
    client4 = open_at(AF_INET, 0, "127.0.0.1", 0, NULL);
    MUST(connect(client4, (void *)&at4, size(&at4)));
    server6 = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    set(server6, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    set(server6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    at6 = address(AF_INET6, "::", 0);
    MUST(bind(server6, (void *)&at6, size(&at6)));
    at6 = name(server6);
    client6 = open_at(AF_INET6, 0, "::1", 0, NULL);
    struct sockaddr_storage to6 = address(AF_INET6, "::1", ntohs(((struct sockaddr_in *)&at6)->sin_port));
    MUST(connect(client6, (void *)&to6, size(&to6)));
    mixed = open_at(AF_INET6, 0, "::", 0, &at_mixed);
    wild = open_at(AF_INET, 0, "0.0.0.0", 0, &at_wild);
    MUST(fcntl(wild, F_SETFL, O_NONBLOCK));
    set(wild, IPPROTO_IP, IP_PKTINFO, 1);
    self = open_at(AF_INET, 0, "127.0.0.1", 0, NULL);
    send_to(self, "myself", name(self));
    self6 = open_at(AF_INET6, 0, "::1", 0, NULL);
    send_to(self6, "myself, too", name(self6));
    // Borders and senders: connected, not connected, closed since.
    CHECK(send(client4, "one", 3, 0) == 3 && send(client4, "three", 5, 0) == 5, "send");
    send_to(quiet, "from quiet", at4);
    int gone = open_at(AF_INET, 0, "127.0.0.3", 0, &from_gone);
    send_to(gone, "from one that is gone", at4);
    gone_port = ntohs(((struct sockaddr_in *)&from_gone)->sin_port);
    MUST(close(gone));
    CHECK(send(client6, "six", 3, 0) == 3, "send");
    send_to(unbound, "to wild", address(AF_INET, "127.0.0.5", ntohs(((struct sockaddr_in *)&at_wild)->sin_port)));
    MUST(close(unbound)); // it got a port by sending
    unbound = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    // Two sockets share a port.
    for (int i = 0; i < 2; i++) {
        twins[i] = MUST(socket(AF_INET, SOCK_DGRAM, 0));
        set(twins[i], SOL_SOCKET, SO_REUSEPORT, 1);
        at_twin = i ? at_twin : address(AF_INET, "127.0.0.1", 0);
        MUST(bind(twins[i], (void *)&at_twin, size(&at_twin)));
        at_twin = name(twins[i]);
    }
    // Which of them gets a datagram is the kernel's choice, by its addresses: try until each has got its own.
    for (int i = 0; i < 2; i++) {
        for (;;) {
            askers[i] = open_at(AF_INET, 0, "127.0.0.1", 0, NULL);
            send_to(askers[i], i ? "right" : "left", at_twin);
            if (events_of(twins[i]) & POLLIN) break;
            // The other got it, behind what it has already.
            char text[8];
            if (i) MUST(recv(twins[0], text, sizeof text, 0));
            MUST(recv(twins[!i], text, sizeof text, 0));
            MUST(close(askers[i]));
            if (i) send_to(askers[0], "left", at_twin);
        }
    }
    // An error that nobody has asked for yet. Others that run beside us take free ports of the usual address.
    struct sockaddr_storage nobody;
    gone = open_at(AF_INET, 0, "127.3.5.7", 0, &nobody);
    MUST(close(gone));
    refused = open_at(AF_INET, 0, "127.0.0.1", 0, NULL);
    MUST(connect(refused, (void *)&nobody, size(&nobody)));
    MUST(send(refused, "x", 1, 0));
    // Shut down for receiving.
    deaf = open_at(AF_INET, 0, "127.0.0.1", 0, NULL);
    MUST(connect(deaf, (void *)&at4, size(&at4)));
    MUST(shutdown(deaf, SHUT_RD));
    // Groups: any source, one source, all but one; IPv6.
    at_group = address(AF_INET, GROUP, 0);
    group = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(bind(group, (void *)&at_group, size(&at_group)));
    at_group = name(group);
    join(group, IPPROTO_IP, at_group);
    MUST(setsockopt(quiet, IPPROTO_IP, IP_MULTICAST_IF, &(struct ip_mreqn){.imr_address.s_addr = htonl(INADDR_LOOPBACK), .imr_ifindex = if_nametoindex("lo")}, sizeof(struct ip_mreqn)));
    send_to(quiet, "to the group", at_group);
    sourced = open_at(AF_INET, 0, "0.0.0.0", 0, NULL);
    struct group_source_req only = {.gsr_interface = if_nametoindex("lo"), .gsr_group = at_group, .gsr_source = address(AF_INET, SOURCE, 0)};
    MUST(setsockopt(sourced, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &only, sizeof only));
    group6 = open_at(AF_INET6, 0, "::", 0, NULL);
    join(group6, IPPROTO_IPV6, address(AF_INET6, "ff05::71:9", 0));
    set(group6, IPPROTO_IPV6, IPV6_MULTICAST_IF, if_nametoindex("lo"));
    lite = MUST(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE));
    struct sockaddr_storage at_lite = address(AF_INET, "127.0.0.1", 0);
    MUST(bind(lite, (void *)&at_lite, size(&at_lite)));
    set(lite, IPPROTO_UDPLITE, 10, 8);
    at_lite = name(lite);
    send_to(lite, "lite", at_lite);
    // As much as a buffer takes.
    big = open_at(AF_INET, 0, "127.0.0.1", 0, &at_big);
    uint32_t sent = 0;
    static char large[9000];
    for (; sent < 60; sent++) {
        memset(large, 'a' + sent % 26, sizeof large);
        memcpy(large, &sent, 4);
        CHECK(sendto(quiet, large, 1000 + sent * 100, 0, (void *)&at_big, size(&at_big)) > 0, "send %u", sent);
    }
    uint32_t fits = 0;
    FILE *port = fopen("port", "w");
    CHECK(port && fprintf(port, "%d\n", ntohs(((struct sockaddr_in *)&at4)->sin_port)) > 0 && !fclose(port), "port");
    names(0);
    ready();
    do check();
    while (go_on());
    // All of it is there, in its order, from where it came.
    next(server4, "one", &start[3]);
    next(server4, "three", &start[3]);
    next(server4, "from quiet", &start[0]);
    next(server4, "from one that is gone", &from_gone);
    nothing(server4);
    next(server6, "six", &start[4]);
    next(self, "myself", NULL);
    next(self6, "myself, too", NULL);
    next(lite, "lite", &start[13]);
    next(twins[0], "left", NULL);
    next(twins[1], "right", NULL);
    nothing(twins[0]);
    nothing(twins[1]);
    // To which of its addresses a datagram went.
    char text[64];
    union { char bytes[128]; struct cmsghdr align; } control;
    struct iovec part = {text, sizeof text};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    MUST(recvmsg(wild, &message, 0));
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    CHECK(c && c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO, "no IP_PKTINFO");
    CHECK(((struct in_pktinfo *)CMSG_DATA(c))->ipi_addr.s_addr == inet_addr("127.0.0.5"), "sent to another address");
    for (ssize_t n; (n = recv(big, large, sizeof large, MSG_DONTWAIT)) > 0; fits++) {
        uint32_t which;
        memcpy(&which, large, 4);
        CHECK(which == fits && n == 1000 + fits * 100 && large[4] == (char)('a' + fits % 26), "datagram %u has %zd bytes", fits, n);
    }
    CHECK(fits > 20, "only %u were kept", fits);
    CHECK(recv(refused, text, 1, 0) == -1 && errno == ECONNREFUSED, "no error");
    next(group, "to the group", &start[0]);
    struct group_filter f = filter_of(group, IPPROTO_IP, at_group);
    CHECK(f.gf_fmode == MCAST_EXCLUDE && f.gf_numsrc == 0, "the group");
    f = filter_of(sourced, IPPROTO_IP, at_group);
    CHECK(f.gf_fmode == MCAST_INCLUDE && f.gf_numsrc == 1 && ((struct sockaddr_in *)f.gf_slist)->sin_addr.s_addr == inet_addr(SOURCE), "the source");
    f = filter_of(group6, IPPROTO_IPV6, address(AF_INET6, "ff05::71:9", 0));
    CHECK(f.gf_fmode == MCAST_EXCLUDE, "the group of IPv6");
    CHECK(number(group6, IPPROTO_IPV6, IPV6_MULTICAST_IF) == (int)if_nametoindex("lo"), "IPV6_MULTICAST_IF");
    send_to(quiet, "again", at_group);
    next(group, "again", &start[0]);
    CHECK(send(client4, "on", 2, 0) == 2, "send");
    next(server4, "on", &start[3]);
    nothing(server4);
    return pass();
}
