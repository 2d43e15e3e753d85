// Processes whose main thread has ended while others live, and what they do with all that belongs to the process: memory,
// descriptors, directory, signals, timers, children; and the status they end with.
#include <sys/uio.h>

#include "guest.h"

static volatile int up;
static int ends[2], word = 4711;
static pid_t child[2];
static sigset_t queued, ticks;

// The signal queued to the process is lost.
static void spoil(void) { CHECK(sigtimedwait(&queued, NULL, &(struct timespec){0, 0}) > 0, "spoil"); }

// A dead leader has no memory.
static int leader_is_dead(void) {
    int copy = 0;
    struct iovec to = {&copy, sizeof copy}, from = {&word, sizeof word};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == -1 && errno == ESRCH;
}

// Its memory goes first, then it is a zombie.
static void wait_for_death(void) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", getpid());
    do {
        slurp(path, text, sizeof text);
    } while (!leader_is_dead() || !strstr(text, ") Z "));
}

// How the leader of this process ended, and its name, which its threads don't have.
static void check_leader(const char *comm, int status) {
    char path[64], text[1024], want[64];
    snprintf(path, sizeof path, "/proc/%d/stat", getpid());
    slurp(path, text, sizeof text);
    snprintf(want, sizeof want, "%d (%s) Z ", getpid(), comm);
    CHECK(!strncmp(text, want, strlen(want)), "the leader: %s", text);
    CHECK(atoi(strrchr(text, ' ')) == status << 8, "the leader's status: %s", text);
}

static void *second(void *arg) {
    pid_t tid = syscall(SYS_gettid);
    up = 1;
    while (wait_on()) CHECK(tid == syscall(SYS_gettid) && tid != getpid() && *(int *)arg == 4711, "the second thread");
    return NULL;
}

// In a child, whose leader ended by exit(2): so does its last thread.
static void *last(void *exits_all) {
    wait_for_death();
    check_leader("gone", 5);
    char c = 'r';
    CHECK(write(ends[1], &c, 1) == 1, "write");
    while (wait_on()) CHECK(leader_is_dead(), "the child's leader lives");
    check_leader("gone", 5);
    if (exits_all) _exit(9);
    syscall(SYS_exit, 9);
    return NULL;
}

static void bear(int i) {
    child[i] = MUST(fork());
    if (child[i]) return;
    // SYS_exit ends the thread alone.
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, last, i ? &word : NULL));
    MUST(prctl(PR_SET_NAME, "gone"));
    syscall(SYS_exit, 5);
}

static void *rest(void *unused) {
    (void)unused;
    wait_for_death();
    check_leader("main", 0);
    // The memory that main had on its stack is there all the same.
    pthread_t other;
    int local = 4711;
    PTHREAD(pthread_create(&other, NULL, second, &local));
    while (!up) sched_yield();
    char cwd[PATH_MAX], c;
    bear(0), bear(1);
    for (int i = 0; i < 2; i++) CHECK(read(ends[0], &c, 1) == 1, "read");
    CHECK(write(ends[1], "content", 7) == 7, "write");
    MUST(kill(child[1], SIGSTOP));
    int status[2];
    CHECK(waitpid(child[1], &status[1], WUNTRACED) == child[1] && WIFSTOPPED(status[1]), "the child stops");
    MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 99}));
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    MUST(timer_settime(timer, 0, &(struct itimerspec){{0, 2000000}, {0, 2000000}}, NULL));
    ready();
    while (go_on()) {
        CHECK(leader_is_dead(), "the leader lives");
        CHECK(getcwd(cwd, sizeof cwd) && !strcmp(cwd, guest_dir), "cwd %s", cwd);
        sigset_t now;
        MUST(sigpending(&now));
        CHECK(sigismember(&now, SIGRTMIN + 1) == 1, "the queued signal is lost");
        CHECK(sigtimedwait(&ticks, NULL, &(struct timespec){10, 0}) == SIGPROF, "the timer has stopped");
    }
    check_leader("main", 0);
    siginfo_t info;
    CHECK(sigtimedwait(&queued, &info, &(struct timespec){0, 0}) == SIGRTMIN + 1, "the queued signal");
    CHECK(info.si_value.sival_int == 99 && info.si_pid == getpid() && info.si_code == SI_QUEUE, "its information");
    char text[8] = "";
    CHECK(read(ends[0], text, 8) == 7 && !strcmp(text, "content"), "in the pipe: %s", text);
    PTHREAD(pthread_join(other, NULL));
    MUST(kill(child[1], SIGCONT));
    for (int i = 0; i < 2; i++) CHECK(waitpid(child[i], &status[i], 0) == child[i], "waitpid");
    // Nobody called exit_group in the first: its status is its last thread's, before Linux 6.1 its leader's.
    CHECK((status[0] == 9 << 8 || status[0] == 5 << 8) && status[1] == 9 << 8, "the children ended with %#x and %#x", status[0], status[1]);
    exit(pass());
}

int main(void) {
    MUST(pipe(ends));
    sigemptyset(&queued);
    sigaddset(&queued, SIGRTMIN + 1);
    sigemptyset(&ticks);
    sigaddset(&ticks, SIGPROF);
    MUST(sigprocmask(SIG_BLOCK, &queued, NULL));
    MUST(sigprocmask(SIG_BLOCK, &ticks, NULL));
    MUST(prctl(PR_SET_NAME, "main"));
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, rest, NULL));
    PTHREAD(pthread_setname_np(thread, "rest"));
    pthread_exit(NULL);
}
