// A tree as daemons and shells make it: a session leader, groups, a pipeline's group, orphans, dead group and session leaders.
// Every process goes on seeing the same ids, and groups can still be signalled.
#include "guest.h"

enum { LEADER, IN_SESSION, OWN_GROUP, ORPHAN, DEAD_GROUP, DEAD_SESSION, PIPE_A, PIPE_B, PIPE_C, COUNT };
struct shared {
    volatile pid_t pid[COUNT];
    volatile int up[COUNT], signalled[COUNT], done[COUNT];
    volatile int spoil;
};
static struct shared *shared;
static volatile sig_atomic_t got;

static void spoil(void) {
    shared->spoil = 1;
    while (shared->spoil && shared->up[OWN_GROUP]) nap(1000);
}
static void on_usr1(int s) { (void)s, got++; }

struct ids {
    pid_t pid, tid, ppid, pgid, sid;
};
static struct ids ids_now(void) { return (struct ids){getpid(), syscall(SYS_gettid), getppid(), getpgrp(), getsid(0)}; }

// The life of every process but the root.
static void live(int me, pid_t orphan_of) {
    while (orphan_of && getppid() == orphan_of) nap(200);
    struct ids first = ids_now();
    shared->pid[me] = first.pid;
    shared->up[me] = 1;
    while (!shared->done[me]) {
        struct ids now = ids_now();
        if (me == OWN_GROUP && shared->spoil) {
            MUST(setpgid(0, shared->pid[IN_SESSION] ? getsid(0) : 0));
            now = ids_now();
            shared->spoil = 0;
        }
        CHECK(!memcmp(&first, &now, sizeof first), "process %d: pid %d ppid %d pgid %d sid %d are now %d %d %d %d", me, first.pid, first.ppid,
              first.pgid, first.sid, now.pid, now.ppid, now.pgid, now.sid);
        shared->signalled[me] = got;
        struct timespec t = {0, 1000000};
        nanosleep(&t, NULL); // may be interrupted by the signal at the end
    }
    shared->up[me] = 0;
    _exit(0);
}

static void wait_up(int me) {
    while (!shared->up[me]) nap(200);
}

int main(void) {
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED, "mmap");
    if (!getenv("CKPT")) MUST(prctl(PR_SET_CHILD_SUBREAPER, 1)); // under a supervisor orphans go to it, else keep them here
    signal(SIGUSR1, on_usr1);

    pid_t leader = MUST(fork());
    if (!leader) {
        MUST(setsid());
        if (!MUST(fork())) live(IN_SESSION, 0);
        if (!MUST(fork())) {
            MUST(setpgid(0, 0));
            live(OWN_GROUP, 0);
        }
        wait_up(IN_SESSION), wait_up(OWN_GROUP);
        signal(SIGCHLD, SIG_IGN);
        live(LEADER, 0);
    }
    pid_t middle = MUST(fork());
    if (!middle) {
        pid_t parent = getpid();
        if (!MUST(fork())) live(ORPHAN, parent);
        _exit(0);
    }
    join_child(middle);
    pid_t group = MUST(fork());
    if (!group) {
        MUST(setpgid(0, 0));
        pid_t parent = getpid();
        if (!MUST(fork())) live(DEAD_GROUP, parent);
        _exit(0);
    }
    join_child(group);
    pid_t session = MUST(fork());
    if (!session) {
        MUST(setsid());
        pid_t parent = getpid();
        if (!MUST(fork())) live(DEAD_SESSION, parent);
        _exit(0);
    }
    join_child(session);
    pid_t pipeline[3], first = 0;
    for (int i = 0; i < 3; i++) {
        pipeline[i] = MUST(fork());
        if (!pipeline[i]) {
            setpgid(0, first);
            live(PIPE_A + i, 0);
        }
        if (!first) first = pipeline[i];
        MUST(setpgid(pipeline[i], first));
    }
    for (int i = 0; i < COUNT; i++) wait_up(i);
    CHECK(getpgid(shared->pid[DEAD_GROUP]) == group && getsid(shared->pid[DEAD_SESSION]) == session, "set-up");
    struct ids before = ids_now();
    ready();
    while (go_on()) {
        struct ids now = ids_now();
        CHECK(!memcmp(&before, &now, sizeof now), "root: ids changed");
        CHECK(kill(-group, 0) == 0 && kill(-first, 0) == 0 && kill(-session, 0) == 0, "a group is gone");
        for (int i = 0; i < COUNT; i++) CHECK(kill(shared->pid[i], 0) == 0, "process %d is gone", i);
        CHECK(kill(middle, 0) == -1 && errno == ESRCH, "a dead process lives");
        for (int i = 0; i < 3; i++) CHECK(getpgid(pipeline[i]) == first, "group of the pipeline");
    }
    // Signals to groups reach their members and nobody else.
    MUST(kill(-first, SIGUSR1));
    MUST(kill(-group, SIGUSR1));
    for (int i = 0; i < COUNT; i++)
        if ((i >= PIPE_A && i <= PIPE_C) || i == DEAD_GROUP)
            while (!shared->signalled[i]) nap(500);
    CHECK(!shared->signalled[LEADER] && !shared->signalled[ORPHAN] && !shared->signalled[DEAD_SESSION] && !got, "a signal went astray");
    for (int i = 0; i < COUNT; i++) shared->done[i] = 1;
    for (int i = 0; i < 3; i++) join_child(pipeline[i]);
    join_child(leader);
    for (int i = 0; i < COUNT; i++)
        while (shared->up[i]) nap(200);
    return pass();
}
