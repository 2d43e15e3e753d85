// Processes with a root directory of their own (chroot): one with files open inside and outside of it, and one whose root was
// removed. Only root may.
#include "guest.h"

static int turn[2][2], back[2][2];
static int damaged;
static void spoil(void) { damaged = 1; }

static void make(const char *name, const char *text) {
    int fd = MUST(open(name, O_CREAT | O_EXCL | O_WRONLY, 0600));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write");
    MUST(close(fd));
}
static void holds(int dir, const char *name, const char *text) {
    char buffer[32] = {0};
    int fd = MUST(openat(dir, name, O_RDONLY));
    MUST(read(fd, buffer, sizeof buffer - 1));
    CHECK(!strcmp(buffer, text), "%s holds %s", name, buffer);
    MUST(close(fd));
}

static void in_jail(void) {
    int outside = MUST(open(".", O_RDONLY | O_DIRECTORY)), inside = MUST(open("jail/sub", O_PATH | O_DIRECTORY));
    MUST(chroot("jail"));
    MUST(chdir("/sub"));
    int file = MUST(open("/file", O_RDWR));
    char byte, name[64];
    while (read(turn[0][0], &byte, 1) == 1) {
        struct stat root, above, by_fd, by_name;
        MUST(stat("/", &root)), MUST(stat("/../..", &above));
        CHECK(root.st_ino == above.st_ino && root.st_dev == above.st_dev, "there is something above the root");
        CHECK(getcwd(name, sizeof name) && !strcmp(name, "/sub"), "the working directory is %s", name);
        holds(AT_FDCWD, "/file", "inside"), holds(AT_FDCWD, "../file", "inside"), holds(outside, "file", "outside");
        MUST(fstat(file, &by_fd)), MUST(stat("/file", &by_name));
        CHECK(by_fd.st_ino == by_name.st_ino, "the open file is another");
        MUST(linkat(AT_FDCWD, "/file", inside, "linked", 0));
        MUST(renameat(inside, "linked", outside, "moved"));
        MUST(unlinkat(outside, "moved", 0));
        CHECK(write(back[0][1], &byte, 1) == 1, "write");
    }
}
static void in_nothing(void) {
    MUST(chroot("doomed"));
    MUST(chdir("/"));
    char byte;
    CHECK(write(back[1][1], "r", 1) == 1, "write");
    while (read(turn[1][0], &byte, 1) == 1) {
        struct stat root;
        MUST(stat("/", &root));
        CHECK(root.st_nlink == 0 && (root.st_mode & 07777) == 0711, "the root has %d links and mode %o", (int)root.st_nlink, root.st_mode);
        CHECK(open("/new", O_CREAT | O_WRONLY, 0600) == -1 && errno == ENOENT, "something can be made in a removed root");
        CHECK(access("/proc", F_OK) == -1 && access("/jail", F_OK) == -1, "the root is another");
        CHECK(write(back[1][1], &byte, 1) == 1, "write");
    }
}

int main(void) {
    MUST(mkdir("jail", 0755)), MUST(mkdir("jail/sub", 0755)), MUST(mkdir("doomed", 0711));
    make("file", "outside"), make("jail/file", "inside");
    pid_t child[2];
    char byte;
    for (int i = 0; i < 2; i++) {
        MUST(pipe(turn[i])), MUST(pipe(back[i]));
        child[i] = MUST(fork());
        if (!child[i]) {
            for (int k = 0; k <= i; k++) MUST(close(turn[k][1]));
            if (i) in_nothing();
            else in_jail();
            _exit(0);
        }
    }
    CHECK(read(back[1][0], &byte, 1) == 1, "read");
    MUST(rmdir("doomed"));
    ready();
    while (go_on())
        for (int i = 0; i < 2; i++) CHECK(write(turn[i][1], "x", 1) == 1 && read(back[i][0], &byte, 1) == 1 && !damaged, "child %d", i);
    for (int i = 0; i < 2; i++) {
        MUST(close(turn[i][1]));
        join_child(child[i]);
    }
    return pass();
}
