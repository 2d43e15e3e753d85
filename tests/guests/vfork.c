// Children come and go all the time, by vfork, posix_spawn and fork, from several threads: a save must wait for a vfork to end
// and must miss nobody.
#include <spawn.h>

#include "guest.h"

extern char **environ;
static volatile int damaged;
static void spoil(void) { damaged = 1; }

static void check(pid_t pid, int want) {
    int status;
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
    if (damaged) want = 77;
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == want, "a child ended with %#x instead of exit %d", status, want);
}

static void *by_vfork(void *unused) {
    (void)unused;
    for (volatile int turn = 0; wait_on(); turn++) {
        volatile int before = turn;
        pid_t pid = vfork();
        CHECK(pid >= 0, "vfork");
        if (pid == 0) {
            // A child that keeps its parent waiting for a while.
            for (volatile int i = 0; i < 200000; i++) {}
            if (turn % 2) _exit(turn % 100);
            execl("/bin/sh", "sh", "-c", "exit 7", (char *)NULL);
            _exit(127);
        }
        check(pid, turn % 2 ? turn % 100 : 7);
        CHECK(before == turn, "the child damaged its parent's stack");
    }
    return NULL;
}

static void *by_spawn(void *unused) {
    (void)unused;
    char *argv[] = {"sh", "-c", "exit $((3+4))", NULL};
    while (wait_on()) {
        pid_t pid;
        PTHREAD(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ));
        check(pid, 7);
    }
    return NULL;
}

static void *by_fork(void *unused) {
    (void)unused;
    for (int turn = 0; wait_on(); turn++) {
        pid_t pid = MUST(fork());
        if (pid == 0) {
            pid_t inner = MUST(fork());
            if (inner == 0) _exit(turn % 50);
            check(inner, turn % 50);
            _exit(turn % 60);
        }
        check(pid, turn % 60);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[3];
    PTHREAD(pthread_create(&threads[0], NULL, by_vfork, NULL));
    PTHREAD(pthread_create(&threads[1], NULL, by_spawn, NULL));
    PTHREAD(pthread_create(&threads[2], NULL, by_fork, NULL));
    ready();
    while (go_on()) {}
    for (int i = 0; i < 3; i++) PTHREAD(pthread_join(threads[i], NULL));
    pid_t last = MUST(fork()); // the threads may have ended before they saw it damaged
    if (last == 0) _exit(3);
    check(last, 3);
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "a child too many");
    return pass();
}
