// Memory that processes share since a fork: each has its own content of every page, and pages that nobody has written to
// since are still there once for all of them.
#include "guest.h"

#define PAGE 4096ul
#define PAGES 16384ul // 64 MiB
#define HEAP 256ul
#define FILED 64ul
enum { ROOT, CHANGER, GRANDCHILD, MAPPER, GROWER, PROCESSES };

static int me;
static unsigned char *area, *heap, *filed;
static uintptr_t deep; // in a stack frame that is never left
static void spoil(void) { area[4242 * PAGE + 17] ^= 1; }

static void fill(unsigned char *page, uint64_t seed) {
    uint64_t *words = (uint64_t *)page;
    for (size_t i = 0; i < PAGE / 8; i++) words[i] = mix(seed * 512 + i);
}

static int same(const unsigned char *page, uint64_t seed) {
    const uint64_t *words = (const uint64_t *)page;
    for (size_t i = 0; i < PAGE / 8; i++)
        if (words[i] != (seed ? mix(seed * 512 + i) : 0)) return 0;
    return 1;
}

enum { UNMAPPED = -1, ZERO = 0 };
#define SEED(version, page) ((version) * 100000l + (long)(page) + 1)

// What `area` holds: the seed of a page.
static long holds(int who, size_t p) {
    switch (who) {
    case ROOT: return SEED(p % 13 == 0 ? 1 : 0, p);
    case GRANDCHILD:
        if (p % 11 == 0) return SEED(3, p);
        __attribute__((fallthrough));
    case CHANGER: return SEED(p % 7 == 0 ? 2 : 0, p);
    case MAPPER:
        if (p >= 100 && p < 200) return UNMAPPED;
        if (p >= 300 && p < 400) return ZERO;
        if (p >= 700 && p < 800) return SEED(4, p);
    }
    return SEED(0, p);
}

static int changed(int who, size_t p) { return holds(who, p) != SEED(0, p); }

static void check_page(size_t p) {
    long seed = holds(me, p);
    if (seed != UNMAPPED) CHECK(same(area + p * PAGE, seed), "process %d: page %zu", me, p);
}

// The pages of a file, half of them changed before the fork; the changer has then changed some of both halves.
static void check_filed(void) {
    for (size_t p = 0; p < FILED; p++) {
        long seed = SEED(p % 2 ? 6 : 5, p);
        if ((me == CHANGER || me == GRANDCHILD) && p % 8 >= 6) seed = SEED(7, p);
        CHECK(same(filed + p * PAGE, seed), "process %d: page %zu of the file", me, p);
    }
}

static void check_heap(void) {
    size_t pages = me == MAPPER || me == ROOT ? 2 * HEAP : HEAP;
    CHECK((unsigned char *)sbrk(0) == heap + pages * PAGE, "process %d: the heap ends at %p", me, sbrk(0));
    for (size_t p = 0; p < pages; p++) CHECK(same(heap + p * PAGE, SEED(8, p)), "process %d: page %zu of the heap", me, p);
}

static void check_some(uint64_t *step) {
    for (int i = 0; i < 32; i++) check_page(mix((*step)++) % PAGES);
    check_page(4242);
    if (deep) CHECK(*(volatile unsigned char *)deep == 0x5a, "a page of the stack");
}

// Pages that neither we nor our parent have changed are there once.
static void check_shared(int parent) {
    int fd = MUST(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    static uint64_t entry[PAGES];
    CHECK(pread(fd, entry, sizeof entry, (uintptr_t)area / PAGE * 8) == sizeof entry, "pagemap");
    size_t could = 0, is = 0;
    for (size_t p = 0; p < PAGES; p++) {
        if (changed(me, p) || changed(parent, p)) continue;
        could++;
        is += !(entry[p] >> 56 & 1);
    }
    MUST(close(fd));
    CHECK(is >= could - could / 100, "process %d: %zu of %zu pages are still shared", me, is, could);
}

static void grow_heap(void) {
    unsigned char *more = sbrk(HEAP * PAGE);
    CHECK(more == heap + HEAP * PAGE, "sbrk");
    for (size_t p = 0; p < HEAP; p++) fill(more + p * PAGE, SEED(8, HEAP + p));
}

static void live(int parent, pid_t child) {
    uint64_t step = me;
    while (wait_on()) check_some(&step);
    for (size_t p = 0; p < PAGES; p++) check_page(p);
    check_heap();
    check_filed();
    if (me == MAPPER) {
        unsigned char seen[200];
        CHECK(mincore(area + 100 * PAGE, PAGE, seen) == -1 && errno == ENOMEM, "what was unmapped is back");
        int zero = MUST(open("/dev/zero", O_RDONLY | O_CLOEXEC));
        CHECK(read(zero, area + 500 * PAGE, 1) == -1 && errno == EFAULT, "what was protected can be written to");
    }
    check_shared(parent);
    // Nobody goes before all have looked.
    MUST(close(MUST(open(guest_path(me == CHANGER ? "1" : me == GRANDCHILD ? "2" : me == MAPPER ? "3" : "4"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600))));
    while (!(told("1") && told("2") && told("3") && told("4"))) nap(1000);
    if (child) join_child(child);
    _exit(0);
}

// Grows the stack, and lives at its end.
static void live_deep(int parent) {
    volatile unsigned char *room = __builtin_alloca(300 * PAGE);
    for (size_t p = 300; p-- > 0;) room[p * PAGE] = 0x5a;
    deep = (uintptr_t)room + 200 * PAGE;
    live(parent, 0);
}

int main(void) {
    area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED, "mmap");
    (void)madvise(area, PAGES * PAGE, MADV_NOHUGEPAGE); // a huge page is shared or not as a whole
    for (size_t p = 0; p < PAGES; p++) fill(area + p * PAGE, SEED(0, p));
    heap = sbrk(0);
    heap = (unsigned char *)(((uintptr_t)heap + PAGE - 1) & -PAGE);
    CHECK(brk(heap + HEAP * PAGE) == 0, "brk");
    for (size_t p = 0; p < HEAP; p++) fill(heap + p * PAGE, SEED(8, p));
    int fd = MUST(open("filed.bin", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    unsigned char page[PAGE];
    for (size_t p = 0; p < FILED; p++) {
        fill(page, SEED(5, p));
        CHECK(write(fd, page, PAGE) == PAGE, "write");
    }
    filed = mmap(NULL, FILED * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(filed != MAP_FAILED, "mmap");
    MUST(close(fd));
    for (size_t p = 1; p < FILED; p += 2) fill(filed + p * PAGE, SEED(6, p));

    int done[2];
    MUST(pipe(done));
    pid_t child[PROCESSES];
    for (int who = CHANGER; who < PROCESSES; who++) {
        if (who == GRANDCHILD) continue;
        child[who] = MUST(fork());
        if (child[who]) continue;
        me = who;
        int parent = ROOT;
        pid_t own = 0;
        if (me == CHANGER) {
            for (size_t p = 0; p < PAGES; p += 7) fill(area + p * PAGE, SEED(2, p));
            for (size_t p = 0; p < FILED; p++)
                if (p % 8 >= 6) fill(filed + p * PAGE, SEED(7, p));
            own = MUST(fork());
            if (!own) {
                me = GRANDCHILD;
                parent = CHANGER;
                for (size_t p = 0; p < PAGES; p += 11) fill(area + p * PAGE, SEED(3, p));
            }
        } else if (me == MAPPER) {
            MUST(munmap(area + 100 * PAGE, 100 * PAGE));
            MUST(madvise(area + 300 * PAGE, 100 * PAGE, MADV_DONTNEED));
            MUST(mprotect(area + 500 * PAGE, 100 * PAGE, PROT_READ));
            CHECK(mmap(area + 700 * PAGE, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED, "mmap");
            for (size_t p = 700; p < 800; p++) fill(area + p * PAGE, SEED(4, p));
            grow_heap();
        }
        CHECK(write(done[1], "", 1) == 1, "write");
        MUST(close(done[0]));
        MUST(close(done[1]));
        if (me == GROWER) live_deep(parent);
        live(parent, own);
    }
    for (int i = 1; i < PROCESSES; i++) CHECK(read(done[0], page, 1) == 1, "read");
    MUST(close(done[0]));
    MUST(close(done[1]));
    for (size_t p = 0; p < PAGES; p += 13) fill(area + p * PAGE, SEED(1, p));
    grow_heap();

    ready();
    uint64_t step = 0;
    while (go_on()) check_some(&step);
    for (size_t p = 0; p < PAGES; p++) check_page(p);
    check_heap();
    check_filed();
    join_child(child[CHANGER]);
    join_child(child[MAPPER]);
    join_child(child[GROWER]);
    return pass();
}
