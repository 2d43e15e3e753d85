// Depends on files around it: maps one, reads one, appends to one, has a directory and a FIFO open, and works in a directory.
#include "guest.h"

#define SIZE 8192
static volatile int damaged;
static void spoil(void) { damaged = 1; }

static void make(const char *name, const char *text, size_t size) {
    int fd = MUST(open(guest_path(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    CHECK(write(fd, text, size) == (ssize_t)size, "%s", name);
    MUST(close(fd));
}

int main(void) {
    char text[SIZE];
    for (int i = 0; i < SIZE; i++) text[i] = (char)mix(i);
    make("data", text, SIZE);
    int fd = MUST(open("data", O_RDONLY | O_CLOEXEC));
    const char *map = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(map != MAP_FAILED, "mmap");
    MUST(close(fd));
    make("input", "0123456789", 10);
    int input = MUST(open("input", O_RDONLY | O_CLOEXEC));
    char got[4] = "";
    CHECK(read(input, got, 3) == 3, "read");
    make("log", "", 0);
    int log = MUST(open("log", O_WRONLY | O_APPEND | O_CLOEXEC));
    CHECK(write(log, "first\n", 6) == 6, "write");
    MUST(mkdir("opened", 0700));
    MUST(open("opened", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    MUST(mkfifo("fifo", 0600));
    MUST(open("fifo", O_RDWR | O_CLOEXEC));
    MUST(mkdir("here", 0700));
    MUST(chdir("here"));
    ready();
    while (go_on()) CHECK(!damaged && !memcmp(map, text, SIZE), "the mapped file");
    CHECK(read(input, got, 3) == 3 && !memcmp(got, "345", 3), "input: %.3s", got);
    CHECK(write(log, "second\n", 7) == 7, "write");
    return pass();
}
