// A connection with somebody outside, at the port in the first argument: kept while the program lives, reset when it has
// been resumed (the harness makes the file "resumed"), with what could still be read.
#include "guest.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

static int fd;

static void spoil(void) { MUST(shutdown(fd, SHUT_RD)); }

int main(int argc, char **argv) {
    CHECK(argc == 2, "usage");
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(fd, (void *)&a, sizeof a));
    char text[16] = "";
    CHECK(recv(fd, text, 5, MSG_WAITALL) == 5 && !memcmp(text, "hello", 5), "hello");
    ready();
    while (go_on()) CHECK(recv(fd, text, sizeof text, MSG_PEEK) == 6 && !memcmp(text, "unread", 6), "what waits to be read");
    CHECK(recv(fd, text, 6, MSG_WAITALL) == 6 && !memcmp(text, "unread", 6), "what waited to be read");
    if (told("resumed")) {
        CHECK(recv(fd, text, 1, 0) == -1 && errno == ECONNRESET, "no reset");
        CHECK(recv(fd, text, 1, 0) == 0, "no end");
        CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "it can still be written to");
    } else {
        CHECK(send(fd, "x", 1, 0) == 1 && recv(fd, text, 1, 0) == 1, "the one outside");
    }
    return pass();
}
