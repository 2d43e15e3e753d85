// signalfd(2): its mask, a queue with values behind it, a blocked reader, two descriptors of one.
#include <sys/signalfd.h>

#include "guest.h"

#define QUEUED 12
static int fd;
static void spoil(void) {
    struct signalfd_siginfo info;
    CHECK(read(fd, &info, sizeof info) == sizeof info, "read");
}

static volatile int blocked_got;
static void *reader(void *arg) {
    struct signalfd_siginfo info;
    CHECK(read(*(int *)arg, &info, sizeof info) == sizeof info, "blocked read");
    CHECK(info.ssi_signo == SIGUSR2 && info.ssi_int == 4242, "the blocked reader got signal %u", info.ssi_signo);
    blocked_got = 1;
    return NULL;
}

int main(void) {
    sigset_t all, mask, other;
    sigfillset(&all);
    MUST(sigprocmask(SIG_SETMASK, &all, NULL));
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1), sigaddset(&mask, SIGRTMIN + 1), sigaddset(&mask, SIGRTMIN + 2);
    sigemptyset(&other);
    sigaddset(&other, SIGUSR2);
    fd = MUST(signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC));
    int copy = MUST(dup(fd)), waiting = MUST(signalfd(-1, &other, 0));
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, reader, &waiting));
    MUST(kill(getpid(), SIGUSR1));
    for (int i = 0; i < QUEUED; i++) MUST(sigqueue(getpid(), SIGRTMIN + 2 - i % 2, (union sigval){.sival_int = i}));
    MUST(kill(getpid(), SIGTERM)); // not in the mask
    ready();
    while (go_on()) {
        struct pollfd p = {copy, POLLIN, 0};
        CHECK(poll(&p, 1, 0) == 1, "nothing to read");
        CHECK(fcntl(fd, F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(copy, F_GETFD) == 0, "flags");
        CHECK(!blocked_got, "the blocked reader got something");
    }
    struct signalfd_siginfo info;
    CHECK(read(copy, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1 && info.ssi_pid == (uint32_t)getpid() && info.ssi_code == SI_USER, "first signal");
    for (int odd = 1; odd >= 0; odd--)
        for (int i = odd; i < QUEUED; i += 2) {
            CHECK(read(fd, &info, sizeof info) == sizeof info, "signal %d is missing", i);
            CHECK(info.ssi_signo == (uint32_t)SIGRTMIN + 2 - i % 2 && info.ssi_int == i && info.ssi_code == SI_QUEUE, "signal %u value %d instead of %d", info.ssi_signo, info.ssi_int, i);
        }
    CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN, "a signal too many: %u", info.ssi_signo);
    MUST(sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 4242}));
    PTHREAD(pthread_join(thread, NULL));
    CHECK(sigtimedwait(&all, NULL, &(struct timespec){0, 0}) == SIGTERM, "the signal outside the mask");
    return pass();
}
