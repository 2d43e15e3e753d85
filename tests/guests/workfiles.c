// Works on files, and tells at its end what it found in them: who changes them meanwhile judges that.
//   log    appended to        data    read and written, at byte 4 of 10        input   read, at byte 3 of 10
//   state  mapped shared      lost    deleted, if the argument says so (deleted, sparse)
// With the argument "sparse" data and lost have 4 GiB, of which almost all is a hole.
#include "guest.h"

#define SIZE (4ll << 30)
static char *state;
static void spoil(void) { state[0] = 'X'; }

static int make(const char *name, int flags, const char *text) {
    int fd = MUST(open(guest_path(name), flags | O_CREAT | O_TRUNC | O_CLOEXEC, 0640));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s", name);
    return fd;
}

static void tell(const char *name, int fd) {
    char text[64] = "", line[128];
    ssize_t n = MUST(read(fd, text, sizeof text - 1));
    for (ssize_t i = 0; i < n; i++)
        if (!text[i]) text[i] = '~';
    snprintf(line, sizeof line, "%s %zd %s\n", name, n, text);
    say(line);
}

int main(int argc, char **argv) {
    int log = make("log", O_WRONLY | O_APPEND, "first\n");
    int data = make("data", O_RDWR, "0123456789");
    CHECK(lseek(data, 4, SEEK_SET) == 4, "lseek");
    MUST(close(make("input", O_WRONLY, "abcdefghij")));
    int input = MUST(open("input", O_RDONLY | O_CLOEXEC));
    CHECK(lseek(input, 3, SEEK_SET) == 3, "lseek");
    int fd = make("state", O_RDWR, "mapped");
    MUST(ftruncate(fd, 4096));
    state = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(state != MAP_FAILED, "mmap");
    MUST(close(fd));
    int sparse = argc > 1 && !strcmp(argv[1], "sparse"), lost = -1;
    if (argc > 1) {
        lost = make("lost", O_RDWR, "lost");
        MUST(unlink("lost"));
    }
    for (int i = 0; sparse && i < 2; i++) {
        CHECK(pwrite(i ? lost : data, "middle", 6, SIZE / 2) == 6 && pwrite(i ? lost : data, "end", 3, SIZE - 3) == 3, "pwrite");
        CHECK(lseek(lost, 1, SEEK_SET) == 1, "lseek");
    }
    ready();
    while (go_on()) {}
    tell("input", input);
    tell("data", data);
    if (lost >= 0) tell("lost", lost);
    for (int i = 0; sparse && i < 2; i++) {
        char text[8] = "";
        struct stat st;
        MUST(fstat(i ? lost : data, &st));
        CHECK(st.st_size == SIZE && st.st_blocks < 2048, "%lld bytes in %lld blocks", (long long)st.st_size, (long long)st.st_blocks);
        CHECK(pread(i ? lost : data, text, 7, SIZE / 2) == 7 && !memcmp(text, "middle\0", 7), "the middle");
        CHECK(pread(i ? lost : data, text, 7, SIZE - 4) == 4 && !memcmp(text, "\0end", 4), "the end");
    }
    CHECK(write(data, "#", 1) == 1, "data");
    CHECK(write(log, "second\n", 7) == 7, "log");
    char line[64];
    snprintf(line, sizeof line, "state %.32s\n", state);
    say(line);
    return pass();
}
