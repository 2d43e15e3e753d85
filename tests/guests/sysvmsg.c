// System V message queues: ids, keys, modes, limits, messages in their order with kinds and texts; traffic; one that waits to
// receive a kind that comes last, and one that waits to send to a full queue.
#include <sys/ipc.h>
#include <sys/msg.h>

#include "guest.h"

struct message {
    long kind;
    unsigned char text[8192];
};
static int idle, traffic, full;
static key_t key;
static uid_t owner; // of one: root gives it away
static const struct { long kind; int len; } stock[] = {{3, 100}, {1, 0}, {3, 1}, {1L << 40, 8192}, {2, 4000}};
enum { STOCK = sizeof stock / sizeof *stock, LIMIT = 13000 };

static void send(int queue, long kind, int seed, int len, int flags) {
    struct message m = {.kind = kind};
    for (int i = 0; i < len; i++) m.text[i] = mix(seed * 10007 + i);
    MUST(msgsnd(queue, &m, len, flags));
}

// Takes or copies a message and compares it.
static void expect(int queue, long want, int flags, long kind, int seed, int len) {
    struct message m;
    ssize_t n = MUST(msgrcv(queue, &m, sizeof m.text, want, flags));
    CHECK(n == len && m.kind == kind, "message %d: %zd bytes of kind %ld", seed, n, m.kind);
    for (int i = 0; i < len; i++) CHECK(m.text[i] == (unsigned char)mix(seed * 10007 + i), "byte %d of message %d", i, seed);
}

static void spoil(void) { expect(idle, 3, IPC_NOWAIT, 3, 0, 100); }

static void leave_note(void) {
    FILE *note = fopen(guest_path("ipcs"), "w");
    CHECK(note, "ipcs");
    fprintf(note, "ipcrm -q %d\nipcrm -q %d\nipcrm -q %d\n", idle, traffic, full);
    CHECK(fclose(note) == 0, "ipcs");
}

static void about(int queue, unsigned mode, unsigned long limit, unsigned long count) {
    struct msqid_ds ds;
    MUST(msgctl(queue, IPC_STAT, &ds));
    CHECK(ds.msg_perm.mode == mode, "mode %o", ds.msg_perm.mode);
    CHECK(ds.msg_qbytes == limit, "limit %lu", (unsigned long)ds.msg_qbytes);
    CHECK(ds.msg_qnum == count, "%lu messages", (unsigned long)ds.msg_qnum);
    CHECK(ds.msg_perm.uid == (queue == idle ? owner : getuid()) && ds.msg_perm.cuid == getuid(), "owner");
}

static void limit(int queue, unsigned long bytes) {
    struct msqid_ds ds;
    MUST(msgctl(queue, IPC_STAT, &ds));
    ds.msg_qbytes = bytes;
    if (queue == idle) ds.msg_perm.uid = owner;
    MUST(msgctl(queue, IPC_SET, &ds));
}

// Gives back every number of kind 1 as one of kind 2, until it is 0.
static int echo(void) {
    for (;;) {
        struct message m;
        CHECK(MUST(msgrcv(traffic, &m, sizeof m.text, 1, 0)) == 8, "length");
        m.kind = 2;
        if (*(uint64_t *)m.text == 0) return 0;
        MUST(msgsnd(traffic, &m, 8, 0));
    }
}

int main(void) {
    key = mix(now_ns(CLOCK_REALTIME) * 31 + getpid()) | 0x80000001;
    idle = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0640));
    traffic = MUST(msgget(IPC_PRIVATE, 0600));
    full = MUST(msgget(IPC_PRIVATE, 0600));
    leave_note();
    owner = getuid() ? getuid() : 4711;
    for (int i = 0; i < STOCK; i++) send(idle, stock[i].kind, i, stock[i].len, 0);
    limit(idle, LIMIT);
    limit(full, 300);
    send(full, 5, 50, 200, 0);
    pid_t echoes = MUST(fork());
    if (echoes == 0) _exit(echo());
    pid_t waits = MUST(fork());
    if (waits == 0) {
        expect(traffic, 7, 0, 7, 70, 77);
        _exit(0);
    }
    pid_t sends = MUST(fork());
    if (sends == 0) {
        send(full, 6, 60, 150, 0);
        _exit(0);
    }
    ready();
    for (uint64_t turn = 1; go_on(); turn++) {
        CHECK(MUST(msgget(key, 0)) == idle, "id");
        about(idle, 0640, LIMIT, STOCK);
        about(full, 0600, 300, 1);
        for (int i = 0; i < STOCK; i++) expect(idle, i, MSG_COPY | IPC_NOWAIT, stock[i].kind, i, stock[i].len);
        expect(full, 0, MSG_COPY | IPC_NOWAIT, 5, 50, 200);
        struct message m = {.kind = 1};
        memcpy(m.text, &turn, 8);
        MUST(msgsnd(traffic, &m, 8, 0));
        CHECK(MUST(msgrcv(traffic, &m, sizeof m.text, 2, 0)) == 8 && memcmp(m.text, &turn, 8) == 0, "echo");
    }
    struct message zero = {.kind = 1};
    MUST(msgsnd(traffic, &zero, 8, 0));
    join_child(echoes);
    send(traffic, 7, 70, 77, 0);
    join_child(waits);
    expect(full, 0, 0, 5, 50, 200);
    expect(full, 0, 0, 6, 60, 150);
    join_child(sends);
    // By kind, then the lowest kind, then whatever is left, the oldest first.
    expect(idle, 3, IPC_NOWAIT, 3, 0, 100);
    expect(idle, -2, IPC_NOWAIT, 1, 1, 0);
    expect(idle, 0, IPC_NOWAIT, 3, 2, 1);
    expect(idle, 0, IPC_NOWAIT, 1L << 40, 3, 8192);
    expect(idle, 0, IPC_NOWAIT, 2, 4, 4000);
    CHECK(msgrcv(idle, &zero, sizeof zero.text, 0, IPC_NOWAIT) == -1 && errno == ENOMSG, "one too many");
    MUST(msgctl(idle, IPC_RMID, NULL));
    MUST(msgctl(traffic, IPC_RMID, NULL));
    MUST(msgctl(full, IPC_RMID, NULL));
    return pass();
}
