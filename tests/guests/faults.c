// Faults of every kind, one after the other without a pause, so that saves fall between a fault and its handler: each comes
// to the handler once, with all that the kernel tells about it.
#include <ucontext.h>

#include "guest.h"

struct fault {
    int signal, code, trap; // trap -1: not looked at
    uint64_t error, address;
    int skip; // bytes of the instruction, left to the handler to pass
};
static volatile struct fault expected;
static volatile uint64_t taken;
static volatile int finish, damaged;
static void spoil(void) { damaged = 1; }

static void on_fault(int signal, siginfo_t *info, void *context) {
    const greg_t *now = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct fault is = {signal, info->si_code, now[REG_TRAPNO], now[REG_ERR], now[REG_CR2], 0};
    CHECK(is.signal == expected.signal && is.code == expected.code, "signal %d, code %d, expected %d, %d", is.signal, is.code,
          expected.signal, expected.code);
    if (expected.trap >= 0) CHECK(is.trap == expected.trap, "signal %d with trap %d", signal, is.trap);
    if (expected.address) {
        CHECK((uint64_t)info->si_addr == expected.address && is.address == expected.address, "a fault at %p and %#lx, expected %#lx",
              info->si_addr, is.address, expected.address);
        CHECK(is.error == expected.error, "a page fault of kind %#lx, expected %#lx", is.error, expected.error);
    } else if (expected.skip) {
        CHECK(info->si_code == SI_KERNEL || (greg_t)info->si_addr == now[REG_RIP], "si_addr is %p, rip %#llx", info->si_addr, now[REG_RIP]);
    }
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += expected.skip;
    taken++;
}

#define PROVOKE(code, ...)                                                                                                       \
    do {                                                                                                                         \
        expected = (struct fault){__VA_ARGS__};                                                                                  \
        uint64_t before = taken;                                                                                                 \
        code;                                                                                                                    \
        CHECK(taken == before + 1, "%s: %lu signals", #code, taken - before);                                                    \
    } while (0)

static void *worker(void *unused) {
    (void)unused;
    char *none = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *gone;
    CHECK(none != MAP_FAILED, "mmap");
    int fd = MUST(memfd_create("short", MFD_CLOEXEC));
    gone = mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(gone != MAP_FAILED, "mmap");
    for (uint64_t turn = 0; !finish; turn++) {
        uint64_t at = mix(turn) % (1 << 20);
        // mov %al,(%rdx) and mov (%rdx),%al
        PROVOKE(__asm__ volatile("mov %%al,(%0)" ::"d"(none + at) : "memory"), SIGSEGV, SEGV_ACCERR, 14, 6, (uint64_t)none + at, 2);
        PROVOKE(__asm__ volatile("mov (%0),%%al" ::"d"(at | 1) : "rax"), SIGSEGV, SEGV_MAPERR, 14, 4, at | 1, 2);
        PROVOKE(__asm__ volatile("mov (%0),%%al" ::"d"(gone + at) : "rax"), SIGBUS, BUS_ADRERR, 14, 4, (uint64_t)gone + at, 2);
        PROVOKE(__asm__ volatile("ud2"), SIGILL, ILL_ILLOPN, 6, 0, 0, 2);
        PROVOKE(__asm__ volatile("div %0" ::"c"(0), "a"(1), "d"(0) : "cc"), SIGFPE, FPE_INTDIV, 0, 0, 0, 2);
        PROVOKE(__asm__ volatile("hlt"), SIGSEGV, SI_KERNEL, -1, 0, 0, 1);
        PROVOKE(__asm__ volatile("int3"), SIGTRAP, SI_KERNEL, -1, 0, 0, 0);
        if (damaged) PROVOKE((void)0, SIGILL, ILL_ILLOPN, 6, 0, 0, 2);
    }
    return NULL;
}

int main(void) {
    struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) MUST(sigaction(signals[i], &act, NULL));
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, worker, NULL));
    ready();
    uint64_t last = 0;
    while (go_on()) {
        while (taken == last) nap(100);
        last = taken;
    }
    finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
