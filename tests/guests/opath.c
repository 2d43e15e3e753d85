// Descriptors opened with O_PATH: of files, directories, symbolic links, FIFOs, sockets and devices, and of what was deleted since.
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"

static int deleted;
static void spoil(void) { MUST(dup2(MUST(open(".", O_PATH)), deleted)); }

static int path(const char *name, int flags) { return MUST(open(name, O_PATH | flags)); }
static void make(const char *name, const char *text, int mode) {
    int fd = MUST(open(name, O_CREAT | O_EXCL | O_WRONLY, 0600));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write");
    MUST(fchmod(fd, mode));
    MUST(close(fd));
}
static void holds(int fd, const char *text) {
    char name[64], buffer[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = slurp(name, buffer, sizeof buffer);
    CHECK(n == (ssize_t)strlen(text) && !memcmp(buffer, text, n), "fd %d holds \"%s\"", fd, buffer);
}
static void points(int fd, const char *to) {
    char buffer[64] = {0};
    MUST(readlinkat(fd, "", buffer, sizeof buffer - 1));
    CHECK(!strcmp(buffer, to), "fd %d points to %s", fd, buffer);
}

// Two descriptors of one thing. What is deleted is made anew at a resume, which may come between two looks.
static int same(int one, int other) {
    struct stat first, second, again;
    do MUST(fstat(one, &first)), MUST(fstat(other, &second)), MUST(fstat(one, &again));
    while (first.st_ino != again.st_ino);
    return first.st_ino == second.st_ino;
}

int main(void) {
    make("file", "one", 0640), make("gone", "two", 0604), make("both", "three", 0600);
    MUST(mkdir("dir", 0751)), make("dir/inside", "four", 0600);
    MUST(mkdir("gone-dir", 0711));
    MUST(symlink("dir/inside", "link")), MUST(symlink("nowhere at all", "gone-link"));
    MUST(mkfifo("fifo", 0600));
    int listening = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
    MUST(bind(listening, (void *)&address, sizeof address));
    MUST(close(listening));
    int file = path("file", O_CLOEXEC), dir = path("dir", O_DIRECTORY), link = path("link", O_NOFOLLOW);
    int fifo = path("fifo", 0), sock = path("socket", 0), null = path("/dev/null", 0), root = path("/", O_DIRECTORY);
    int memfd = MUST(memfd_create("memory", 0)), memory;
    CHECK(write(memfd, "five", 4) == 4, "write");
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", memfd);
    memory = path(name, 0);
    deleted = path("gone", 0);
    int both = path("both", 0), opened = MUST(open("both", O_RDWR)); // two ways to one deleted file
    int gone_dir = path("gone-dir", O_DIRECTORY), gone_open = MUST(open("gone-dir", O_RDONLY)), gone_link = path("gone-link", O_NOFOLLOW);
    int twin = MUST(dup(deleted)), again = path("file", 0);
    MUST(unlink("gone")), MUST(unlink("both")), MUST(rmdir("gone-dir")), MUST(unlink("gone-link"));
    MUST(rename("file", "renamed"));
    int all[] = {file, dir, link, fifo, sock, null, root, memory, deleted, both, gone_dir, gone_link, twin, again};
    enum { ALL = sizeof all / sizeof *all };
    int flags[ALL], fdflags[ALL];
    struct stat st[ALL], now;
    for (int i = 0; i < ALL; i++) {
        flags[i] = MUST(fcntl(all[i], F_GETFL));
        fdflags[i] = MUST(fcntl(all[i], F_GETFD));
        MUST(fstat(all[i], &st[i]));
    }
    ready();
    for (unsigned turn = 0; go_on(); turn++) {
        for (int i = 0; i < ALL; i++) {
            CHECK(fcntl(all[i], F_GETFL) == flags[i], "fd %d: flags %#x are now %#x", all[i], flags[i], fcntl(all[i], F_GETFL));
            CHECK(fcntl(all[i], F_GETFD) == fdflags[i], "fd %d: close-on-exec", all[i]);
            CHECK(read(all[i], name, 1) == -1 && errno == EBADF, "fd %d can be read", all[i]);
            MUST(fstat(all[i], &now));
            CHECK(now.st_mode == st[i].st_mode && now.st_nlink == st[i].st_nlink, "fd %d: mode %o links %d, was %o and %d", all[i], now.st_mode, (int)now.st_nlink, st[i].st_mode, (int)st[i].st_nlink);
            if (st[i].st_nlink && all[i] != memory) CHECK(now.st_ino == st[i].st_ino && now.st_dev == st[i].st_dev, "fd %d is something else", all[i]);
        }
        holds(file, "one"), holds(again, "one"), holds(deleted, "two"), holds(twin, "two"), holds(both, "three"), holds(memory, "five");
        points(link, "dir/inside"), points(gone_link, "nowhere at all");
        MUST(fstatat(dir, "inside", &now, 0));
        CHECK(same(both, opened), "two descriptors of a deleted file became two files");
        CHECK(same(gone_dir, gone_open), "two descriptors of a deleted directory became two directories");
        CHECK(same(memory, memfd), "two descriptors of a memory file became two files");
        CHECK(openat(gone_dir, "new", O_CREAT | O_WRONLY, 0600) == -1 && errno == ENOENT, "something can be made in a deleted directory");
    }
    CHECK(told("renamed") && !told("gone") && !told("gone-dir"), "names on disk");
    return pass();
}
