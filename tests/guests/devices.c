// /dev/null, zero, full, random, urandom: open, and /dev/zero mapped.
#include "guest.h"

static int fds[5];
static const char *names[5] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};
static void spoil(void) { MUST(dup2(fds[0], fds[1])); }

int main(void) {
    struct stat before[5], now;
    int flags[5];
    for (int i = 0; i < 5; i++) {
        fds[i] = MUST(open(names[i], (i < 3 ? O_RDWR : O_RDONLY) | (i == 1 ? O_CLOEXEC : 0) | (i == 4 ? O_NONBLOCK : 0)));
        MUST(fstat(fds[i], &before[i]));
        flags[i] = MUST(fcntl(fds[i], F_GETFL));
    }
    char *own = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[1], 0);
    char *shared = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
    CHECK(own != MAP_FAILED && shared != MAP_FAILED, "mmap");
    own[5000] = 'o', shared[9000] = 's';
    ready();
    while (go_on()) {
        char b[64];
        memset(b, 1, sizeof b);
        CHECK(read(fds[0], b, 64) == 0 && write(fds[0], b, 64) == 64, "null");
        CHECK(read(fds[1], b, 64) == 64 && b[0] == 0 && b[63] == 0, "zero");
        CHECK(write(fds[2], b, 1) == -1 && errno == ENOSPC, "full");
        uint64_t x = 0, y = 0;
        CHECK(read(fds[3], &x, 8) == 8 && read(fds[4], &y, 8) == 8 && x != y, "random");
        for (int i = 0; i < 5; i++) {
            MUST(fstat(fds[i], &now));
            CHECK(now.st_rdev == before[i].st_rdev && now.st_ino == before[i].st_ino, "%s", names[i]);
            CHECK(fcntl(fds[i], F_GETFL) == flags[i] && fcntl(fds[i], F_GETFD) == (i == 1 ? FD_CLOEXEC : 0), "flags of %s", names[i]);
        }
        CHECK(own[5000] == 'o' && own[4000] == 0 && shared[9000] == 's' && shared[16383] == 0, "mapped /dev/zero");
    }
    return pass();
}
