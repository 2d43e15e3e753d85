// Descriptors on their way through UNIX sockets: of files, pipes, sockets that nobody else has, in several messages; with
// credentials; a socket in its own queue; one on its way in one that is on its way.
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"

static void give(int fd, const char *text, const int *fds, int n) {
    union {
        char bytes[CMSG_SPACE(8 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {(char *)text, strlen(text)};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    *CMSG_FIRSTHDR(&m) = (struct cmsghdr){.cmsg_len = CMSG_LEN(n * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, n * sizeof(int));
    if (!n) m.msg_control = NULL, m.msg_controllen = 0;
    CHECK(sendmsg(fd, &m, MSG_DONTWAIT) == (ssize_t)strlen(text), "sendmsg");
}

// Takes a message; its descriptors go to `fds`. The sender's pid, 0 if it is not told.
static pid_t take(int fd, const char *text, int *fds, int n) {
    union {
        char bytes[512];
        struct cmsghdr align;
    } control;
    char got[64];
    int came = 0;
    pid_t sender = 0;
    struct iovec part = {got, strlen(text)};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
    ssize_t len = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    CHECK(len == (ssize_t)strlen(text) && !memcmp(got, text, len), "%zd bytes, %.*s where %s was to come", len, len < 0 ? 0 : (int)len, got, text);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_type == SCM_CREDENTIALS) sender = ((struct ucred *)CMSG_DATA(c))->pid;
        if (c->cmsg_type != SCM_RIGHTS) continue;
        came = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        CHECK(came <= n, "%s came with %d descriptors", text, came);
        memcpy(fds, CMSG_DATA(c), came * sizeof(int));
    }
    CHECK(came == n && !(m.msg_flags & MSG_CTRUNC), "%s came with %d descriptors", text, came);
    return sender;
}

static void drop(const int *fds, int n) {
    for (int i = 0; i < n; i++) MUST(close(fds[i]));
}

static void hears(int fd, const char *text) {
    char got[64];
    ssize_t n = read(fd, got, sizeof got);
    CHECK(n == (ssize_t)strlen(text) && !memcmp(got, text, n), "%.*s where %s was to come", n < 0 ? 0 : (int)n, got, text);
}

static void tells(int fd, const char *text) { CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write"); }

static int stream[2];
static void spoil(void) {
    char c;
    CHECK(recv(stream[1], &c, 1, 0) == 1, "recv");
}

int main(void) {
    int file = MUST(open(guest_path("file"), O_RDWR | O_CREAT | O_TRUNC, 0644));
    int other = MUST(open(guest_path("other"), O_RDWR | O_CREAT | O_TRUNC, 0644));
    tells(file, "0123456789"), tells(other, "abc");
    int datagrams[2], self[2], outer[2], inner[2], pipes[2], alone[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream)), MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, self)), MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, outer));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, inner)), MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, alone));
    MUST(pipe(pipes));
    int yes = 1;
    MUST(setsockopt(datagrams[1], SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes));

    // Files that are open besides, and one that is not any more.
    tells(stream[0], "before ");
    give(stream[0], "files", (int[]){file, other}, 2), MUST(close(other));
    tells(stream[0], " between "), give(stream[0], "pipe", pipes, 1), tells(stream[0], " after");
    tells(pipes[1], "in the pipe"), MUST(close(pipes[0]));
    // Sockets that nobody else has; one is on its way in one that is on its way.
    give(datagrams[0], "a socket", alone, 1), MUST(close(alone[0]));
    tells(alone[1], "to nobody yet");
    int server = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    CHECK(snprintf(where.sun_path, sizeof where.sun_path, "%s", guest_path("server")) < (int)sizeof where.sun_path, "a long path");
    MUST(bind(server, (struct sockaddr *)&where, sizeof where)), MUST(listen(server, 3));
    int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&where, sizeof where));
    give(datagrams[0], "a server", &server, 1), MUST(close(server));
    give(inner[0], "innermost", &file, 1);
    give(outer[0], "inner", inner, 2), drop(inner, 2);
    give(self[0], "itself", self, 2);
    pid_t author = MUST(fork());
    if (!author) {
        give(datagrams[0], "of a child", (int[]){file, self[0]}, 2);
        _exit(0);
    }
    join_child(author);
    ready();

    int fds[8];
    for (unsigned turn = 0; go_on(); turn++) {
        take(stream[1], "before ", NULL, 0), take(stream[1], "files", fds, 2);
        MUST(lseek(file, turn % 10, SEEK_SET));
        CHECK(lseek(fds[0], 0, SEEK_CUR) == turn % 10, "another position in a file");
        char c;
        CHECK(read(fds[0], &c, 1) == 1 && c == (char)('0' + turn % 10), "byte %c", c);
        MUST(lseek(fds[1], 0, SEEK_SET)), hears(fds[1], "abc");
        CHECK(fcntl(fds[0], F_GETFD) == FD_CLOEXEC, "flags of a descriptor that came");
        tells(stream[0], "before "), give(stream[0], "files", fds, 2), drop(fds, 2);
        take(stream[1], " between ", NULL, 0), take(stream[1], "pipe", fds, 1), take(stream[1], " after", NULL, 0);
        hears(fds[0], "in the pipe"), tells(pipes[1], "in the pipe");
        tells(stream[0], " between "), give(stream[0], "pipe", fds, 1), tells(stream[0], " after"), drop(fds, 1);

        CHECK(take(datagrams[1], "a socket", fds, 1) == getpid(), "the sender");
        hears(fds[0], "to nobody yet"), tells(fds[0], "back"), hears(alone[1], "back"), tells(alone[1], "to nobody yet");
        give(datagrams[0], "a socket", fds, 1), drop(fds, 1);
        CHECK(take(datagrams[1], "a server", fds, 1) == getpid(), "the sender");
        int in = MUST(accept(fds[0], NULL, NULL));
        tells(in, "accepted"), hears(client, "accepted"), MUST(close(in)), MUST(close(client));
        client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        MUST(connect(client, (struct sockaddr *)&where, sizeof where));
        give(datagrams[0], "a server", fds, 1), drop(fds, 1);
        pid_t sender = take(datagrams[1], "of a child", fds, 2);
        CHECK(sender == author, "the sender is %d, not %d", sender, author);
        author = getpid();
        give(datagrams[0], "of a child", fds, 2), drop(fds, 2);

        take(outer[1], "inner", inner, 2), take(inner[1], "innermost", fds, 1);
        CHECK(lseek(fds[0], 0, SEEK_CUR) == lseek(file, 0, SEEK_CUR), "another file");
        give(inner[0], "innermost", fds, 1), drop(fds, 1), give(outer[0], "inner", inner, 2), drop(inner, 2);

        take(self[1], "itself", fds, 2);
        tells(fds[0], "through"), hears(fds[1], "through");
        give(fds[0], "itself", fds, 2), drop(fds, 2);
    }
    return pass();
}
