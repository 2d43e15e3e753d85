// A thread that is not the first calls exec again and again: it becomes the process's only one, and takes over the id of the
// first, which dies (execve(2), "Effect on process attributes"). Two processes do so: the first, and a child of it.
#include "guest.h"

static char *start[] = {"takeover", "", "", "", NULL};
static char pid[16], turn[24], program[PATH_MAX];
static int damaged;
static void spoil(void) { damaged = 1; }

static void *become(void *arg) {
    (void)arg;
    CHECK(syscall(SYS_gettid) != getpid(), "this is the first thread");
    execv(program, start);
    CHECK(0, "exec");
    return NULL;
}

// Dies with the first.
static void *rest(void *arg) {
    for (;;) pause();
    return arg;
}

int main(int argc, char **argv) {
    ssize_t n = MUST(readlink("/proc/self/exe", program, sizeof program - 1));
    program[n] = 0;
    int child = argc > 1 && !strcmp(argv[1], "child");
    if (argc <= 1) {
        if (!MUST(fork())) child = 1;
        snprintf(pid, sizeof pid, "%d", getpid());
        if (!child) ready();
    } else {
        CHECK(argc == 4, "%d arguments", argc);
        snprintf(pid, sizeof pid, "%s", argv[2]);
        guest_beats = strtoull(argv[3], NULL, 10);
    }
    if (!child && !go_on()) {
        int status;
        CHECK(wait(&status) > 0 && status == 0, "the child ended with %#x", status);
        return pass();
    }
    if (child) {
        guest_beats++;
        if (!wait_on()) return 0;
    }
    CHECK(atoi(pid) == getpid() + damaged, "pid %d instead of %s", getpid(), pid);
    CHECK(syscall(SYS_gettid) == getpid(), "the first thread has id %ld", syscall(SYS_gettid));
    snprintf(turn, sizeof turn, "%llu", (unsigned long long)guest_beats);
    start[1] = child ? "child" : "first";
    start[2] = pid;
    start[3] = turn;
    pthread_t thread, resting;
    PTHREAD(pthread_create(&resting, NULL, rest, NULL));
    PTHREAD(pthread_create(&thread, NULL, become, NULL));
    for (;;) pause();
}
