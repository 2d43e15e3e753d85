// Tens of thousands of mappings: plain memory with holes of other permissions, shared memory of many
// pieces, a file mapped again and again. (A save or a resume whose time grows with their square would miss its deadline.)
#include "guest.h"

#define PAGE 4096l
#define PLAIN 20000l
#define SHARED 4500l
#define FILED 500l
static char *plain, *shared[SHARED], *filed[FILED];

static void spoil(void) { shared[SHARED - 1][0] ^= 1; }

static long maps(void) {
    static char text[1 << 16];
    int fd = MUST(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
    long lines = 0;
    for (ssize_t n; (n = MUST(read(fd, text, sizeof text))) > 0;)
        for (ssize_t i = 0; i < n; i++) lines += text[i] == '\n';
    MUST(close(fd));
    return lines;
}

static void look(void) {
    for (long i = 0; i < PLAIN; i += 200) CHECK(plain[i * PAGE] == (char)mix(i), "plain page %ld", i);
    for (long i = 0; i < SHARED; i++) CHECK(shared[i][0] == (i % 2 ? (char)mix(i) : 0), "shared piece %ld", i);
    for (long i = 0; i < FILED; i++) CHECK(filed[i][0] == 'g', "map %ld of the file", i);
}

int main(void) {
    int fd = MUST(open("many.bin", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    char page[PAGE];
    for (int i = 0; i < 2; i++) {
        memset(page, 'f' + i, PAGE);
        CHECK(write(fd, page, PAGE) == PAGE, "write");
    }
    plain = mmap(NULL, PLAIN * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(plain != MAP_FAILED, "mmap");
    for (long i = 0; i < PLAIN; i += 2) {
        MUST(mprotect(plain + i * PAGE, PAGE, PROT_READ | PROT_WRITE));
        if (i % 200 == 0) plain[i * PAGE] = mix(i);
    }
    for (long i = 0; i < SHARED; i++) {
        shared[i] = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(shared[i] != MAP_FAILED, "mmap");
        if (i % 2) shared[i][0] = mix(i);
    }
    for (long i = 0; i < FILED; i++) {
        filed[i] = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE);
        CHECK(filed[i] != MAP_FAILED, "mmap");
    }
    MUST(close(fd));
    long before = maps();
    CHECK(before >= PLAIN + SHARED + FILED, "%ld mappings", before);
    ready();
    while (go_on()) look();
    CHECK(maps() == before, "%ld mappings instead of %ld", maps(), before);
    for (long i = 1; i < PLAIN; i += 2) CHECK(plain[i * PAGE] == 0, "plain page %ld", i);
    int zero = MUST(open("/dev/zero", O_RDONLY));
    for (long i = 0; i < PLAIN; i++) CHECK((read(zero, plain + i * PAGE, 1) == 1) == (i % 2 == 0), "permission of page %ld", i);
    return pass();
}
