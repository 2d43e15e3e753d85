// Who has sent what waits on UNIX connections that nobody has accepted: other processes, that want to know who sends to them, are
// bound to a name, or neither. The server asks on the socket that listens, or first when it has accepted.
#include "guest.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

enum { LARGE = 70000 };

static struct {
    int type;
    int asked;  // by the server, where it listens
    int asks;   // the client, before it connects: the kernel gives it a name; 2: after that
    int named;  // it has given itself one
    int parts, length;
} all[] = {
    {.type = SOCK_STREAM, .parts = 1, .length = 6},
    {.type = SOCK_STREAM, .asks = 1, .parts = 2, .length = 5},
    {.type = SOCK_STREAM, .asks = 2, .parts = 1, .length = 4},
    {.type = SOCK_STREAM, .named = 1, .parts = 1, .length = LARGE},
    {.type = SOCK_STREAM, .asked = 1, .parts = 1, .length = 3},
    {.type = SOCK_STREAM, .asked = 1, .named = 1},
    {.type = SOCK_SEQPACKET, .parts = 3, .length = 9},
    {.type = SOCK_SEQPACKET, .asks = 1, .parts = 2, .length = 6000},
    {.type = SOCK_SEQPACKET, .asked = 1, .named = 1, .parts = 2, .length = 0},
};
enum { COUNT = sizeof all / sizeof *all };

static struct { int door, pid, told; } of[COUNT];

static void spoil(void) { of[1].pid++; }

static int number(int fd, int name) {
    int value = -1;
    socklen_t len = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, name, &value, &len));
    return value;
}

static void set(int fd, int name) { MUST(setsockopt(fd, SOL_SOCKET, name, &(int){1}, sizeof(int))); }

static socklen_t name_of(int fd, struct sockaddr_un *name) {
    socklen_t len = sizeof *name;
    MUST(getsockname(fd, (void *)name, &len));
    return len;
}

static unsigned char byte_of(int i, int at) { return mix(i * 1000003 + at); }

// A process that has sent something, looks at its socket as often as it is told to, and has an answer at the end.
static void client(int i, int told) {
    static unsigned char bytes[LARGE];
    struct sockaddr_un door, name, now;
    socklen_t len = name_of(of[i].door, &door);
    int fd = MUST(socket(AF_UNIX, all[i].type, 0));
    MUST(close(of[i].door));
    if (all[i].asks == 1) set(fd, SO_PASSCRED);
    if (all[i].named) {
        struct sockaddr_un mine = {.sun_family = AF_UNIX};
        int n = snprintf(mine.sun_path + 1, sizeof mine.sun_path - 1, "earlysender %d %d", (int)getpid(), i);
        MUST(bind(fd, (void *)&mine, offsetof(struct sockaddr_un, sun_path) + 1 + n));
    }
    MUST(connect(fd, (void *)&door, len));
    if (all[i].asks == 2) set(fd, SO_PASSCRED);
    for (int part = 0; part < all[i].parts; part++) {
        for (int b = 0; b < all[i].length; b++) bytes[b] = byte_of(i, part * all[i].length + b);
        CHECK(send(fd, bytes, all[i].length, 0) == all[i].length, "send");
    }
    len = name_of(fd, &name);
    CHECK((len > sizeof(sa_family_t)) == (all[i].asks == 1 || all[i].named), "%d: a name of %d bytes", i, (int)len);
    for (char what = 'r';; MUST(read(told, &what, 1))) {
        CHECK(number(fd, SO_PASSCRED) == (all[i].asks != 0), "%d: SO_PASSCRED of the client", i);
        CHECK(name_of(fd, &now) == len && !memcmp(&now, &name, len), "%d: another name", i);
        if (what == 'e') break;
        MUST(write(told, &what, 1));
    }
    char text[4];
    CHECK(recv(fd, text, 4, all[i].type == SOCK_STREAM ? MSG_WAITALL : 0) == 4 && !memcmp(text, "well", 4), "%d: the answer", i);
    _exit(0);
}

static void tell(char what) {
    char back;
    for (int i = 0; i < COUNT; i++) {
        MUST(write(of[i].told, &what, 1));
        if (what != 'e') CHECK(MUST(read(of[i].told, &back, 1)) == 1 && back == what, "%d: no answer of the client", i);
    }
}

static void accept_one(int i) {
    static unsigned char bytes[LARGE];
    struct ucred peer;
    socklen_t len = sizeof peer;
    int fd = MUST(accept4(of[i].door, NULL, NULL, SOCK_CLOEXEC));
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len));
    CHECK(peer.pid == of[i].pid && peer.uid == getuid() && peer.gid == getgid(), "%d: %d has connected", i, peer.pid);
    // A connection is like the socket that listened as it was made, or as it was accepted, before Linux 6.16.
    CHECK(number(fd, SO_PASSCRED) == all[i].asked, "%d: SO_PASSCRED of what was accepted", i);
    set(fd, SO_PASSCRED);
    for (int at = 0, part = 0; part < all[i].parts; part++) {
        union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(struct ucred))]; } control;
        struct iovec to = {bytes, all[i].type == SOCK_STREAM ? (size_t)all[i].length : sizeof bytes};
        struct msghdr message = {.msg_iov = &to, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT | (all[i].type == SOCK_STREAM ? MSG_WAITALL : 0));
        CHECK(n == all[i].length, "%d: %zd bytes of %d", i, n, all[i].length);
        for (int b = 0; b < n; b++, at++) CHECK(bytes[b] == byte_of(i, at), "%d: byte %d", i, at);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        CHECK(head && head->cmsg_type == SCM_CREDENTIALS, "%d: nobody has sent it", i);
        struct ucred sender;
        memcpy(&sender, CMSG_DATA(head), sizeof sender);
        CHECK(sender.pid == of[i].pid && sender.uid == getuid() && sender.gid == getgid(), "%d: %d, %d, %d has sent it", i, sender.pid, (int)sender.uid, (int)sender.gid);
    }
    struct sockaddr_un name;
    len = sizeof name;
    MUST(getpeername(fd, (void *)&name, &len));
    CHECK((len > sizeof(sa_family_t)) == (all[i].asks == 1 || all[i].named), "%d: its name has %d bytes", i, (int)len);
    CHECK(send(fd, "well", 4, 0) == 4, "%d: an answer", i);
}

int main(void) {
    for (int i = 0; i < COUNT; i++) {
        int ends[2];
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        int door = of[i].door = MUST(socket(AF_UNIX, all[i].type | SOCK_CLOEXEC, 0));
        MUST(bind(door, (void *)&name, sizeof(sa_family_t)));
        if (all[i].asked) set(door, SO_PASSCRED);
        MUST(listen(door, 3));
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
        of[i].pid = MUST(fork());
        if (of[i].pid == 0) {
            for (int other = 0; other < i; other++) MUST(close(of[other].door)), MUST(close(of[other].told));
            MUST(close(ends[0]));
            client(i, ends[1]);
        }
        MUST(close(ends[1]));
        of[i].told = ends[0];
        char what;
        CHECK(MUST(read(ends[0], &what, 1)) == 1 && what == 'r', "%d has not begun", i);
    }
    ready();
    do tell('c');
    while (go_on());
    for (int i = 0; i < COUNT; i++) accept_one(i);
    tell('e');
    for (int i = 0, status; i < COUNT; i++)
        CHECK(MUST(waitpid(-1, &status, 0)) > 0 && status == 0, "a client has ended with %#x", status);
    return pass();
}
