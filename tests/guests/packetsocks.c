// Packet sockets, for root: protocol, interface, filter, options, memberships and groups that share packets out. What waits
// in them is not kept.
#include "guest.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

enum { PROTOCOL = 0x88b5, FRAMES = 8 }; // one for local experiments

static int sender, bound, silent, sharers[2], loopback;
static int group;    // of ours alone
static uint32_t own; // what our frames begin with: others may be at the same

static void spoil(void) {
    struct packet_mreq m = {.mr_ifindex = loopback, .mr_type = PACKET_MR_PROMISC};
    MUST(setsockopt(bound, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &m, sizeof m));
}

static int number(int fd, int name) {
    int value = 0;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, SOL_PACKET, name, &value, &len));
    return value;
}

static struct sockaddr_ll at(int protocol, int interface) {
    return (struct sockaddr_ll){.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = interface};
}

static int fresh(int kind) {
    int fd = MUST(socket(AF_PACKET, kind, 0));
    uint32_t start = kind == SOCK_RAW ? 14 : 0;
    struct sock_filter code[] = {
        {BPF_LD | BPF_W | BPF_ABS, 0, 0, start}, {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, ntohl(own)},
        {BPF_RET | BPF_K, 0, 0, 1000}, {BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    MUST(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    struct sockaddr_ll a = at(PROTOCOL, loopback);
    MUST(bind(fd, (void *)&a, sizeof a));
    return fd;
}

static void address(int fd, int protocol, int interface) {
    struct sockaddr_ll a;
    socklen_t len = sizeof a;
    MUST(getsockname(fd, (void *)&a, &len));
    CHECK(ntohs(a.sll_protocol) == protocol && a.sll_ifindex == interface, "protocol %#x, interface %d", ntohs(a.sll_protocol), a.sll_ifindex);
}

// How often it has asked for each kind of membership.
static void memberships(int fd, unsigned counts[4]) {
    struct stat of;
    MUST(fstat(fd, &of));
    int diag = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG));
    struct { struct nlmsghdr head; struct packet_diag_req body; } request = {
        {sizeof request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {.sdiag_family = AF_PACKET, .pdiag_show = PACKET_SHOW_MCLIST}};
    CHECK(send(diag, &request, sizeof request, 0) == sizeof request, "send");
    static char bytes[65536] __attribute__((aligned(8)));
    memset(counts, 0, 4 * sizeof *counts);
    for (int done = 0; !done;) {
        int n = MUST(recv(diag, bytes, sizeof bytes, 0));
        for (struct nlmsghdr *h = (void *)bytes; NLMSG_OK(h, (unsigned)n); h = NLMSG_NEXT(h, n)) {
            done |= h->nlmsg_type == NLMSG_DONE;
            struct packet_diag_msg *m = NLMSG_DATA(h);
            if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || m->pdiag_ino != of.st_ino) continue;
            struct nlattr *a = (void *)(m + 1);
            for (int left = h->nlmsg_len - NLMSG_LENGTH(sizeof *m); left > 0; left -= NLA_ALIGN(a->nla_len), a = (void *)((char *)a + NLA_ALIGN(a->nla_len))) {
                if (a->nla_type != PACKET_DIAG_MCLIST) continue;
                struct packet_diag_mclist *list = (void *)(a + 1);
                for (unsigned i = 0; i < (a->nla_len - sizeof *a) / sizeof *list; i++) {
                    CHECK(list[i].pdmc_index == (unsigned)loopback && list[i].pdmc_type < 4, "a membership of type %d", list[i].pdmc_type);
                    counts[list[i].pdmc_type] += list[i].pdmc_count;
                    if (list[i].pdmc_type == PACKET_MR_MULTICAST) CHECK(!memcmp(list[i].pdmc_addr, "\1\0\136\0\0\7", 6), "the group's address");
                }
            }
        }
    }
    MUST(close(diag));
}

static void send_frame(uint32_t turn) {
    uint32_t words[2] = {own, turn};
    struct sockaddr_ll to = at(PROTOCOL, loopback);
    to.sll_halen = 6;
    CHECK(sendto(sender, words, sizeof words, 0, (void *)&to, sizeof to) == sizeof words, "sendto");
}

// A resumed program's sockets have other inodes.
static ino_t inode(void) {
    struct stat st;
    MUST(fstat(bound, &st));
    return st.st_ino;
}

static void check(void) {
    address(bound, PROTOCOL, loopback), address(silent, 0, 0), address(sharers[0], PROTOCOL, loopback);
    CHECK(number(bound, PACKET_AUXDATA) == 1 && number(bound, PACKET_VERSION) == TPACKET_V2 && number(bound, PACKET_ORIGDEV) == 0, "options");
    CHECK(number(sharers[0], PACKET_VERSION) == TPACKET_V1 && number(sender, PACKET_QDISC_BYPASS) == 1, "options of others");
    for (int i = 0; i < 2; i++) CHECK(number(sharers[i], PACKET_FANOUT) == group, "the group: %#x", number(sharers[i], PACKET_FANOUT));
    CHECK(number(bound, PACKET_FANOUT) == 0, "a group of its own");
    unsigned counts[4];
    ino_t before;
    do before = inode(), memberships(bound, counts); while (inode() != before);
    CHECK(counts[PACKET_MR_PROMISC] == 2 && counts[PACKET_MR_MULTICAST] == 1 && counts[PACKET_MR_ALLMULTI] == 0, "memberships: %u, %u, %u", counts[0], counts[1], counts[2]);
}

// Waits for frames; 0: a resume came in between, and what waited is gone.
static int await(struct pollfd *sockets, int count, ino_t before) {
    for (int i = 0; i < 200; i++) {
        int ready = MUST(poll(sockets, count, 100));
        if (inode() != before) return 0;
        if (ready) return ready;
    }
    return -1;
}

// A frame goes out by one and comes in by another, with what is told beside it; of many, those in the group take each one.
// 0: a resume has cut it short.
static int exchange(uint32_t turn) {
    uint32_t got[20];
    ino_t before = inode();
    while (recv(bound, got, sizeof got, MSG_DONTWAIT) > 0) {} // of a round that was cut short
    for (int i = 0; i < 2; i++) while (recv(sharers[i], got, sizeof got, MSG_DONTWAIT) > 0) {}
    for (uint32_t i = 0; i < FRAMES; i++) send_frame(turn * FRAMES + i);
    for (uint32_t i = 0; i < FRAMES; i++) {
        char beside[128] __attribute__((aligned(8))), frame[64];
        struct iovec v = {frame, sizeof frame};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = beside, .msg_controllen = sizeof beside};
        int ready = await(&(struct pollfd){bound, POLLIN, 0}, 1, before);
        if (!ready) return 0;
        CHECK(ready == 1, "frame %u did not come", i);
        ssize_t len = recvmsg(bound, &m, MSG_DONTWAIT);
        if (inode() != before) return 0;
        CHECK(len == 14 + 8, "a frame of another length");
        uint32_t words[2];
        memcpy(words, frame + 14, sizeof words);
        CHECK(words[0] == own && words[1] == turn * FRAMES + i, "frame %u, not %u", words[1], turn * FRAMES + i);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        CHECK(c && c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA, "nothing beside it");
    }
    unsigned seen = 0, of[2] = {0, 0};
    while (of[0] + of[1] < FRAMES) {
        struct pollfd p[2] = {{sharers[0], POLLIN, 0}, {sharers[1], POLLIN, 0}};
        int ready = await(p, 2, before);
        if (!ready) return 0;
        CHECK(ready > 0, "%u and %u frames", of[0], of[1]);
        for (int i = 0; i < 2; i++) {
            if (!p[i].revents) continue;
            ssize_t len = recv(sharers[i], got, sizeof got, MSG_DONTWAIT);
            if (inode() != before) return 0;
            CHECK(len == 8 && got[0] == own && got[1] / FRAMES == turn, "a frame of another turn");
            CHECK(!(seen >> got[1] % FRAMES & 1), "frame %u came to both", got[1] % FRAMES);
            seen |= 1u << got[1] % FRAMES, of[i]++;
        }
    }
    CHECK(recv(silent, got, sizeof got, MSG_DONTWAIT) == -1 && errno == EAGAIN, "one that takes nothing got something");
    return 1;
}

int main(void) {
    own = htonl(getpid()), group = (getpid() & 0xffff) | PACKET_FANOUT_LB << 16;
    loopback = if_nametoindex("lo");
    CHECK(loopback, "no loopback interface");
    sender = MUST(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0)), silent = MUST(socket(AF_PACKET, SOCK_RAW, 0));
    MUST(setsockopt(sender, SOL_PACKET, PACKET_QDISC_BYPASS, &(int){1}, sizeof(int)));
    bound = fresh(SOCK_RAW);
    MUST(setsockopt(bound, SOL_PACKET, PACKET_AUXDATA, &(int){1}, sizeof(int)));
    MUST(setsockopt(bound, SOL_PACKET, PACKET_VERSION, &(int){TPACKET_V2}, sizeof(int)));
    struct packet_mreq m = {.mr_ifindex = loopback, .mr_type = PACKET_MR_PROMISC};
    for (int i = 0; i < 2; i++) MUST(setsockopt(bound, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m));
    m = (struct packet_mreq){.mr_ifindex = loopback, .mr_type = PACKET_MR_MULTICAST, .mr_alen = 6, .mr_address = {1, 0, 94, 0, 0, 7}};
    MUST(setsockopt(bound, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m));
    for (int i = 0; i < 2; i++) {
        sharers[i] = fresh(SOCK_DGRAM);
        MUST(setsockopt(sharers[i], SOL_PACKET, PACKET_FANOUT, &group, sizeof(int)));
    }
    ready();
    uint32_t turn = 0;
    do {
        check();
        while (!exchange(++turn)) {} // no two resumes are as near to each other
    } while (go_on());
    return pass();
}
