// Settings of prctl and arch_prctl, of the process and of each thread, those with an effect tried: the time stamp counter
// and cpuid that are a SIGSEGV, memory that can't become executable, membarrier.
#include <ucontext.h>

#include <linux/membarrier.h>

#include "guest.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#define GET_REGISTRATIONS (1 << 9) // of membarrier, Linux 6.3
#define ARCH_GET_CPUID 0x1011
#define ARCH_SET_CPUID 0x1012

static volatile int finish, up;
static __thread volatile int faults;
static int registered;
static int thp, merge, mdwe, cpuid_faults;
static char *page;

static void spoil(void) { MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0)); }

// rdtsc and cpuid are two bytes long.
static void on_segv(int s, siginfo_t *info, void *context) {
    (void)s, (void)info;
    faults++;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static int rdtsc_faults(void) {
    int before = faults;
    __asm__ volatile("rdtsc" ::: "rax", "rdx");
    return faults != before;
}

static int cpuid_does(void) {
    int before = faults;
    __asm__ volatile("cpuid" : : "a"(0), "c"(0) : "rbx", "rdx");
    return faults != before;
}

static void *strange(void *unused) {
    (void)unused;
    MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
    cpuid_faults = syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) == 0; // not every processor can
    MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_DEFAULT, 0, 0));
    up = 1;
    while (!finish) {
        nap(1000);
        int tsc = 0;
        MUST(prctl(PR_GET_TSC, &tsc));
        CHECK(tsc == PR_TSC_SIGSEGV && rdtsc_faults(), "the time stamp counter can be read");
        CHECK(cpuid_does() == cpuid_faults, "cpuid");
        CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_DEFAULT, "the thread's machine check policy");
    }
    return NULL;
}

static int membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0); }

int main(void) {
    struct sigaction act = {.sa_sigaction = on_segv, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGSEGV, &act, NULL));
    MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
    if (prctl(PR_SET_THP_DISABLE, 1, 2, 0, 0)) MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    thp = MUST(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    merge = prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == 0;
    MUST(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED));
    MUST(membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED));
    registered = membarrier(GET_REGISTRATIONS); // without it a save can't know
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, strange, NULL));
    while (!up) sched_yield();
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED, "mmap");
    mdwe = prctl(PR_SET_MDWE, 1, 0, 0, 0) == 0;
    ready();
    while (go_on()) {
        int tsc = 0;
        MUST(prctl(PR_GET_TSC, &tsc));
        CHECK(tsc == PR_TSC_ENABLE && !rdtsc_faults(), "the time stamp counter can't be read");
        CHECK(!cpuid_does(), "cpuid");
        CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY, "machine check policy");
        CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == thp, "huge pages");
        CHECK(!merge || prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1, "merged memory");
        if (registered > 0) {
            CHECK(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0, "membarrier");
            CHECK(membarrier(GET_REGISTRATIONS) == registered, "registered for membarrier");
            CHECK(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) == -1 && errno == EPERM, "registered for more");
        }
        CHECK(!mdwe || prctl(PR_GET_MDWE, 0, 0, 0, 0) == 1, "memory-deny-write-execute");
        CHECK(!mdwe || (mprotect(page, 4096, PROT_READ | PROT_EXEC) == -1 && errno == EACCES), "writable memory became executable");
    }
    finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
