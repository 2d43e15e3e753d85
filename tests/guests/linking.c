// Open directories and files belong to the same mounts as paths do: links and renames between both, files without a name
// (O_TMPFILE) that are given one, what is above an open directory, the mounts that descriptors are on.
#include "guest.h"

static int here, sub, plain;
static void spoil(void) { MUST(dup2(MUST(open("/proc", O_RDONLY | O_DIRECTORY)), sub)); }

static void make(int dir, const char *name, const char *text) {
    int fd = MUST(openat(dir, name, O_CREAT | O_EXCL | O_WRONLY, 0600));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write");
    MUST(close(fd));
}
static int temporary(const char *text, int flags) {
    int fd = MUST(open(".", O_TMPFILE | O_RDWR | flags, 0640));
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "write");
    return fd;
}
static void named(int fd, const char *name) {
    char link[64], buffer[32] = {0};
    struct stat by_fd, by_name;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    MUST(linkat(AT_FDCWD, link, sub, name, AT_SYMLINK_FOLLOW));
    MUST(fstat(fd, &by_fd)), MUST(fstatat(here, guest_path("sub"), &by_name, 0)), MUST(fstatat(sub, name, &by_name, 0));
    CHECK(by_fd.st_ino == by_name.st_ino && by_fd.st_nlink == 1, "%s is another file", name);
    CHECK(pread(fd, buffer, sizeof buffer, 0) == (ssize_t)strlen(name) && !strcmp(buffer, name), "%s holds %s", name, buffer);
    MUST(unlinkat(sub, name, 0));
}
static int mount_of(int fd) {
    char name[64], text[256];
    snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
    slurp(name, text, sizeof text);
    char *at = strstr(text, "mnt_id:");
    CHECK(at, "fdinfo of fd %d", fd);
    return atoi(at + 7);
}
// The mount that a descriptor is on is one of ours. Mounts have other numbers after a resume: one between the two looks
// shows in a third.
static void on_a_mount(int fd) {
    static char mounts[1 << 16];
    char line[32];
    int id, again = mount_of(fd);
    do {
        id = again;
        slurp("/proc/self/mountinfo", mounts + 1, sizeof mounts - 1);
        again = mount_of(fd);
    } while (id != again);
    mounts[0] = '\n';
    snprintf(line, sizeof line, "\n%d ", id);
    CHECK(strstr(mounts, line), "fd %d is on mount %d, which is none of ours", fd, id);
}

int main(void) {
    MUST(mkdir("sub", 0700)), MUST(mkdir("gone", 0700)), MUST(mkfifo("fifo", 0600));
    here = MUST(open(".", O_RDONLY | O_DIRECTORY)), sub = MUST(open("sub", O_PATH | O_DIRECTORY));
    int gone = MUST(open("gone", O_RDONLY | O_DIRECTORY)), fifo = MUST(open("fifo", O_RDWR));
    make(here, "plain", "plain");
    plain = MUST(open("plain", O_RDWR));
    make(here, "lost", "lost");
    int lost = MUST(open("lost", O_RDONLY));
    MUST(unlink("lost")), MUST(rmdir("gone"));
    int null = MUST(open("/dev/null", O_RDWR));
    int nameless[] = {temporary("first", 0), temporary("second", O_SYNC), temporary("third", O_EXCL)};
    ready();
    while (go_on()) {
        int all[] = {here, sub, gone, fifo, plain, lost, null, nameless[0]};
        for (unsigned i = 0; i < sizeof all / sizeof *all; i++) on_a_mount(all[i]);
        // Between descriptors and paths, in both directions.
        MUST(linkat(AT_FDCWD, "plain", sub, "linked", 0));
        MUST(renameat(sub, "linked", AT_FDCWD, guest_path("back")));
        MUST(renameat(AT_FDCWD, "back", here, "forth"));
        MUST(linkat(sub, "../forth", AT_FDCWD, guest_path("sub/again"), 0));
        MUST(unlink("forth")), MUST(unlinkat(sub, "again", 0));
        // Above an open directory there is the same root, with the same things mounted in it.
        char up[256] = "", link[32] = {0};
        for (int i = 0; i < 60; i++) strcat(up, "../");
        strcat(up, "proc/self");
        link[MUST(readlinkat(here, up, link, sizeof link - 1))] = 0;
        CHECK(atoi(link) == getpid(), "above the open directory we are process %s", link);
    }
    named(nameless[0], "first");
    CHECK(fcntl(nameless[1], F_GETFL) & O_SYNC, "O_SYNC is lost");
    named(nameless[1], "second");
    return pass();
}
