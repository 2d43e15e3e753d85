// Files that have grown or shrunk since they were mapped, and maps that always reached beyond the end: what was changed stays
// changed, what grew can be seen, beyond the end there is SIGBUS. What a file without a name held is there still.
#include <setjmp.h>

#include "guest.h"

#define PAGE 4096
static char *grown, *shrunk, *shared, *nameless, *beyond;
static sigjmp_buf back;
static void spoil(void) { grown[PAGE] ^= 1; }

static void bus(int signal) {
    (void)signal;
    siglongjmp(back, 1);
}

static int faults(volatile char *at) {
    if (sigsetjmp(back, 1)) return 1;
    (void)*at;
    return 0;
}

static int make(const char *name, int pages, char fill) {
    char page[PAGE];
    memset(page, fill, PAGE);
    int fd = MUST(open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    for (int i = 0; i < pages; i++) CHECK(pwrite(fd, page, PAGE, i * PAGE) == PAGE, "write");
    return fd;
}

static char *map(int fd, int flags) {
    char *p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
}

int main(void) {
    MUST((long)signal(SIGBUS, bus));
    int a = make("grown.bin", 2, 'g'), b = make("shrunk.bin", 8, 's'), c = make("shared.bin", 8, 'h'), d = make("nameless.bin", 3, 'n');
    grown = map(a, MAP_PRIVATE);
    shrunk = map(b, MAP_PRIVATE);
    shared = map(c, MAP_SHARED);
    nameless = map(d, MAP_PRIVATE);
    beyond = map(d, MAP_SHARED);
    grown[PAGE] = 'G';
    MUST(ftruncate(a, 6 * PAGE)); // pages 2 to 5 come to be
    CHECK(pwrite(a, "new", 3, 4 * PAGE) == 3, "write");
    grown[3 * PAGE] = 'G';
    shrunk[0] = shrunk[6 * PAGE] = 'S';
    MUST(ftruncate(b, 2 * PAGE + 100)); // page 6 goes, though it was changed; what is left of page 2 is zeros
    shared[PAGE] = 'H';
    MUST(ftruncate(c, 3 * PAGE));
    nameless[PAGE] = 'N';
    MUST(unlink("nameless.bin"));
    MUST(close(a));
    MUST(close(b));
    MUST(close(c));
    MUST(close(d));
    ready();
    while (go_on()) {
        CHECK(grown[0] == 'g' && grown[PAGE] == 'G' && grown[PAGE + 1] == 'g' && grown[2 * PAGE] == 0, "before the old end");
        CHECK(grown[3 * PAGE] == 'G' && !strcmp(grown + 4 * PAGE, "new") && grown[5 * PAGE] == 0, "after the old end");
        CHECK(faults(grown + 6 * PAGE), "after the new end");
        CHECK(shrunk[0] == 'S' && shrunk[PAGE] == 's' && shrunk[2 * PAGE + 99] == 's' && shrunk[2 * PAGE + 100] == 0, "shrunk file");
        for (int i = 3; i < 8; i++) {
            CHECK(faults(shrunk + i * PAGE), "page %d of a shrunk file", i);
            CHECK(faults(shared + i * PAGE), "page %d of a shrunk file that is shared", i);
        }
        CHECK(shared[PAGE] == 'H' && shared[2 * PAGE] == 'h', "shared file");
        CHECK(nameless[0] == 'n' && nameless[PAGE] == 'N' && nameless[2 * PAGE] == 'n' && beyond[PAGE] == 'n', "file without a name");
    }
    return pass();
}
