// Urgent data of TCP (MSG_OOB) on the loopback interface: the byte and its mark, before, at and behind where the program
// reads, read out of band or not, and in line with the others (SO_OOBINLINE).
#include "guest.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

// What waits: so many bytes of TEXT are left, of which one is the urgent one.
static const char TEXT[] = "before!after";
enum { MARK = 6, LENGTH = 12 };

static struct {
    int near, far;     // who sends, who receives
    int from;          // how many bytes were read
    int taken, inline_; // the urgent byte was read out of band; SO_OOBINLINE
    int length;        // what was sent of TEXT
    int closed;        // the sender is gone
} all[] = {
    {.length = LENGTH},
    {.length = LENGTH, .taken = 1},
    {.length = LENGTH, .from = MARK},
    {.length = LENGTH, .from = MARK, .taken = 1},
    {.length = MARK + 1},
    {.length = MARK + 1, .taken = 1},
    {.length = MARK + 1, .from = MARK, .taken = 1},
    {.length = LENGTH, .inline_ = 1},
    {.length = LENGTH, .inline_ = 1, .from = MARK},
    {.length = LENGTH, .inline_ = 1, .from = MARK + 1},
    {.length = LENGTH, .closed = 1},
    {.length = LENGTH, .closed = 1, .taken = 1, .from = 2},
};
enum { COUNT = sizeof all / sizeof *all };

static void spoil(void) {
    char byte;
    MUST(recv(all[0].far, &byte, 1, MSG_OOB));
}

static int at_mark(int fd) { return MUST(sockatmark(fd)); }

static int readable(int fd) {
    int bytes;
    MUST(ioctl(fd, FIONREAD, &bytes));
    return bytes;
}

static void check_one(int i) {
    int fd = all[i].far, from = all[i].from, length = all[i].length;
    int passed = from > MARK, left = MARK - from, end = length - from;
    struct pollfd p = {fd, POLLPRI, 0};
    MUST(poll(&p, 1, 0));
    CHECK(!!(p.revents & POLLPRI) == (!passed && !all[i].taken), "%d: events %#x", i, p.revents);
    CHECK(at_mark(fd) == (from == MARK), "%d: at the mark: %d", i, at_mark(fd));
    CHECK(readable(fd) == (all[i].inline_ || passed ? end : left), "%d: %d bytes can be read", i, readable(fd));
    char text[32] = "";
    // A look ends in front of the mark, or begins behind it.
    ssize_t n = recv(fd, text, sizeof text, MSG_PEEK | MSG_DONTWAIT);
    if (!passed && left > 0) CHECK(n == left && !memcmp(text, TEXT + from, n), "%d: before the mark: %.*s", i, (int)n, text);
    else {
        int at = all[i].inline_ ? from : MARK + 1;
        int want = length - at;
        CHECK(want ? n == want && !memcmp(text, TEXT + at, n) : n == -1 && errno == EAGAIN, "%d: behind the mark: %zd", i, n);
    }
    n = recv(fd, text, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT);
    int there = !passed && !all[i].taken && !all[i].inline_;
    CHECK(there ? n == 1 && *text == TEXT[MARK] : n == -1 && errno == EINVAL, "%d: out of band: %zd", i, n);
    int value;
    socklen_t size = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &value, &size));
    CHECK(value == all[i].inline_, "%d: SO_OOBINLINE %d", i, value);
}

static void check(void) {
    for (int i = 0; i < COUNT; i++) check_one(i);
}

// Everything in the order in which it was sent.
static void read_all(int i) {
    char text[32] = "", want[32];
    int fd = all[i].far, from = all[i].from, got = 0;
    while (got < (int)sizeof text) {
        ssize_t n = recv(fd, text + got, sizeof text - got, MSG_DONTWAIT);
        if (n <= 0) {
            CHECK(n == 0 ? all[i].closed : errno == EAGAIN && !all[i].closed, "%d: %zd in the end", i, n);
            break;
        }
        got += n;
    }
    int len = 0;
    for (int at = from; at < all[i].length; at++) {
        if (at != MARK || all[i].inline_) want[len++] = TEXT[at];
    }
    CHECK(got == len && !memcmp(text, want, len), "%d: %.*s instead of %.*s", i, got, text, len, want);
}

int main(void) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int door = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(door, (void *)&a, sizeof a));
    MUST(listen(door, 5));
    MUST(getsockname(door, (void *)&a, &size));
    for (int i = 0; i < COUNT; i++) {
        all[i].near = MUST(socket(AF_INET, SOCK_STREAM, 0));
        MUST(connect(all[i].near, (void *)&a, sizeof a));
        int fd = all[i].far = MUST(accept(door, NULL, NULL));
        MUST(setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &all[i].inline_, sizeof(int)));
        CHECK(send(all[i].near, TEXT, MARK, 0) == MARK && send(all[i].near, "!", 1, MSG_OOB) == 1, "send");
        int rest = all[i].length - MARK - 1;
        if (rest) CHECK(send(all[i].near, TEXT + MARK + 1, rest, 0) == rest, "send");
        char text[32];
        if (all[i].taken) CHECK(recv(fd, text, 1, MSG_OOB) == 1, "out of band");
        for (int at = 0; at < all[i].from;) at += MUST(recv(fd, text, all[i].from - at, 0));
        if (all[i].closed) MUST(close(all[i].near));
    }
    check();
    ready();
    do check();
    while (go_on());
    for (int i = 0; i < COUNT; i++) read_all(i);
    // And once more.
    CHECK(send(all[0].near, "?", 1, MSG_OOB) == 1, "send");
    char byte;
    struct pollfd p = {all[0].far, POLLPRI, 0};
    CHECK(poll(&p, 1, 5000) == 1 && recv(all[0].far, &byte, 1, MSG_OOB) == 1 && byte == '?', "new urgent data");
    return pass();
}
