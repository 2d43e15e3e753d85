// brk(2): grown, shrunk, not at a page's border, a piece of the heap with other permissions and one taken out; and a stack of
// its own that grows down (MAP_GROWSDOWN) after as before.
#include "guest.h"

#define PAGE 4096ul
static char *start, *end;
static char *down, *low;
static void spoil(void) { MUST(brk(end + 1)); }

int main(void) {
    char *first = sbrk(0);
    start = (char *)(((uintptr_t)first + PAGE - 1) & -PAGE);
    MUST(brk(start + 64 * PAGE));
    memset(start, 'b', 64 * PAGE);
    MUST(brk(start + 40 * PAGE + 123)); // shrunk: what is above is gone
    end = start + 40 * PAGE + 123;
    MUST(mprotect(start + 8 * PAGE, 4 * PAGE, PROT_READ));
    MUST(munmap(start + 20 * PAGE, 4 * PAGE));

    long gap = 300; // room to grow into: the kernel keeps 256 pages free below a stack
    char *room = mmap(NULL, (gap + 64) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(room != MAP_FAILED, "mmap");
    MUST(munmap(room + PAGE, (gap + 63) * PAGE));
    down = mmap(room + (gap + 60) * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(down == room + (gap + 60) * PAGE, "mmap");
    low = down;
    memset(down, 'd', 4 * PAGE);
    ready();
    for (int turn = 0; go_on(); turn++) {
        CHECK((char *)sbrk(0) == end, "the break is %p, not %p", sbrk(0), end);
        for (char *p = start; p < end; p += 512)
            if (p < start + 20 * PAGE || p >= start + 24 * PAGE) CHECK(*p == 'b', "byte at %p", p);
        if (turn % 10 == 5 && low > down - 40 * PAGE) {
            low -= PAGE; // one page further down, by a touch
            CHECK(*low == 0, "fresh stack");
            memset(low, 'd', PAGE);
        }
        for (char *p = low; p < down + 4 * PAGE; p += 512) CHECK(*p == 'd', "stack at %p", p);
    }
    unsigned char seen[4];
    CHECK(mincore(start + 20 * PAGE, PAGE, seen) == -1 && errno == ENOMEM, "the hole in the heap is filled");
    int zero = MUST(open("/dev/zero", O_RDONLY));
    CHECK(read(zero, start + 8 * PAGE, 1) == -1 && errno == EFAULT, "read-only heap can be written");
    MUST(brk(start + 64 * PAGE));
    for (char *p = start + 41 * PAGE; p < start + 64 * PAGE; p++) CHECK(*p == 0, "what was given back has come again");
    MUST(brk(start + PAGE));
    CHECK((char *)sbrk(0) == start + PAGE, "shrinking");
    return pass();
}
