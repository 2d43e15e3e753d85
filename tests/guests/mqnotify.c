// mq_notify(3): being told of a message by a signal (caught, waited for), by a thread, or not at all; with read-only descriptors; in
// a child; again and again.
#include <mqueue.h>

#include "guest.h"

enum { CAUGHT, WAITED, THREAD, NOTHING, CHILD, ROUND, QUEUES };
static const uint64_t secret = 0x1122334455667788;
static char names[QUEUES][64];
static mqd_t queue[QUEUES];
static volatile sig_atomic_t caught, rounds;
static volatile uint64_t caught_value, round_value;
static _Atomic uint64_t called;

static void put(int which) {
    mqd_t writing = MUST(mq_open(names[which], O_WRONLY));
    MUST(mq_send(writing, "news", 4, which));
    MUST(mq_close(writing));
}

// Takes the message out again, with which the registration has ended.
static void take(int which) {
    char text[16];
    unsigned priority;
    CHECK(mq_receive(queue[which], text, sizeof text, &priority) == 4 && !memcmp(text, "news", 4), "message");
    CHECK(priority == (unsigned)which, "priority %u", priority);
    CHECK(mq_receive(queue[which], text, sizeof text, NULL) == -1 && errno == EAGAIN, "a second message");
}

static void spoil(void) { MUST(mq_notify(queue[NOTHING], NULL)); }

static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    if (info->si_code != SI_MESGQ || info->si_pid != getpid()) abort();
    caught++, caught_value = (uintptr_t)info->si_value.sival_ptr;
}

static void in_round(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    if (info->si_code != SI_MESGQ) abort();
    rounds++, round_value = (uintptr_t)info->si_value.sival_ptr;
}

static void call(union sigval value) { called = (uintptr_t)value.sival_ptr; }

static void by_signal(int which, int signal, uint64_t value) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal};
    event.sigev_value.sival_ptr = (void *)(uintptr_t)value;
    MUST(mq_notify(queue[which], &event));
}

static int is_registered(int which) {
    struct sigevent event = {.sigev_notify = SIGEV_NONE};
    if (mq_notify(queue[which], &event) == 0) return 0;
    CHECK(errno == EBUSY, "mq_notify");
    return 1;
}

static void wait_for(int signal, uint64_t value) {
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set), sigaddset(&set, signal);
    CHECK(MUST(sigwaitinfo(&set, &info)) == signal && info.si_code == SI_MESGQ, "code %d", info.si_code);
    CHECK((uintptr_t)info.si_value.sival_ptr == value, "value %p", info.si_value.sival_ptr);
}

static void leave_note(void) {
    char self[PATH_MAX];
    ssize_t n = MUST(readlink("/proc/self/exe", self, sizeof self));
    FILE *note = fopen(guest_path("ipcs"), "w");
    CHECK(note, "ipcs");
    for (int i = 0; i < QUEUES; i++) fprintf(note, "%.*s unlink %s\n", (int)n, self, names[i]);
    CHECK(fclose(note) == 0, "ipcs");
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "unlink")) return mq_unlink(argv[2]) ? 1 : 0;
    for (int i = 0; i < QUEUES; i++) {
        snprintf(names[i], sizeof names[i], "/ckpt-guest-%d-%lx-%d", getpid(), (long)now_ns(CLOCK_REALTIME), i);
        struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 16};
        queue[i] = MUST(mq_open(names[i], (i == WAITED ? O_RDWR : O_RDONLY) | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &attr));
    }
    leave_note();
    sigset_t blocked;
    sigemptyset(&blocked), sigaddset(&blocked, SIGRTMIN + 3), sigaddset(&blocked, SIGCHLD);
    MUST(sigprocmask(SIG_BLOCK, &blocked, NULL));
    MUST(sigaction(SIGUSR1, &(struct sigaction){.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART}, NULL));
    MUST(sigaction(SIGUSR2, &(struct sigaction){.sa_sigaction = in_round, .sa_flags = SA_SIGINFO | SA_RESTART}, NULL));
    by_signal(CAUGHT, SIGUSR1, secret);
    by_signal(WAITED, SIGRTMIN + 3, ~secret);
    struct sigevent thread = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = call};
    thread.sigev_value.sival_ptr = (void *)(uintptr_t)(secret + 1);
    MUST(mq_notify(queue[THREAD], &thread));
    CHECK(!is_registered(NOTHING), "somebody else's registration");
    pid_t child = MUST(fork());
    if (child == 0) {
        by_signal(CHILD, SIGRTMIN + 3, secret + 2);
        MUST(close(MUST(open(guest_path("child"), O_WRONLY | O_CREAT, 0600))));
        wait_for(SIGRTMIN + 3, secret + 2);
        take(CHILD);
        by_signal(CHILD, SIGRTMIN + 3, 0); // ends with the process
        _exit(0);
    }
    while (!told("child")) nap(1000);
    by_signal(ROUND, SIGUSR2, 0);
    ready();
    for (uint64_t round = 0; go_on(); round++) {
        for (int i = 0; i < QUEUES; i++) CHECK(is_registered(i), "nobody is registered with queue %d", i);
        CHECK(!caught && !called && rounds == (int)round, "told of nothing");
        put(ROUND);
        CHECK(rounds == (int)round + 1 && round_value == round, "%d rounds, value %llx", (int)rounds, (unsigned long long)round_value);
        by_signal(ROUND, SIGUSR2, round + 1);
        take(ROUND);
    }
    put(CAUGHT);
    CHECK(caught == 1 && caught_value == secret, "caught %d times, %llx", (int)caught, (unsigned long long)caught_value);
    take(CAUGHT);
    put(WAITED);
    wait_for(SIGRTMIN + 3, ~secret);
    take(WAITED);
    put(THREAD);
    for (int i = 0; !called && i < 5000; i++) nap(1000);
    CHECK(called == secret + 1, "the thread was called with %llx", (unsigned long long)called);
    take(THREAD);
    put(NOTHING);
    take(NOTHING);
    put(CHILD);
    join_child(child);
    for (int i = 0; i < QUEUES; i++) CHECK(i == ROUND || !is_registered(i), "queue %d is still registered with", i);
    for (int i = 0; i < QUEUES; i++) MUST(mq_unlink(names[i]));
    return pass();
}
