// Held at odd places: in the vDSO, in the vsyscall page, between two single steps, in a loop on an alternate stack. Threads
// that are hardly ever anywhere else, and that see what they must see.
#include <setjmp.h>
#include <sys/auxv.h>
#include <ucontext.h>

#include "guest.h"

#define SECOND 1000000000ll
static volatile int finish, damaged;
static void spoil(void) { damaged = 1; }

// Its code runs for all but a few instructions.
static void *in_vdso(void *unused) {
    (void)unused;
    uint64_t turns = 0;
    for (int64_t last = now_ns(CLOCK_MONOTONIC); !finish; turns++) {
        int64_t now = now_ns(CLOCK_MONOTONIC);
        if (damaged) now = last - 1;
        CHECK(now >= last, "the clock went back by %ld ns", last - now);
        last = now;
    }
    CHECK(turns > 0, "no turn");
    return NULL;
}

// The kernel does these calls at the page fault that their execution is.
static void *in_vsyscall(void *unused) {
    (void)unused;
    time_t (*vtime)(time_t *) = (void *)0xffffffffff600400;
    int (*vgettimeofday)(struct timeval *, void *) = (void *)0xffffffffff600000;
    while (!finish) {
        struct timeval t = {0, 0};
        time_t into = 0, before = time(NULL);
        CHECK(vgettimeofday(&t, NULL) == 0, "gettimeofday");
        time_t now = vtime(&into), after = time(NULL) + 1;
        CHECK(t.tv_sec >= before && t.tv_sec <= after && now == into && now >= before && now <= after, "%ld, %ld, %ld, %ld", before, t.tv_sec, now, after);
    }
    return NULL;
}

static int has_vsyscall(void) {
    char line[512];
    int has = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(maps, "maps");
    while (fgets(line, sizeof line, maps)) has |= strstr(line, "[vsyscall]") && (strstr(line, "r-x") || strstr(line, "--x"));
    fclose(maps);
    return has;
}

// Every step is a trap. Under a hypervisor one in some millions comes without its cause (DR6 is 0, so the kernel says TRAP_BRKPT):
// seen of a program that was left alone, beside others that took new pages.
static __thread volatile int traps;
static volatile long all_traps, causeless;
static void on_trap(int signal, siginfo_t *info, void *context) {
    (void)signal;
    all_traps++;
    if (info->si_code == TRAP_BRKPT) causeless++;
    CHECK(info->si_code == TRAP_TRACE || info->si_code == TRAP_BRKPT, "code %d", info->si_code);
    CHECK(causeless <= 1 + all_traps / 1000000, "%ld of %ld traps without a cause", causeless, all_traps);
    CHECK(((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] & 0x100 || traps > 0, "stepped without the flag");
    traps++;
}
static void *stepping(void *unused) {
    (void)unused;
    while (!finish) {
        uint64_t sum = 1;
        traps = 0;
        __asm__ volatile("lea -128(%%rsp),%%rsp\n"
                         "pushf\n orq $0x100,(%%rsp)\n popf\n"
                         ".rept 50\n imul $3,%0,%0\n .endr\n"
                         "pushf\n andq $~0x100,(%%rsp)\n popf\n"
                         "lea 128(%%rsp),%%rsp\n"
                         : "+r"(sum)::"cc", "memory");
        uint64_t expected = 1;
        for (int i = 0; i < 50; i++) expected *= 3;
        CHECK(traps == 53, "%d traps for 53 instructions", traps);
        CHECK(sum == expected, "computed wrongly, step by step");
    }
    return NULL;
}

// Leaves the alternate stack only to come back.
static volatile uint64_t handled;
static char altstack[65536];
static void on_signal(int signal) {
    (void)signal;
    volatile uint64_t values[64], here = (uintptr_t)values;
    CHECK(here > (uintptr_t)altstack && here < (uintptr_t)altstack + sizeof altstack, "not on the alternate stack");
    for (int i = 0; i < 64; i++) values[i] = mix(handled + i);
    for (int k = 0; k < 50; k++)
        for (int i = 0; i < 64; i++) CHECK(values[i] == mix(handled + i), "the alternate stack has changed");
    handled++;
}
static void *on_altstack(void *unused) {
    (void)unused;
    stack_t alt = {.ss_sp = altstack, .ss_size = sizeof altstack};
    MUST(sigaltstack(&alt, NULL));
    for (uint64_t turn = 1; !finish; turn++) {
        PTHREAD(pthread_kill(pthread_self(), SIGUSR1));
        CHECK(handled == turn, "the handler ran %lu times, not %lu", handled, turn);
    }
    return NULL;
}

int main(void) {
    struct sigaction trap = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, usr1 = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    MUST(sigaction(SIGTRAP, &trap, NULL));
    MUST(sigaction(SIGUSR1, &usr1, NULL));
    void *(*all[])(void *) = {in_vdso, stepping, on_altstack, in_vsyscall};
    int count = has_vsyscall() ? 4 : 3;
    if (count == 3) printf("no vsyscall page here\n");
    pthread_t threads[4];
    for (int i = 0; i < count; i++) PTHREAD(pthread_create(&threads[i], NULL, all[i], NULL));
    ready();
    while (go_on()) {}
    finish = 1;
    for (int i = 0; i < count; i++) PTHREAD(pthread_join(threads[i], NULL));
    return pass();
}
