// Memory files: content, size, position and sharing; names, modes and seals; mapped with and without a descriptor, through
// two mappings with different rights (as a JIT does), and executed.
#include "guest.h"

#define SIZE (192 * 1024)
static unsigned char *window;
static int plain, sealed, future;

static void spoil(void) { window[100000] ^= 1; }

static void name_is(int fd, const char *want) {
    char path[64], link[256];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = MUST(readlink(path, link, sizeof link - 1));
    link[n] = 0;
    CHECK(!strcmp(link, want), "fd %d is %s, not %s", fd, link, want);
}

static void check(void) {
    struct stat st;
    MUST(fstat(plain, &st));
    CHECK(st.st_size == SIZE + 123 && st.st_nlink == 0 && (st.st_mode & 07777) == 0640, "plain: size %ld, mode %o", (long)st.st_size, st.st_mode);
    CHECK(MUST(fcntl(plain, F_GET_SEALS)) == F_SEAL_SEAL, "plain: seals %#x", fcntl(plain, F_GET_SEALS));
    CHECK(lseek(plain, 0, SEEK_CUR) == 4711, "plain: position %ld", (long)lseek(plain, 0, SEEK_CUR));
    CHECK(MUST(fcntl(sealed, F_GET_SEALS)) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), "sealed: seals %#x", fcntl(sealed, F_GET_SEALS));
    CHECK(pwrite(sealed, "x", 1, 0) == -1 && errno == EPERM, "sealed: written to");
    char text[16] = "";
    CHECK(pread(sealed, text, 15, 0) == 6 && !strcmp(text, "sealed"), "sealed: %s", text);
    CHECK(MUST(fcntl(future, F_GET_SEALS)) == F_SEAL_FUTURE_WRITE, "future: seals %#x", fcntl(future, F_GET_SEALS));
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0) == MAP_FAILED && errno == EPERM, "future: mapped for writing");
    name_is(plain, "/memfd:plain file (deleted)");
    name_is(sealed, "/memfd:sealed (deleted)");
    name_is(future, "/memfd: (deleted)");
}

int main(int argc, char **argv) {
    if (argc == 1) {
        // From a memory file from here on.
        int exe = MUST(memfd_create("guest", MFD_CLOEXEC)), self = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
        char bytes[65536];
        for (ssize_t n; (n = MUST(read(self, bytes, sizeof bytes))) > 0;) CHECK(write(exe, bytes, n) == n, "write");
        char *again[] = {argv[0], "again", NULL};
        extern char **environ;
        // A descriptor for writing would make the file busy.
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", exe);
        int reader = MUST(open(path, O_RDONLY | O_CLOEXEC));
        MUST(close(exe));
        MUST(fexecve(reader, again, environ));
    }
    plain = MUST(memfd_create("plain file", MFD_CLOEXEC));
    MUST(ftruncate(plain, SIZE + 123));
    MUST(fchmod(plain, 0640));
    window = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, plain, 0);
    CHECK(window != MAP_FAILED, "mmap");
    for (int i = 0; i < SIZE; i++) window[i] = mix(i);
    CHECK(lseek(plain, 4711, SEEK_SET) == 4711, "lseek");
    sealed = MUST(memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    CHECK(write(sealed, "sealed", 6) == 6, "write");
    MUST(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
    unsigned char *reading = mmap(NULL, 4096, PROT_READ, MAP_SHARED, sealed, 0);
    CHECK(reading != MAP_FAILED, "mmap");
    // Whoever has mapped it for writing before the seal goes on writing.
    future = MUST(memfd_create("", MFD_ALLOW_SEALING));
    MUST(ftruncate(future, 8192));
    volatile uint64_t *before = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0);
    CHECK(before != MAP_FAILED, "mmap");
    MUST(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    // One that only mappings hold: written through one, executed through the other.
    int code = MUST(memfd_create("code", MFD_CLOEXEC));
    MUST(ftruncate(code, 4096));
    unsigned char *writes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
    int (*runs)(void) = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, code, 0);
    CHECK(writes != MAP_FAILED && runs != MAP_FAILED, "mmap");
    MUST(close(code));
    memcpy(writes, "\xb8\0\0\0\0\xc3", 6); // mov $0,%eax; ret
    int end[2], back[2];
    MUST(pipe(end));
    MUST(pipe(back));
    pid_t child = MUST(fork());
    if (child == 0) {
        MUST(close(end[1]));
        for (uint64_t turn; read(end[0], &turn, 8) == 8;) {
            CHECK(*(volatile uint64_t *)(window + 64) == turn && before[9] == turn, "the other process does not see the memory");
            CHECK(runs() == (int)turn, "the code that was written does not run");
            CHECK(write(back[1], "", 1) == 1, "pipe");
        }
        _exit(0);
    }
    MUST(close(end[0]));
    check();
    ready();
    uint64_t turn = 0;
    do {
        check();
        turn = (turn + 1) % 128;
        *(volatile uint64_t *)(window + 64) = before[9] = turn;
        writes[1] = turn;
        uint64_t in_file = 0;
        CHECK(pread(plain, &in_file, 8, 64) == 8 && in_file == turn, "descriptor and map are different files");
        char byte;
        CHECK(write(end[1], &turn, 8) == 8 && read(back[0], &byte, 1) == 1, "pipe");
    } while (go_on());
    for (int i = 0; i < SIZE; i++) CHECK((i >= 64 && i < 72) || window[i] == (unsigned char)mix(i), "byte %d", i);
    CHECK(!memcmp(reading, "sealed", 7), "the sealed map");
    name_is(MUST(open("/proc/self/exe", O_PATH | O_CLOEXEC)), "/memfd:guest (deleted)");
    MUST(close(end[1]));
    join_child(child);
    return pass();
}
