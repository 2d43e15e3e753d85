// Open files: offsets, flags, descriptors shared by dup and fork, close-on-exec, append, directories, deleted and replaced files,
// odd names.
#include "guest.h"

#define ENTRIES 300
static int plain, deleted;

static void spoil(void) { MUST(lseek(plain, 1, SEEK_CUR)); }

static int make(const char *name, int flags) { return MUST(open(name, O_CREAT | O_EXCL | O_RDWR | flags, 0640)); }

static char seen[ENTRIES];
static int list(int fd, size_t size) {
    char buffer[4096];
    long n = MUST(syscall(SYS_getdents64, fd, buffer, size));
    for (long at = 0; at < n;) {
        struct linux_dirent64 *d = (void *)(buffer + at);
        int i;
        if (sscanf(d->name, "entry-%d", &i) == 1) {
            CHECK(!seen[i], "entry %d is listed twice", i);
            seen[i] = 1;
        }
        at += d->len;
    }
    return n > 0;
}

// Files under names that look like something else to whoever reads them from /proc; of each one that is there and one that is not.
static const char *const odd_names[] = {"new\nline", "\\012", "tab\t\x80\xff\x01", "twice (deleted) (deleted)", " (deleted)", "dir (deleted)/in\nside (deleted)", "a//b/../c"};
enum { ODD = sizeof odd_names / sizeof *odd_names };
static int odd_there[ODD], odd_gone[ODD];
static void make_odd(void) {
    MUST(mkdir("dir (deleted)", 0700)), MUST(mkdir("a", 0700)), MUST(mkdir("a/b", 0700));
    for (int i = 0; i < ODD; i++) {
        size_t len = strlen(odd_names[i]);
        odd_gone[i] = make(odd_names[i], 0);
        CHECK(write(odd_gone[i], odd_names[i], len) == (ssize_t)len, "write");
        MUST(unlink(odd_names[i]));
        // Under the same name, or what the kernel shows for the other one.
        char name[64];
        snprintf(name, sizeof name, i % 2 ? "%s" : "%s (deleted)", odd_names[i]);
        odd_there[i] = make(name, 0);
        CHECK(write(odd_there[i], name, strlen(name)) == (ssize_t)strlen(name), "write");
    }
}
static void check_odd(void) {
    for (int i = 0; i < ODD; i++) {
        char name[64], text[64] = {0};
        struct stat by_fd, by_name;
        MUST(fstat(odd_gone[i], &by_fd));
        CHECK(pread(odd_gone[i], text, 63, 0) == (ssize_t)strlen(odd_names[i]) && !strcmp(text, odd_names[i]) && !by_fd.st_nlink, "odd name %d, deleted, holds %s", i, text);
        memset(text, 0, sizeof text);
        snprintf(name, sizeof name, i % 2 ? "%s" : "%s (deleted)", odd_names[i]);
        MUST(fstat(odd_there[i], &by_fd)), MUST(stat(name, &by_name));
        CHECK(pread(odd_there[i], text, 63, 0) == (ssize_t)strlen(name) && !strcmp(text, name) && by_fd.st_ino == by_name.st_ino, "odd name %d holds %s", i, text);
    }
}

// Reads that bypass the page cache want everything aligned.
static void check_direct(int fd) {
    static char block[4096] __attribute__((aligned(4096)));
    ssize_t n = pread(fd, block, sizeof block, 0);
    CHECK(n >= 0, "a direct read of fd %d", fd);
    n = pread(fd, block + 1, 7, 1);
    CHECK(n == -1 && errno == EINVAL, "fd %d is not direct any more", fd);
}

int main(void) {
    char buffer[8192];
    for (size_t i = 0; i < sizeof buffer; i++) buffer[i] = mix(i);
    plain = make("plain", 0);
    int duplicate = MUST(fcntl(plain, F_DUPFD_CLOEXEC, 150));
    int other = MUST(open("plain", O_RDONLY)); // the same file with an offset of its own
    CHECK(write(other, "x", 1) == -1, "set-up");
    int append = make("append", O_APPEND | O_CLOEXEC);
    int odd = make("\xff\xfe odd\n(deleted)", 0);
    int looks_deleted = make("really there (deleted)", 0);
    deleted = make("deleted", 0);
    for (int i = 0; i < 100; i++) CHECK(write(deleted, buffer, sizeof buffer) == sizeof buffer, "write");
    MUST(ftruncate(deleted, 3 << 20));
    MUST(lseek(deleted, 12345, SEEK_SET));
    int deleted_again = MUST(open("deleted", O_RDONLY | O_CLOEXEC)); // another description of the same file
    MUST(unlink("deleted"));
    int replaced = make("replaced", 0);
    CHECK(write(replaced, "old", 3) == 3, "write");
    MUST(close(make("replacement", 0)));
    MUST(rename("replacement", "replaced"));
    int flagged = MUST(open("plain", O_WRONLY | O_NONBLOCK | O_SYNC | O_NOATIME));
    int data_only = MUST(open("plain", O_RDWR | O_DSYNC)), quiet = MUST(open("listing-to-come", O_CREAT | O_RDONLY | O_NOATIME | O_NOFOLLOW, 0600));
    int direct = open("plain", O_RDWR | O_DIRECT), direct_gone = -1, direct_works = 0;
    if (direct >= 0) {
        static char block[4096] __attribute__((aligned(4096)));
        direct_works = pread(direct, block + 1, 7, 1) == -1; // some file systems take anything
        direct_gone = make("direct", O_DIRECT | O_DSYNC);
        MUST(unlink("direct"));
    } else direct = direct_gone = MUST(dup(data_only));
    make_odd();
    int temporary = open(".", O_TMPFILE | O_RDWR, 0600);
    if (temporary >= 0) CHECK(write(temporary, "unnamed", 7) == 7, "write");
    int nobody = MUST(open("append", O_WRONLY));
    MUST(fchmod(nobody, 0440)); // what was opened for writing can be opened so again by its owner only, and not just so
    MUST(close(nobody));
    MUST(mkdir("listing", 0755));
    for (int i = 0; i < ENTRIES; i++) {
        snprintf(buffer, 64, "listing/entry-%03d-with-a-name-of-some-length", i);
        MUST(close(make(buffer, 0)));
    }
    int directory = MUST(open("listing", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    list(directory, 1024);
    int watched[] = {plain, duplicate, other, append, odd, looks_deleted, deleted, deleted_again, replaced, flagged, directory, data_only, quiet, direct, direct_gone};
    enum { WATCHED = sizeof watched / sizeof *watched };
    struct stat st[WATCHED], now;
    int flags[WATCHED], fdflags[WATCHED];
    for (int i = 0; i < WATCHED; i++) {
        MUST(fstat(watched[i], &st[i]));
        flags[i] = MUST(fcntl(watched[i], F_GETFL));
        fdflags[i] = MUST(fcntl(watched[i], F_GETFD));
    }
    // A child that shares every description with us and moves the offset of one.
    int turn_pipe[2], back_pipe[2];
    MUST(pipe(turn_pipe)), MUST(pipe(back_pipe));
    pid_t child = MUST(fork());
    if (!child) {
        MUST(close(turn_pipe[1])), MUST(close(back_pipe[0]));
        uint64_t turn;
        ssize_t n;
        while ((n = read(turn_pipe[0], &turn, 8)) == 8) {
            CHECK(lseek(plain, 0, SEEK_CUR) == (off_t)(turn * 16 - 8), "the child has another offset");
            CHECK(write(plain, &turn, 8) == 8 && write(append, "child\n", 6) == 6, "write");
            CHECK(write(back_pipe[1], &turn, 8) == 8, "write");
        }
        CHECK(n == 0, "pipe");
        _exit(0);
    }
    MUST(close(turn_pipe[0])), MUST(close(back_pipe[1]));
    ready();
    uint64_t turns = 0;
    while (go_on()) {
        uint64_t turn = ++turns, back;
        CHECK(write(duplicate, &turn, 8) == 8, "write");
        CHECK(write(append, "parent\n", 7) == 7, "write");
        CHECK(write(turn_pipe[1], &turn, 8) == 8 && read(back_pipe[0], &back, 8) == 8 && back == turn, "pipes");
        CHECK(lseek(plain, 0, SEEK_CUR) == (off_t)turn * 16, "dup'ed descriptors have offsets %ld", (long)lseek(plain, 0, SEEK_CUR));
        uint64_t pair[2];
        if (turn % 2) CHECK(read(other, pair, 16) == 16 && pair[0] == turn / 2 + 1 && pair[1] == pair[0], "the second description reads %lu %lu", pair[0], pair[1]);
        CHECK(lseek(deleted, 0, SEEK_CUR) == 12345 && lseek(deleted_again, 0, SEEK_CUR) == 0, "offsets of the deleted file");
        for (int i = 0; i < WATCHED; i++) {
            CHECK(fcntl(watched[i], F_GETFL) == flags[i], "file %d: flags %#x are now %#x", i, flags[i], fcntl(watched[i], F_GETFL));
            CHECK(fcntl(watched[i], F_GETFD) == fdflags[i], "file %d: close-on-exec", i);
            MUST(fstat(watched[i], &now));
            CHECK(now.st_mode == st[i].st_mode && now.st_uid == st[i].st_uid, "file %d: mode %o is now %o", i, st[i].st_mode, now.st_mode);
            if (st[i].st_nlink) CHECK(now.st_ino == st[i].st_ino && now.st_dev == st[i].st_dev, "file %d is another file", i);
            else CHECK(now.st_nlink == 0, "file %d has a name again", i);
        }
        check_odd();
        if (direct_works) check_direct(direct), check_direct(direct_gone);
        // Both descriptions of the deleted file are one file.
        CHECK(pwrite(deleted, &turn, 8, 1 << 20) == 8 && pread(deleted_again, &back, 8, 1 << 20) == 8 && back == turn, "the deleted file came back as two");
    }
    MUST(close(turn_pipe[1]));
    join_child(child);
    while (list(directory, 1024)) {}
    for (int i = 0; i < ENTRIES; i++) CHECK(seen[i], "directory entry %d is missing", i);
    char check[8192];
    for (int i = 0; i < 100; i++) {
        CHECK(pread(deleted, check, sizeof check, i * sizeof check) == sizeof check, "read");
        for (size_t k = 64; k < sizeof check; k++) CHECK(check[k] == (char)mix(k), "deleted file, block %d byte %zu", i, k);
    }
    MUST(fstat(deleted, &now));
    CHECK(now.st_size == 3 << 20, "the deleted file has %ld bytes", (long)now.st_size);
    CHECK(pread(replaced, check, 16, 0) == 3 && !memcmp(check, "old", 3), "the replaced file has the new content");
    if (temporary >= 0) CHECK(pread(temporary, check, 16, 0) == 7 && !memcmp(check, "unnamed", 7), "the unnamed file");
    MUST(fstat(append, &now));
    CHECK(now.st_size == (off_t)(turns * 13), "the appended file has %ld bytes after %lu turns", (long)now.st_size, turns);
    CHECK(!told("deleted") && told("replaced"), "names on disk");
    return pass();
}
