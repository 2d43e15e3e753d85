// Signals that others send to a process of several threads: the first thread takes those that it does not block,
// another those that only it does not block. Nobody else's call is cut short.
#include "guest.h"
#include <stdatomic.h>

#define SLEEPERS 3
static atomic_int wrong, at_work;
static volatile pid_t other;
static volatile int finish;
static pthread_t reader;
static int ends[2];

static void on_signal(int s) {
    pid_t me = syscall(SYS_gettid), meant = s == SIGUSR1 ? getpid() : other;
    if (me != meant) wrong = me;
}

static void spoil(void) { PTHREAD(pthread_kill(reader, SIGUSR1)); }

static void block(int how, int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    PTHREAD(pthread_sigmask(how, &set, NULL));
}

// For the threads that signals are meant for: their sleep may be cut short.
static void take(void) {
    while (!finish) nanosleep(&(struct timespec){0, 10000000}, NULL);
}

static void *sleep_only(void *unused) {
    (void)unused;
    at_work++;
    while (wait_on()) {}
    return NULL;
}

static void *read_only(void *unused) {
    (void)unused;
    char byte;
    at_work++;
    CHECK(read(ends[0], &byte, 1) == 1, "read was interrupted");
    return NULL;
}

static void *take_others(void *unused) {
    (void)unused;
    other = syscall(SYS_gettid);
    block(SIG_BLOCK, SIGUSR1);
    block(SIG_UNBLOCK, SIGUSR2);
    at_work++;
    take();
    return NULL;
}

static void *main_loop(void *unused) {
    (void)unused;
    while (at_work < SLEEPERS + 2) nap(1000);
    ready();
    while (go_on()) CHECK(!wrong, "thread %d took a signal", wrong);
    finish = 1;
    return NULL;
}

int main(void) {
    pthread_t taker, looping, sleepers[SLEEPERS];
    // Without SA_RESTART: a call that is cut short shows. And a handler at work does not block the next one.
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
    MUST(sigaction(SIGUSR1, &action, NULL));
    MUST(sigaction(SIGUSR2, &action, NULL));
    block(SIG_BLOCK, SIGUSR2);
    MUST(pipe(ends));
    PTHREAD(pthread_create(&reader, NULL, read_only, NULL));
    PTHREAD(pthread_create(&taker, NULL, take_others, NULL));
    for (int i = 0; i < SLEEPERS; i++) PTHREAD(pthread_create(&sleepers[i], NULL, sleep_only, NULL));
    PTHREAD(pthread_create(&looping, NULL, main_loop, NULL));
    take();
    CHECK(write(ends[1], "", 1) == 1, "write");
    PTHREAD(pthread_join(reader, NULL));
    PTHREAD(pthread_join(taker, NULL));
    PTHREAD(pthread_join(looping, NULL));
    for (int i = 0; i < SLEEPERS; i++) PTHREAD(pthread_join(sleepers[i], NULL));
    CHECK(!wrong, "thread %d took a signal", wrong);
    return pass();
}
