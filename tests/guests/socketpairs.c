// socketpair(2): what waits in both directions, borders of messages, closed and shut ends, options, who made them, a
// reader and a writer blocked in one, an epoll set.
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"

#define KEEP 70000
#define FLOOD 1500000

static int stream[2];
static void spoil(void) {
    char c;
    CHECK(recv(stream[0], &c, 1, 0) == 1, "recv");
}

static void put(int fd, uint64_t from, size_t n) {
    static unsigned char b[KEEP];
    for (size_t i = 0; i < n; i++) b[i] = mix(from + i);
    CHECK(send(fd, b, n, 0) == (ssize_t)n, "send");
}

static void get(int fd, uint64_t from, size_t n) {
    static unsigned char b[KEEP];
    for (size_t at = 0; at < n;) {
        ssize_t got = MUST(recv(fd, b, n - at, 0));
        CHECK(got > 0, "end of the stream");
        for (ssize_t i = 0; i < got; i++) CHECK(b[i] == (unsigned char)mix(from + at + i), "byte %lu", from + at + i);
        at += got;
    }
}

static int option(int fd, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, name, &value, &len));
    return value;
}

static void set(int fd, int name, int value) { MUST(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value)); }

static pid_t maker(int fd) {
    struct ucred c;
    socklen_t len = sizeof c;
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &len));
    CHECK(c.uid == getuid() && c.gid == getgid(), "user %d group %d of the peer", c.uid, c.gid);
    return c.pid;
}

static int waiting(int fd) {
    int n;
    MUST(ioctl(fd, FIONREAD, &n));
    return n;
}

// One message, its sender's pid (0: not told), or -1.
static ssize_t message(int fd, char *out, size_t room, pid_t *sender) {
    char control[256];
    struct iovec part = {out, room};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
    *sender = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); n >= 0 && c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_type == SCM_CREDENTIALS) *sender = ((struct ucred *)CMSG_DATA(c))->pid;
    return n;
}

static int made_by_the_dead[2];
static int make_and_die(void *arg) {
    (void)arg;
    return socketpair(AF_UNIX, SOCK_STREAM, 0, made_by_the_dead) != 0;
}

static const char *const texts[] = {"one", "", "three and more", "4"};

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    enum { DGRAM, PACKET, FULL, EMPTY, PING, HALF, BROKEN, RESET, SHUT, OPTIONS, CREDENTIALS, LARGE, COUNT };
    static const int kinds[COUNT] = {[DGRAM] = SOCK_DGRAM, [PACKET] = SOCK_SEQPACKET, [CREDENTIALS] = SOCK_DGRAM, [LARGE] = SOCK_SEQPACKET};
    int p[COUNT][2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
    for (int i = 0; i < COUNT; i++) MUST(socketpair(AF_UNIX, kinds[i] ? kinds[i] : SOCK_STREAM, 0, p[i]));
    int alone = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    put(stream[0], 0, KEEP);
    put(stream[1], 1000000, KEEP);

    static char stack[65536];
    int status;
    pid_t dead = MUST(clone(make_and_die, stack + sizeof stack, CLONE_FILES | CLONE_VM | SIGCHLD, NULL));
    CHECK(waitpid(dead, &status, 0) == dead && status == 0, "the maker");

    // One that sends with its name on it, and dies.
    set(p[CREDENTIALS][0], SO_PASSCRED, 1);
    pid_t author = MUST(fork());
    if (!author) _exit(send(p[CREDENTIALS][1], "mine", 4, 0) != 4);
    join_child(author);
    CHECK(send(p[CREDENTIALS][1], "ours", 4, 0) == 4, "send");

    pid_t flooder = MUST(fork());
    if (!flooder) {
        static unsigned char flood[FLOOD];
        MUST(close(p[FULL][0]));
        for (int i = 0; i < FLOOD; i++) flood[i] = mix(i * 3);
        for (ssize_t at = 0; at < FLOOD;) {
            ssize_t n = send(p[FULL][1], flood + at, FLOOD - at, 0);
            CHECK(n > 0, "the blocked send returned %zd", n);
            at += n;
        }
        _exit(0);
    }
    pid_t reader = MUST(fork());
    if (!reader) {
        for (int i = 0; i < COUNT; i++) MUST(close(p[i][1]));
        CHECK(maker(p[EMPTY][0]) == getppid(), "the maker in the child is %d", maker(p[EMPTY][0]));
        char word[8];
        ssize_t n = recv(p[EMPTY][0], word, 8, 0);
        CHECK(n == 5 && !memcmp(word, "hello", 5), "the blocked recv returned %zd", n);
        CHECK(recv(p[EMPTY][0], word, 8, 0) == 0, "no end of the stream");
        _exit(0);
    }
    pid_t echo = MUST(fork());
    if (!echo) {
        MUST(close(p[PING][0]));
        uint64_t n, last = 0;
        ssize_t got;
        while ((got = recv(p[PING][1], &n, 8, 0)) == 8) {
            CHECK(n == last + 1, "%lu after %lu", n, last);
            last = n;
            CHECK(send(p[PING][1], &n, 8, 0) == 8, "send");
        }
        CHECK(got == 0, "echo's recv");
        _exit(0);
    }
    MUST(close(p[FULL][1])), MUST(close(p[EMPTY][0])), MUST(close(p[PING][1]));
    for (int i = 0; i < 4; i++)
        for (int way = 0; way < 2; way++) {
            CHECK(send(p[DGRAM][way], texts[i], strlen(texts[i]), 0) == (ssize_t)strlen(texts[i]), "send");
            CHECK(send(p[PACKET][way], texts[i], strlen(texts[i]), 0) == (ssize_t)strlen(texts[i]), "send");
        }
    static char large[150000];
    for (size_t i = 0; i < sizeof large; i++) large[i] = mix(i);
    CHECK(send(p[LARGE][0], large, sizeof large, 0) == sizeof large, "send");
    MUST(shutdown(p[LARGE][0], SHUT_WR));
    CHECK(send(p[HALF][1], "rest", 4, 0) == 4, "send");
    CHECK(send(p[RESET][1], "last", 4, 0) == 4 && send(p[RESET][0], "unread", 6, 0) == 6, "send");
    CHECK(send(p[SHUT][0], "before", 6, 0) == 6, "send");
    MUST(shutdown(p[SHUT][0], SHUT_WR));
    // Of each kind one that receives nothing more, behind what it has, and one that is shut both ways.
    static const int every[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
    int deaf[3][2], mute[3][2];
    for (int i = 0; i < 3; i++) {
        MUST(socketpair(AF_UNIX, every[i], 0, deaf[i])), MUST(socketpair(AF_UNIX, every[i], 0, mute[i]));
        CHECK(send(deaf[i][1], "heard", 5, 0) == 5 && send(mute[i][1], "in", 2, 0) == 2 && send(mute[i][0], "out", 3, 0) == 3, "send");
        MUST(shutdown(deaf[i][0], SHUT_RD)), MUST(shutdown(mute[i][0], SHUT_RDWR));
    }
    // The children hold copies of these: only the reader, which keeps the other half, must not.
    int o = p[OPTIONS][0];
    struct timeval in = {7, 250000}, out = {0, 40000};
    set(o, SO_SNDBUF, 30000), set(o, SO_RCVBUF, 50000), set(o, SO_RCVLOWAT, 3), set(o, SO_PRIORITY, 5);
    MUST(setsockopt(o, SOL_SOCKET, SO_RCVTIMEO, &in, sizeof in));
    MUST(setsockopt(o, SOL_SOCKET, SO_SNDTIMEO, &out, sizeof out));
    CHECK(send(p[OPTIONS][1], "peek me", 7, 0) == 7, "send");
    set(o, SO_PEEK_OFF, 2);
    int fresh_size = option(p[HALF][0], SO_SNDBUF);
    MUST(fcntl(o, F_SETOWN, getpid())), MUST(fcntl(o, F_SETSIG, SIGUSR2)), signal(SIGUSR2, SIG_IGN);
    MUST(fcntl(o, F_SETFL, O_NONBLOCK | O_ASYNC));
    while (waiting(p[FULL][0]) < 100000) nap(100);
    int ep = MUST(epoll_create1(0));
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, p[HALF][0], &(struct epoll_event){.events = EPOLLIN | EPOLLRDHUP, .data.u64 = 77}));
    // Those whose peer is to be gone for good: nobody else may have it.
    int gone[3][2];
    for (int i = 0; i < 3; i++) MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, gone[i]));
    CHECK(send(gone[0][1], "rest", 4, 0) == 4, "send");
    CHECK(send(gone[1][1], "last", 4, 0) == 4 && send(gone[1][0], "unread", 6, 0) == 6, "send");
    for (int i = 0; i < 3; i++) MUST(close(gone[i][1]));
    MUST(epoll_ctl(ep, EPOLL_CTL_MOD, p[HALF][0], &(struct epoll_event){.events = EPOLLIN, .data.u64 = 77}));
    int deaf_events[3][2], mute_events[3][2];
    for (int i = 0; i < 6; i++) {
        struct pollfd d = {deaf[i / 2][i % 2], POLLIN | POLLRDHUP, 0}, m = {mute[i / 2][i % 2], POLLIN | POLLRDHUP, 0};
        MUST(poll(&d, 1, 0)), MUST(poll(&m, 1, 0));
        deaf_events[i / 2][i % 2] = d.revents, mute_events[i / 2][i % 2] = m.revents;
    }
    ready();
    uint64_t turn = 0, at = 0;
    char block[64];
    while (go_on()) {
        turn++;
        uint64_t back;
        CHECK(send(p[PING][0], &turn, 8, 0) == 8 && recv(p[PING][0], &back, 8, 0) == 8 && back == turn, "ping-pong");
        // Not many small ones: what the kernel needs for each counts against the buffer, and a full one would block us.
        size_t n = 1 + mix(turn) % 3500;
        get(stream[1], at, n), put(stream[0], at + KEEP, n);
        get(stream[0], 1000000 + at, n), put(stream[1], 1000000 + at + KEEP, n);
        at += n;
        CHECK(waiting(stream[0]) == KEEP && waiting(stream[1]) == KEEP, "%d and %d bytes wait", waiting(stream[0]), waiting(stream[1]));
        for (int i = 0; i < 4; i++)
            for (int way = 0; way < 4; way++) {
                int *pair = p[way < 2 ? DGRAM : PACKET], to = way & 1;
                ssize_t want = strlen(texts[i]), got = recv(pair[to], block, sizeof block, MSG_DONTWAIT);
                CHECK(got == want && !memcmp(block, texts[i], want), "message %d is of %zd bytes", i, got);
                CHECK(send(pair[!to], texts[i], want, 0) == want, "send");
            }
        CHECK(maker(stream[0]) == getpid() && maker(p[DGRAM][1]) == getpid(), "the maker is %d", maker(stream[0]));
        CHECK(maker(made_by_the_dead[1]) == dead, "the dead maker is %d", maker(made_by_the_dead[1]));
        CHECK(option(o, SO_SNDBUF) == 60000 && option(o, SO_RCVBUF) == 100000, "buffers of %d and %d", option(o, SO_SNDBUF), option(o, SO_RCVBUF));
        CHECK(option(o, SO_RCVLOWAT) == 3 && option(o, SO_PRIORITY) == 5, "options");
        CHECK(option(o, SO_PEEK_OFF) == 2 && option(stream[0], SO_PEEK_OFF) == -1, "peek offset %d", option(o, SO_PEEK_OFF));
        CHECK(option(p[CREDENTIALS][0], SO_PASSCRED) == 1 && option(stream[0], SO_PASSCRED) == 0, "SO_PASSCRED");
        CHECK(option(p[HALF][0], SO_SNDBUF) == fresh_size && option(p[DGRAM][0], SO_SNDBUF) == fresh_size, "a buffer nobody set");
        struct timeval t;
        socklen_t len = sizeof t;
        MUST(getsockopt(o, SOL_SOCKET, SO_RCVTIMEO, &t, &len));
        CHECK(t.tv_sec == 7 && t.tv_usec / 10000 == 25, "receive time-out %ld.%06ld", t.tv_sec, t.tv_usec);
        MUST(getsockopt(o, SOL_SOCKET, SO_SNDTIMEO, &t, &len));
        CHECK(t.tv_sec == 0 && t.tv_usec / 10000 == 4, "send time-out %ld.%06ld", t.tv_sec, t.tv_usec);
        CHECK(fcntl(o, F_GETFL) == (O_RDWR | O_NONBLOCK | O_ASYNC) && fcntl(stream[0], F_GETFL) == O_RDWR, "flags %#x and %#x", fcntl(o, F_GETFL), fcntl(stream[0], F_GETFL));
        CHECK(fcntl(o, F_GETOWN) == getpid() && fcntl(o, F_GETSIG) == SIGUSR2, "owner");
        CHECK(recv(o, block, 3, MSG_PEEK) == 3 && !memcmp(block, "ek ", 3), "a peek sees %.3s", block);
        set(o, SO_PEEK_OFF, 2);
        CHECK(send(p[SHUT][0], "x", 1, 0) == -1 && errno == EPIPE, "send on a shut socket");
        for (int i = 0; i < 3; i++) {
            CHECK(send(deaf[i][1], "x", 1, 0) == -1 && errno == EPIPE, "send to a deaf socket, kind %d", i);
            CHECK(send(deaf[i][0], "y", 1, 0) == 1 && recv(deaf[i][1], block, 1, MSG_DONTWAIT) == 1 && *block == 'y', "a deaf socket can't send, kind %d", i);
            CHECK(send(mute[i][0], "x", 1, 0) == -1 && errno == EPIPE && send(mute[i][1], "x", 1, 0) == -1 && errno == EPIPE, "one that is shut, kind %d", i);
            for (int end = 0; end < 2; end++) {
                struct pollfd d = {deaf[i][end], POLLIN | POLLRDHUP, 0}, m = {mute[i][end], POLLIN | POLLRDHUP, 0};
                MUST(poll(&d, 1, 0)), MUST(poll(&m, 1, 0));
                CHECK(d.revents == deaf_events[i][end] && m.revents == mute_events[i][end], "kind %d end %d polls %#x and %#x", i, end, d.revents, m.revents);
            }
        }
        CHECK(send(p[SHUT][1], "y", 1, 0) == 1 && recv(p[SHUT][0], block, 1, 0) == 1 && *block == 'y', "the other way");
        CHECK(send(gone[2][0], "x", 1, 0) == -1 && errno == EPIPE && recv(gone[2][0], block, 1, 0) == 0, "a closed peer");
        CHECK(recv(alone, block, 1, 0) == -1 && errno == EINVAL, "a socket that was never connected: %s", strerror(errno));
        struct pollfd poll_gone[2] = {{gone[0][0], POLLIN, 0}, {gone[1][0], POLLIN, 0}};
        CHECK(poll(poll_gone, 2, 0) == 2 && poll_gone[0].revents == (POLLIN | POLLHUP), "a closed peer polls %#x", poll_gone[0].revents);
        CHECK(poll_gone[1].revents == (POLLIN | POLLHUP | POLLERR), "a reset polls %#x", poll_gone[1].revents);
        struct epoll_event e;
        CHECK(epoll_wait(ep, &e, 1, 0) == 1 && e.data.u64 == 77 && e.events == EPOLLIN, "epoll");
    }
    pid_t sender;
    CHECK(message(p[CREDENTIALS][0], block, sizeof block, &sender) == 4 && sender == author && !memcmp(block, "mine", 4), "the dead author is %d, not %d", sender, author);
    CHECK(message(p[CREDENTIALS][0], block, sizeof block, &sender) == 4 && sender == getpid() && !memcmp(block, "ours", 4), "the author is %d", sender);
    CHECK(recv(p[HALF][0], block, 16, 0) == 4 && !memcmp(block, "rest", 4), "half");
    CHECK(recv(gone[0][0], block, 16, 0) == 4 && !memcmp(block, "rest", 4) && recv(gone[0][0], block, 16, 0) == 0, "what a closed peer left");
    CHECK(recv(gone[1][0], block, 16, 0) == 4 && !memcmp(block, "last", 4), "what came before a reset");
    CHECK(recv(gone[1][0], block, 16, 0) == -1 && errno == ECONNRESET && recv(gone[1][0], block, 16, 0) == 0, "the reset");
    for (int i = 0; i < 3; i++) {
        CHECK(recv(deaf[i][0], block, 16, MSG_DONTWAIT) == 5 && recv(deaf[i][0], block, 16, 0) == 0, "what a deaf socket had, kind %d", i);
        CHECK(recv(mute[i][0], block, 16, MSG_DONTWAIT) == 2 && recv(mute[i][0], block, 16, 0) == 0, "what came to one that is shut, kind %d", i);
        CHECK(recv(mute[i][1], block, 16, MSG_DONTWAIT) == 3 && !memcmp(block, "out", 3), "what came from one that is shut, kind %d", i);
    }
    CHECK(recv(p[SHUT][1], block, 16, 0) == 6 && recv(p[SHUT][1], block, 16, 0) == 0, "what came before a shutdown");
    static char packet[200000];
    CHECK(recv(p[LARGE][1], packet, sizeof packet, 0) == sizeof large && !memcmp(packet, large, sizeof large), "the large packet");
    CHECK(recv(p[LARGE][1], packet, sizeof packet, 0) == 0, "more than the large packet");
    CHECK(send(p[EMPTY][1], "hello", 5, 0) == 5, "send");
    MUST(shutdown(p[EMPTY][1], SHUT_WR)), MUST(shutdown(p[PING][0], SHUT_WR));
    for (int done = 0; done < FLOOD;) {
        static unsigned char piece[65536];
        ssize_t n = MUST(recv(p[FULL][0], piece, sizeof piece, 0));
        CHECK(n > 0, "the flood ends after %d bytes", done);
        for (ssize_t i = 0; i < n; i++, done++) CHECK(piece[i] == (unsigned char)mix(done * 3), "flood byte %d", done);
    }
    join_child(flooder), join_child(reader), join_child(echo);
    return pass();
}
