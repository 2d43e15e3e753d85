// Memory written through mappings that may not be written, as a debugger does it (/proc/self/mem): read-only and executable
// maps of a file, the program's own text, read-only and forbidden anonymous memory. The file stays as it is.
#include "guest.h"

#define PAGE 4096
static char *map_r, *map_x, *anon, *none;
static int (*volatile number)(void);
static int fd;

__attribute__((noinline, noclone, aligned(4096))) static int own_number(void) {
    __asm__ volatile("");
    return 1;
}

static void patch(void *at, const void *bytes, size_t n) {
    int mem = MUST(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
    CHECK(pwrite(mem, bytes, n, (off_t)(uintptr_t)at) == (ssize_t)n, "patching %p", at);
    MUST(close(mem));
}

static void spoil(void) { patch(map_r + 1, "!", 1); }

int main(void) {
    char page[PAGE];
    memset(page, 'f', PAGE);
    fd = MUST(open("patched.bin", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0700));
    for (int i = 0; i < 4; i++) CHECK(write(fd, page, PAGE) == PAGE, "write");
    map_r = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    map_x = mmap(NULL, 4 * PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    anon = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    none = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map_r != MAP_FAILED && map_x != MAP_FAILED && anon != MAP_FAILED && none != MAP_FAILED, "mmap");
    patch(map_r, "patched", 7);
    static const unsigned char returns_42[] = {0xb8, 42, 0, 0, 0, 0xc3}; // mov $42,%eax; ret
    patch(map_x + PAGE, returns_42, sizeof returns_42);
    patch(anon + PAGE, "anonymous", 9);
    patch(none + 2 * PAGE, "forbidden", 9);
    number = own_number;
    CHECK(number() == 1, "before the patch");
    patch((void *)(uintptr_t)own_number, returns_42, sizeof returns_42);
    ready();
    while (go_on()) {
        CHECK(number() == 42 && ((int (*)(void))(map_x + PAGE))() == 42, "patched code");
        CHECK(!memcmp(map_r, "patchedfff", 10) && map_r[PAGE] == 'f', "patched file map");
        CHECK(!memcmp(anon + PAGE, "anonymous", 10) && anon[0] == 0, "patched anonymous memory");
    }
    MUST(mprotect(none, 4 * PAGE, PROT_READ));
    CHECK(!memcmp(none + 2 * PAGE, "forbidden", 10) && none[0] == 0, "patched forbidden memory");
    CHECK(pread(fd, page, PAGE, 0) == PAGE && !memcmp(page, "ffffffff", 8), "the patch reached the file");
    CHECK(pread(fd, page, PAGE, PAGE) == PAGE && page[0] == 'f', "the patch reached the file");
    int null = MUST(open("/dev/zero", O_RDONLY));
    CHECK(read(null, map_r, 1) == -1 && errno == EFAULT && read(null, anon, 1) == -1 && errno == EFAULT, "it can be written now");
    return pass();
}
