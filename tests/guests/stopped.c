// Job control: children that are stopped stay so until SIGCONT, and what their parent has been told of it and what not
// (waitid with WSTOPPED and WCONTINUED, SIGCHLD) comes neither twice nor never.
#include "guest.h"

enum { TOLD, UNTOLD, CONTINUED, HEARD, THREADED, KINDS };
static const int by[KINDS] = {SIGSTOP, SIGTSTP, SIGSTOP, SIGSTOP, SIGTTIN};
static volatile uint64_t (*moves)[8], *finish;
static pid_t child[KINDS];
static sigset_t block;

static void spoil(void) {
    siginfo_t info;
    MUST(waitid(P_PID, child[UNTOLD], &info, WSTOPPED));
}

static void *mover(void *kind) {
    while (!*finish) {
        moves[(uintptr_t)kind][0]++;
        nap(500);
    }
    return NULL;
}

static void peek(int kind, int code, int status) {
    siginfo_t info = {0};
    MUST(waitid(P_PID, child[kind], &info, WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT));
    CHECK(info.si_code == code && info.si_pid == (code ? child[kind] : 0), "child %d: news %d of pid %d", kind, info.si_code, info.si_pid);
    if (code) CHECK(info.si_status == status && info.si_uid == getuid() && info.si_signo == SIGCHLD, "child %d: status %d, uid %d", kind, info.si_status, info.si_uid);
}

static void look(void) {
    sigset_t set;
    MUST(sigpending(&set));
    CHECK(!sigismember(&set, SIGCHLD), "a SIGCHLD too many");
    peek(TOLD, 0, 0);
    peek(UNTOLD, CLD_STOPPED, SIGTSTP);
    peek(CONTINUED, CLD_CONTINUED, SIGCONT);
    peek(HEARD, 0, 0);
    peek(THREADED, 0, 0);
}

// Waits until a child moves or (0) has come to rest.
static void until_moves(int kind, int moving) {
    for (;;) {
        uint64_t at = moves[kind][0];
        nap(5000);
        if ((moves[kind][0] != at) == moving) return;
    }
}

// A child with SIGCHLD blocked and pending, for a child of its own that has been stopped; it has not waited for it.
static void keeper(int tell) {
    sigset_t set;
    pid_t own = MUST(fork());
    if (!own) {
        for (;;) pause();
    }
    siginfo_t info;
    MUST(kill(own, SIGSTOP));
    MUST(waitid(P_PID, own, &info, WSTOPPED | WNOWAIT));
    CHECK(write(tell, "x", 1) == 1, "write");
    for (; !*finish; nap(1000)) {
        MUST(sigpending(&set));
        CHECK(sigismember(&set, SIGCHLD), "the pending SIGCHLD is lost");
    }
    struct timespec none = {0, 0};
    CHECK(sigtimedwait(&block, &info, &none) == SIGCHLD && info.si_pid == own && info.si_code == CLD_STOPPED && info.si_status == SIGSTOP,
          "pending SIGCHLD: code %d, status %d", info.si_code, info.si_status);
    CHECK(sigtimedwait(&block, &info, &none) == -1 && errno == EAGAIN, "SIGCHLD came twice");
    int status;
    CHECK(waitpid(own, &status, WUNTRACED | WNOHANG) == own && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP, "the keeper's child");
    CHECK(waitpid(own, &status, WUNTRACED | WNOHANG) == 0, "the keeper's child, twice");
    MUST(kill(own, SIGKILL));
    MUST(waitpid(own, &status, 0));
    _exit(0);
}

int main(void) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED, "mmap");
    moves = (void *)page, finish = (void *)(page + 2048);
    sigemptyset(&block);
    sigaddset(&block, SIGCHLD);
    MUST(sigprocmask(SIG_BLOCK, &block, NULL));
    for (uintptr_t i = 0; i < KINDS; i++) {
        child[i] = MUST(fork());
        if (!child[i]) {
            MUST(setpgid(0, 0)); // its parent is in another group of the session: SIGTSTP and SIGTTIN stop it
            if (i == THREADED) {
                pthread_t threads[3];
                for (int k = 0; k < 3; k++) PTHREAD(pthread_create(&threads[k], NULL, mover, (void *)i));
            }
            mover((void *)i);
            _exit(0);
        }
    }
    uint64_t at[KINDS];
    siginfo_t info;
    for (int i = 0; i < KINDS; i++) {
        until_moves(i, 1);
        MUST(kill(child[i], by[i]));
        MUST(waitid(P_PID, child[i], &info, WSTOPPED | (i == UNTOLD ? WNOWAIT : 0)));
        CHECK(info.si_status == by[i], "set-up: stopped by %d", info.si_status);
        if (i == CONTINUED || i == HEARD) {
            MUST(kill(child[i], SIGCONT));
            MUST(waitid(P_PID, child[i], &info, WCONTINUED | (i == CONTINUED ? WNOWAIT : 0)));
        }
        at[i] = moves[i][0];
    }
    int tell[2];
    MUST(pipe(tell));
    pid_t with_news = MUST(fork());
    if (!with_news) keeper(tell[1]);
    char c;
    CHECK(read(tell[0], &c, 1) == 1, "read");
    while (sigtimedwait(&block, NULL, &(struct timespec){0, 0}) == SIGCHLD) {}
    ready();
    while (go_on()) {
        look();
        for (int i = 0; i < KINDS; i++)
            if (i != CONTINUED && i != HEARD) CHECK(moves[i][0] == at[i], "the stopped child %d has moved", i);
    }
    look();
    until_moves(CONTINUED, 1), until_moves(HEARD, 1);
    // What was untold is told once.
    MUST(waitid(P_PID, child[UNTOLD], &info, WSTOPPED | WNOHANG));
    CHECK(info.si_pid == child[UNTOLD] && info.si_status == SIGTSTP, "the stop that was not waited for");
    peek(UNTOLD, 0, 0);
    MUST(waitid(P_PID, child[CONTINUED], &info, WCONTINUED | WNOHANG));
    CHECK(info.si_pid == child[CONTINUED], "the SIGCONT that was not waited for");
    peek(CONTINUED, 0, 0);
    for (int i = 0; i < KINDS; i++) {
        if (i == CONTINUED || i == HEARD) continue;
        MUST(kill(child[i], SIGCONT));
        until_moves(i, 1);
        peek(i, CLD_CONTINUED, SIGCONT);
    }
    *finish = 1;
    for (int i = 0; i < KINDS; i++) join_child(child[i]);
    join_child(with_news);
    return pass();
}
