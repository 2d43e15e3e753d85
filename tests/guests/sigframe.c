// Held inside signal handlers: on the alternate stack, nested, with floating-point state in the frame that must come back.
#include "guest.h"

static volatile sig_atomic_t inside, damaged;
static volatile uint64_t handled;
static char altstack[65536];

static void spoil(void) { damaged = 1; }

static void inner(int signal) {
    (void)signal;
    volatile double x = 1.5;
    for (int i = 0; i < 1000; i++) x = x * 1.0001;
    nap(300);
    handled++;
}

static void outer(int signal, siginfo_t *info, void *context) {
    (void)info;
    (void)context;
    char here;
    CHECK(&here > altstack && &here < altstack + sizeof altstack, "not on the alternate stack");
    stack_t now;
    MUST(sigaltstack(NULL, &now));
    CHECK(now.ss_flags & SS_ONSTACK, "the kernel does not know that we are on it");
    inside = signal;
    nap(500);
    MUST(raise(SIGUSR2)); // nested
    __asm__ volatile("pxor %%xmm0,%%xmm0\n\tpxor %%xmm7,%%xmm7\n\tfninit" ::: "xmm0", "xmm7", "memory");
    sigset_t mask;
    MUST(sigprocmask(SIG_SETMASK, NULL, &mask));
    CHECK(sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGRTMIN + 1) && !sigismember(&mask, SIGUSR2), "mask in the handler");
    inside = 0;
}

int main(void) {
    stack_t alt = {.ss_sp = altstack, .ss_size = sizeof altstack};
    MUST(sigaltstack(&alt, NULL));
    struct sigaction act = {.sa_sigaction = outer, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&act.sa_mask);
    sigaddset(&act.sa_mask, SIGRTMIN + 1);
    MUST(sigaction(SIGUSR1, &act, NULL));
    struct sigaction act2 = {.sa_handler = inner, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGUSR2, &act2, NULL));
    ready();
    pid_t pid = getpid();
    for (uint64_t turn = 1; go_on() || damaged; turn++) {
        uint64_t a = mix(turn), b = mix(turn + 1), out_a, out_b;
        long result = SYS_kill;
        // The signal comes at the return of the call, with the two registers holding values that the handler overwrites.
        __asm__ volatile("movq %3,%%xmm0\n\tmovq %4,%%xmm7\n\tsyscall\n\tmovq %%xmm0,%1\n\tmovq %%xmm7,%2"
                         : "+a"(result), "=&r"(out_a), "=&r"(out_b)
                         : "r"(a), "r"(b), "D"((long)pid), "S"((long)SIGUSR1)
                         : "rcx", "r11", "memory", "xmm0", "xmm7");
        if (damaged) damaged = 0, out_a ^= 4;
        CHECK(result == 0, "kill");
        CHECK(out_a == a && out_b == b, "registers lost over a handler");
        CHECK(handled == turn && !inside, "handler ran %lu times, not %lu", handled, turn);
        sigset_t mask;
        MUST(sigprocmask(SIG_SETMASK, NULL, &mask));
        CHECK(!sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGRTMIN + 1), "mask after the handler");
    }
    return pass();
}
