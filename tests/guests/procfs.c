// Descriptors of /proc: of the process itself, of its child, of a thread, of a zombie, of a process that is gone, of no process;
// files, directories in the middle of a listing, links; which process each tells of, positions, sharing.
#include <sys/epoll.h>

#include "guest.h"

#define OTHERS 40
static int status;
static uint64_t value = 1;

static void spoil(void) { MUST(dup2(MUST(open("/dev/null", O_RDONLY)), status)); }

static int of(pid_t pid, const char *name, int flags) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    return MUST(open(path, flags));
}
static char *text(int fd) {
    static char buffer[1 << 16];
    size_t n = 0;
    for (ssize_t got; (got = MUST(pread(fd, buffer + n, sizeof buffer - 1 - n, n))) > 0;) n += got;
    buffer[n] = 0;
    return buffer;
}
static long number(int fd, const char *line) {
    char *at = strstr(text(fd), line);
    CHECK(at, "no %s", line);
    return atol(at + strlen(line));
}
static void link_of(int fd, char *out) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    out[MUST(readlink(name, out, 127))] = 0;
}

// Marks the numbers that a piece of a directory names.
static int list(int fd, char *seen, size_t most, size_t size) {
    char buffer[4096];
    long n = MUST(syscall(SYS_getdents64, fd, buffer, size));
    for (long at = 0; at < n;) {
        struct linux_dirent64 *d = (void *)(buffer + at);
        size_t number = d->name[0] >= '0' && d->name[0] <= '9' ? (size_t)atol(d->name) : most;
        if (number < most) {
            CHECK(!seen[number], "%s is listed twice", d->name);
            seen[number] = 1;
        }
        at += d->len;
    }
    return n > 0;
}

static int tid_pipe[2];
static volatile int finish; // not before the last look at its file
static void *run(void *arg) {
    (void)arg;
    pid_t tid = gettid();
    prctl(PR_SET_NAME, "the thread");
    CHECK(write(tid_pipe[1], &tid, sizeof tid) == sizeof tid, "write");
    while (!finish) nap(1000);
    return NULL;
}

int main(void) {
    pid_t me = getpid(), tid;
    pthread_t thread;
    MUST(pipe(tid_pipe));
    PTHREAD(pthread_create(&thread, NULL, run, NULL));
    CHECK(read(tid_pipe[0], &tid, sizeof tid) == sizeof tid, "read");
    int first_other = -1;
    for (int i = 0; i < OTHERS; i++) {
        int fd = MUST(open("/dev/null", O_RDONLY));
        if (i == 0) first_other = fd;
    }
    status = of(me, "status", O_RDONLY);
    int comm = of(me, "comm", O_RDWR | O_CLOEXEC), memory = of(me, "mem", O_RDWR), maps = of(me, "maps", O_RDONLY);
    int numbers = of(me, "fd", O_RDONLY | O_DIRECTORY), own = of(me, "", O_RDONLY), info;
    char name[64], before[128], now[128];
    snprintf(name, sizeof name, "fdinfo/%d", status);
    info = of(me, name, O_RDONLY);
    snprintf(name, sizeof name, "fd/%d", first_other);
    int link = of(me, name, O_PATH | O_NOFOLLOW), mounts = of(me, "mountinfo", O_RDONLY);
    snprintf(name, sizeof name, "task/%d/comm", tid);
    int of_thread = of(me, name, O_RDONLY);
    int all = MUST(open("/proc", O_RDONLY | O_DIRECTORY)), self = MUST(open("/proc/self", O_PATH | O_NOFOLLOW));
    int meminfo = MUST(open("/proc/meminfo", O_RDONLY)), pid_max = MUST(open("/proc/sys/kernel/pid_max", O_RDONLY));
    int network = MUST(open("/proc/net/dev", O_RDONLY));
    // The position of memory is an address: the page of the kernel at the end of all.
    off_t vsyscall = (off_t)0xffffffffff600000;
    CHECK(lseek(memory, vsyscall, SEEK_SET) == vsyscall, "lseek");
    CHECK(lseek(meminfo, 40, SEEK_SET) == 40 && lseek(status, 10, SEEK_SET) == 10, "lseek");

    // A child that lives and shares the descriptions, one that is dead and one that nobody remembers.
    int to_child[2], from_child[2];
    MUST(pipe(to_child)), MUST(pipe(from_child));
    pid_t child = MUST(fork());
    if (!child) {
        MUST(close(to_child[1])), MUST(close(from_child[0]));
        char byte;
        MUST(chdir("/proc/self"));
        while (read(to_child[0], &byte, 1) == 1) {
            CHECK(lseek(status, 0, SEEK_CUR) == byte, "the child has another position");
            int own = MUST(open("stat", O_RDONLY));
            CHECK(atol(text(own)) == getpid(), "our working directory is of another process");
            MUST(close(own));
            CHECK(number(status, "Pid:\t") == getppid() && number(status, "PPid:\t") != getppid(), "the child reads of another");
            CHECK(write(from_child[1], &byte, 1) == 1, "write");
        }
        _exit(0);
    }
    MUST(close(to_child[0])), MUST(close(from_child[1]));
    int of_child = of(child, "stat", O_RDONLY), child_numbers = of(child, "fd", O_RDONLY);
    int hold[2];
    MUST(pipe(hold));
    pid_t doomed[2];
    for (int i = 0; i < 2; i++) {
        doomed[i] = MUST(fork());
        if (!doomed[i]) {
            MUST(close(hold[1]));
            char byte;
            _exit(read(hold[0], &byte, 1) + 7);
        }
    }
    enum { DIR, STATUS, MAPS, ENVIRON, FD, TASK, NET, OF_DEAD };
    static const char *const names[] = {"", "status", "maps", "environ", "fd", "task", "net/dev"};
    int zombie[] = {of(doomed[0], "stat", O_RDONLY), of(doomed[0], "maps", O_RDONLY)}, dead[OF_DEAD];
    for (int i = 0; i < OF_DEAD; i++) dead[i] = of(doomed[1], names[i], O_RDONLY);
    MUST(close(hold[1]));
    siginfo_t end;
    MUST(waitid(P_PID, doomed[0], &end, WEXITED | WNOWAIT));
    int ended;
    CHECK(waitpid(doomed[1], &ended, 0) == doomed[1] && ended == 7 << 8, "waitpid");

    int epoll = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLPRI, .data.u32 = 7};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, mounts, &event));
    static char seen[1024], seen_all[1 << 22];
    list(numbers, seen, sizeof seen, 256); // some of them
    int watched[] = {status, comm, memory, maps, numbers, own, info, link, mounts, of_thread, all, self, meminfo, pid_max, network, of_child, child_numbers, zombie[0], zombie[1], dead[DIR], dead[STATUS], dead[MAPS], dead[ENVIRON], dead[TASK], dead[NET], dead[FD]};
    enum { WATCHED = sizeof watched / sizeof *watched };
    int flags[WATCHED], fdflags[WATCHED];
    char links[WATCHED][128];
    struct stat st[WATCHED], stat_now;
    for (int i = 0; i < WATCHED; i++) {
        flags[i] = MUST(fcntl(watched[i], F_GETFL));
        fdflags[i] = MUST(fcntl(watched[i], F_GETFD));
        link_of(watched[i], links[i]);
        if (watched[i] != dead[FD]) MUST(fstat(watched[i], &st[i]));
    }
    link_of(link, before);
    ready();
    char place = 10;
    for (unsigned turn = 0; go_on(); turn++) {
        for (int i = 0; i < WATCHED; i++) {
            CHECK(fcntl(watched[i], F_GETFL) == flags[i], "%s: flags %#x are now %#x", links[i], flags[i], fcntl(watched[i], F_GETFL));
            CHECK(fcntl(watched[i], F_GETFD) == fdflags[i], "%s: close-on-exec", links[i]);
            link_of(watched[i], now);
            CHECK(!strcmp(now, links[i]), "%s is now %s", links[i], now);
            if (watched[i] == dead[FD]) continue;
            MUST(fstat(watched[i], &stat_now));
            // Whoever looks for a zombie's file by its name makes it root's. Root may be nobody after a resume.
            CHECK(stat_now.st_mode == st[i].st_mode && (stat_now.st_uid == st[i].st_uid || st[i].st_uid != getuid() || watched[i] == zombie[0] || watched[i] == zombie[1]), "%s: mode %o is now %o", links[i], st[i].st_mode, stat_now.st_mode);
        }
        CHECK(number(status, "Pid:\t") == me && number(status, "PPid:\t") == getppid(), "status is of another");
        snprintf(name, sizeof name, "name %u", turn % 1000);
        CHECK(write(comm, name, strlen(name)) == (ssize_t)strlen(name), "comm");
        char got[17] = {0};
        prctl(PR_GET_NAME, got);
        CHECK(!strcmp(got, name), "the name is %s", got);
        uint64_t got_value, next = mix(value);
        CHECK(pread(memory, &got_value, 8, (off_t)(uintptr_t)&value) == 8 && got_value == value, "mem");
        CHECK(pwrite(memory, &next, 8, (off_t)(uintptr_t)&value) == 8 && *(volatile uint64_t *)&value == next, "mem");
        CHECK(lseek(memory, 0, SEEK_CUR) == vsyscall, "the position of mem");
        CHECK(strchr(text(maps), '\n') && strstr(text(maps), "[stack]"), "maps");
        CHECK(strtol(strstr(text(info), "pos:") + 4, NULL, 10) == place, "fdinfo says %s", text(info));
        got[MUST(readlinkat(link, "", got, 16))] = 0;
        CHECK(!strcmp(got, "/dev/null"), "the link leads to %s", got);
        CHECK(!strcmp(text(of_thread), "the thread\n"), "the thread is %s", text(of_thread));
        got[MUST(readlinkat(self, "", got, 16))] = 0;
        CHECK(atol(got) == me, "self is %s", got);
        CHECK(strstr(text(mounts), " / "), "mountinfo");
        CHECK(lseek(meminfo, 0, SEEK_CUR) == 40 && strstr(text(meminfo), "MemTotal:"), "meminfo");
        CHECK(atol(text(pid_max)) > 300 && strstr(text(network), "lo:"), "of no process");
        CHECK(atol(text(of_child)) == child, "the child's stat is of %ld", atol(text(of_child)));
        snprintf(name, sizeof name, "%d (", doomed[0]);
        CHECK(!strncmp(text(zombie[0]), name, strlen(name)) && strstr(text(zombie[0]), ") Z "), "the zombie's stat is %s", text(zombie[0]));
        CHECK(pread(zombie[1], got, 1, 0) == 0, "the zombie has mappings");
        CHECK(pread(dead[STATUS], got, 1, 0) == -1 && errno == ESRCH && pread(dead[MAPS], got, 1, 0) == -1 && errno == ESRCH, "the dead one has a status");
        CHECK(pread(dead[ENVIRON], got, 1, 0) == 0, "the dead one has an environment");
        CHECK(syscall(SYS_getdents64, dead[DIR], before, 64) == -1 && errno == ENOENT, "the dead one is listed");
        CHECK(openat(dead[DIR], "status", O_RDONLY) == -1 && errno == ESRCH, "the dead one can be opened");
        CHECK(fstat(dead[FD], &stat_now) == -1 && errno == ENOENT, "the dead one has descriptors");
        CHECK(strstr(text(dead[NET]), "lo:"), "the network of the dead one");
        event.data.u32 = turn;
        MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, mounts, &event));
        // The position is one for both.
        place = 10 + turn % 50;
        CHECK(lseek(status, place, SEEK_SET) == place, "lseek");
        CHECK(write(to_child[1], &place, 1) == 1 && read(from_child[0], &got, 1) == 1, "the child");
    }
    while (list(numbers, seen, sizeof seen, 256)) {}
    for (int i = 0; i < OTHERS; i++) CHECK(seen[first_other + i], "fd %d is not listed", first_other + i);
    CHECK(lseek(all, 0, SEEK_SET) == 0, "lseek");
    while (list(all, seen_all, sizeof seen_all, sizeof before * 8)) {}
    CHECK(seen_all[me] && seen_all[getppid()] && seen_all[child] && seen_all[doomed[0]] && !seen_all[doomed[1]], "/proc lists others");
    MUST(close(to_child[1]));
    join_child(child);
    CHECK(waitpid(doomed[0], &ended, 0) == doomed[0] && ended == 7 << 8, "waitpid");
    CHECK(pread(zombie[0], now, 1, 0) == -1 && errno == ESRCH, "the zombie is remembered");
    CHECK(pread(of_child, now, 1, 0) == -1 && errno == ESRCH, "the child is remembered");
    finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
