// Memory locked by mlockall(2), also what is mapped later; locked memory that can't be had: forbidden, or beyond the end
// of a file. Judged by smaps and by VmLck.
#include "guest.h"

#define PAGE 4096
static char text[1 << 19];
static char *later;
static void spoil(void) { MUST(munlockall()); }

// Whether the mapping at `p` has this flag in smaps.
static int has(void *p, const char *flag) {
    char key[32];
    snprintf(key, sizeof key, "\n%lx-", (unsigned long)p);
    slurp("/proc/self/smaps", text, sizeof text);
    char *at = strstr(text, key);
    CHECK(at, "no map at %p", p);
    at = strstr(at, "VmFlags:");
    *strchr(at, '\n') = 0;
    return strstr(at, flag) != NULL;
}

static char *map(int prot, int fd) {
    char *p = mmap(NULL, 4 * PAGE, prot, MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    CHECK(p != MAP_FAILED, "mmap");
    return p;
}

static long locked(void) {
    slurp("/proc/self/status", text, sizeof text);
    return atol(strstr(text, "VmLck:") + 6);
}

int main(void) {
    char *open_memory = map(PROT_READ | PROT_WRITE, -1);
    char *content = map(PROT_READ | PROT_WRITE, -1);
    char *forbidden = map(PROT_NONE, -1);
    int fd = MUST(open("short.bin", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    MUST(ftruncate(fd, PAGE));
    char *beyond = map(PROT_READ, fd);
    MUST(close(fd));
    memset(content, 'c', 4 * PAGE);
    MUST(mprotect(content, 4 * PAGE, PROT_NONE));
    MUST(mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT));
    long before = locked();
    ready();
    while (go_on()) {
        later = map(PROT_READ | PROT_WRITE, -1);
        CHECK(has(later, " lo") && has(later, " lf"), "what is mapped now is not locked");
        MUST(munmap(later, 4 * PAGE));
    }
    CHECK(has(open_memory, " lo") && has(open_memory, " lf"), "open memory");
    CHECK(has(forbidden, " lo") && has(content, " lo") && has(beyond, " lo"), "memory that can't be had");
    CHECK(locked() == before, "%ld KiB were locked, now %ld", before, locked());
    MUST(mprotect(content, 4 * PAGE, PROT_READ));
    for (int i = 0; i < 4 * PAGE; i++) CHECK(content[i] == 'c', "content");
    MUST(munlockall());
    later = map(PROT_READ | PROT_WRITE, -1);
    CHECK(!has(later, " lo"), "still locked");
    return pass();
}
