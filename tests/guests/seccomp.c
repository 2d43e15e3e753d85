// Under seccomp: filters that refuse, trap and kill, one for all threads and one for a single one, and strict mode. For
// root, as only root may read filters.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#include "guest.h"

static int to_strict[2], from_strict[2];
static volatile int finish, own_up, damaged;
static volatile sig_atomic_t traps, trapped;

static void spoil(void) { damaged = 1; }

static void on_sys(int s, siginfo_t *info, void *context) {
    (void)s, (void)context;
    traps++, trapped = info->si_errno;
}

// `number` gets `action`, all else is allowed.
static long filter(int number, unsigned action, unsigned flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int refused(int number) {
    errno = 0;
    return syscall(number, -1, -1, -1) == -1 ? errno : 0;
}

// Under filters of the process, and one more.
static void *own(void *unused) {
    (void)unused;
    MUST(filter(SYS_swapoff, SECCOMP_RET_ERRNO | 55, 0));
    own_up = 1;
    while (!finish) {
        nap(1000);
        CHECK(refused(SYS_acct) == 99, "the process's filter: %d", errno);
        CHECK(refused(SYS_swapoff) == 55, "the thread's filter: %d", errno);
    }
    return NULL;
}

static void *other(void *unused) {
    (void)unused;
    while (!finish) {
        nap(1000);
        CHECK(refused(SYS_acct) == 99, "the process's filter: %d", errno);
        CHECK(refused(SYS_swapoff) != 55, "the other thread's filter");
    }
    CHECK(refused(SYS_quotactl) == 44, "a filter for all threads at once: %d", errno);
    return NULL;
}

static void check_kill(void) {
    pid_t pid = MUST(fork());
    if (!pid) {
        syscall(SYS_reboot, 0, 0, 0, 0);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "the filter that kills: %#x", status);
}

// Nothing but read, write and exit of one thread: answers each byte with the next, and what is not a digit with getpid.
__attribute__((noreturn)) static void strict(void) {
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    for (char c;;) {
        if (read(to_strict[0], &c, 1) != 1) syscall(SYS_exit, 1);
        if (c == '!') syscall(SYS_getpid);
        c++;
        if (write(from_strict[1], &c, 1) != 1) syscall(SYS_exit, 2);
    }
}

static char ask(char c) {
    CHECK(write(to_strict[1], &c, 1) == 1, "write");
    return read(from_strict[0], &c, 1) == 1 ? c : 0;
}

// Another process, in which all threads are under the same filters: it can still add to them.
static void in_step(void) {
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, other, NULL));
    while (wait_on()) CHECK(refused(SYS_acct) == 99, "the inherited filter");
    MUST(filter(SYS_quotactl, SECCOMP_RET_ERRNO | 44, SECCOMP_FILTER_FLAG_TSYNC) ? -1 : 0);
    finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    _exit(0);
}

int main(void) {
    struct sigaction act = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGSYS, &act, NULL));
    MUST(pipe(to_strict));
    MUST(pipe(from_strict));
    pid_t caged = MUST(fork());
    if (!caged) {
        MUST(close(to_strict[1]));
        strict();
    }
    MUST(close(from_strict[1]));
    MUST(filter(SYS_acct, SECCOMP_RET_ERRNO | 98, 0));
    MUST(filter(SYS_acct, SECCOMP_RET_ERRNO | 99, SECCOMP_FILTER_FLAG_LOG)); // the last one that says so counts
    MUST(filter(SYS_reboot, SECCOMP_RET_KILL_PROCESS, 0));
    MUST(filter(SYS_swapon, SECCOMP_RET_TRAP | 77, 0));
    pid_t alike = MUST(fork());
    if (!alike) in_step();
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, own, NULL));
    while (!own_up) sched_yield();
    ready();
    for (int turn = 1; go_on(); turn++) {
        CHECK(refused(SYS_acct) == (damaged ? 98 : 99), "the filter that refuses: %d", errno);
        CHECK(refused(SYS_swapoff) != 55, "the other thread's filter");
        syscall(SYS_swapon, NULL, 0);
        CHECK(traps == turn && trapped == 77, "the filter that traps: %d, %d", traps, trapped);
        if (turn % 8 == 1) check_kill();
        CHECK(ask('3') == '4', "the caged child");
        CHECK(prctl(PR_GET_SECCOMP) == 2 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0, "mode");
    }
    check_kill();
    finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    CHECK(ask('!') == 0, "the caged child got out");
    int status;
    CHECK(waitpid(caged, &status, 0) == caged && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the cage: %#x", status);
    join_child(alike);
    return pass();
}
