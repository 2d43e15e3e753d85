// Signal actions: handlers, flags, masks; the blocked mask; handlers that run when a signal comes after a resume; one that
// comes back by a restorer of its own.
#include "guest.h"

#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif
#define RESTORED SIGURG

// As the kernel has it: what the C library sets is its own restorer. This one counts.
struct kernel_action {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};
uint64_t restored;
void restore(void);
__asm__(".text\n.globl restore\nrestore:\n lock incq restored(%rip)\n mov $15,%eax\n syscall\n"); // rt_sigreturn

static struct sigaction set[65];
static volatile sig_atomic_t counts[65];
static volatile uintptr_t value;

static void plain(int signal) { counts[signal]++; }
static void informed(int signal, siginfo_t *info, void *context) {
    (void)context;
    CHECK(info->si_pid == getpid() && info->si_uid == getuid(), "signal %d from %d", signal, info->si_pid);
    value = (uintptr_t)info->si_value.sival_ptr;
    counts[signal]++;
}

static void spoil(void) {
    struct sigaction act;
    MUST(sigaction(SIGUSR2, NULL, &act));
    act.sa_flags ^= SA_RESTART;
    MUST(sigaction(SIGUSR2, &act, NULL));
}

int main(void) {
    sigset_t blocked, now;
    for (int s = 1; s <= 64; s++) {
        if (s == SIGKILL || s == SIGSTOP || s == 32 || s == 33 || s == SIGSEGV || s == SIGBUS) continue;
        struct sigaction *a = &set[s];
        uint64_t r = mix(s);
        sigemptyset(&a->sa_mask);
        for (int m = 1; m <= 64; m++)
            if (m != SIGKILL && m != SIGSTOP && m != 32 && m != 33 && mix(s * 64 + m) % 4 == 0) sigaddset(&a->sa_mask, m);
        a->sa_flags = (r & 1 ? SA_RESTART : 0) | (r & 2 ? SA_NODEFER : 0) | (r & 4 ? SA_ONSTACK : 0) | (r & 8 ? SA_NOCLDSTOP : 0);
        switch (r >> 8 & 3) {
        case 0: a->sa_handler = SIG_IGN; break;
        case 1: a->sa_sigaction = informed; a->sa_flags |= SA_SIGINFO; break;
        case 2: a->sa_handler = plain; break;
        default: a->sa_handler = s % 2 ? SIG_DFL : plain;
        }
        if (s == SIGUSR1 || s == SIGRTMIN + 3) a->sa_sigaction = informed, a->sa_flags |= SA_SIGINFO;
        if (s == SIGUSR2) a->sa_handler = plain, a->sa_flags = SA_RESTART;
        if (s == SIGCHLD) a->sa_handler = SIG_DFL, a->sa_flags = SA_NOCLDWAIT;
        if (s == SIGHUP) a->sa_handler = plain, a->sa_flags = SA_RESETHAND;
        MUST(sigaction(s, a, NULL));
    }
    struct kernel_action own = {plain, SA_RESTORER | SA_RESTART, restore, 1ul << (SIGUSR1 - 1)}, seen;
    memset(&set[RESTORED], 0, sizeof *set);
    MUST(syscall(SYS_rt_sigaction, RESTORED, &own, NULL, 8));
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGRTMAX);
    sigaddset(&blocked, SIGWINCH);
    MUST(sigprocmask(SIG_SETMASK, &blocked, NULL));
    ready();
    for (uintptr_t turn = 1; go_on(); turn++) {
        for (int s = 1; s <= 64; s++) {
            if (!set[s].sa_flags && !set[s].sa_handler) continue;
            struct sigaction have;
            MUST(sigaction(s, NULL, &have));
            int mask = 0x40000000 /* NODEFER */ | SA_RESTART | SA_ONSTACK | SA_NOCLDSTOP | SA_NOCLDWAIT | (int)SA_RESETHAND | SA_SIGINFO;
            CHECK(have.sa_sigaction == set[s].sa_sigaction, "handler of signal %d", s);
            // Flags and mask of a default action have no effect (SIGCHLD's have): they are not kept.
            if (set[s].sa_handler == SIG_DFL && s != SIGCHLD) continue;
            CHECK((have.sa_flags & mask) == (set[s].sa_flags & mask), "flags of signal %d: %#x, now %#x", s, set[s].sa_flags, have.sa_flags);
            for (int m = 1; m <= 64; m++)
                if (m != 32 && m != 33) CHECK(sigismember(&have.sa_mask, m) == sigismember(&set[s].sa_mask, m), "mask of signal %d has or lacks %d", s, m);
        }
        MUST(sigprocmask(SIG_SETMASK, NULL, &now));
        for (int m = 1; m <= 64; m++) CHECK(sigismember(&now, m) == sigismember(&blocked, m), "blocked signal %d", m);
        int before = counts[SIGRTMIN + 3];
        MUST(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_ptr = (void *)turn}));
        CHECK(counts[SIGRTMIN + 3] == before + 1 && value == turn, "a queued signal did not come");
        before = counts[SIGUSR1];
        MUST(kill(getpid(), SIGUSR1));
        CHECK(counts[SIGUSR1] == before + 1, "a signal did not come");
        MUST(syscall(SYS_rt_sigaction, RESTORED, NULL, &seen, 8));
        CHECK(!memcmp(&seen, &own, sizeof own), "the action with a restorer of its own");
        MUST(kill(getpid(), RESTORED));
        CHECK(counts[RESTORED] == (int)turn && restored == turn, "the restorer ran %lu times, not %lu", restored, turn);
        // SA_NOCLDWAIT: a child leaves no zombie.
        if (turn % 16 == 0) {
            pid_t child = MUST(fork());
            if (child == 0) _exit(3);
            CHECK(waitpid(child, NULL, 0) == -1 && errno == ECHILD, "SA_NOCLDWAIT is lost");
        }
    }
    MUST(raise(SIGHUP));
    struct sigaction have;
    MUST(sigaction(SIGHUP, NULL, &have));
    CHECK(counts[SIGHUP] == 1 && have.sa_handler == SIG_DFL, "SA_RESETHAND is lost");
    return pass();
}
