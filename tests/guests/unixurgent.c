// Urgent data of UNIX streams (MSG_OOB): the byte, and places where one has been read out of band, wherever they are in the
// queue; in line with the others (SO_OOBINLINE); with senders and descriptors beside. A fresh socket that gets the same is the
// measure: looked at before any save, for the place of one byte can't be seen while another waits, and a save might come then.
#include "guest.h"
#include <sys/socket.h>
#include <sys/un.h>

// Small letters are sent as they come, capital ones urgently, + with a descriptor, * urgently with one. - takes the urgent byte
// out of band, a digit reads so many bytes. ! sets SO_OOBINLINE, % SO_PASSCRED, # closes the sender.
static const char *const all[] = {
    "abcXdef", "Xdef", "abcX", "X", "abcXdef3", "abcXdef31", "abcXdef2",
    "abcX-def", "X-def", "X-", "abcX-def3", "abcX-def2", "abcX-3",
    "abcXdefYghi", "XY", "abcX-defY-ghi", "abcX-Y-ghi", "X-Yghi", "X-abcY-defZ-g",
    "!abcXdef", "!Xdef", "!abcX", "!abcXdef3", "!abcXdef31", "abcX-def!",
    "abcXdef#", "abcX#", "X-#", "abcX-def#", "X#",
    "+Xab", "ab+cXd", "Xab+cd", "X+ab", "ab*cd", "*", "abcX-de+f", "+abX-de",
    "%abcXdef", "%abcX-def", "ab%cdX", "ab%cXd", "%X-",
};
enum { COUNT = sizeof all / sizeof *all };

struct pair { int near, far; };
static struct pair kept[COUNT];
static char looks[COUNT][512];

static void spoil(void) {
    char byte;
    CHECK(recv(kept[0].far, &byte, 1, MSG_OOB) == 1, "recv");
}

static void give(int to, const char *bytes, size_t len, int flags, int rights) {
    struct iovec part = {(void *)bytes, len};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (rights) {
        message.msg_control = control, message.msg_controllen = sizeof control;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        *head = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(head), &(int){1}, sizeof(int));
    }
    CHECK(sendmsg(to, &message, flags) == (ssize_t)len, "sendmsg");
}

static struct pair made(const char *script) {
    int ends[2], on = 1;
    char text[16];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    struct pair p = {ends[0], ends[1]};
    for (const char *c = script; *c;) {
        size_t run = strspn(c, "abcdefghijklmnopqrstuvwxyz");
        if (run) give(p.near, c, run, 0, 0);
        else if (*c == '+') give(p.near, c, 1, 0, 1);
        else if (*c == '*') give(p.near, c, 1, MSG_OOB, 1);
        else if (*c == '-') CHECK(recv(p.far, text, 1, MSG_OOB) == 1, "%s: out of band", script);
        else if (*c == '!') MUST(setsockopt(p.far, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
        else if (*c == '%') MUST(setsockopt(p.far, SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
        else if (*c == '#') MUST(close(p.near)), p.near = -1;
        else if (*c >= '0' && *c <= '9') CHECK(recv(p.far, text, *c - '0', 0) == *c - '0', "%s: reading", script);
        else give(p.near, c, 1, MSG_OOB, 0);
        c += run ? run : 1;
    }
    return p;
}

// What a call on one end says: its result, its errno, bytes and descriptors, and who sent them.
static void say_of(int fd, int flags, size_t most, char *out, size_t size) {
    char bytes[32] = "";
    union { struct cmsghdr head; char room[256]; } control;
    struct iovec part = {bytes, most};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    errno = 0;
    ssize_t n = recvmsg(fd, &message, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int error = n < 0 ? errno : 0, rights = 0, pid = -1;
    for (struct cmsghdr *head = n < 0 ? NULL : CMSG_FIRSTHDR(&message); head; head = CMSG_NXTHDR(&message, head)) {
        if (head->cmsg_type == SCM_RIGHTS) {
            int got;
            memcpy(&got, CMSG_DATA(head), sizeof got);
            MUST(close(got));
            rights++;
        } else memcpy(&pid, CMSG_DATA(head), sizeof pid);
    }
    snprintf(out, size, "%zd \"%s\" errno %d flags %#x rights %d pid %d", n, bytes, error, message.msg_flags, rights, pid);
}

// FIONREAD goes on counting an urgent byte that a read has passed over (net/unix/af_unix.c, manage_oob), but not in a new socket.
static int seen(int fd, const char *script, char *out, size_t size) {
    int readable, value;
    socklen_t len = sizeof value;
    struct pollfd p = {fd, POLLIN | POLLPRI | POLLRDHUP, 0};
    MUST(poll(&p, 1, 0));
    MUST(ioctl(fd, FIONREAD, &readable));
    if (strstr(script, "31")) readable = -1;
    MUST(getsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &value, &len));
    return snprintf(out, size, "events %#x, %d bytes, at the mark %d, inline %d; ", p.revents, readable, MUST(sockatmark(fd)), value);
}

// Everything that can be seen without taking anything.
static void look(int fd, const char *script, char *out, size_t size) {
    char whole[128], oob[128];
    say_of(fd, MSG_PEEK, 31, whole, sizeof whole);
    say_of(fd, MSG_PEEK | MSG_OOB, 1, oob, sizeof oob);
    int n = seen(fd, script, out, size);
    snprintf(out + n, size - n, "peek %s; out of band %s", whole, oob);
}

static void look_at_fresh_ones(void) {
    for (int i = 0; i < COUNT; i++) {
        struct pair fresh = made(all[i]);
        look(fresh.far, all[i], looks[i], sizeof looks[i]);
        if (fresh.near >= 0) MUST(close(fresh.near));
        MUST(close(fresh.far));
    }
}

static void check(void) {
    char got[512];
    for (int i = 0; i < COUNT; i++) {
        look(kept[i].far, all[i], got, sizeof got);
        CHECK(!strcmp(got, looks[i]), "%s: %s, not %s", all[i], got, looks[i]);
    }
}

// Reads all of both, the urgent byte last or first, and sends more.
static void read_all(int i) {
    struct pair fresh = made(all[i]);
    char got[512], want[512];
    for (int round = 0; round < 12; round++) {
        int flags = (round == i % 4) ? MSG_OOB : 0;
        size_t most = flags ? 1 : i % 3 ? 31 : 2;
        int a = seen(kept[i].far, all[i], got, sizeof got), b = seen(fresh.far, all[i], want, sizeof want);
        say_of(kept[i].far, flags, most, got + a, sizeof got - a);
        say_of(fresh.far, flags, most, want + b, sizeof want - b);
        CHECK(!strcmp(got, want), "%s: round %d: %s, not %s", all[i], round, got, want);
        if (round == 8 && fresh.near >= 0)
            for (int j = 0; j < 2; j++) give(j ? fresh.near : kept[i].near, "moreU", 5, MSG_OOB, 0);
    }
}

int main(void) {
    for (int i = 0; i < COUNT; i++) kept[i] = made(all[i]);
    look_at_fresh_ones();
    check();
    ready();
    do check();
    while (go_on());
    for (int i = 0; i < COUNT; i++) read_all(i);
    return pass();
}
