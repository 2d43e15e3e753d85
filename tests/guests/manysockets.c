// As many sockets as its limit of open files allows, but for two hundred. The other end of each but one pair is closed, and a byte
// waits in it that tells which one it is.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"

static int *sockets, count;
static void spoil(void) {
    char byte;
    CHECK(recv(sockets[count / 2], &byte, 1, 0) == 1, "recv");
}

static char mark(int index) { return (char)mix(index); }

// A socket whose other end said something and went.
static int connection(int index, int door) {
    int ends[2];
    char byte = mark(index);
    if (index % 3) {
        struct sockaddr_in to;
        socklen_t len = sizeof to;
        MUST(getsockname(door, (struct sockaddr *)&to, &len));
        ends[1] = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        MUST(connect(ends[1], (struct sockaddr *)&to, len));
        ends[0] = MUST(accept4(door, NULL, NULL, SOCK_CLOEXEC));
    } else {
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    }
    CHECK(send(ends[1], &byte, 1, 0) == 1, "send");
    MUST(close(ends[1]));
    return ends[0];
}

int main(void) {
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    count = (limit.rlim_max < 5000 ? limit.rlim_max : 5000) - 200;
    CHECK(count > 500, "a hard limit of %d open files is too low", (int)limit.rlim_max);
    sockets = calloc(count, sizeof *sockets);
    CHECK(sockets, "calloc");
    int door = MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), pair[2];
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(bind(door, (struct sockaddr *)&here, sizeof here));
    MUST(listen(door, 16));
    for (int i = 0; i < count; i++) sockets[i] = connection(i, door);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    ready();
    while (go_on()) {
        for (int i = 0; i < count; i++) {
            char bytes[2];
            CHECK(recv(sockets[i], bytes, 2, MSG_PEEK) == 1 && bytes[0] == mark(i), "socket %d", i);
        }
        char byte = 'x';
        CHECK(send(pair[0], &byte, 1, 0) == 1 && recv(pair[1], &byte, 1, 0) == 1, "the pair");
    }
    for (int i = 0; i < count; i++) {
        char bytes[2];
        CHECK(recv(sockets[i], bytes, 2, 0) == 1 && recv(sockets[i], bytes, 2, 0) == 0, "the end of socket %d", i);
    }
    MUST(close(connection(1, door)));
    return pass();
}
