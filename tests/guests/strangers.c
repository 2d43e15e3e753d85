// Whom it talks with is outside: a server at the socket "server", a writer and a reader of the FIFOs "inward" and "outward", a receiver
// of datagrams "receiver". Kept while the program lives; closed when it has been resumed (the harness makes the file
// "resumed"), behind what could still be read. And a socket whose file nobody knows how to find.
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"

static int fd;

static void spoil(void) { MUST(shutdown(fd, SHUT_RD)); }

static int reach(int kind, const char *name) {
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    strcpy(where.sun_path, name);
    int to = MUST(socket(AF_UNIX, kind, 0));
    MUST(connect(to, (struct sockaddr *)&where, sizeof where));
    return to;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    fd = reach(SOCK_STREAM, "server");
    int datagrams = reach(SOCK_DGRAM, "receiver");
    struct sockaddr_un astray = {.sun_family = AF_UNIX}, now;
    int here = MUST(open(".", O_PATH)), unfound = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    snprintf(astray.sun_path, sizeof astray.sun_path, "/proc/self/fd/%d/astray", here);
    MUST(bind(unfound, (struct sockaddr *)&astray, sizeof astray)), MUST(close(here));
    int in = MUST(open("inward", O_RDONLY)), out = MUST(open("outward", O_WRONLY));
    char text[16];
    CHECK(recv(fd, text, 5, MSG_WAITALL) == 5 && !memcmp(text, "hello", 5), "hello");
    CHECK(read(in, text, 5) == 5 && !memcmp(text, "hello", 5), "hello");
    ready();
    while (go_on()) {
        int n;
        CHECK(recv(fd, text, sizeof text, MSG_PEEK) == 6 && !memcmp(text, "unread", 6), "what waits to be read");
        CHECK(ioctl(in, FIONREAD, &n) == 0 && n == 6, "%d bytes in the FIFO", n);
        struct sockaddr_un peer;
        socklen_t len = sizeof peer;
        CHECK(getpeername(fd, (struct sockaddr *)&peer, &len) == 0 && !strcmp(peer.sun_path, guest_path("server")), "the peer's name");
        len = sizeof now;
        CHECK(getsockname(unfound, (struct sockaddr *)&now, &len) == 0 && !strcmp(now.sun_path, astray.sun_path), "a socket's name");
    }
    CHECK(recv(fd, text, 6, MSG_WAITALL) == 6 && !memcmp(text, "unread", 6), "what waited to be read");
    CHECK(read(in, text, 6) == 6 && !memcmp(text, "unread", 6), "what waited in the FIFO");
    if (told("resumed")) {
        CHECK(recv(fd, text, 1, 0) == 0 && send(fd, "x", 1, 0) == -1 && errno == EPIPE, "the socket is not closed");
        CHECK(read(in, text, 1) == 0, "the FIFO has a writer");
        CHECK(write(out, "x", 1) == -1 && errno == EPIPE, "the FIFO has a reader");
        CHECK(send(datagrams, "x", 1, 0) == -1 && errno == ECONNREFUSED, "the receiver is there");
    } else {
        CHECK(send(fd, "x", 1, 0) == 1 && recv(fd, text, 1, 0) == 1, "the one outside");
        CHECK(write(out, "x", 1) == 1 && read(in, text, 1) == 1 && send(datagrams, "x", 1, 0) == 1, "those outside");
    }
    return pass();
}
