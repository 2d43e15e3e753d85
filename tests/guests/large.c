// Some MiB of memory: private and in pieces, some of it a child's own after fork, and shared. Each page tells where it
// belongs and how often it was written.
#include "guest.h"

#define PAGE 4096ul
#define PAGES 3000ul // nearly 12 MiB
static uint64_t *own, *common;
static uint64_t turns;

static void spoil(void) { own[1500 * PAGE / 8 + 7]++; }

static uint64_t *map(int flags) {
    void *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
}

// Runs of one to eleven pages, with holes between them.
static int is_hole(uint64_t page) { return mix(page / 11) % 11 == page % 11; }

static void fill(uint64_t *at, uint64_t kind, uint64_t page) {
    for (uint64_t i = 0; i < PAGE / 8; i++) at[page * PAGE / 8 + i] = mix(kind << 40 | page << 9 | i);
}

static void check(const uint64_t *at, uint64_t kind, uint64_t page) {
    for (uint64_t i = 0; i < PAGE / 8; i++) {
        uint64_t wanted = is_hole(page) ? 0 : mix(kind << 40 | page << 9 | i);
        CHECK(at[page * PAGE / 8 + i] == wanted, "kind %lu, page %lu, word %lu", kind, page, i);
    }
}

// What the child has written: every third page of the second half.
static int is_childs(uint64_t page) { return page >= PAGES / 2 && page % 3 == 0; }

// A part of the pages at a time; holes are looked at only in the end, or they would not be holes any more.
static void look(int child) {
    for (uint64_t page = turns++ % 16; page < PAGES; page += 16)
        if (!is_hole(page)) check(own, child && is_childs(page) ? 2 : 1, page), check(common, 3, page);
}

int main(void) {
    own = map(MAP_PRIVATE), common = map(MAP_SHARED);
    for (uint64_t page = 0; page < PAGES; page++)
        if (!is_hole(page)) fill(own, 1, page), fill(common, 3, page);
    pid_t child = MUST(fork());
    if (child == 0)
        for (uint64_t page = 0; page < PAGES; page++)
            if (!is_hole(page) && is_childs(page)) fill(own, 2, page);
    if (child == 0) {
        while (!told("go")) look(1), nap(1000);
    } else {
        ready();
        while (go_on()) look(0);
        join_child(child);
    }
    for (uint64_t page = 0; page < PAGES; page++) {
        check(own, !child && is_childs(page) ? 2 : 1, page);
        check(common, 3, page);
    }
    if (child == 0) _exit(0);
    return pass();
}
