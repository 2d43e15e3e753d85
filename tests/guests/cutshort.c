// recvmmsg that has had some of its messages returns with those at a stop. It leaves no error behind that nobody knows.
#include <sys/socket.h>

#include "guest.h"

static int ends[2];
static volatile unsigned received, damaged;

static void spoil(void) { damaged = 1; }

static void *receiver(void *arg) {
    char text[2][8];
    struct iovec parts[2] = {{text[0], 8}, {text[1], 8}};
    struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &parts[0], .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &parts[1], .msg_iovlen = 1}}};
    for (;;) {
        int n = recvmmsg(ends[0], messages, 2, 0, NULL);
        CHECK(n >= 1, "recvmmsg");
        for (int i = 0; i < n; i++) {
            if (messages[i].msg_len == 3) return arg;
            CHECK(messages[i].msg_len == sizeof received && !memcmp(text[i], (void *)&received, sizeof received), "another message than %u", received);
            received++;
        }
    }
}

int main(void) {
    pthread_t thread;
    MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends));
    PTHREAD(pthread_create(&thread, NULL, receiver, NULL));
    unsigned sent = 0;
    // From now on it has always had one, and waits for the other.
    CHECK(send(ends[1], &sent, sizeof sent, 0) == sizeof sent, "send");
    sent++;
    ready();
    while (go_on()) {
        for (int i = 0; i < 2; i++, sent++) CHECK(send(ends[1], &sent, sizeof sent, 0) == sizeof sent, "send");
        while (received + 1 < sent && !damaged) nap(1000);
        CHECK(!damaged, "spoilt");
        nap(2000);
    }
    for (int i = 0; i < 2; i++) CHECK(send(ends[1], "end", 3, 0) == 3, "send");
    PTHREAD(pthread_join(thread, NULL));
    CHECK(received == sent, "%u of %u messages", received, sent);
    return pass();
}
