// Works on files, and tells at its end what it found in them: who changes them meanwhile judges that.
//   log    appended to        data    read and written, at byte 4 of 10        input   read, at byte 3 of 10
//   state  mapped shared      lost    deleted, if the argument says so
#include "guest.h"

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
    if (argc > 1 && !strcmp(argv[1], "deleted")) {
        make("lost", O_RDWR, "lost");
        MUST(unlink("lost"));
    }
    ready();
    while (go_on()) {}
    tell("input", input);
    tell("data", data);
    CHECK(write(data, "#", 1) == 1, "data");
    CHECK(write(log, "second\n", 7) == 7, "log");
    char line[64];
    snprintf(line, sizeof line, "state %.32s\n", state);
    say(line);
    return pass();
}
