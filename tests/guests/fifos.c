// FIFOs: with content, with both ends in one process, between two processes, and a process blocked in open(2) of one.
#include "guest.h"

static int both;
static void spoil(void) {
    char c;
    CHECK(read(both, &c, 1) == 1, "read");
}

int main(void) {
    MUST(mkfifo("both", 0600)), MUST(mkfifo("there", 0600)), MUST(mkfifo("back", 0600)), MUST(mkfifo("late", 0600));
    both = MUST(open("both", O_RDWR));
    CHECK(write(both, "0123456789", 10) == 10, "write");
    pid_t partner = MUST(fork());
    if (!partner) {
        int in = MUST(open("there", O_RDONLY)), out = MUST(open("back", O_WRONLY | O_CLOEXEC));
        uint64_t n;
        ssize_t got;
        while ((got = read(in, &n, 8)) == 8) {
            n = mix(n);
            CHECK(write(out, &n, 8) == 8, "write");
        }
        CHECK(got == 0, "read");
        _exit(0);
    }
    pid_t late = MUST(fork());
    if (!late) {
        char word[8];
        int in = MUST(open("late", O_RDONLY)); // blocks until a writer comes
        CHECK(read(in, word, 8) == 4 && !memcmp(word, "late", 4), "read");
        _exit(0);
    }
    int out = MUST(open("there", O_WRONLY)), in = MUST(open("back", O_RDONLY));
    int quiet = MUST(open("both", O_RDONLY | O_NONBLOCK));
    ready();
    for (uint64_t turn = 1; go_on(); turn++) {
        uint64_t back;
        CHECK(write(out, &turn, 8) == 8 && read(in, &back, 8) == 8 && back == mix(turn), "FIFOs");
        int waiting;
        MUST(ioctl(both, FIONREAD, &waiting));
        CHECK(waiting == 10, "%d bytes in the FIFO", waiting);
        CHECK(fcntl(quiet, F_GETFL) & O_NONBLOCK, "flags");
        struct stat a, b;
        MUST(fstat(out, &a)), MUST(stat("there", &b));
        CHECK(a.st_ino == b.st_ino && S_ISFIFO(a.st_mode), "another FIFO");
    }
    char text[16];
    CHECK(read(quiet, text, 16) == 10 && !memcmp(text, "0123456789", 10), "content");
    int writer = MUST(open("late", O_WRONLY));
    CHECK(write(writer, "late", 4) == 4, "write");
    MUST(close(out));
    join_child(partner), join_child(late);
    return pass();
}
