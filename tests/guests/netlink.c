// Netlink sockets: with and without an address, in groups, with options; and the kernel answers.
#include "guest.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

static int route, silent, uevent, diag, monitor;
static uint32_t port, port_monitor;

static void spoil(void) { MUST(setsockopt(monitor, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &(int){RTNLGRP_NEIGH}, sizeof(int))); }

static uint32_t port_of(int fd) {
    struct sockaddr_nl a;
    socklen_t len = sizeof a;
    MUST(getsockname(fd, (void *)&a, &len));
    return a.nl_pid;
}

static int number(int fd, int name) {
    int value = 0;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, SOL_NETLINK, name, &value, &len));
    return value;
}

static int is_member(int fd, int group) {
    uint32_t words[32] = {0};
    socklen_t len = sizeof words;
    MUST(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &len));
    return words[(group - 1) / 32] >> (group - 1) % 32 & 1;
}

// Asks for the list of interfaces; each part of the answer must be for us.
static void ask(uint32_t turn) {
    struct { struct nlmsghdr head; struct ifinfomsg body; } request = {
        {sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, turn, 0}, {.ifi_family = AF_UNSPEC}};
    CHECK(send(route, &request, sizeof request, 0) == sizeof request, "send");
    static char bytes[65536] __attribute__((aligned(8)));
    for (int loopback = 0;;) {
        int n = MUST(recv(route, bytes, sizeof bytes, 0));
        for (struct nlmsghdr *h = (void *)bytes; NLMSG_OK(h, (unsigned)n); h = NLMSG_NEXT(h, n)) {
            CHECK(h->nlmsg_seq == turn && h->nlmsg_pid == port, "an answer for %u, number %u", h->nlmsg_pid, h->nlmsg_seq);
            if (h->nlmsg_type == NLMSG_DONE) {
                CHECK(loopback, "no loopback interface");
                return;
            }
            CHECK(h->nlmsg_type == RTM_NEWLINK, "a message of type %d", h->nlmsg_type);
            if (((struct ifinfomsg *)NLMSG_DATA(h))->ifi_index == 1) loopback = 1;
        }
    }
}

static void check(uint32_t turn) {
    CHECK(port_of(route) == port && port_of(monitor) == port_monitor && port_of(silent) == 0, "addresses");
    CHECK(is_member(monitor, RTNLGRP_NEIGH) && is_member(monitor, RTNLGRP_NSID) && !is_member(monitor, RTNLGRP_LINK) && !is_member(route, RTNLGRP_NEIGH), "groups");
    CHECK(number(route, NETLINK_CAP_ACK) == 1 && number(route, NETLINK_EXT_ACK) == 1 && number(monitor, NETLINK_CAP_ACK) == 0, "options");
    ask(turn);
}

int main(void) {
    route = MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct sockaddr_nl own = {.nl_family = AF_NETLINK};
    MUST(bind(route, (void *)&own, sizeof own));
    port = port_of(route);
    MUST(setsockopt(route, SOL_NETLINK, NETLINK_CAP_ACK, &(int){1}, sizeof(int)));
    MUST(setsockopt(route, SOL_NETLINK, NETLINK_EXT_ACK, &(int){1}, sizeof(int)));
    silent = MUST(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE));
    uevent = MUST(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_KOBJECT_UEVENT));
    diag = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG));
    // Groups in which next to nothing happens: messages that wait can't be saved.
    monitor = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct sockaddr_nl groups = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_NEIGH};
    MUST(bind(monitor, (void *)&groups, sizeof groups));
    MUST(setsockopt(monitor, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &(int){RTNLGRP_NSID}, sizeof(int)));
    port_monitor = port_of(monitor);
    CHECK(port && port_monitor && port != port_monitor, "addresses");
    uint32_t turn = 0;
    check(++turn);
    ready();
    do check(++turn);
    while (go_on());
    char text[64];
    CHECK(recv(uevent, text, sizeof text, MSG_DONTWAIT) == -1 && errno == EAGAIN, "something in a socket without a group");
    CHECK(fcntl(route, F_GETFD) == FD_CLOEXEC && fcntl(diag, F_GETFD) == 0, "close-on-exec");
    return pass();
}
