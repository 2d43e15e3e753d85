// UNIX sockets with names: paths (also relative, also of deleted files), abstract and automatic ones; listening, with
// connections that nobody has accepted yet; accepted; datagrams of many senders, and who sent each.
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"

typedef struct {
    struct sockaddr_un a;
    socklen_t len;
} Address;

static Address address(const char *name, size_t n) {
    Address out = {.a = {.sun_family = AF_UNIX}, .len = offsetof(struct sockaddr_un, sun_path) + n};
    memcpy(out.a.sun_path, name, n);
    return out;
}

static Address path(const char *name) { return address(name, strlen(name) + 1); }
static Address here(const char *name) { return path(guest_path(name)); }

static Address name(int fd) {
    Address out = {.len = sizeof out.a};
    MUST(getsockname(fd, (struct sockaddr *)&out.a, &out.len));
    return out;
}

static Address peer(int fd) {
    Address out = {.len = sizeof out.a};
    MUST(getpeername(fd, (struct sockaddr *)&out.a, &out.len));
    return out;
}

static int same(Address a, Address b) { return a.len == b.len && !memcmp(&a.a, &b.a, a.len); }

static int bound(int kind, Address a) {
    int fd = MUST(socket(AF_UNIX, kind, 0));
    // What an image does not bring back is the directory: a file may be there that was not when it was saved.
    while (a.len && bind(fd, (struct sockaddr *)&a.a, a.len)) {
        CHECK(errno == EADDRINUSE, "bind");
        MUST(unlink(a.a.sun_path));
    }
    return fd;
}

static int server(int kind, Address a, int backlog) {
    int fd = bound(kind, a);
    MUST(listen(fd, backlog));
    return fd;
}

static void reach(int fd, Address to) { MUST(connect(fd, (struct sockaddr *)&to.a, to.len)); }

static int client(int kind, Address to) {
    int fd = MUST(socket(AF_UNIX, kind, 0));
    reach(fd, to);
    return fd;
}

static pid_t maker(int fd) {
    struct ucred c;
    socklen_t len = sizeof c;
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &len));
    return c.pid;
}

static void put(int fd, const char *text) { CHECK(send(fd, text, strlen(text), MSG_DONTWAIT) == (ssize_t)strlen(text), "send"); }

static void get(int fd, const char *text) {
    char got[64];
    ssize_t n = recv(fd, got, sizeof got, MSG_DONTWAIT);
    CHECK(n == (ssize_t)strlen(text) && !memcmp(got, text, n), "%.*s where %s was to come", (int)n, got, text);
}

static int inbox;
static void spoil(void) {
    char c;
    CHECK(recv(inbox, &c, 1, 0) == 1, "recv");
}

// One datagram and where it came from.
static void from(int fd, const char *text, Address who) {
    char got[64];
    Address sender = {.len = sizeof sender.a};
    ssize_t n = recvfrom(fd, got, sizeof got, MSG_DONTWAIT, (struct sockaddr *)&sender.a, &sender.len);
    CHECK(n == (ssize_t)strlen(text) && !memcmp(got, text, n), "%.*s where %s was to come", (int)n, got, text);
    CHECK(same(sender, who), "%s came from %d bytes of %s", text, sender.len, sender.a.sun_path);
}

// The name of one as messages tell it.
static Address shown(int fd) {
    Address out = name(fd);
    if (out.len == sizeof(sa_family_t)) out.len = 0;
    return out;
}

enum { COUNT = 60 };
static struct {
    int fd;
    Address own, far;
    int connected;
} all[COUNT];
static int known;

// Names stay what they are now.
static int know(int fd, int connected) {
    CHECK(known < COUNT, "too many");
    all[known].fd = fd, all[known].own = name(fd), all[known].connected = connected;
    if (connected) all[known].far = peer(fd);
    known++;
    return fd;
}

int main(void) {
    char abstract[64];
    int n = snprintf(abstract, sizeof abstract, "%cckpt-guest-%d-%ld", 0, getpid(), (long)now_ns(CLOCK_REALTIME));
    Address hidden = address(abstract, n), nowhere = {.len = 0};
    umask(0);

    // A server with connections taken, and two that wait.
    int door = know(server(SOCK_STREAM, here("door"), 5), 0);
    MUST(chmod(guest_path("door"), 0640));
    int taken[3], ours[3];
    for (int i = 0; i < 3; i++) {
        ours[i] = i == 1 ? bound(SOCK_STREAM, here("caller")) : MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        reach(ours[i], here("door"));
        taken[i] = know(MUST(accept(door, NULL, NULL)), 1), know(ours[i], 1);
        put(ours[i], "to the server"), put(taken[i], "to the client");
    }
    pid_t child = MUST(fork());
    if (!child) {
        int fd = client(SOCK_STREAM, here("door"));
        CHECK(maker(fd) == getppid(), "who listens is %d", maker(fd));
        char word[8];
        CHECK(recv(fd, word, 8, 0) == 2 && !memcmp(word, "go", 2), "the child's recv");
        CHECK(maker(fd) == getppid(), "who listens is %d", maker(fd));
        _exit(0);
    }
    int of_child = know(MUST(accept(door, NULL, NULL)), 1);
    CHECK(maker(of_child) == child, "who connected is %d", maker(of_child));
    int waiting[2] = {client(SOCK_STREAM, here("door")), bound(SOCK_STREAM, path("second"))};
    reach(waiting[1], here("door"));

    // Packets, under an abstract name; one more waits.
    int packets = know(server(SOCK_SEQPACKET, hidden, 1), 0);
    int packet = know(client(SOCK_SEQPACKET, hidden), 1), packet_in = know(MUST(accept(packets, NULL, NULL)), 1);
    int packet_waits = know(client(SOCK_SEQPACKET, hidden), 1);
    MUST(shutdown(packet_waits, SHUT_WR));
    put(packet, "one"), put(packet, "another");

    // More than there would be room for now.
    int crowded = know(server(SOCK_STREAM, here("crowded"), 5), 0), crowd[3];
    for (int i = 0; i < 3; i++) crowd[i] = know(client(SOCK_STREAM, here("crowded")), 1);
    MUST(listen(crowded, 0));

    // A socket that took the place of another, as servers do that are started again.
    MUST(close(bound(SOCK_STREAM, path("renamed"))));
    int renamed = know(server(SOCK_STREAM, path("before"), 1), 0);
    MUST(rename("before", "renamed"));

    // A relative name, files that are gone, servers that are gone.
    int relative = know(server(SOCK_STREAM, path("relative"), 1), 0);
    MUST(chmod("relative", 0600));
    MUST(mkdir("inner", 0755)), MUST(chdir("inner"));
    int deleted = know(server(SOCK_STREAM, path("../deleted"), 3), 0);
    int deleted_client = know(client(SOCK_STREAM, path("../deleted")), 1), deleted_in = know(MUST(accept(deleted, NULL, NULL)), 1);
    MUST(unlink("../deleted")), MUST(chdir(".."));
    // By way of a descriptor.
    char by_number[64];
    snprintf(by_number, sizeof by_number, "/proc/self/fd/%d/through", MUST(open("inner", O_PATH | O_DIRECTORY)));
    int through = know(server(SOCK_STREAM, path(by_number), 1), 0);
    int closed = server(SOCK_STREAM, here("closed"), 1);
    int orphan = know(client(SOCK_STREAM, here("closed")), 1), orphan_in = know(MUST(accept(closed, NULL, NULL)), 1);
    MUST(close(closed));
    int left = server(SOCK_STREAM, here("left"), 1);
    int leftover = know(client(SOCK_STREAM, here("left")), 1), left_in = MUST(accept(left, NULL, NULL));
    put(left_in, "the last word"), MUST(close(left_in)), MUST(close(left));
    int idle = know(bound(SOCK_STREAM, here("idle")), 0);

    // Datagrams: of one that is connected by its name, one without a name, one with an automatic name, one that is gone.
    inbox = know(bound(SOCK_DGRAM, here("inbox")), 0);
    int senders[3] = {bound(SOCK_DGRAM, here("sender")), bound(SOCK_DGRAM, nowhere), bound(SOCK_DGRAM, address("", 0))};
    for (int i = 0; i < 3; i++) reach(senders[i], here("inbox")), know(senders[i], 1);
    int brief = bound(SOCK_DGRAM, here("brief"));
    reach(brief, here("inbox"));
    put(brief, "farewell"), put(senders[0], "first"), put(senders[1], "nameless"), put(senders[2], "automatic"), put(senders[0], "first again");
    MUST(close(brief));
    // A chain: each is connected to the next, which is connected elsewhere.
    int chain[3] = {bound(SOCK_DGRAM, here("chain-0")), bound(SOCK_DGRAM, address("", 0)), bound(SOCK_DGRAM, here("chain-2"))};
    reach(chain[0], name(chain[1])), put(chain[0], "along");
    reach(chain[1], name(chain[2])), know(chain[0], 1), know(chain[1], 1), know(chain[2], 0);
    put(chain[1], "the chain");
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    Address one = here("pair");
    MUST(bind(pair[0], (struct sockaddr *)&one.a, one.len)), know(pair[0], 1), know(pair[1], 1);
    put(pair[0], "with a name"), put(pair[1], "without");
    // Twins of which one has messages of the other, which is connected elsewhere since: without names, with the sender's, and
    // with a receiver that is connected to nobody.
    int elsewhere = bound(SOCK_DGRAM, here("elsewhere")), turned[3][2];
    for (int i = 0; i < 3; i++) {
        MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, turned[i]));
        Address own = here("turned");
        if (i == 1) MUST(bind(turned[i][0], (struct sockaddr *)&own.a, own.len));
        if (i == 2) MUST(connect(turned[i][1], &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(sa_family_t)));
        put(turned[i][0], "before"), put(turned[i][0], "it turned");
        reach(turned[i][0], here("elsewhere")), know(turned[i][0], 1), know(turned[i][1], i < 2);
    }
    int lost = bound(SOCK_DGRAM, here("lost"));
    int alone = bound(SOCK_DGRAM, nowhere);
    reach(alone, here("lost")), know(alone, 1);
    MUST(close(lost));

    ready();
    while (go_on()) {
        for (int i = 0; i < known; i++) {
            CHECK(same(name(all[i].fd), all[i].own), "the name of %d is %s, not %s", all[i].fd, name(all[i].fd).a.sun_path, all[i].own.a.sun_path);
            if (all[i].connected) CHECK(same(peer(all[i].fd), all[i].far), "the peer of %d is %s, not %s", all[i].fd, peer(all[i].fd).a.sun_path, all[i].far.a.sun_path);
        }
        for (int i = 0; i < 3; i++) {
            get(taken[i], "to the server"), get(ours[i], "to the client");
            put(ours[i], "to the server"), put(taken[i], "to the client");
            CHECK(maker(taken[i]) == getpid() && maker(ours[i]) == getpid(), "makers %d and %d", maker(taken[i]), maker(ours[i]));
        }
        CHECK(maker(of_child) == child, "who connected is %d", maker(of_child));
        // Who has waited longest is first; another comes.
        int in = MUST(accept(door, NULL, NULL));
        put(waiting[0], "hello"), get(in, "hello");
        CHECK(same(peer(in), name(waiting[0])) && maker(in) == getpid() && maker(waiting[0]) == getpid(), "who waited longest");
        MUST(close(in)), MUST(close(waiting[0]));
        waiting[0] = waiting[1];
        waiting[1] = bound(SOCK_STREAM, path("second")), reach(waiting[1], here("door"));
        get(packet_in, "one"), put(packet, "one"), get(packet_in, "another"), put(packet, "another");
        put(deleted_in, "x"), get(deleted_client, "x"), put(orphan, "y"), get(orphan_in, "y");
        int visitor = client(SOCK_STREAM, path("relative"));
        MUST(close(MUST(accept(relative, NULL, NULL)))), MUST(close(visitor));
        visitor = know(client(SOCK_STREAM, path("renamed")), 1);
        MUST(close(MUST(accept(renamed, NULL, NULL)))), MUST(close(visitor)), known--;
        visitor = client(SOCK_STREAM, path("inner/through"));
        MUST(close(MUST(accept(through, NULL, NULL)))), MUST(close(visitor));
        CHECK(access("before", F_OK), "the renamed socket has its first name, too");
        struct stat at;
        CHECK(stat("relative", &at) == 0 && (at.st_mode & 0777) == 0600, "mode %o", at.st_mode);
        CHECK(stat("door", &at) == 0 && (at.st_mode & 0777) == 0640, "mode %o", at.st_mode);
        CHECK(access("deleted", F_OK) && !access("idle", F_OK), "files");
        static const char *const texts[] = {"first", "nameless", "automatic", "first again"};
        static const int who[] = {0, 1, 2, 0};
        // The one that is gone comes first; the others in a round.
        from(inbox, "farewell", here("brief"));
        int again = bound(SOCK_DGRAM, here("brief"));
        for (int i = 0; i < 4; i++) {
            Address sender = name(senders[who[i]]);
            if (who[i] == 1) sender.len = 0;
            from(inbox, texts[i], sender);
        }
        reach(again, here("inbox")), put(again, "farewell"), MUST(close(again));
        for (int i = 0; i < 4; i++) put(senders[who[i]], texts[i]);
        from(chain[2], "the chain", name(chain[1])), put(chain[1], "the chain");
        CHECK(send(chain[0], "x", 1, MSG_DONTWAIT) == -1 && errno == EPERM, "one that is connected elsewhere");
        from(pair[1], "with a name", name(pair[0])), get(pair[0], "without");
        put(pair[0], "with a name"), put(pair[1], "without");
        for (int i = 0; i < 3; i++) {
            put(turned[i][0], "since"), from(elsewhere, "since", shown(turned[i][0]));
            CHECK(maker(turned[i][0]) == getpid() && maker(turned[i][1]) == getpid(), "makers %d and %d", maker(turned[i][0]), maker(turned[i][1]));
            CHECK(send(turned[i][1], "x", 1, MSG_DONTWAIT) == -1 && errno == (i < 2 ? EPERM : ENOTCONN), "to a twin that is connected elsewhere");
        }
        CHECK(send(idle, "x", 1, 0) == -1 && errno == ENOTCONN, "one that is not connected");
    }
    from(chain[1], "along", name(chain[0]));
    for (int i = 0; i < 3; i++) from(turned[i][1], "before", shown(turned[i][0])), from(turned[i][1], "it turned", shown(turned[i][0]));
    put(of_child, "go"), join_child(child);
    int last = MUST(accept(packets, NULL, NULL));
    char c;
    int room = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    Address full = here("crowded");
    CHECK(connect(room, (struct sockaddr *)&full.a, full.len) == -1 && errno == EAGAIN, "room for one more");
    for (int i = 0; i < 3; i++) {
        int in = MUST(accept(crowded, NULL, NULL));
        put(crowd[i], "of a crowd"), get(in, "of a crowd");
    }
    CHECK(recv(last, &c, 1, 0) == 0, "the end of a connection that waited");
    put(last, "late"), get(packet_waits, "late");
    CHECK(recv(deleted_client, &c, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "more than there was");
    get(leftover, "the last word");
    CHECK(recv(leftover, &c, 1, 0) == 0 && send(leftover, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "a peer that is gone");
    CHECK(send(alone, "x", 1, 0) == -1 && errno == ECONNREFUSED, "a receiver that is gone: %s", strerror(errno));
    return pass();
}
