// Files on a file system that is read-only: open, mapped, a directory, a process that is in there. The harness makes one beside
// the directory for temporary files; else it is an ordinary one.
#include <sys/statvfs.h>

#include "guest.h"

#define SIZE 20000
static int file;
static void spoil(void) { MUST(lseek(file, 1, SEEK_CUR)); }

static unsigned long flags_of(int fd) {
    struct statvfs st;
    MUST(fstatvfs(fd, &st));
    return st.f_flag;
}

int main(void) {
    char path[PATH_MAX], bytes[SIZE], seen[SIZE];
    memset(bytes, 'r', SIZE);
    snprintf(path, sizeof path, "%s/../fixed", getenv("TMPDIR"));
    int made = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) >= 0;
    if (!made) {
        strcpy(path, "fixed");
        MUST(mkdir(path, 0700));
        int fd = MUST(open("fixed/file", O_WRONLY | O_CREAT | O_EXCL, 0600));
        CHECK(write(fd, bytes, SIZE) == SIZE, "write");
        MUST(close(fd));
    }
    int dir = MUST(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)), place = MUST(open(path, O_PATH));
    file = MUST(openat(dir, "file", O_RDONLY));
    CHECK(lseek(file, 4711, SEEK_SET) == 4711, "lseek");
    char *own = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0), *shared = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, file, 0);
    CHECK(own != MAP_FAILED && shared != MAP_FAILED, "mmap");
    own[5000] = 'o';
    unsigned long flags = flags_of(file);
    CHECK(!made || (flags & ST_RDONLY), "set-up: it is not read-only");
    int gate[2];
    MUST(pipe(gate));
    pid_t child = MUST(fork());
    if (!child) {
        char byte;
        MUST(close(gate[1]));
        MUST(fchdir(dir));
        CHECK(read(gate[0], &byte, 1) == 0, "read");
        int again = MUST(open("file", O_RDONLY));
        CHECK(read(again, seen, SIZE) == SIZE && !memcmp(seen, bytes, SIZE) && flags_of(again) == flags, "from the working directory");
        CHECK(!made || (open("new", O_CREAT | O_WRONLY, 0600) == -1 && errno == EROFS), "something can be made in the working directory");
        _exit(0);
    }
    MUST(close(gate[0]));
    ready();
    while (go_on()) {
        CHECK(lseek(file, 0, SEEK_CUR) == 4711 && flags_of(file) == flags && flags_of(dir) == flags, "the open file");
        CHECK(pread(file, seen, SIZE, 0) == SIZE && !memcmp(seen, bytes, SIZE) && !memcmp(shared, bytes, SIZE), "what is in it");
        CHECK(own[4999] == 'r' && own[5000] == 'o' && !memcmp(own + 8192, bytes, SIZE - 8192), "the private mapping");
        struct stat st, by_name;
        MUST(fstat(file, &st)), MUST(fstatat(place, "file", &by_name, 0));
        CHECK(st.st_ino == by_name.st_ino && st.st_size == SIZE, "the open file is another");
        if (!made) continue;
        CHECK(openat(dir, "file", O_WRONLY) == -1 && errno == EROFS, "the file can be written to");
        CHECK(openat(place, "new", O_CREAT | O_WRONLY, 0600) == -1 && errno == EROFS, "something can be made in the directory");
        CHECK(fchmod(file, 0777) == -1 && errno == EROFS, "the file can be changed");
    }
    MUST(close(gate[1]));
    join_child(child);
    return pass();
}
