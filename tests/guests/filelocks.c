// Locks on files, also deleted ones: flock, POSIX and OFD locks and leases, each with its owner; threads that wait for one.
#include <sys/file.h>

#include "guest.h"

static int range, flocked, waited, waited_for_too;
static volatile int got_flock, got_record;

static void spoil(void) { MUST(flock(flocked, LOCK_UN)); }

static int make(const char *name, int flags) { return MUST(open(guest_path(name), O_CREAT | O_CLOEXEC | flags, 0600)); }

// Who stands in the way of a lock on these bytes: pid, -1 for an OFD lock, 0 for nobody.
static int holder(int fd, int command, short type, off_t start, off_t len) {
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    MUST(fcntl(fd, command, &l));
    return l.l_type == F_UNLCK ? 0 : l.l_pid;
}

static int try_flock(const char *name, int how) {
    int fd = MUST(open(guest_path(name), O_RDWR | O_CLOEXEC));
    int refused = flock(fd, how | LOCK_NB) == -1 && errno == EWOULDBLOCK;
    MUST(close(fd));
    return !refused;
}

static void *wait_flock(void *unused) {
    (void)unused;
    MUST(flock(waited, LOCK_EX));
    got_flock = 1;
    return NULL;
}

static void *wait_record(void *unused) {
    (void)unused;
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1000, .l_len = 1};
    MUST(fcntl(waited_for_too, F_OFD_SETLKW, &l));
    got_record = 1;
    return NULL;
}

int main(void) {
    range = make("range", O_RDWR);
    int again = make("range", O_RDWR); // not to be closed: that would end our POSIX locks
    waited_for_too = make("range", O_RDWR);
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 10};
    MUST(fcntl(range, F_SETLK, &l));
    l = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 50, .l_len = 10};
    MUST(fcntl(range, F_SETLK, &l));
    l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1000, .l_len = 0};
    MUST(fcntl(range, F_OFD_SETLK, &l));
    flocked = make("flocked", O_RDWR);
    MUST(flock(flocked, LOCK_EX));
    int shared = make("shared", O_RDWR);
    MUST(flock(shared, LOCK_SH));
    waited = make("flocked", O_RDWR);
    int read_lease = make("read-lease", O_RDONLY), write_lease = make("write-lease", O_RDWR);
    MUST(fcntl(read_lease, F_SETLEASE, F_RDLCK));
    MUST(fcntl(write_lease, F_SETLEASE, F_WRLCK));
    // A deleted file and one of memory, each open a second time.
    int gone = make("gone", O_RDWR), gone_again = make("gone", O_RDWR), memory = MUST(memfd_create("memory", MFD_CLOEXEC)), memory_again;
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", memory);
    memory_again = MUST(open(name, O_RDWR | O_CLOEXEC));
    MUST(unlink("gone"));
    MUST(flock(gone, LOCK_EX));
    l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 3, .l_len = 4};
    MUST(fcntl(gone_again, F_OFD_SETLK, &l));
    MUST(flock(memory, LOCK_SH));
    l.l_type = F_RDLCK;
    MUST(fcntl(memory, F_OFD_SETLK, &l));
    int turn[2], answer[2];
    MUST(pipe(turn)), MUST(pipe(answer));
    pid_t parent = getpid(), child = MUST(fork());
    if (!child) {
        MUST(close(turn[1]));
        // A POSIX lock of its own, through the same description.
        l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 200, .l_len = 1};
        MUST(fcntl(range, F_SETLK, &l));
        char c = 1;
        do {
            CHECK(holder(again, F_GETLK, F_RDLCK, 0, 20) == parent, "the child sees that %d has bytes 5 to 14", holder(again, F_GETLK, F_RDLCK, 0, 20));
            CHECK(holder(again, F_GETLK, F_WRLCK, 59, 1) == parent && !holder(again, F_GETLK, F_RDLCK, 50, 10), "the lock for reading");
            CHECK(!holder(again, F_GETLK, F_WRLCK, 15, 35) && !holder(again, F_GETLK, F_WRLCK, 60, 140), "more is locked than was");
            CHECK(write(answer[1], &c, 1) == 1, "write");
        } while (read(turn[0], &c, 1) == 1);
        _exit(0);
    }
    MUST(close(turn[0]));
    pid_t waiting = MUST(fork());
    if (!waiting) {
        // Waits for its parent's lock: they go when that ends, or are given up.
        MUST(close(turn[1]));
        l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 7, .l_len = 1};
        MUST(fcntl(range, F_SETLKW, &l));
        CHECK(told("go"), "a lock was got that is taken");
        _exit(0);
    }
    char c;
    CHECK(read(answer[0], &c, 1) == 1, "read");
    pthread_t threads[2];
    PTHREAD(pthread_create(&threads[0], NULL, wait_flock, NULL));
    PTHREAD(pthread_create(&threads[1], NULL, wait_record, NULL));
    ready();
    while (go_on()) {
        CHECK(write(turn[1], &c, 1) == 1 && read(answer[0], &c, 1) == 1, "the child");
        CHECK(holder(again, F_GETLK, F_WRLCK, 200, 1) == child, "the child's lock is %d's", holder(again, F_GETLK, F_WRLCK, 200, 1));
        CHECK(holder(again, F_OFD_GETLK, F_RDLCK, 1 << 30, 1) == -1, "the OFD lock to the end of the file");
        CHECK(!holder(again, F_GETLK, F_WRLCK, 201, 799), "more is locked than was");
        CHECK(!try_flock("flocked", LOCK_SH), "the exclusive flock is gone");
        CHECK(try_flock("shared", LOCK_SH) && !try_flock("shared", LOCK_EX), "the shared flock");
        CHECK(fcntl(read_lease, F_GETLEASE) == F_RDLCK && fcntl(write_lease, F_GETLEASE) == F_WRLCK, "leases");
        CHECK(flock(gone_again, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK, "the flock of a deleted file is gone");
        CHECK(holder(gone, F_OFD_GETLK, F_RDLCK, 3, 1) == -1 && !holder(gone_again, F_OFD_GETLK, F_WRLCK, 3, 1), "the OFD lock of a deleted file");
        CHECK(flock(memory_again, LOCK_EX | LOCK_NB) == -1 && flock(memory_again, LOCK_SH | LOCK_NB) == 0 && flock(memory_again, LOCK_UN) == 0, "the flock of a memory file");
        CHECK(holder(memory_again, F_OFD_GETLK, F_WRLCK, 6, 1) == -1 && !holder(memory_again, F_OFD_GETLK, F_RDLCK, 6, 1), "the OFD lock of a memory file");
        CHECK(!got_flock && !got_record, "a lock was got that is taken");
    }
    MUST(close(turn[1]));
    join_child(child);
    l = (struct flock){.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 10};
    MUST(fcntl(range, F_SETLK, &l));
    join_child(waiting);
    MUST(flock(flocked, LOCK_UN));
    l = (struct flock){.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 1000, .l_len = 0};
    MUST(fcntl(range, F_OFD_SETLK, &l));
    for (int i = 0; i < 2; i++) PTHREAD(pthread_join(threads[i], NULL));
    CHECK(got_flock && got_record, "waiters");
    return pass();
}
