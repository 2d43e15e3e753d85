// POSIX message queues: names, modes, limits, messages by priority and age; descriptors of one queue with different access, with
// and without blocking; a removed queue; traffic, one that waits for a message and one that waits for room.
#include <mqueue.h>

#include "guest.h"

enum { STOCK = 6, SIZE = 64 };
static const unsigned priorities[STOCK] = {3, 9, 3, 0, 32767, 9};
static const int order[STOCK] = {4, 1, 5, 0, 2, 3};
static char names[5][64];
static mqd_t stock, reading, writing, removed, there, back, full;

static void text(int seed, char *buffer) {
    for (int i = 0; i < SIZE; i++) buffer[i] = mix(seed * 977 + i);
}

static void put(mqd_t queue, int seed, unsigned priority) {
    char buffer[SIZE];
    text(seed, buffer);
    MUST(mq_send(queue, buffer, seed * 7 % SIZE, priority));
}

static void get(mqd_t queue, int seed, unsigned priority) {
    char buffer[SIZE], want[SIZE];
    unsigned found;
    text(seed, want);
    ssize_t n = MUST(mq_receive(queue, buffer, SIZE, &found));
    CHECK(n == seed * 7 % SIZE && found == priority, "%zd bytes of priority %u for message %d", n, found, seed);
    CHECK(memcmp(buffer, want, n) == 0, "text of message %d", seed);
}

static mqd_t make(int which, int flags, mode_t mode, int most) {
    snprintf(names[which], sizeof names[which], "/ckpt-guest-%d-%lx-%d", getpid(), (long)now_ns(CLOCK_REALTIME), which);
    struct mq_attr attr = {.mq_maxmsg = most, .mq_msgsize = SIZE};
    umask(0);
    return MUST(mq_open(names[which], flags | O_CREAT | O_EXCL, mode, &attr));
}

static void spoil(void) { get(stock, 4, 32767); }

static void about(mqd_t queue, int access, int blocking, mode_t mode, long most, long count) {
    struct mq_attr attr;
    struct stat st;
    MUST(mq_getattr(queue, &attr));
    MUST(fstat(queue, &st));
    CHECK((MUST(fcntl(queue, F_GETFL)) & O_ACCMODE) == access, "access mode");
    CHECK(attr.mq_flags == (blocking ? 0 : O_NONBLOCK), "flags %lx", attr.mq_flags);
    CHECK(attr.mq_maxmsg == most && attr.mq_msgsize == SIZE, "%ld messages of %ld", attr.mq_maxmsg, attr.mq_msgsize);
    CHECK(count < 0 || attr.mq_curmsgs == count, "%ld messages", attr.mq_curmsgs);
    CHECK((st.st_mode & 07777) == mode && st.st_uid == getuid(), "mode %o", st.st_mode);
}

// The harness removes what stays behind in the host's namespace when the first generation is killed.
static void leave_note(void) {
    char self[PATH_MAX];
    ssize_t n = MUST(readlink("/proc/self/exe", self, sizeof self));
    FILE *note = fopen(guest_path("ipcs"), "w");
    CHECK(note, "ipcs");
    for (int i = 0; i < 5; i++) fprintf(note, "%.*s unlink %s\n", (int)n, self, names[i]);
    CHECK(fclose(note) == 0, "ipcs");
}

// Gives back every number, until it is 0.
static int echo(void) {
    for (;;) {
        char buffer[SIZE];
        unsigned priority;
        CHECK(MUST(mq_receive(there, buffer, SIZE, &priority)) == 8, "length");
        if (*(uint64_t *)buffer == 0) return 0;
        MUST(mq_send(back, buffer, 8, priority));
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "unlink")) return mq_unlink(argv[2]) ? 1 : 0;
    stock = make(0, O_RDWR, 0640, 8);
    removed = make(1, O_RDWR | O_NONBLOCK, 0600, 10);
    there = make(2, O_RDWR, 0600, 2);
    back = make(3, O_RDWR, 0600, 2);
    full = make(4, O_RDWR, 0602, 1);
    leave_note();
    reading = MUST(mq_open(names[0], O_RDONLY | O_NONBLOCK));
    writing = MUST(mq_open(names[0], O_WRONLY));
    for (int i = 0; i < STOCK; i++) put(i % 2 ? stock : writing, i, priorities[i]);
    put(removed, 20, 1);
    put(removed, 21, 2);
    MUST(mq_unlink(names[1]));
    put(full, 30, 5);
    pid_t echoes = MUST(fork());
    if (echoes == 0) _exit(echo());
    pid_t sends = MUST(fork());
    if (sends == 0) {
        put(full, 31, 6);
        _exit(0);
    }
    ready();
    for (uint64_t turn = 1; go_on(); turn++) {
        about(stock, O_RDWR, 1, 0640, 8, STOCK);
        about(reading, O_RDONLY, 0, 0640, 8, STOCK);
        about(writing, O_WRONLY, 1, 0640, 8, STOCK);
        about(removed, O_RDWR, 0, 0600, 10, 2);
        about(there, O_RDWR, 1, 0600, 2, -1);
        about(full, O_RDWR, 1, 0602, 1, 1);
        mqd_t again = MUST(mq_open(names[0], O_RDONLY));
        about(again, O_RDONLY, 1, 0640, 8, STOCK);
        MUST(mq_close(again));
        CHECK(mq_open(names[1], O_RDONLY) == -1 && errno == ENOENT, "the removed queue has a name");
        struct pollfd can[2] = {{reading, POLLIN, 0}, {full, POLLOUT, 0}};
        CHECK(MUST(poll(can, 2, 0)) == 1 && can[0].revents == POLLIN, "what can be done");
        char buffer[SIZE];
        memcpy(buffer, &turn, 8);
        MUST(mq_send(there, buffer, 8, turn % 5));
        unsigned priority;
        CHECK(MUST(mq_receive(back, buffer, SIZE, &priority)) == 8, "echo");
        CHECK(priority == turn % 5 && memcmp(buffer, &turn, 8) == 0, "echo");
    }
    MUST(mq_send(there, (char[8]){0}, 8, 0));
    join_child(echoes);
    get(full, 30, 5);
    get(full, 31, 6);
    join_child(sends);
    for (int i = 0; i < STOCK; i++) get(i % 2 ? stock : reading, order[i], priorities[order[i]]);
    CHECK(mq_receive(reading, (char[SIZE]){0}, SIZE, NULL) == -1 && errno == EAGAIN, "one too many");
    get(removed, 21, 2);
    get(removed, 20, 1);
    for (int i = 0; i < 5; i++)
        if (i != 1) MUST(mq_unlink(names[i]));
    return pass();
}
