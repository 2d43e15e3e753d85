// Private anonymous memory: contents, holes, protections, pages that were never touched.
#include "guest.h"

#define PAGE 4096ul
#define PAGES 2048ul

static unsigned char *area;
static uint32_t version[PAGES];

static void fill(unsigned char *page, uint64_t seed) {
    uint64_t *words = (uint64_t *)page;
    for (size_t i = 0; i < PAGE / 8; i++) words[i] = mix(seed * 512 + i);
}

static int same(const unsigned char *page, uint64_t seed) {
    const uint64_t *words = (const uint64_t *)page;
    for (size_t i = 0; i < PAGE / 8; i++)
        if (words[i] != mix(seed * 512 + i)) return 0;
    return 1;
}

static int zero(const unsigned char *page) {
    for (size_t i = 0; i < PAGE; i++)
        if (page[i]) return 0;
    return 1;
}

static unsigned char *map(void *at, size_t pages, int flags) {
    void *p = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
}

static void spoil(void) { area[1234 * PAGE + 5] ^= 1; }

int main(void) {
    area = map(NULL, PAGES, 0);
    for (size_t p = 0; p < PAGES; p++) fill(area + p * PAGE, p);

    unsigned char *fixed = map((void *)0x10000000, 16, MAP_FIXED_NOREPLACE);
    for (size_t p = 0; p < 16; p++) fill(fixed + p * PAGE, 100000 + p);
    MUST(mprotect(fixed + 2 * PAGE, 3 * PAGE, PROT_READ));
    MUST(mprotect(fixed + 6 * PAGE, 2 * PAGE, PROT_NONE)); // content that can't be read until it is allowed again
    MUST(mprotect(fixed + 9 * PAGE, PAGE, PROT_READ | PROT_EXEC));
    MUST(munmap(fixed + 12 * PAGE, 2 * PAGE));

    size_t far = 1ul << 18; // 1 GiB of which eight pages exist
    unsigned char *sparse = map(NULL, far, MAP_NORESERVE);
    for (size_t i = 0; i < 8; i++) fill(sparse + i * (far / 8) * PAGE, 200000 + i);
    unsigned char *dropped = map(NULL, 64, 0);
    for (size_t p = 0; p < 64; p++) fill(dropped + p * PAGE, 300000 + p);
    MUST(madvise(dropped + 16 * PAGE, 16 * PAGE, MADV_DONTNEED));
    unsigned char *untouched = map(NULL, 64, 0);
    CHECK(zero(untouched + 7 * PAGE), "fresh memory"); // read once: the kernel's zero page is mapped there
    unsigned char *inner = map(NULL, 3, 0);
    fill(inner + PAGE, 400000);
    MUST(mprotect(inner, PAGE, PROT_NONE));
    MUST(mprotect(inner + 2 * PAGE, PAGE, PROT_NONE));

    ready();
    uint64_t step = 0;
    while (go_on()) {
        for (int i = 0; i < 32; i++, step++) {
            size_t p = mix(step) % PAGES;
            CHECK(same(area + p * PAGE, p + version[p] * PAGES), "page %zu", p);
            version[p]++;
            fill(area + p * PAGE, p + version[p] * PAGES);
        }
        CHECK(same(inner + PAGE, 400000), "page between guards");
    }
    for (size_t p = 0; p < PAGES; p++) CHECK(same(area + p * PAGE, p + version[p] * PAGES), "page %zu at the end", p);
    unsigned char seen[16];
    CHECK(mincore(fixed + 12 * PAGE, 2 * PAGE, seen) == -1 && errno == ENOMEM, "a hole has been filled");
    int null = MUST(open("/dev/zero", O_RDONLY));
    CHECK(read(null, fixed + 2 * PAGE, 1) == -1 && errno == EFAULT, "read-only memory can be written");
    int out = MUST(open("/dev/null", O_WRONLY));
    int pipes[2];
    MUST(pipe(pipes));
    CHECK(write(pipes[1], fixed + 6 * PAGE, 1) == -1 && errno == EFAULT, "PROT_NONE memory can be read");
    MUST(close(out));
    MUST(mprotect(fixed + 6 * PAGE, 2 * PAGE, PROT_READ));
    for (size_t p = 0; p < 16; p++)
        if (p != 12 && p != 13) CHECK(same(fixed + p * PAGE, 100000 + p), "fixed page %zu", p);
    for (size_t i = 0; i < far; i += 64) {
        if (i % (far / 8) == 0) CHECK(same(sparse + i * PAGE, 200000 + i / (far / 8)), "sparse page %zu", i);
        else if (i % 8192 == 64) CHECK(zero(sparse + i * PAGE), "sparse page %zu isn't empty", i);
    }
    for (size_t p = 0; p < 64; p++) {
        if (p >= 16 && p < 32) CHECK(zero(dropped + p * PAGE), "dropped page %zu came back", p);
        else CHECK(same(dropped + p * PAGE, 300000 + p), "page %zu beside dropped ones", p);
        CHECK(zero(untouched + p * PAGE), "untouched page %zu", p);
    }
    return pass();
}
