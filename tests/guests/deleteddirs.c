// Deleted directories as working directories and as descriptors, one in the other; files in deleted directories; directories whose
// old name another has now; one that a child is in which shares our descriptors.
#include "guest.h"

static void spoil(void) { MUST(chdir("/")); }

static ino_t inode(int at, const char *name) {
    struct stat st;
    MUST(fstatat(at, name, &st, *name ? 0 : AT_EMPTY_PATH));
    return st.st_ino;
}

// Whether two are one directory. A deleted one is made anew at a resume, with another number: one between the two looks shows
// in a third.
static int same(int one, const char *its, int other, const char *others) {
    ino_t first, second, again = inode(one, its);
    do first = again, second = inode(other, others), again = inode(one, its);
    while (first != again);
    return first == second;
}

// Waits for a child to be in a directory.
static void await(pid_t child, const char *dir) {
    char link[64], buffer[4096];
    snprintf(link, sizeof link, "/proc/%d/cwd", child);
    size_t len = strlen(dir), n;
    do {
        n = MUST(readlink(link, buffer, sizeof buffer - 1));
        buffer[n] = 0;
    } while (n < len || strcmp(buffer + n - len, dir));
}

int main(void) {
    struct stat st;
    char buffer[4096];
    MUST(mkdir("a", 0755)), MUST(mkdir("a/b", 0710)), MUST(mkdir("taken", 0700)), MUST(mkdir("moved", 0700));
    int file = MUST(open("a/b/file", O_CREAT | O_RDWR, 0600));
    CHECK(write(file, "content", 7) == 7, "write");
    MUST(unlink("a/b/file"));
    int outer = MUST(open("a", O_RDONLY | O_DIRECTORY)), inner = MUST(open("a/b", O_RDONLY | O_CLOEXEC)), twin = MUST(open("a/b", O_RDONLY));
    int taken = MUST(open("taken", O_RDONLY)), moved = MUST(open("moved", O_RDONLY)), here = MUST(open(".", O_PATH));
    pid_t child = MUST(fork());
    if (child == 0) {
        MUST(chdir("taken"));
        while (wait_on()) CHECK(same(AT_FDCWD, ".", taken, ""), "the child is elsewhere");
        _exit(0);
    }
    pid_t sharer = MUST(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0));
    if (sharer == 0) {
        MUST(chdir("a"));
        while (wait_on()) CHECK(same(AT_FDCWD, ".", outer, ""), "the child that shares descriptors is elsewhere");
        _exit(0);
    }
    // The children are there before the directories are gone.
    await(child, "/taken"), await(sharer, "/a");
    MUST(chdir("a/b"));
    MUST(unlinkat(here, "a/b", AT_REMOVEDIR)), MUST(unlinkat(here, "a", AT_REMOVEDIR));
    MUST(unlinkat(here, "taken", AT_REMOVEDIR)), MUST(mkdirat(here, "taken", 0700));
    MUST(renameat(here, "moved", here, "elsewhere"));
    ready();
    while (go_on()) {
        CHECK(getcwd(buffer, sizeof buffer) == NULL && errno == ENOENT, "the working directory has a name: %s", buffer);
        CHECK(same(AT_FDCWD, ".", inner, "") && same(inner, "", twin, ""), "not one directory any more");
        CHECK(same(AT_FDCWD, "..", outer, ""), "what is above a deleted directory is another");
        int fds[] = {outer, inner, taken};
        for (int i = 0; i < 3; i++) {
            MUST(fstat(fds[i], &st));
            CHECK(st.st_nlink == 0 && S_ISDIR(st.st_mode), "fd %d has a name again", fds[i]);
            CHECK(syscall(SYS_getdents64, fds[i], buffer, sizeof buffer) == -1 && errno == ENOENT, "a deleted directory can be listed");
            CHECK(openat(fds[i], "x", O_CREAT | O_WRONLY, 0600) == -1 && errno == ENOENT, "something can be made in a deleted directory");
        }
        MUST(fstat(inner, &st));
        CHECK((st.st_mode & 07777) == 0710, "mode %o", st.st_mode);
        CHECK(inode(taken, "") != inode(here, "taken"), "the new directory of that name is the old one");
        CHECK(inode(moved, "") == inode(here, "elsewhere"), "a renamed directory is another");
        CHECK(pread(file, buffer, 64, 0) == 7 && !memcmp(buffer, "content", 7), "the file in a deleted directory");
        CHECK(faccessat(here, "a", F_OK, 0) == -1, "the deleted directory is there");
    }
    MUST(openat(here, "go", O_RDONLY));
    join_child(child), join_child(sharer);
    return pass();
}
