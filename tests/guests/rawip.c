// Raw IP sockets: protocol, addresses, filters and options. What waits in them is not kept.
#include "guest.h"
#include <arpa/inet.h>
#include <linux/icmp.h>
#include <netinet/in.h>
#include <sys/socket.h>

static int icmp, sender, bound, icmp6, ping;

static void spoil(void) { MUST(setsockopt(icmp, SOL_RAW, ICMP_FILTER, &(struct icmp_filter){7}, sizeof(struct icmp_filter))); }

static int number(int fd, int level, int name) {
    int value = 0;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, level, name, &value, &len));
    return value;
}

static struct sockaddr_in at(const char *text) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(text)};
}

static void check(void) {
    CHECK(number(icmp, SOL_RAW, ICMP_FILTER) == ~(1 << ICMP_ECHO), "ICMP_FILTER %#x", number(icmp, SOL_RAW, ICMP_FILTER));
    CHECK(number(sender, IPPROTO_IP, IP_HDRINCL) == 1 && number(sender, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_RAW, "IP_HDRINCL");
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    MUST(getsockname(bound, (void *)&a, &len));
    CHECK(a.sin_addr.s_addr == inet_addr("127.0.0.1"), "bound to %s", inet_ntoa(a.sin_addr));
    CHECK(send(bound, "x", 1, 0) == 1, "not connected any more");
    CHECK(number(bound, SOL_SOCKET, SO_PROTOCOL) == 253 && number(icmp6, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_ICMPV6, "protocols");
    if (ping >= 0) CHECK(number(ping, IPPROTO_IP, IP_TTL) == 5, "IP_TTL");
}

// A packet goes out by one and comes in by the other.
static void exchange(uint32_t turn) {
    struct { struct icmphdr head; uint32_t turn; } packet = {{.type = ICMP_ECHO, .un.echo.id = 0x4321}, htonl(turn)};
    uint32_t sum = 0;
    for (size_t i = 0; i < sizeof packet / 2; i++) {
        uint16_t word;
        memcpy(&word, (char *)&packet + 2 * i, 2);
        sum += word;
    }
    packet.head.checksum = ~(uint16_t)((sum & 0xffff) + (sum >> 16));
    struct sockaddr_in to = at("127.0.0.1");
    CHECK(sendto(icmp, &packet, sizeof packet, 0, (void *)&to, sizeof to) == sizeof packet, "sendto");
    for (;;) {
        unsigned char got[256];
        ssize_t n = MUST(recv(icmp, got, sizeof got, 0));
        if (n == (ssize_t)(20 + sizeof packet) && !memcmp(got + 20 + 4, (char *)&packet + 4, sizeof packet - 4)) break;
    }
}

int main(void) {
    icmp = MUST(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
    MUST(setsockopt(icmp, SOL_RAW, ICMP_FILTER, &(struct icmp_filter){~(1 << ICMP_ECHO)}, sizeof(struct icmp_filter)));
    sender = MUST(socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
    bound = MUST(socket(AF_INET, SOCK_RAW, 253));
    struct sockaddr_in here = at("127.0.0.1"), there = at("127.0.0.2");
    MUST(bind(bound, (void *)&here, sizeof here));
    MUST(connect(bound, (void *)&there, sizeof there));
    icmp6 = MUST(socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6));
    ping = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    if (ping < 0) left_out("a ping socket: net.ipv4.ping_group_range does not permit one");
    if (ping >= 0) MUST(setsockopt(ping, IPPROTO_IP, IP_TTL, &(int){5}, sizeof(int)));
    check();
    ready();
    uint32_t turn = 0;
    do {
        check();
        exchange(++turn);
    } while (go_on());
    return pass();
}
