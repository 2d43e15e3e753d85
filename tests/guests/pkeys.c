// Protection keys: which are allocated, which memory has which, what each thread may do with them, and memory that may only be
// executed, which has a key of the kernel's.
#include "guest.h"
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

enum { LEN = 3 * 4096 };
// Keys 1, 3 and 4 of the parent, 1 and 2 of the child.
static int keys;
static unsigned char *barred, *shown, *plain, *code;
static __thread sigjmp_buf out;
static __thread volatile int fault_code, fault_key;

static unsigned rdpkru(void) {
    unsigned eax, edx;
    __asm__ volatile("rdpkru" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

static void wrpkru(unsigned pkru) { __asm__ volatile("wrpkru" : : "a"(pkru), "c"(0), "d"(0) : "memory"); }

static void spoil(void) {
    if (keys) wrpkru(0);
}

static void on_fault(int sig, siginfo_t *info, void *context) {
    (void)sig, (void)context;
    fault_code = info->si_code;
    fault_key = info->si_pkey;
    siglongjmp(out, 1);
}

// What comes of an access: 0, or the key it failed by, -1 for another reason. The handler has rights of its own: PKRU is put back.
static int touch(volatile unsigned char *at, int write) {
    unsigned pkru = rdpkru();
    if (sigsetjmp(out, 1) == 0) {
        unsigned char byte = *at;
        if (write) *at = byte;
        return 0;
    }
    wrpkru(pkru);
    return fault_code == SEGV_PKUERR ? fault_key : -1;
}

static void check_rights(unsigned pkru, const char *who) { CHECK(rdpkru() == pkru, "%s: pkru is %#x, not %#x", who, rdpkru(), pkru); }

static void check_content(unsigned char *at, int seed) {
    unsigned pkru = rdpkru();
    wrpkru(0);
    for (int i = 0; i < LEN; i++) CHECK(at[i] == (unsigned char)mix(seed + i), "byte %d of %d", i, seed);
    wrpkru(pkru);
}

static void check_keys(unsigned allocated) {
    unsigned pkru = rdpkru(), found = 0;
    int made[16], n = 0, key;
    while ((key = syscall(SYS_pkey_alloc, 0, 0)) > 0) found |= 1u << (made[n++] = key);
    for (int i = 0; i < n; i++) MUST(syscall(SYS_pkey_free, made[i]));
    wrpkru(pkru);
    // The kernel has one, for what may only be executed.
    unsigned taken = ~found & 0xfffe;
    CHECK((taken & allocated) == allocated && __builtin_popcount(taken & ~allocated) == 1, "keys %#x are taken", taken);
}

// Two bits for each key: no access, no writing.
#define BARS(key, bits) ((unsigned)(bits) << 2 * (key))
static unsigned first = BARS(1, 1) | BARS(3, 2), second = BARS(3, 1) | BARS(4, 3), childs = BARS(2, 2);

static void check(void) {
    check_rights(first, "the first");
    CHECK(touch(barred, 0) == 1, "key 1 does not bar");
    CHECK(touch(shown, 0) == 0 && touch(shown + LEN - 1, 1) == 3, "key 3 does not bar writing");
    CHECK(touch(plain, 1) == 0, "key 4 bars");
    CHECK(touch(code, 0) > 0, "code can be read");
    int (*call)(void) = (int (*)(void))(uintptr_t)code;
    CHECK(call() == 42, "code can't be run");
    check_rights(first, "the first after faults");
    check_content(barred, 1000), check_content(shown, 2000), check_content(plain, 3000);
    check_keys(keys);
}

static unsigned char *memory(int key, int seed) {
    unsigned char *at = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED, "mmap");
    for (int i = 0; i < LEN; i++) at[i] = mix(seed + i);
    MUST(syscall(SYS_pkey_mprotect, at, LEN, PROT_READ | PROT_WRITE, key));
    return at;
}

static void *other(void *arg) {
    (void)arg;
    wrpkru(second);
    while (wait_on()) {
        check_rights(second, "the second");
        CHECK(touch(shown, 0) == 3, "key 3 does not bar the second");
        CHECK(touch(barred, 1) == 0, "key 1 bars the second");
    }
    return NULL;
}

int main(void) {
    if (syscall(SYS_pkey_alloc, 0, 0) != 1) {
        left_out("protection keys: none here");
        ready();
        while (go_on()) CHECK(!guest_spoilt, "nothing to spoil");
        return pass();
    }
    for (int key = 2; key <= 4; key++) CHECK(syscall(SYS_pkey_alloc, 0, 0) == key, "key %d", key);
    MUST(syscall(SYS_pkey_free, 2));
    keys = 1 << 1 | 1 << 3 | 1 << 4;
    struct sigaction on = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGSEGV, &on, NULL));
    barred = memory(1, 1000), shown = memory(3, 2000), plain = memory(4, 3000);
    static const unsigned char text[] = {0xb8, 42, 0, 0, 0, 0xc3};
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(code != MAP_FAILED, "mmap");
    memcpy(code, text, sizeof text);
    MUST(mprotect(code, 4096, PROT_EXEC));
    pid_t child = MUST(fork());
    if (child == 0) {
        MUST(syscall(SYS_pkey_mprotect, shown, LEN, PROT_READ | PROT_WRITE, 0));
        MUST(munmap(plain, LEN));
        MUST(syscall(SYS_pkey_free, 3));
        MUST(syscall(SYS_pkey_free, 4));
        // The kernel has taken 2 for the code.
        int key = MUST(syscall(SYS_pkey_alloc, 0, 0));
        childs = BARS(key, 2);
        wrpkru(childs);
        MUST(syscall(SYS_pkey_mprotect, shown, LEN, PROT_READ | PROT_WRITE, key));
        while (wait_on()) {
            check_rights(childs, "the child");
            CHECK(touch(shown, 0) == 0 && touch(shown, 1) == key, "the child's key does not bar");
            CHECK(touch(barred, 1) == 0, "key 1 bars the child");
            check_content(barred, 1000), check_content(shown, 2000);
            check_keys(1 << 1 | 1 << key);
        }
        exit(0);
    }
    // The kernel bars its own.
    first |= rdpkru() & ~(BARS(1, 3) | BARS(3, 3) | BARS(4, 3));
    pthread_t thread;
    second |= first & ~(BARS(1, 3) | BARS(3, 3) | BARS(4, 3));
    MUST(-pthread_create(&thread, NULL, other, NULL));
    wrpkru(first);
    ready();
    while (go_on())
        if (!guest_spoilt) check();
        else check_rights(first, "the first");
    MUST(-pthread_join(thread, NULL));
    join_child(child);
    return pass();
}
