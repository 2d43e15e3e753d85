// Reservations of address space: a terabyte that may not be touched, one without a promise of memory, both with a few pages
// in them, as memory managers of languages make them. They cost neither time nor room in the image.
#include "guest.h"

#define PAGE 4096ul
#define TERA (1ul << 40)
static char *none, *noreserve;
static void spoil(void) { noreserve[TERA / 2] ^= 1; }

static char *map(int prot, int flags) {
    char *p = mmap(NULL, TERA, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
}

int main(void) {
    none = map(PROT_NONE, 0);
    noreserve = map(PROT_READ | PROT_WRITE, MAP_NORESERVE);
    char *forbidden = map(PROT_READ | PROT_WRITE, MAP_NORESERVE);
    MUST(mprotect(none + TERA / 4, 16 * PAGE, PROT_READ | PROT_WRITE));
    memset(none + TERA / 4, 'n', 16 * PAGE);
    for (unsigned long i = 0; i < 8; i++) {
        memset(noreserve + i * (TERA / 8), 'r', PAGE);
        memset(forbidden + i * (TERA / 8), 'f', PAGE);
    }
    MUST(mprotect(forbidden, TERA, PROT_NONE));
    ready();
    while (go_on()) CHECK(none[TERA / 4 + 7] == 'n' && noreserve[TERA / 2] == 'r', "a page of the reservation");
    MUST(mprotect(forbidden, TERA, PROT_READ));
    for (unsigned long i = 0; i < 8; i++) {
        CHECK(noreserve[i * (TERA / 8) + 9] == 'r' && forbidden[i * (TERA / 8) + 9] == 'f', "page %lu", i);
        CHECK(noreserve[i * (TERA / 8) + PAGE] == 0 && forbidden[i * (TERA / 8) + PAGE] == 0, "page after %lu", i);
    }
    for (unsigned long i = 0; i < 16 * PAGE; i++) CHECK(none[TERA / 4 + i] == 'n', "byte %lu", i);
    MUST(mprotect(none + TERA / 2, PAGE, PROT_READ | PROT_WRITE)); // the rest is still there to be used
    CHECK(none[TERA / 2] == 0, "fresh page");
    return pass();
}
