// Ids of a process nobody prepared: pid, tids, parent, group, session, users; its pid works in system calls and in /proc.
#include "guest.h"

static volatile sig_atomic_t hits;
static int damaged;
static volatile int finish;
static void on_usr1(int s) { (void)s, hits++; }
static void spoil(void) { damaged = 1; }

struct ids {
    pid_t pid, tid, ppid, pgid, sid, thread;
    uid_t uid[3];
    gid_t gid[3];
};
static volatile pid_t thread_tid;

static struct ids look(void) {
    struct ids i;
    memset(&i, 0, sizeof i);
    i.pid = getpid(), i.tid = syscall(SYS_gettid), i.ppid = getppid(), i.pgid = getpgrp(), i.sid = getsid(0);
    i.thread = thread_tid;
    MUST(getresuid(&i.uid[0], &i.uid[1], &i.uid[2]));
    MUST(getresgid(&i.gid[0], &i.gid[1], &i.gid[2]));
    return i;
}

static void *worker(void *unused) {
    (void)unused;
    // Only then has kill(getpid()) delivered its signal when it returns (POSIX, kill): a thread that has just come out of a
    // save looks at all that waits.
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    PTHREAD(pthread_sigmask(SIG_BLOCK, &usr1, NULL));
    do thread_tid = syscall(SYS_gettid);
    while (nap(1000), !finish);
    return NULL;
}

int main(void) {
    char path[64], link[64];
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, worker, NULL));
    while (!thread_tid) nap(100);
    signal(SIGUSR1, on_usr1);
    struct ids first = look();
    ready();
    for (int turn = 1; go_on(); turn++) {
        struct ids now = look();
        if (damaged) now.sid++;
        CHECK(now.pid == first.pid && now.tid == first.tid && now.thread == first.thread, "pid %d tid %d", now.pid, now.tid);
        CHECK(now.ppid == first.ppid, "parent %d is now %d", first.ppid, now.ppid);
        CHECK(now.pgid == first.pgid && now.sid == first.sid, "group %d session %d are now %d and %d", first.pgid, first.sid, now.pgid, now.sid);
        CHECK(!memcmp(&now, &first, sizeof now), "users or groups");
        MUST(kill(getpid(), SIGUSR1));
        CHECK(hits == turn, "kill(getpid())");
        CHECK(kill(getppid(), 0) == 0 || errno == EPERM, "the parent is gone");
        pid_t child = MUST(fork());
        if (!child) _exit(getppid() == first.pid && getpgrp() == first.pgid && getsid(0) == first.sid ? 0 : 1);
        CHECK(child != first.pid && child != first.thread && child != first.ppid, "a child took a pid in use: %d", child);
        join_child(child);
    }
    snprintf(path, sizeof path, "%d", first.pid);
    ssize_t n = MUST(readlink("/proc/self", link, sizeof link - 1));
    link[n] = 0;
    CHECK(!strcmp(path, link), "/proc/self is %s, not %s", link, path);
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", first.pid, first.thread);
    CHECK(access(path, R_OK) == 0, "%s", path);
    char stat[1024];
    slurp("/proc/self/stat", stat, sizeof stat);
    int pid, ppid, pgid, sid;
    CHECK(sscanf(strrchr(stat, ')') + 2, "%*c %d %d %d", &ppid, &pgid, &sid) == 3, "stat");
    CHECK(sscanf(stat, "%d", &pid) == 1 && pid == first.pid && ppid == first.ppid && pgid == first.pgid && sid == first.sid, "/proc/self/stat: %s", stat);
    finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
