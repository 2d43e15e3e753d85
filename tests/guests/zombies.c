// Children that are dead and not waited for: exit codes, deaths by signal, their groups; SIGCHLD arrives neither twice nor never.
// Those that tell their end by another signal (clone(2)), or by none, dead and alive.
#include "guest.h"

#define ZOMBIES 6
static pid_t pid[ZOMBIES];
static volatile sig_atomic_t chld;

#define QUEUED 40 // a real-time signal, of which each waits
enum { SILENT, OTHERWISE, LIVING, ONE, OTHER, CLONES };
static const int tells[CLONES] = {0, SIGUSR1, SIGUSR1, QUEUED, QUEUED};
static pid_t clone_of[CLONES];

// Only whoever asks for such hears of them.
static void peek_clones(int living) {
    for (int i = 0; i < CLONES; i++) {
        siginfo_t info = {0};
        CHECK(waitid(P_PID, clone_of[i], &info, WEXITED | WNOHANG | WNOWAIT) == -1 && errno == ECHILD, "clone %d is as other children", i);
        MUST(waitid(P_PID, clone_of[i], &info, WEXITED | WNOHANG | WNOWAIT | __WCLONE));
        if (i == LIVING && living) CHECK(info.si_pid == 0, "a living clone has ended");
        else CHECK(info.si_pid == clone_of[i] && info.si_code == CLD_EXITED && info.si_status == 11 + i, "clone %d: code %d status %d", i, info.si_code, info.si_status);
    }
}

static void on_chld(int s) { (void)s, chld++; }
static void spoil(void) { MUST(waitpid(pid[2], NULL, 0)); }

static void peek(int i) {
    siginfo_t info = {0};
    CHECK(waitid(P_PID, pid[i], &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid[i], "zombie %d is gone", i);
    static const int code[ZOMBIES] = {CLD_EXITED, CLD_EXITED, CLD_KILLED, CLD_KILLED, CLD_EXITED, CLD_EXITED};
    static const int status[ZOMBIES] = {0, 42, SIGKILL, SIGTERM, 255, 7};
    CHECK(info.si_code == code[i] && info.si_status == status[i], "zombie %d: code %d status %d", i, info.si_code, info.si_status);
    CHECK(info.si_uid == getuid(), "zombie %d: uid %d", i, info.si_uid);
    CHECK(getpgid(pid[i]) == (i == 4 || i == 5 ? pid[i] : getpgrp()), "zombie %d: group %d", i, getpgid(pid[i]));
    CHECK(getsid(pid[i]) == (i == 5 ? pid[i] : getsid(0)), "zombie %d: session", i);
}

int main(void) {
    struct sigaction act = {.sa_handler = on_chld, .sa_flags = SA_RESTART | SA_NOCLDSTOP};
    MUST(sigaction(SIGCHLD, &act, NULL));
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGCHLD);
    sigset_t clones;
    sigemptyset(&clones);
    sigaddset(&clones, SIGUSR1), sigaddset(&clones, QUEUED);
    MUST(sigprocmask(SIG_BLOCK, &clones, NULL));
    MUST(sigprocmask(SIG_BLOCK, &block, &old));
    struct timespec none = {0, 0}, long_enough = {20, 0};
    siginfo_t news;
    int hold[2];
    MUST(pipe(hold));
    for (int i = 0; i < CLONES; i++) {
        clone_of[i] = MUST(syscall(SYS_clone, tells[i], 0, 0, 0, 0));
        if (!clone_of[i]) {
            char c;
            MUST(close(hold[1]));
            if (i == LIVING) CHECK(read(hold[0], &c, 1) == 0, "read");
            _exit(11 + i);
        }
        if (i != LIVING) MUST(waitid(P_PID, clone_of[i], &news, WEXITED | WNOWAIT | __WCLONE));
    }
    MUST(fcntl(hold[1], F_SETFD, FD_CLOEXEC));
    CHECK(sigtimedwait(&clones, &news, &none) == SIGUSR1 && news.si_pid == clone_of[OTHERWISE], "set-up: the clone's signal");
    for (int i = ONE; i <= OTHER; i++) CHECK(sigtimedwait(&clones, &news, &none) == QUEUED && news.si_pid == clone_of[i], "set-up: a clone's signal");
    int expected = 0;
    for (int i = 0; i < ZOMBIES; i++) {
        pid[i] = MUST(fork());
        if (!pid[i]) {
            MUST(close(hold[1]));
            if (i == 4) MUST(setpgid(0, 0));
            if (i == 5) MUST(setsid());
            if (i == 2) raise(SIGKILL);
            if (i == 3) raise(SIGTERM);
            _exit(i == 1 ? 42 : i == 4 ? 255 : i == 5 ? 7 : 0);
        }
        siginfo_t info;
        MUST(waitid(P_PID, pid[i], &info, WEXITED | WNOWAIT)); // dead, but left there
        MUST(sigsuspend(&old) == -1 && errno == EINTR ? 0 : -1);
        expected++;
    }
    CHECK(chld == expected, "set-up: %d signals", chld);
    // A child that keeps a zombie of its own and has SIGCHLD pending.
    int tell[2];
    volatile int *finish = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(finish != MAP_FAILED, "mmap");
    MUST(pipe(tell));
    pid_t keeper = MUST(fork());
    if (!keeper) {
        MUST(close(hold[1]));
        pid_t dead = MUST(fork());
        if (!dead) _exit(9);
        siginfo_t info;
        MUST(waitid(P_PID, dead, &info, WEXITED | WNOWAIT));
        CHECK(write(tell[1], "x", 1) == 1, "write");
        for (; !*finish; nap(1000)) {
            sigset_t set;
            MUST(sigpending(&set));
            CHECK(sigismember(&set, SIGCHLD), "the pending SIGCHLD is lost");
        }
        CHECK(sigtimedwait(&block, &info, &(struct timespec){0, 0}) == SIGCHLD && info.si_pid == dead && info.si_status == 9, "pending SIGCHLD");
        CHECK(sigtimedwait(&block, &info, &(struct timespec){0, 0}) == -1 && errno == EAGAIN, "SIGCHLD came twice");
        int status;
        CHECK(waitpid(-1, &status, 0) == dead && WEXITSTATUS(status) == 9, "the keeper's zombie");
        _exit(0);
    }
    char c;
    CHECK(read(tell[0], &c, 1) == 1, "read");
    MUST(sigprocmask(SIG_SETMASK, &old, NULL));
    ready();
    while (go_on()) {
        for (int i = 0; i < ZOMBIES; i++) peek(i);
        CHECK(chld == expected, "%d SIGCHLD instead of %d", chld, expected);
        peek_clones(1);
        CHECK(sigtimedwait(&clones, &news, &none) == -1 && errno == EAGAIN, "a clone's signal comes twice");
    }
    MUST(close(hold[1]));
    CHECK(sigtimedwait(&clones, &news, &long_enough) == SIGUSR1 && news.si_pid == clone_of[LIVING] && news.si_status == 11 + LIVING, "the signal of the clone that lived");
    peek_clones(0);
    for (int i = 0; i < CLONES; i++) CHECK(waitpid(clone_of[i], NULL, __WCLONE) == clone_of[i], "wait for clone %d", i);
    MUST(sigprocmask(SIG_BLOCK, &block, NULL));
    *finish = 1;
    for (int i = 0; i < ZOMBIES; i++) {
        int status;
        struct rusage usage;
        peek(i);
        CHECK(wait4(pid[i], &status, 0, &usage) == pid[i], "wait for zombie %d", i);
        CHECK(kill(pid[i], 0) == -1 && errno == ESRCH, "zombie %d is still there", i);
    }
    join_child(keeper);
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "a child too many");
    return pass();
}
