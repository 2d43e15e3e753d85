// Transparent huge pages, where they were asked for: memory that has been huge is so after a resume, with its content, also
// where a child shares it since a fork.
#include "guest.h"

#define HUGE (2ul << 20)
#define BLOCKS 6ul

static unsigned char *area;
static long had;

static void spoil(void) { ((uint64_t *)area)[97 * 4711] ^= 1; }

// KiB of huge pages that this process has in the area.
static long huge(void) {
    static char text[1 << 18];
    char key[32];
    snprintf(key, sizeof key, "%lx-", (unsigned long)area);
    slurp("/proc/self/smaps", text, sizeof text);
    char *at = strstr(text, key);
    CHECK(at, "no map at %p", (void *)area);
    at = at ? strstr(at, "AnonHugePages:") : NULL;
    return at ? atol(at + strlen("AnonHugePages:")) : -1;
}

static void check(const char *who) {
    const uint64_t *words = (const uint64_t *)area;
    for (size_t i = 0; i < BLOCKS * HUGE / 8; i += 97) CHECK(words[i] == mix(i), "%s: word %zu", who, i);
    // The kernel may have none to give for a while.
    CHECK(huge() >= had / 2, "%s: %ld KiB of huge pages, not %ld", who, huge(), had);
}

int main(void) {
    unsigned char *all = mmap(NULL, (BLOCKS + 2) * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(all != MAP_FAILED, "mmap");
    area = (unsigned char *)(((uintptr_t)all + HUGE) / HUGE * HUGE);
    CHECK(mmap(area, BLOCKS * HUGE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == area, "mmap");
    if (madvise(area, BLOCKS * HUGE, MADV_HUGEPAGE)) left_out("transparent huge pages, which this kernel does not know");
    for (size_t i = 0; i < BLOCKS * HUGE / 8; i++) ((uint64_t *)area)[i] = mix(i);
    had = huge();
    int go[2], done[2];
    MUST(pipe(go)), MUST(pipe(done));
    pid_t child = MUST(fork());
    if (!child) {
        char c;
        while (read(go[0], &c, 1) == 1 && c == 'c') {
            check("the child");
            MUST(write(done[1], &c, 1));
        }
        _exit(0);
    }
    ready();
    while (go_on()) {
        char c = 'c';
        MUST(write(go[1], &c, 1));
        CHECK(read(done[0], &c, 1) == 1, "the child's answer");
        check("the parent");
    }
    MUST(write(go[1], "e", 1));
    join_child(child);
    return pass();
}
