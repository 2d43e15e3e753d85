// A connection with somebody outside, at the port in the first argument: kept while the program lives, and with what could
// still be read when it has been resumed. Then it is reset, or has ended (the harness makes the file "resumed" or "closed").
// With "stream" as second argument the one outside sends all the time.
#include "guest.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

static int fd;

static void spoil(void) { MUST(shutdown(fd, SHUT_RD)); }

static unsigned char byte_of(uint64_t i) { return mix(i / 64) >> i % 8; }

// Reads some, of which every byte must be the next; whether there is more to come.
static int more(uint64_t *got, int flags) {
    unsigned char bytes[9000];
    ssize_t n = recv(fd, bytes, sizeof bytes, flags);
    if (n == -1 && errno == EAGAIN) return 1;
    if (n == -1) CHECK(errno == ECONNRESET && told("resumed"), "recv");
    for (ssize_t i = 0; i < n; i++) CHECK(bytes[i] == byte_of(*got + i), "byte %llu", (unsigned long long)*got + i);
    if (n > 0) *got += n;
    return n > 0;
}

static int stream(void) {
    uint64_t got = 0;
    int comes = more(&got, 0);
    ready();
    while (go_on()) comes = comes && more(&got, MSG_DONTWAIT);
    while (comes) comes = more(&got, 0);
    char text[64];
    snprintf(text, sizeof text, "%llu\n", (unsigned long long)got);
    int out = MUST(open("got", O_WRONLY | O_CREAT | O_TRUNC, 0644));
    CHECK(write(out, text, strlen(text)) == (ssize_t)strlen(text), "write");
    return pass();
}

int main(int argc, char **argv) {
    CHECK(argc >= 2, "usage");
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(fd, (void *)&a, sizeof a));
    if (argc > 2) return stream();
    char text[16] = "";
    CHECK(recv(fd, text, 5, MSG_WAITALL) == 5 && !memcmp(text, "hello", 5), "hello");
    ready();
    while (go_on()) CHECK(recv(fd, text, sizeof text, MSG_PEEK) == 6 && !memcmp(text, "unread", 6), "what waits to be read");
    CHECK(recv(fd, text, 6, MSG_WAITALL) == 6 && !memcmp(text, "unread", 6), "what waited to be read");
    if (told("resumed") || told("closed")) {
        if (told("resumed")) CHECK(recv(fd, text, 1, 0) == -1 && errno == ECONNRESET, "no reset");
        CHECK(recv(fd, text, 1, 0) == 0, "no end");
        // Whoever has closed learns of one more word, and answers that nobody is there.
        if (told("closed")) {
            CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == 1, "send");
            struct pollfd p = {fd, 0, 0};
            CHECK(poll(&p, 1, 5000) == 1 && p.revents & POLLHUP, "events %#x", p.revents);
        }
        CHECK(send(fd, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "it can still be written to");
    } else {
        CHECK(send(fd, "x", 1, 0) == 1 && recv(fd, text, 1, 0) == 1, "the one outside");
    }
    return pass();
}
