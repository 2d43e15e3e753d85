// Clocks: monotonic and boot time go on from where they stood, without a step back or a leap, in the vDSO as in the kernel.
#include <sys/auxv.h>

#include "guest.h"

#define SECOND 1000000000ll
#define LEAP (5 * SECOND / 2) // the harness leaves the program dead for longer than this
static int damaged;
static void spoil(void) { damaged = 1; }

int main(void) {
    static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE};
    enum { COUNT = sizeof clocks / sizeof *clocks };
    int64_t last[COUNT], real = now_ns(CLOCK_REALTIME);
    unsigned long vdso = getauxval(AT_SYSINFO_EHDR);
    for (int i = 0; i < COUNT; i++) last[i] = now_ns(clocks[i]);
    ready();
    while (go_on() || damaged) {
        CHECK(getauxval(AT_SYSINFO_EHDR) == vdso && !memcmp((void *)vdso, "\177ELF", 4), "the vDSO has moved");
        for (int k = 0; k < 200; k++)
            for (int i = 0; i < COUNT; i++) {
                struct timespec before, after;
                MUST(syscall(SYS_clock_gettime, clocks[i], &before));
                int64_t now = now_ns(clocks[i]);
                MUST(syscall(SYS_clock_gettime, clocks[i], &after));
                if (damaged) now += 4 * SECOND, damaged = 0;
                int64_t low = before.tv_sec * SECOND + before.tv_nsec, high = after.tv_sec * SECOND + after.tv_nsec;
                CHECK(now >= last[i], "clock %d went back by %ld ns", clocks[i], last[i] - now);
                CHECK(now - last[i] < LEAP, "clock %d leapt by %ld ns", clocks[i], now - last[i]);
                // The coarse clock is a tick behind at most, in either way of asking.
                CHECK(now >= low && now <= high, "clock %d: vDSO %ld, kernel %ld to %ld", clocks[i], now, low, high);
                last[i] = now;
            }
        int64_t now = now_ns(CLOCK_REALTIME);
        CHECK(now >= real - SECOND, "the wall clock went back");
        real = now;
        struct timeval tv;
        MUST(gettimeofday(&tv, NULL));
        CHECK(llabs(tv.tv_sec * SECOND - now) < 3 * SECOND && llabs(time(NULL) - (long long)tv.tv_sec) < 3, "gettimeofday");
        CHECK(sched_getcpu() >= 0, "getcpu");
    }
    return pass();
}
