// Huge pages of hugetlbfs: private and shared, of a memory file with and without a descriptor, written and untouched, with
// other permissions, without a reservation, shared with a child since a fork. The harness sees to it that there are some.
#include "guest.h"

#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif
#define PAGE (2ul << 20)
static char *private, *loose, *shared, *filed, *copied, *nameless;
static int fd;

static void spoil(void) { private[13] ^= 1; }

static char *map(unsigned long pages, int flags, int fd) {
    char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(p != MAP_FAILED, "mmap of %lu huge pages", pages);
    return p;
}

static int file(const char *name, int pages) {
    int made = MUST(memfd_create(name, MFD_CLOEXEC | MFD_HUGETLB | MFD_ALLOW_SEALING));
    MUST(ftruncate(made, pages * PAGE));
    return made;
}

// The first and the last words of a page.
static void fill(char *at, uint64_t seed) {
    uint64_t *words = (uint64_t *)at;
    for (int i = 0; i < 64; i++) words[i] = mix(seed + i), words[PAGE / 8 - 1 - i] = mix(seed - i);
}

static void is(const char *at, uint64_t seed, const char *what) {
    const uint64_t *words = (const uint64_t *)at;
    for (int i = 1; i < 64; i++)
        CHECK(words[i] == (seed ? mix(seed + i) : 0) && words[PAGE / 8 - 1 - i] == (seed ? mix(seed - i) : 0), "%s: word %d", what, i);
}

static void private_is(const char *who) {
    is(private, 1, who);
    is(private + 2 * PAGE, 3, who);
    is(loose + PAGE, 4, who);
}

static void is_huge(char *at, const char *what) {
    static char text[1 << 18];
    char key[32];
    slurp("/proc/self/smaps", text, sizeof text);
    snprintf(key, sizeof key, "%lx-", (unsigned long)at);
    char *map = strstr(text, key);
    CHECK(map, "%s is not mapped", what);
    char *size = strstr(map, "KernelPageSize:");
    CHECK(size && atol(size + 15) == 2048, "%s has pages of %ld KiB", what, size ? atol(size + 15) : 0);
}

int main(void) {
    int anonymous = MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB;
    private = map(4, MAP_PRIVATE | anonymous, -1); // page 1 is never touched
    loose = map(2, MAP_PRIVATE | MAP_NORESERVE | anonymous, -1);
    shared = map(2, MAP_SHARED | anonymous, -1);
    fd = file("huge", 3);
    filed = map(3, MAP_SHARED, fd);
    copied = map(3, MAP_PRIVATE, fd);
    int other = file("nameless", 1);
    nameless = map(1, MAP_SHARED, other);
    MUST(close(other));
    fill(private, 1);
    fill(private + 2 * PAGE, 3);
    fill(loose + PAGE, 4);
    fill(shared + PAGE, 5);
    fill(filed, 6);
    fill(filed + 2 * PAGE, 8);
    fill(copied + 2 * PAGE, 9);
    fill(nameless, 10);
    MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    MUST(mprotect(private + 2 * PAGE, PAGE, PROT_READ));
    MUST(mprotect(loose, PAGE, PROT_NONE));
    pid_t child = MUST(fork());
    if (!child) {
        while (wait_on()) {
            private_is("the child's memory");
            volatile uint64_t *turn = (uint64_t *)shared;
            if (*turn % 2) ++*turn;
        }
        private_is("the child's memory");
        _exit(0);
    }
    ready();
    while (go_on()) {
        // The child makes it even.
        volatile uint64_t *turn = (uint64_t *)shared;
        if (*turn % 2 == 0) ++*turn;
        for (int i = 0; i < 5000 && *turn % 2 && !told("go"); i++) nap(1000);
        CHECK(told("go") || *turn % 2 == 0, "the child does not see the memory");
        private_is("private memory");
        is(shared + PAGE, 5, "shared memory");
        is(filed, 6, "the file");
        is(filed + 2 * PAGE, 8, "the file");
        is(copied, 6, "the copy of the file");
        is(copied + 2 * PAGE, 9, "the changed copy of the file");
        is(nameless, 10, "the file without a descriptor");
        uint64_t word = 0;
        CHECK(pread(fd, &word, 8, 2 * PAGE + 8) == 8 && word == mix(8 + 1), "descriptor and map are different files");
        ((uint64_t *)filed)[0] = word = mix(*turn);
        uint64_t same = 0;
        CHECK(pread(fd, &same, 8, 0) == 8 && same == word && ((uint64_t *)copied)[0] == word, "a write to the file");
    }
    is(private + PAGE, 0, "untouched memory");
    is(filed + PAGE, 0, "the untouched page of the file");
    MUST(mprotect(loose, PAGE, PROT_READ));
    is(loose, 0, "forbidden memory");
    is_huge(private, "private memory");
    is_huge(loose, "memory without a reservation");
    is_huge(shared, "shared memory");
    is_huge(filed, "the file");
    is_huge(copied, "the copy of the file");
    is_huge(nameless, "the file without a descriptor");
    CHECK(fcntl(fd, F_GET_SEALS) == F_SEAL_GROW, "seals");
    struct stat st;
    MUST(fstat(fd, &st));
    CHECK(st.st_size == 3 * (off_t)PAGE && st.st_blksize == (blksize_t)PAGE, "size %ld in blocks of %ld", (long)st.st_size, (long)st.st_blksize);
    join_child(child);
    return pass();
}
