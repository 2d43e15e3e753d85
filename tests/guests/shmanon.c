// Shared anonymous memory across fork: every process sees the others' writes, also when it maps only a part.
#include "guest.h"

#define PAGE 4096
#define CHILDREN 3
#define PAGES 64
struct turn {
    volatile uint64_t ball;
    volatile uint64_t hits[CHILDREN + 1];
};
static struct turn *table;
static unsigned char *pattern;

static void spoil(void) { pattern[40 * PAGE + 3] ^= 1; }

static void *shared(size_t pages) {
    void *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
}

// Hits the ball when it is this one's turn.
static void play(int me) {
    if (table->ball % (CHILDREN + 1) == (uint64_t)me) {
        CHECK(table->hits[me] == table->ball / (CHILDREN + 1), "player %d", me);
        table->hits[me]++;
        __atomic_fetch_add(&table->ball, 1, __ATOMIC_SEQ_CST);
    }
}

int main(void) {
    table = shared(1);
    pattern = shared(PAGES);
    unsigned char *sparse = shared(1 << 16);
    for (int i = 0; i < PAGES * PAGE; i++) pattern[i] = mix(i);
    sparse[5 * PAGE] = 'a';
    sparse[60000 * (size_t)PAGE] = 'b';
    pid_t child[CHILDREN];
    for (int c = 0; c < CHILDREN; c++) {
        child[c] = MUST(fork());
        if (child[c]) continue;
        // Each keeps another part of the pattern; the last one moves it.
        if (c == 0) MUST(munmap(pattern, 32 * PAGE));
        if (c == 1) MUST(munmap(pattern + 16 * PAGE, 32 * PAGE));
        unsigned char *moved = pattern;
        if (c == 2) {
            moved = mremap(pattern, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x200000000000);
            CHECK(moved != MAP_FAILED, "mremap");
        }
        // A second object, made here and shared with a grandchild.
        volatile uint64_t *own = shared(2);
        pid_t grandchild = MUST(fork());
        if (grandchild == 0) {
            while (!told("go")) {
                own[1] = own[0] * 3;
                nap(500);
            }
            _exit(0);
        }
        while (!told("go")) {
            play(c + 1);
            own[0]++;
            nap(300);
        }
        uint64_t last = own[0];
        join_child(grandchild);
        CHECK(own[1] <= last * 3 && own[1] + 3000 > last * 3, "the grandchild has lost contact: %lu %lu", last, own[1]);
        if (c == 0) CHECK(pattern[63 * PAGE + 9] == (unsigned char)mix(63 * PAGE + 9), "upper half");
        if (c == 1) CHECK(pattern[50 * PAGE] == (unsigned char)mix(50 * PAGE), "after the hole");
        if (c == 2) CHECK(moved[33 * PAGE] == (unsigned char)mix(33 * PAGE), "moved map");
        sparse[100 * PAGE + c] = 'c';
        _exit(0);
    }
    ready();
    uint64_t last = 0, same = 0;
    while (go_on()) {
        play(0);
        same = table->ball == last ? same + 1 : 0;
        last = table->ball;
        CHECK(same < 5000, "the ball is stuck at %lu", last);
    }
    for (int c = 0; c < CHILDREN; c++) join_child(child[c]);
    for (int i = 0; i < PAGES * PAGE; i++) CHECK(pattern[i] == (unsigned char)mix(i), "byte %d", i);
    CHECK(sparse[5 * PAGE] == 'a' && sparse[60000 * (size_t)PAGE] == 'b' && sparse[7 * PAGE] == 0, "sparse object");
    for (int c = 0; c < CHILDREN; c++) CHECK(sparse[100 * PAGE + c] == 'c', "child %d's last write", c);
    return pass();
}
