// As many children as no page of /proc/PID/task/TID/children has room for.
#include "guest.h"

enum { COUNT = 700 };
static pid_t children[COUNT];
static int hold[2];

static void spoil(void) { MUST(kill(children[COUNT - 1], SIGKILL)); }

int main(void) {
    MUST(pipe(hold));
    for (int i = 0; i < COUNT; i++) {
        children[i] = MUST(fork());
        if (!children[i]) {
            char byte;
            MUST(close(hold[1]));
            _exit(read(hold[0], &byte, 1) != 0);
        }
    }
    ready();
    while (go_on()) {
        siginfo_t end = {0};
        MUST(waitid(P_ALL, 0, &end, WEXITED | WNOHANG));
        CHECK(!end.si_pid, "child %d has ended", end.si_pid);
    }
    MUST(close(hold[1]));
    for (int i = 0; i < COUNT; i++) join_child(children[i]);
    return pass();
}
