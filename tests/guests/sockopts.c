// Options of sockets: every one that can be set and read as a number is set to something that a new socket does not have,
// of each kind of socket; beside them the interface (SO_BINDTODEVICE), the congestion control of TCP, lingering, a filter.
#include "guest.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

struct option { int level, name; socklen_t size; char value[64]; };
static struct socket_ {
    const char *what;
    int fd, count, connected, filtered;
    struct option options[160];
} sockets[16];
static int count;

static void spoil(void) { MUST(setsockopt(sockets[0].fd, SOL_SOCKET, SO_KEEPALIVE, &(int){0}, sizeof(int))); }

// What is no choice of the program's, or can't be one of several at a time.
static int not_compared(const struct socket_ *s, int level, int name) {
    switch (level) {
    case SOL_SOCKET:
        // Buffers are doubled at each setting and limited by the host; SO_PEERPIDFD (77) is a new descriptor each time.
        return name == SO_SNDBUF || name == SO_RCVBUF || name == 32 || name == 33 || name == 77 || name == SO_PEEK_OFF || name == SO_BINDTODEVICE
               || (name == SO_INCOMING_CPU && s->connected);
    case IPPROTO_TCP:
        // Those the kernel changes as it goes, and modes that are more than an option.
        return name == TCP_QUICKACK || name == TCP_TIMESTAMP || name == TCP_REPAIR || name == TCP_ULP || name == TCP_FASTOPEN_KEY
               || (s->connected && (name == TCP_MAXSEG || name == TCP_WINDOW_CLAMP || name == TCP_DEFER_ACCEPT || name == TCP_FASTOPEN));
    // Of a connection those that it takes over from its first packet, and what bind(2) sets to get the address again.
    case IPPROTO_IP: return s->connected && name == IP_MULTICAST_TTL;
    case IPPROTO_IPV6:
        return name == 1 /* IPV6_ADDRFORM */
               || (s->connected && (name == IPV6_MULTICAST_IF || name == IPV6_MULTICAST_HOPS || name == IPV6_V6ONLY));
    default: return 0;
    }
}

static void look(int fd, struct option *o) {
    o->size = sizeof o->value;
    memset(o->value, 0, sizeof o->value);
    if (getsockopt(fd, o->level, o->name, o->value, &o->size)) o->size = 0;
}

static int differs(const struct option *a, const struct option *b) { return a->size != b->size || memcmp(a->value, b->value, a->size); }

static void keep(struct socket_ *s, const struct option *o) {
    CHECK(s->count < 160, "too many options");
    s->options[s->count++] = *o;
}

static void set_all(struct socket_ *s, int level, int last) {
    static const int values[] = {1, 0, 2, 5, 90, 1000, 3};
    for (int name = 1; name <= last; name++) {
        struct option before = {.level = level, .name = name}, after = before;
        look(s->fd, &before);
        if (before.size == 0 || before.size > sizeof(int) || not_compared(s, level, name)) continue;
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            if (setsockopt(s->fd, level, name, &values[i], sizeof(int))) continue;
            look(s->fd, &after);
            if (differs(&before, &after)) break;
        }
    }
}

// One option may have changed another: all count as they are in the end.
static void note(struct socket_ *s) {
    static const struct { int level, last; } levels[] = {{SOL_SOCKET, 90}, {IPPROTO_TCP, 50}, {IPPROTO_IP, 60}, {IPPROTO_IPV6, 80}, {IPPROTO_UDP, 104}};
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        for (int name = 1; name <= levels[i].last; name++) {
            struct option now = {.level = levels[i].level, .name = name};
            look(s->fd, &now);
            int text = now.level == SOL_SOCKET ? name == SO_BINDTODEVICE : now.level == IPPROTO_TCP && name == TCP_CONGESTION;
            if (now.size && (text || (now.size <= sizeof(int) && !not_compared(s, now.level, name)))) keep(s, &now);
        }
    }
}

// What is no number.
static void larger(struct socket_ *s, int i) {
    MUST(setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 20 + i}, sizeof(struct linger)));
    // The first 1000 bytes of everything.
    struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_IMM, 1000 + i), BPF_STMT(BPF_RET | BPF_A, 0)};
    // Not every user may have one for TCP.
    s->filtered = !setsockopt(s->fd, SOL_SOCKET, SO_ATTACH_FILTER, &(struct sock_fprog){2, code}, sizeof(struct sock_fprog));
    CHECK(s->filtered || errno == EPERM, "SO_ATTACH_FILTER of %s", s->what);
}

static void check_larger(const struct socket_ *s, int i) {
    struct linger l;
    socklen_t size = sizeof l;
    MUST(getsockopt(s->fd, SOL_SOCKET, SO_LINGER, &l, &size));
    CHECK(l.l_onoff == 1 && l.l_linger == 20 + i, "%s: lingers %d, %d s", s->what, l.l_onoff, l.l_linger);
    // Its length is in instructions.
    struct sock_filter code[8];
    size = 8;
    MUST(getsockopt(s->fd, SOL_SOCKET, SO_GET_FILTER, code, &size));
    CHECK(s->filtered ? size == 2 && code[0].code == (BPF_LD | BPF_IMM) && code[0].k == 1000u + i && code[1].code == (BPF_RET | BPF_A) : !size, "%s: a filter of %u", s->what, size);
}

static void text(struct socket_ *s, int level, int name, const char *value) { MUST(setsockopt(s->fd, level, name, value, strlen(value))); }

static struct socket_ *add(const char *what, int fd, int connected) {
    sockets[count] = (struct socket_){.what = what, .fd = fd, .connected = connected};
    larger(&sockets[count], count); // one of the numbers locks the filter
    return &sockets[count++];
}

static void internet(struct socket_ *s, int family) {
    set_all(s, IPPROTO_IP, 60);
    if (family == AF_INET6) set_all(s, IPPROTO_IPV6, 80);
}

static void check(void) {
    for (int i = 0; i < count; i++) {
        for (int at = 0; at < sockets[i].count; at++) {
            struct option was = sockets[i].options[at], is = was;
            look(sockets[i].fd, &is);
            CHECK(!differs(&was, &is), "%s: option %d of level %d is %d, was %d", sockets[i].what, was.name, was.level, *(int *)is.value, *(int *)was.value);
        }
        check_larger(&sockets[i], i);
    }
}

int main(void) {
    for (int v6 = 0; v6 < 2; v6++) {
        int family = v6 ? AF_INET6 : AF_INET;
        struct sockaddr_storage a = {.ss_family = family};
        socklen_t size = v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
        if (v6) ((struct sockaddr_in6 *)&a)->sin6_addr = in6addr_loopback;
        else ((struct sockaddr_in *)&a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        struct sockaddr_storage nowhere = a, door_at;
        struct socket_ *s = add(v6 ? "TCP over IPv6" : "TCP", MUST(socket(family, SOCK_STREAM, 0)), 0);
        set_all(s, SOL_SOCKET, 90);
        set_all(s, IPPROTO_TCP, 50);
        internet(s, family);
        text(s, IPPROTO_TCP, TCP_CONGESTION, "reno");
        int door = MUST(socket(family, SOCK_STREAM, 0));
        s = add(v6 ? "listening over IPv6" : "listening", door, 0);
        text(s, SOL_SOCKET, SO_BINDTODEVICE, "lo");
        MUST(bind(door, (void *)&nowhere, size));
        MUST(listen(door, 4));
        door_at = nowhere;
        MUST(getsockname(door, (void *)&door_at, &size));
        int near = MUST(socket(family, SOCK_STREAM, 0));
        MUST(connect(near, (void *)&door_at, size));
        int far = MUST(accept(door, NULL, NULL));
        set_all(s, SOL_SOCKET, 90);
        set_all(s, IPPROTO_TCP, 50);
        internet(s, family);
        for (int side = 0; side < 2; side++) {
            s = add(side ? "accepted" : "connected", side ? far : near, 1);
            set_all(s, SOL_SOCKET, 90);
            set_all(s, IPPROTO_TCP, 50);
            internet(s, family);
        }
        s = add(v6 ? "UDP over IPv6" : "UDP", MUST(socket(family, SOCK_DGRAM, 0)), 0);
        text(s, SOL_SOCKET, SO_BINDTODEVICE, "lo");
        set_all(s, SOL_SOCKET, 90);
        internet(s, family);
        // Not the cork (1), which is no option to keep.
        for (int name = 100; name <= 104; name++) {
            (void)!setsockopt(s->fd, IPPROTO_UDP, name, &(int){1}, sizeof(int));
        }
        MUST(bind(s->fd, (void *)&nowhere, size));
    }
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    set_all(add("UNIX", pair[0], 0), SOL_SOCKET, 90);
    for (int i = 0; i < count; i++) note(&sockets[i]);
    check();
    ready();
    do check();
    while (go_on());
    return pass();
}
