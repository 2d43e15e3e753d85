// On which nodes memory is to be: policies of threads and of mappings, with their flags; a thread and memory without one.
// One node is enough to tell them apart.
#include <linux/mempolicy.h>

#include "guest.h"

#define PAGE 4096ul
#define BITS 1024ul
static char *private, *shared;
static volatile int finish, up;
static int usable;

static void spoil(void) { MUST(syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0)); }

static void set(int mode) {
    unsigned long node = 1;
    MUST(syscall(SYS_set_mempolicy, mode, mode == MPOL_LOCAL ? NULL : &node, BITS));
}

static void bind_to(char *at, int pages, int mode) {
    unsigned long node = 1;
    MUST(syscall(SYS_mbind, at, pages * PAGE, mode, &node, BITS, 0));
}

// The policy of a thread, or (MPOL_F_ADDR) of the memory at an address.
static void is(void *at, int mode, const char *what) {
    unsigned long nodes[BITS / 64] = {0};
    int now = -1;
    MUST(syscall(SYS_get_mempolicy, &now, nodes, BITS, at, at ? MPOL_F_ADDR : 0));
    unsigned long expected = mode != MPOL_DEFAULT && mode != MPOL_LOCAL;
    CHECK(now == mode && nodes[0] == expected, "policy of %s: mode %#x instead of %#x, nodes %lx", what, now, mode, nodes[0]);
}

static void *interleaves(void *unused) {
    (void)unused;
    set(MPOL_INTERLEAVE);
    up++;
    for (; !finish; nap(1000)) is(NULL, MPOL_INTERLEAVE, "a thread");
    return NULL;
}

static void *has_none(void *unused) {
    (void)unused;
    MUST(syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0));
    up++;
    for (; !finish; nap(1000)) is(NULL, MPOL_DEFAULT, "a thread without one");
    return NULL;
}

static char *map(int flags) {
    char *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
}

static void memory_is_as_it_was(void) {
    is(private + 3 * PAGE, MPOL_DEFAULT, "memory before");
    is(private + 4 * PAGE, MPOL_BIND | MPOL_F_RELATIVE_NODES, "private memory");
    is(private + 7 * PAGE, MPOL_BIND | MPOL_F_RELATIVE_NODES, "private memory's end");
    is(private + 8 * PAGE, MPOL_PREFERRED, "private memory that prefers");
    is(private + 9 * PAGE, MPOL_DEFAULT, "memory behind");
    is(shared, MPOL_BIND, "shared memory");
    is(shared + 8 * PAGE, MPOL_DEFAULT, "shared memory's other half");
    for (int i = 0; i < 16; i++) CHECK(private[i * PAGE] == 'p' && shared[i * PAGE] == 's', "page %d", i);
}

int main(void) {
    pthread_t thread[2];
    usable = syscall(SYS_set_mempolicy, MPOL_PREFERRED | MPOL_F_STATIC_NODES, &(unsigned long){1}, BITS) == 0;
    if (!usable) { // a kernel without nodes
        ready();
        while (go_on() && !guest_spoilt) {}
        CHECK(!guest_spoilt, "nothing to spoil");
        return pass();
    }
    PTHREAD(pthread_create(&thread[0], NULL, interleaves, NULL));
    PTHREAD(pthread_create(&thread[1], NULL, has_none, NULL));
    while (up < 2) sched_yield();
    private = map(MAP_PRIVATE);
    shared = map(MAP_SHARED);
    for (int i = 0; i < 16; i++) private[i * PAGE] = 'p', shared[i * PAGE] = 's';
    bind_to(private + 4 * PAGE, 4, MPOL_BIND | MPOL_F_RELATIVE_NODES);
    bind_to(private + 8 * PAGE, 1, MPOL_PREFERRED);
    bind_to(shared, 8, MPOL_BIND);
    ready();
    while (go_on()) {
        is(NULL, MPOL_PREFERRED | MPOL_F_STATIC_NODES, "the first thread");
        memory_is_as_it_was();
        pid_t child = MUST(fork());
        if (!child) {
            is(NULL, MPOL_PREFERRED | MPOL_F_STATIC_NODES, "a child");
            memory_is_as_it_was();
            _exit(0);
        }
        join_child(child);
    }
    finish = 1;
    for (int i = 0; i < 2; i++) PTHREAD(pthread_join(thread[i], NULL));
    return pass();
}
