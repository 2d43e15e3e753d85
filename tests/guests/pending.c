// Signals that wait in queues: of the process and of one thread, standard ones and real-time ones with their values, in order.
#include "guest.h"

#define QUEUED 20
static sigset_t all;
static pthread_barrier_t gate;
static pid_t own_tid;

static void spoil(void) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 5);
    siginfo_t info;
    MUST(sigtimedwait(&one, &info, &(struct timespec){0, 0}));
}

static void expect(int signal, int code, long value) {
    sigset_t one;
    siginfo_t info;
    sigemptyset(&one);
    sigaddset(&one, signal);
    // Not glibc's sigtimedwait: it shows SI_TKILL as SI_USER.
    int got = syscall(SYS_rt_sigtimedwait, &one, &info, &(struct timespec){0, 0}, 8);
    CHECK(got == signal, "signal %d is not pending", signal);
    CHECK(info.si_code == code, "signal %d has code %d, not %d", signal, info.si_code, code);
    CHECK(info.si_pid == getpid() && info.si_uid == getuid(), "signal %d came from pid %d uid %d", signal, info.si_pid, info.si_uid);
    if (value >= 0) CHECK(info.si_value.sival_int == value, "signal %d has value %d, not %ld", signal, info.si_value.sival_int, value);
}

static void *worker(void *unused) {
    (void)unused;
    own_tid = syscall(SYS_gettid);
    pthread_barrier_wait(&gate); // signals are sent to this thread alone here
    pthread_barrier_wait(&gate);
    while (wait_on()) {
        sigset_t set;
        MUST(sigpending(&set));
        CHECK(sigismember(&set, SIGUSR2) && sigismember(&set, SIGRTMIN + 7), "private pending signals");
    }
    for (int i = 0; i < QUEUED; i++) expect(SIGRTMIN + 7, SI_QUEUE, 900 + i);
    expect(SIGUSR2, SI_TKILL, -1);
    return NULL;
}

int main(void) {
    pthread_t thread;
    sigfillset(&all);
    MUST(sigprocmask(SIG_SETMASK, &all, NULL));
    PTHREAD(pthread_barrier_init(&gate, NULL, 2));
    PTHREAD(pthread_create(&thread, NULL, worker, NULL));
    pthread_barrier_wait(&gate);
    MUST(kill(getpid(), SIGTERM));
    MUST(kill(getpid(), SIGINT));
    MUST(kill(getpid(), SIGINT)); // counts once
    MUST(sigqueue(getpid(), SIGHUP, (union sigval){.sival_int = 77}));
    for (int i = 0; i < QUEUED; i++)
        for (int s = 0; s < 3; s++) MUST(sigqueue(getpid(), SIGRTMIN + 5 - s, (union sigval){.sival_int = i * 10 + s}));
    for (int i = 0; i < QUEUED; i++) PTHREAD(pthread_sigqueue(thread, SIGRTMIN + 7, (union sigval){.sival_int = 900 + i}));
    PTHREAD(pthread_kill(thread, SIGUSR2));
    MUST(syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1)); // to the first thread alone
    pthread_barrier_wait(&gate);
    ready();
    while (go_on()) {
        sigset_t set;
        MUST(sigpending(&set));
        for (int s = 1; s < 65; s++) {
            int want = s == SIGTERM || s == SIGINT || s == SIGHUP || s == SIGUSR1 || (s >= SIGRTMIN + 3 && s <= SIGRTMIN + 5);
            CHECK(sigismember(&set, s) == want, "signal %d is %spending", s, want ? "not " : "");
        }
    }
    expect(SIGTERM, SI_USER, -1);
    expect(SIGINT, SI_USER, -1);
    expect(SIGHUP, SI_QUEUE, 77);
    expect(SIGUSR1, SI_TKILL, -1);
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < QUEUED; i++) expect(SIGRTMIN + 5 - s, SI_QUEUE, i * 10 + s);
    PTHREAD(pthread_join(thread, NULL));
    sigset_t set;
    MUST(sigpending(&set));
    for (int s = 1; s < 65; s++) CHECK(!sigismember(&set, s), "signal %d came twice", s);
    return pass();
}
