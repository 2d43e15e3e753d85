// A child stopped by job control stays stopped through a save and a resume, and goes on at SIGCONT, not before.
#include "guest.h"

static volatile uint64_t *moves;
static pid_t child;
static void spoil(void) {
    MUST(kill(child, SIGCONT));
    nap(50000);
    MUST(kill(child, SIGSTOP));
}

int main(void) {
    moves = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK((void *)moves != MAP_FAILED, "mmap");
    child = MUST(fork());
    if (!child) {
        while (!moves[1]) {
            moves[0]++;
            nap(500);
        }
        _exit(0);
    }
    while (moves[0] < 5) nap(500);
    MUST(kill(child, SIGSTOP));
    int status;
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP, "stop");
    uint64_t at = moves[0];
    ready();
    while (go_on()) CHECK(moves[0] == at, "the stopped child has moved");
    CHECK(moves[0] == at, "the stopped child has moved");
    MUST(kill(child, SIGCONT));
    while (moves[0] == at) nap(500);
    moves[1] = 1;
    join_child(child);
    return pass();
}
