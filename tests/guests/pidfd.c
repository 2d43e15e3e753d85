// pidfd_open(2), CLONE_PIDFD: of oneself, a child, a thread, a zombie, the dead; shared, watched, waited for.
#include <sys/epoll.h>

#include "guest.h"

#define PIDFD_THREAD O_EXCL
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static int self, child_fd, sibling_fd;
static void spoil(void) { MUST(dup2(child_fd, self)); }

static int pidfd(pid_t pid, unsigned flags) { return MUST(syscall(SYS_pidfd_open, pid, flags)); }
static int send_to(int fd, int signal) { return syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0); }

// Whose it is by fdinfo; 0: no such line.
static int of(int fd) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    slurp(path, text, sizeof text);
    char *line = strstr(text, "\nPid:");
    return line ? atoi(line + 5) : 0;
}

// The same without opening a file: PIDFD_GET_INFO (Linux 6.13). -1: the kernel does not tell.
struct info { uint64_t mask, cgroup; uint32_t pid, tgid, ppid, ids[8]; int32_t exit; };
static int asked(int fd, uint64_t want, struct info *info) {
    *info = (struct info){.mask = want};
    return ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 0xff, 11, 64), info);
}
static void must_be(int fd, pid_t pid, const char *what) {
    struct info info;
    if (asked(fd, 1, &info) == 0) CHECK(info.pid == (uint32_t)pid, "%s is of %d, not %d", what, info.pid, pid);
    CHECK(send_to(fd, 0) == 0, "%s: no signal can be sent", what);
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 0, "%s says that it ended", what);
}
static void must_be_gone(int fd, int status, const char *what) {
    struct info info;
    CHECK(send_to(fd, 0) == -1 && errno == ESRCH, "%s: somebody is there", what);
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 1 && (p.revents & POLLIN), "%s does not say that it ended", what);
    if (asked(fd, 8, &info) == 0 && (info.mask & 8)) CHECK(info.exit == status, "%s ended with %#x, not %#x", what, info.exit, status);
}

static pid_t child(void) {
    pid_t pid = MUST(fork());
    if (pid) return pid;
    for (;;) pause();
}

static volatile pid_t tid;
static volatile int done;
static void *worker(void *unused) {
    (void)unused;
    tid = gettid();
    while (!done) nap(1000);
    return NULL;
}

static volatile int waited;
static void *waiter(void *unused) {
    (void)unused;
    siginfo_t info;
    MUST(waitid(P_PIDFD, sibling_fd, &info, WEXITED)); // sleeps until the end
    CHECK(info.si_code == CLD_KILLED && info.si_status == SIGTERM && told("go"), "the waiter got %d, %d", info.si_code, info.si_status);
    waited = 1;
    return NULL;
}

static int ended(int how, unsigned flags, int *again) {
    pid_t pid = MUST(fork());
    if (!pid) {
        if (how > 0) _exit(how);
        raise(-how);
    }
    int fd = pidfd(pid, flags);
    if (again) *again = pidfd(pid, 0);
    CHECK(waitpid(pid, NULL, 0) == pid, "waitpid");
    return fd;
}

// A resumed program's pidfds have other inodes: one is looked at twice, in case it was saved in between.
static int same_inode(int one, int other) {
    struct stat a, b, once_more;
    do MUST(fstat(one, &a)), MUST(fstat(other, &b)), MUST(fstat(one, &once_more));
    while (a.st_ino != once_more.st_ino);
    return a.st_ino == b.st_ino;
}

int main(void) {
    pid_t me = getpid();
    self = pidfd(me, O_NONBLOCK);
    pid_t kid = child(), sibling = child();
    child_fd = pidfd(kid, 0);
    sibling_fd = pidfd(sibling, 0);
    int busy = pidfd(kid, O_NONBLOCK), copy = MUST(dup(child_fd)), leader = pidfd(me, PIDFD_THREAD);
    MUST(fcntl(copy, F_SETFD, 0));
    int again, exited = ended(7, 0, &again), killed = ended(-SIGKILL, O_NONBLOCK, NULL);
    pid_t zombie = MUST(fork());
    if (!zombie) _exit(3);
    siginfo_t info;
    MUST(waitid(P_PID, zombie, &info, WEXITED | WNOWAIT));
    int dead = pidfd(zombie, 0);
    int born = -1;
    pid_t cloned = MUST(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &born, NULL, NULL));
    if (!cloned)
        for (;;) pause();
    pthread_t thread, wait_thread;
    PTHREAD(pthread_create(&thread, NULL, worker, NULL));
    PTHREAD(pthread_create(&wait_thread, NULL, waiter, NULL));
    while (!tid) sched_yield();
    int threads = syscall(SYS_pidfd_open, tid, PIDFD_THREAD); // Linux 6.9
    int set = MUST(epoll_create1(EPOLL_CLOEXEC));
    for (int i = 0; i < 2; i++) {
        int fd = i ? dead : child_fd;
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.u64 = 100 + i}));
    }
    // Another process has the same description under another number, and one of its own.
    int gate[2], there = 60;
    MUST(pipe(gate));
    pid_t holder = MUST(fork());
    if (!holder) {
        char c;
        MUST(dup2(child_fd, there));
        MUST(close(child_fd)), MUST(close(copy)), MUST(close(gate[1]));
        int up = pidfd(getppid(), 0);
        CHECK(read(gate[0], &c, 1) == 0, "read");
        must_be(there, kid, "the child's in another process"), must_be(up, me, "the parent's");
        must_be(self, me, "the parent's own");
        _exit(0);
    }
    MUST(close(gate[0]));
    ready();
    while (go_on()) {
        must_be(self, me, "our own"), must_be(child_fd, kid, "the child's"), must_be(copy, kid, "its copy");
        must_be(busy, kid, "another of it"), must_be(born, cloned, "the clone's"), must_be(sibling_fd, sibling, "the sibling's");
        must_be(leader, me, "the main thread's");
        if (threads >= 0) must_be(threads, tid, "the thread's");
        must_be_gone(exited, 7 << 8, "one that exited"), must_be_gone(again, 7 << 8, "another of it"), must_be_gone(killed, SIGKILL, "one that was killed");
        struct pollfd p = {dead, POLLIN, 0};
        CHECK(poll(&p, 1, 0) == 1, "the zombie's does not say that it ended");
        MUST(waitid(P_PIDFD, dead, &info, WEXITED | WNOWAIT));
        CHECK(info.si_pid == zombie && info.si_status == 3, "the zombie's end");
        CHECK(waitid(P_PIDFD, busy, &info, WEXITED) == -1 && errno == EAGAIN, "O_NONBLOCK");
        CHECK(fcntl(self, F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(child_fd, F_GETFL) == O_RDWR, "flags");
        CHECK(fcntl(leader, F_GETFL) == (O_RDWR | PIDFD_THREAD), "flags of a thread's: %#o", fcntl(leader, F_GETFL));
        CHECK(fcntl(copy, F_GETFD) == 0 && fcntl(child_fd, F_GETFD) == FD_CLOEXEC, "close-on-exec");
        struct epoll_event e[2];
        CHECK(epoll_wait(set, e, 2, 0) == 1 && e[0].data.u64 == 101, "the epoll");
        CHECK(same_inode(exited, again), "two of one process that ended");
        CHECK(same_inode(child_fd, busy), "two of one process");
        CHECK(!waited, "the waiter is awake");
    }
    CHECK(of(self) == me && of(child_fd) == kid && of(born) == cloned && of(exited) == -1 && of(killed) == -1, "fdinfo");
    CHECK(threads < 0 || of(threads) == tid, "fdinfo of the thread's");
    done = 1;
    MUST(close(gate[1]));
    join_child(holder);
    MUST(send_to(child_fd, SIGTERM)), MUST(send_to(sibling_fd, SIGTERM)), MUST(send_to(born, SIGKILL));
    MUST(waitid(P_PIDFD, copy, &info, WEXITED));
    CHECK(info.si_pid == kid && info.si_status == SIGTERM, "the child's end");
    MUST(waitid(P_PIDFD, born, &info, WEXITED));
    CHECK(info.si_pid == cloned && info.si_status == SIGKILL, "the clone's end");
    MUST(waitid(P_PIDFD, dead, &info, WEXITED));
    struct epoll_event e[2];
    CHECK(epoll_wait(set, e, 2, 5000) == 2, "the epoll at the end");
    PTHREAD(pthread_join(wait_thread, NULL));
    CHECK(waited, "the waiter sleeps");
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
