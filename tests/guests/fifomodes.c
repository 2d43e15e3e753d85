// FIFOs in every mode of opening, empty and with content, with writers, without, and before there ever was one; deleted ones.
#include "guest.h"

enum { QUIET, HUNG, QUIET_HUNG_A, QUIET_HUNG_B, LEFT, ONLY_WRITER, BOTH, BLOCKING, DELETED, DELETED_QUIET, APPENDED, COUNT };
static int fds[COUNT], flags[COUNT], events[COUNT], content[COUNT];
static const char *names[COUNT];

static int opened(int i, const char *name, int how) {
    fds[i] = MUST(open(name, how));
    names[i] = name;
    return fds[i];
}

// A writer that comes and goes; every reader there is sees a hang-up from then on.
static void visit(const char *name, const char *text) {
    int w = MUST(open(name, O_WRONLY | O_NONBLOCK));
    ssize_t n = strlen(text);
    CHECK(write(w, text, n) == n, "write");
    MUST(close(w));
}

static int poll_of(int fd) {
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    MUST(poll(&p, 1, 0));
    return p.revents;
}

static int waiting(int fd) {
    int n;
    MUST(ioctl(fd, FIONREAD, &n));
    return n;
}

static void spoil(void) { visit("quiet", ""); }

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    const char *all[] = {"quiet", "hung", "mixed", "left", "writer", "both", "blocking", "deleted", "deleted-quiet", "appended"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) MUST(mkfifo(all[i], 0640));
    opened(QUIET, "quiet", O_RDONLY | O_NONBLOCK);
    opened(HUNG, "hung", O_RDONLY | O_NONBLOCK);
    visit("hung", "");
    opened(QUIET_HUNG_A, "mixed", O_RDONLY | O_NONBLOCK);
    visit("mixed", "gone\n");
    opened(QUIET_HUNG_B, "mixed", O_RDONLY | O_NONBLOCK);
    opened(LEFT, "left", O_RDONLY | O_NONBLOCK);
    visit("left", "left behind");
    MUST(fcntl(fds[LEFT], F_SETFL, O_RDONLY)); // it may block now
    int reader = MUST(open("writer", O_RDONLY | O_NONBLOCK));
    opened(ONLY_WRITER, "writer", O_WRONLY | O_CLOEXEC);
    CHECK(write(fds[ONLY_WRITER], "unread", 6) == 6, "write");
    MUST(close(reader));
    opened(BOTH, "both", O_RDWR);
    CHECK(write(fds[BOTH], "kept", 4) == 4, "write");
    opened(BLOCKING, "blocking", O_RDWR | O_NONBLOCK);
    MUST(fcntl(fds[BLOCKING], F_SETPIPE_SZ, 8192));
    char page[4096] = {'p'};
    CHECK(write(fds[BLOCKING], page, 4096) == 4096 && write(fds[BLOCKING], page, 4096) == 4096, "write");
    opened(DELETED, "deleted", O_RDWR);
    CHECK(write(fds[DELETED], "nameless", 8) == 8, "write");
    MUST(unlink("deleted"));
    opened(DELETED_QUIET, "deleted-quiet", O_RDONLY | O_NONBLOCK);
    MUST(unlink("deleted-quiet"));
    opened(APPENDED, "appended", O_RDWR | O_APPEND);
    struct stat before[COUNT], now;
    for (int i = 0; i < COUNT; i++) {
        flags[i] = MUST(fcntl(fds[i], F_GETFL)), events[i] = poll_of(fds[i]), content[i] = waiting(fds[i]);
        MUST(fstat(fds[i], &before[i]));
    }
    CHECK(!(events[QUIET] & POLLHUP) && events[HUNG] & POLLHUP && events[QUIET_HUNG_A] & POLLHUP && !(events[QUIET_HUNG_B] & POLLHUP), "set-up");
    ready();
    while (go_on()) {
        for (int i = 0; i < COUNT; i++) {
            CHECK(fcntl(fds[i], F_GETFL) == flags[i], "%s: flags %#o are now %#o", names[i], flags[i], fcntl(fds[i], F_GETFL));
            CHECK(poll_of(fds[i]) == events[i], "%s (%d): polled %#x and now %#x", names[i], i, events[i], poll_of(fds[i]));
            CHECK(waiting(fds[i]) == content[i], "%s: had %d bytes, now %d", names[i], content[i], waiting(fds[i]));
            MUST(fstat(fds[i], &now));
            CHECK(now.st_mode == before[i].st_mode && now.st_nlink == before[i].st_nlink, "%s: mode %o is now %o", names[i], before[i].st_mode, now.st_mode);
            CHECK(!now.st_nlink || now.st_ino == before[i].st_ino, "%s is another FIFO", names[i]);
        }
        CHECK(fcntl(fds[BLOCKING], F_GETPIPE_SZ) == 8192 && fcntl(fds[BOTH], F_GETPIPE_SZ) == 65536, "sizes");
        char c;
        CHECK(write(fds[BLOCKING], "x", 1) == -1 && errno == EAGAIN, "the full FIFO takes more");
        CHECK(read(fds[QUIET], &c, 1) == 0 && read(fds[DELETED_QUIET], &c, 1) == 0, "a FIFO without writers");
        CHECK(write(fds[ONLY_WRITER], "x", 1) == -1 && errno == EPIPE, "a FIFO without readers");
    }
    char text[16];
    CHECK(read(fds[LEFT], text, 16) == 11 && !memcmp(text, "left behind", 11) && read(fds[LEFT], text, 16) == 0, "what was left behind");
    CHECK(read(fds[QUIET_HUNG_B], text, 16) == 5 && !memcmp(text, "gone\n", 5), "what both could read");
    CHECK(read(fds[BOTH], text, 16) == 4 && !memcmp(text, "kept", 4), "what was kept");
    CHECK(read(fds[DELETED], text, 16) == 8 && !memcmp(text, "nameless", 8), "what was in the deleted FIFO");
    CHECK(read(fds[BLOCKING], page, 4096) == 4096 && page[0] == 'p', "the first page");
    reader = MUST(open("writer", O_RDONLY | O_NONBLOCK));
    CHECK(read(reader, text, 16) == 6 && !memcmp(text, "unread", 6), "what nobody had read");
    // A quiet one still notices its first writer.
    visit("quiet", "first");
    CHECK(read(fds[QUIET], text, 16) == 5 && poll_of(fds[QUIET]) & POLLHUP, "the first writer");
    return pass();
}
