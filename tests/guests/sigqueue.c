// Long queues of signals, of the process and of a thread: values, senders and order. The limit on queued signals is lowered
// below what is queued, so that more signals leave only a mark without information; so is that on processes.
#include "guest.h"

#define EACH 300
#define SENDERS 2
static pid_t sender[SENDERS], own_tid;
static pthread_barrier_t gate;
static volatile int *turn;
static const struct timespec none = {0, 0};
#define PLAIN (SIGRTMIN + 9) // sent when the queue is full

static void spoil(void) {
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 1);
    MUST(sigtimedwait(&one, NULL, &none));
}

static siginfo_t take(int signal) {
    sigset_t one;
    siginfo_t info;
    sigemptyset(&one);
    sigaddset(&one, signal);
    CHECK(syscall(SYS_rt_sigtimedwait, &one, &info, &none, 8) == signal, "signal %d is not pending", signal);
    return info;
}

// What senders have queued in turns, with a value that tells the order.
static void expect_all(int signal, int private) {
    for (int i = 0; i < EACH; i++) {
        siginfo_t info = take(signal);
        pid_t from = private ? getpid() : sender[i % SENDERS];
        CHECK(info.si_code == SI_QUEUE && info.si_pid == from && info.si_uid == getuid(), "signal %d, %d: code %d from %d", signal, i, info.si_code, info.si_pid);
        CHECK(info.si_ptr == (void *)mix(signal * 1000 + i), "signal %d, %d: value %p", signal, i, info.si_ptr);
    }
    sigset_t set;
    MUST(sigpending(&set));
    CHECK(!sigismember(&set, signal), "signal %d came too often", signal);
}

// The kernel forgets who sent a signal that it has no room for (kernel/signal.c, collect_signal).
static void expect_mark(int signal) {
    siginfo_t info = take(signal);
    CHECK(info.si_code == SI_USER && info.si_pid == 0 && info.si_uid == 0, "signal %d: code %d, pid %d, uid %d", signal, info.si_code, info.si_pid, info.si_uid);
}

static void *worker(void *unused) {
    (void)unused;
    own_tid = syscall(SYS_gettid);
    pthread_barrier_wait(&gate);
    pthread_barrier_wait(&gate); // the queue is full now
    siginfo_t info = {.si_code = SI_USER};
    MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), own_tid, PLAIN, &info));
    pthread_barrier_wait(&gate);
    while (wait_on()) {}
    expect_all(SIGRTMIN + 2, 1);
    expect_mark(PLAIN);
    siginfo_t trap = take(SIGTRAP);
    CHECK(trap.si_code == SI_QUEUE && trap.si_int == 44, "the thread's SIGTRAP: code %d, value %d", trap.si_code, trap.si_int);
    return NULL;
}

int main(void) {
    sigset_t all;
    sigfillset(&all);
    MUST(sigprocmask(SIG_SETMASK, &all, NULL));
    turn = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK((void *)turn != MAP_FAILED, "mmap");
    PTHREAD(pthread_barrier_init(&gate, NULL, 2));
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, worker, NULL));
    pthread_barrier_wait(&gate);
    pid_t me = getpid();
    for (int k = 0; k < SENDERS; k++) {
        sender[k] = MUST(fork());
        if (sender[k]) continue;
        for (int i = k; i < EACH; i += SENDERS) {
            while (*turn != i) sched_yield();
            MUST(sigqueue(me, SIGRTMIN + 1, (union sigval){.sival_ptr = (void *)mix((SIGRTMIN + 1) * 1000 + i)}));
            *turn = i + 1;
        }
        _exit(0);
    }
    for (int k = 0; k < SENDERS; k++) join_child(sender[k]);
    for (int i = 0; i < EACH; i++) PTHREAD(pthread_sigqueue(thread, SIGRTMIN + 2, (union sigval){.sival_ptr = (void *)mix((SIGRTMIN + 2) * 1000 + i)}));
    PTHREAD(pthread_sigqueue(thread, SIGTRAP, (union sigval){.sival_int = 44}));
    MUST(sigqueue(me, SIGTRAP, (union sigval){.sival_int = 45}));
    struct rlimit queued = {5, 10}, processes = {1, 2}, now;
    MUST(setrlimit(RLIMIT_SIGPENDING, &queued));
    MUST(setrlimit(RLIMIT_NPROC, &processes));
    MUST(kill(me, PLAIN));
    while (sigtimedwait(&(sigset_t){{1ul << (SIGCHLD - 1)}}, NULL, &none) == SIGCHLD) {}
    pthread_barrier_wait(&gate);
    pthread_barrier_wait(&gate);
    ready();
    while (go_on()) {
        sigset_t set;
        MUST(sigpending(&set));
        for (int s = 1; s < 65; s++) {
            int want = s == SIGTRAP || s == PLAIN || s == SIGRTMIN + 1;
            CHECK(sigismember(&set, s) == want, "signal %d is %spending", s, want ? "not " : "");
        }
        CHECK(sigqueue(me, SIGRTMIN + 1, (union sigval){0}) == -1 && errno == EAGAIN, "a signal more was queued");
        MUST(getrlimit(RLIMIT_SIGPENDING, &now));
        CHECK(now.rlim_cur == queued.rlim_cur && now.rlim_max == queued.rlim_max, "limit on signals");
        MUST(getrlimit(RLIMIT_NPROC, &now));
        CHECK(now.rlim_cur == processes.rlim_cur && now.rlim_max == processes.rlim_max, "limit on processes");
    }
    expect_all(SIGRTMIN + 1, 0);
    expect_mark(PLAIN);
    siginfo_t trap = take(SIGTRAP);
    CHECK(trap.si_code == SI_QUEUE && trap.si_int == 45, "SIGTRAP: code %d, value %d", trap.si_code, trap.si_int);
    PTHREAD(pthread_join(thread, NULL));
    sigset_t set;
    MUST(sigpending(&set));
    for (int s = 1; s < 65; s++) CHECK(!sigismember(&set, s), "signal %d came twice", s);
    return pass();
}
