// Restartable sequences: the registration that glibc makes, and critical sections of our own that must be aborted when the
// program is held inside them.
#include "guest.h"
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)
#include <sys/rseq.h>

#define THREADS 4
#define CPUS 1024
static uint64_t counter[CPUS][8];
static uint64_t done[THREADS][8], aborts;
static int damaged;
static void spoil(void) { damaged = 1; }

static struct rseq *area(void) { return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset); }

// Adds one to this processor's counter, unless the thread is moved, preempted or signalled in between. The section dawdles
// between its load and its store, so that a save often falls inside.
static int add(struct rseq *r, uint64_t *at, uint32_t cpu) {
    uint64_t value, spin = 3000;
    __asm__ goto volatile(
        ".pushsection __rseq_cs,\"aw\"\n.balign 32\n3: .long 0,0\n.quad 1f,2f-1f,4f\n.popsection\n"
        "leaq 3b(%%rip),%[value]\n movq %[value],8(%[r])\n"
        "1: cmpl %[cpu],4(%[r])\n jne 4f\n"
        "movq (%[at]),%[value]\n"
        "5: decq %[spin]\n jnz 5b\n"
        "incq %[value]\n movq %[value],(%[at])\n"
        "2:\n"
        ".pushsection __rseq_failure,\"ax\"\n.byte 0x0f,0xb9,0x3d\n.long 0x53053053\n4: jmp %l[aborted]\n.popsection\n"
        : [value] "=&r"(value), [spin] "+&r"(spin)
        : [r] "r"(r), [at] "r"(at), [cpu] "r"(cpu)
        : "memory", "cc"
        : aborted);
    return 1;
aborted:
    return 0;
}

static void *worker(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    struct rseq *r = area();
    while (wait_on()) {
        for (int i = 0; i < 2000; i++) {
            uint32_t cpu = __atomic_load_n(&r->cpu_id, __ATOMIC_RELAXED);
            CHECK(cpu < CPUS, "rseq is not registered: cpu_id %d", (int)cpu);
            if (add(r, &counter[cpu][0], cpu)) done[me][0]++;
            else __atomic_fetch_add(&aborts, 1, __ATOMIC_RELAXED);
        }
    }
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    CHECK(__rseq_size > 0, "glibc has registered no rseq");
    for (uintptr_t i = 0; i < THREADS; i++) PTHREAD(pthread_create(&threads[i], NULL, worker, (void *)i));
    ready();
    while (go_on()) {
        if (damaged) done[0][1] = 1;
        // The kernel keeps the field up to date only for registered threads.
        cpu_set_t one, all;
        MUST(sched_getaffinity(0, sizeof all, &all));
        for (int c = 0; c < CPU_SETSIZE; c++) {
            if (!CPU_ISSET(c, &all)) continue;
            CPU_ZERO(&one);
            CPU_SET(c, &one);
            MUST(sched_setaffinity(0, sizeof one, &one));
            CHECK(area()->cpu_id == (uint32_t)c, "rseq says processor %d on processor %d", (int)area()->cpu_id, c);
        }
        MUST(sched_setaffinity(0, sizeof all, &all));
    }
    uint64_t sum = 0, want = done[0][1];
    for (int i = 0; i < THREADS; i++) {
        PTHREAD(pthread_join(threads[i], NULL));
        want += done[i][0];
    }
    for (int c = 0; c < CPUS; c++) sum += counter[c][0];
    CHECK(sum == want, "%lu additions were made, %lu arrived", want, sum);
    return pass();
}
#else
static void spoil(void) { fail_at(__FILE__, __LINE__, "nothing to check with this libc"); }
int main(void) {
    ready();
    while (go_on()) {}
    return pass();
}
#endif
