// Open files whose name was deleted and that have another: they stay the same files, whoever leads to them.
#include <sys/mman.h>

#include "guest.h"

static int linked;
static void spoil(void) { MUST(dup2(MUST(open("plain", O_RDWR)), linked)); }

static int make(const char *name, int flags) { return MUST(open(name, O_CREAT | O_RDWR | flags, 0640)); }

int main(void) {
    MUST(mkdir("sub", 0755)), MUST(mkdir("sub/deep", 0755));
    MUST(close(make("plain", 0)));
    linked = make("linked", 0);
    uint64_t zero = 0;
    CHECK(write(linked, &zero, 8) == 8, "write");
    MUST(link("linked", "sub/deep/other"));
    int path = MUST(open("linked", O_PATH)), reader = MUST(open("linked", O_RDONLY));
    uint64_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, linked, 0);
    CHECK(shared != MAP_FAILED, "mmap");
    MUST(unlink("linked"));
    // The same with another file of that name.
    int replaced = make("replaced", 0);
    MUST(link("replaced", "sub/first"));
    MUST(unlink("replaced"));
    MUST(close(make("replaced", O_EXCL)));
    // A file that got its name later, and is known by none to the kernel.
    int late = open(".", O_TMPFILE | O_RDWR, 0600);
    if (late >= 0) {
        char name[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", late);
        MUST(linkat(AT_FDCWD, name, AT_FDCWD, "sub/late", AT_SYMLINK_FOLLOW));
    }
    struct stat st, there;
    ready();
    uint64_t turn = 0;
    while (go_on()) {
        int fds[] = {linked, path, reader, replaced, late};
        const char *names[] = {"sub/deep/other", "sub/deep/other", "sub/deep/other", "sub/first", "sub/late"};
        for (int i = 0; i < 5; i++) {
            if (fds[i] < 0) continue;
            MUST(fstat(fds[i], &st)), MUST(stat(names[i], &there));
            CHECK(st.st_ino == there.st_ino && st.st_dev == there.st_dev && st.st_nlink == 1, "fd %d is not %s any more", fds[i], names[i]);
        }
        turn++;
        CHECK(pwrite(linked, &turn, 8, 0) == 8, "write");
        uint64_t seen;
        int other = MUST(open("sub/deep/other", O_RDONLY | O_CLOEXEC));
        CHECK(read(other, &seen, 8) == 8 && seen == turn, "by its other name the file has %lu", seen);
        MUST(close(other));
        CHECK(pread(reader, &seen, 8, 0) == 8 && seen == turn, "the other descriptor reads %lu", seen);
        CHECK(*shared == turn, "its mapping shows %lu", *shared);
    }
    return pass();
}
