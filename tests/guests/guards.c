// Guard pages (MADV_GUARD_INSTALL, Linux 6.13): in plain, read-only, forbidden and shared memory, and in a file's; they
// give SIGSEGV, what is beside them is untouched, and nothing is behind them but what belongs to others as well.
#include <setjmp.h>

#include "guest.h"

#define PAGE 4096
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103
enum { PLAIN, READONLY, HOLE, FILED, LOCKED, SHARED, AREAS };
static char *area[AREAS];
static int usable[AREAS]; // files may have them from 6.15 on
static sigjmp_buf back;
static void spoil(void) { MUST(madvise(area[PLAIN] + 2 * PAGE, PAGE, GUARD_REMOVE)); }

static void segv(int signal) {
    (void)signal;
    siglongjmp(back, 1);
}

static int faults(volatile char *at) {
    if (sigsetjmp(back, 1)) return 1;
    (void)*at;
    return 0;
}

static char *map(int prot, int flags, int fd) {
    char *p = mmap(NULL, 8 * PAGE, prot, flags, fd, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
}

int main(void) {
    MUST((long)signal(SIGSEGV, segv));
    int fd = MUST(open("guarded.bin", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    char page[PAGE];
    memset(page, 'f', PAGE);
    for (int i = 0; i < 8; i++) CHECK(write(fd, page, PAGE) == PAGE, "write");
    int anon = MAP_PRIVATE | MAP_ANONYMOUS, rw = PROT_READ | PROT_WRITE;
    area[PLAIN] = map(rw, anon, -1);
    area[READONLY] = map(rw, anon, -1);
    area[HOLE] = map(PROT_NONE, anon, -1);
    area[FILED] = map(rw, MAP_PRIVATE, fd);
    area[LOCKED] = map(rw, anon, -1);
    area[SHARED] = map(rw, MAP_SHARED | MAP_ANONYMOUS, -1);
    MUST(close(fd));
    for (int a = 0; a < AREAS; a++) {
        if (a != HOLE) memset(area[a], 'a' + a, 8 * PAGE);
        usable[a] = madvise(area[a] + 2 * PAGE, PAGE, GUARD_INSTALL) == 0 && madvise(area[a] + 5 * PAGE, 2 * PAGE, GUARD_INSTALL) == 0;
    }
    if (!usable[PLAIN]) say("no guard pages here\n");
    MUST(mprotect(area[READONLY], 8 * PAGE, PROT_READ));
    (void)!mlock(area[LOCKED], 8 * PAGE); // fails at the guards, but the memory counts as locked
    ready();
    while (go_on() && (usable[PLAIN] || !guest_spoilt)) {
        for (int a = 0; a < AREAS; a++)
            for (int i = 0; i < 8; i++) {
                int guarded = usable[a] && (i == 2 || i == 5 || i == 6);
                if (a == HOLE) continue;
                CHECK(faults(area[a] + i * PAGE) == guarded, "area %d page %d %s", a, i, guarded ? "is not guarded" : "is guarded");
                if (!guarded) CHECK(area[a][i * PAGE] == 'a' + a && area[a][i * PAGE + PAGE - 1] == 'a' + a, "area %d page %d", a, i);
            }
    }
    CHECK(usable[PLAIN] || !guest_spoilt, "nothing to spoil");
    for (int a = 0; a < AREAS; a++) {
        if (!usable[a]) continue;
        if (a == LOCKED) MUST(munlock(area[a], 8 * PAGE));
        MUST(mprotect(area[a], 8 * PAGE, rw));
        CHECK(faults(area[a] + 2 * PAGE), "area %d is no longer guarded when it may be written", a);
        MUST(madvise(area[a], 8 * PAGE, GUARD_REMOVE));
        CHECK(area[a][2 * PAGE] == (a == FILED ? 'f' : a == SHARED ? 'a' + a : 0), "area %d: a guard kept a page", a);
    }
    return pass();
}
