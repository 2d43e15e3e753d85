// System V shared memory: attached by two processes at several addresses, read-only, in part, by nobody, and removed but still
// attached; one locked. Ids, keys, modes, sizes, the number of attachments and every byte are as they were; a write by one is seen by all.
#include <sys/ipc.h>
#include <sys/shm.h>

#include "guest.h"

#define PAGE 4096
enum { SHARED, REMOVED, PARTIAL, IDLE, KINDS };
static const size_t sizes[KINDS] = {3 * PAGE - 100, PAGE, 8 * PAGE, 2 * PAGE + 1};
static const int modes[KINDS] = {0600, 0640, 0606, 0400};
static int ids[KINDS];
static key_t keys[KINDS];
static uid_t owner; // of one: root gives it away
static unsigned locked; // SHM_LOCKED, if it is permitted
static unsigned char *shared, *again, *readonly, *removed, *upper;

static void spoil(void) { upper[5] ^= 1; }

static unsigned char byte(int kind, size_t at) { return mix(kind * 1000003 + at); }

static void *attach(int kind, void *at, int flags) {
    void *p = shmat(ids[kind], at, flags);
    CHECK(p != (void *)-1, "shmat %d", kind);
    return p;
}

static void fill(int kind) {
    unsigned char *p = attach(kind, NULL, 0);
    for (size_t i = PAGE / 2; i < sizes[kind]; i++) p[i] = byte(kind, i);
    MUST(shmdt(p));
}

// What shmctl says of a segment, with this many attachments.
static void about(int kind, unsigned long attached) {
    struct shmid_ds ds;
    MUST(shmctl(ids[kind], IPC_STAT, &ds));
    unsigned mode = modes[kind] | (kind == REMOVED ? SHM_DEST : kind == IDLE ? locked : 0);
    CHECK(ds.shm_perm.mode == mode, "mode %o of %d", ds.shm_perm.mode, kind);
    CHECK(ds.shm_segsz == sizes[kind], "size %zu of %d", ds.shm_segsz, kind);
    CHECK(ds.shm_nattch == attached, "%lu attachments of %d", (unsigned long)ds.shm_nattch, kind);
    CHECK(ds.shm_perm.__key == (kind == REMOVED ? 0 : keys[kind]), "key %x of %d", ds.shm_perm.__key, kind);
    CHECK(ds.shm_perm.uid == (kind == IDLE ? owner : getuid()) && ds.shm_perm.cuid == getuid(), "owner of %d", kind);
    if (kind != REMOVED && keys[kind] != IPC_PRIVATE)
        CHECK(MUST(shmget(keys[kind], 0, 0)) == ids[kind], "id of %d", kind);
}

static void content(int kind, const unsigned char *p, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        unsigned char want = i < PAGE / 2 ? 0 : byte(kind, i);
        CHECK(p[i - from] == want, "byte %zu of segment %d is %d", i, kind, p[i - from]);
    }
}

// The harness removes what stays behind in the host's namespace when the first generation is killed.
static void leave_note(void) {
    FILE *note = fopen(guest_path("ipcs"), "w");
    CHECK(note, "ipcs");
    for (int k = 0; k < KINDS; k++) fprintf(note, "ipcrm -m %d\n", ids[k]);
    CHECK(fclose(note) == 0, "ipcs");
}

static int child(void) {
    // At an address of its own; the parent's attachments are inherited.
    unsigned char *mine = attach(SHARED, (void *)0x300000000000, 0);
    volatile uint64_t *box = (void *)mine;
    while (wait_on()) {
        if (box[0] > box[1]) box[1] = box[0];
        CHECK(((volatile uint64_t *)again)[0] >= box[1], "the child's two views differ");
    }
    MUST(shmdt(mine));
    return 0;
}

int main(void) {
    owner = getuid() ? getuid() : 4711;
    for (int k = 0; k < KINDS; k++) {
        keys[k] = k == IDLE ? IPC_PRIVATE : (key_t)(mix(now_ns(CLOCK_REALTIME) * 31 + getpid() * 7 + k) | 0x80000001);
        ids[k] = MUST(shmget(keys[k], sizes[k], IPC_CREAT | IPC_EXCL | 0600));
        fill(k);
        struct shmid_ds ds;
        MUST(shmctl(ids[k], IPC_STAT, &ds));
        ds.shm_perm.mode = modes[k];
        if (k == IDLE) ds.shm_perm.uid = owner;
        MUST(shmctl(ids[k], IPC_SET, &ds));
    }
    leave_note();
    struct rlimit room;
    MUST(getrlimit(RLIMIT_MEMLOCK, &room));
    room.rlim_cur = room.rlim_max;
    MUST(setrlimit(RLIMIT_MEMLOCK, &room));
    if (shmctl(ids[IDLE], SHM_LOCK, NULL) == 0) {
        locked = SHM_LOCKED;
    } else {
        // What others of this user have locked counts, too.
        CHECK(errno == EPERM || errno == ENOMEM, "SHM_LOCK");
        left_out("SHM_LOCK: RLIMIT_MEMLOCK leaves no room");
    }
    shared = attach(SHARED, NULL, 0);
    again = attach(SHARED, (void *)0x310000000000, 0);
    readonly = attach(SHARED, NULL, SHM_RDONLY);
    removed = attach(REMOVED, NULL, 0);
    MUST(shmctl(ids[REMOVED], IPC_RMID, NULL));
    upper = attach(PARTIAL, NULL, 0);
    // The lower half is nobody's now; of the upper one page can't be written to.
    MUST(munmap(upper, 4 * PAGE));
    upper += 4 * PAGE;
    MUST(mprotect(upper + 2 * PAGE, PAGE, PROT_READ));
    pid_t pid = MUST(fork());
    if (pid == 0) _exit(child());
    volatile uint64_t *box = (void *)shared;
    struct shmid_ds ds;
    do {
        nap(100);
        MUST(shmctl(ids[SHARED], IPC_STAT, &ds));
    } while (ds.shm_nattch != 7);
    ready();
    for (uint64_t turn = 1; go_on(); turn++) {
        about(SHARED, 7);
        about(REMOVED, 2);
        about(PARTIAL, 6);
        about(IDLE, 0);
        box[0] = turn;
        CHECK(((volatile uint64_t *)again)[0] == turn && ((volatile uint64_t *)readonly)[0] == turn, "views differ");
        CHECK(box[1] + 5000 > turn, "the child has lost contact");
        CHECK(mprotect(readonly, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES, "read-only became writable");
        content(REMOVED, removed, 0, sizes[REMOVED]);
        content(PARTIAL, upper, 4 * PAGE, 8 * PAGE);
        if (turn % 16) continue;
        content(SHARED, again + PAGE, PAGE, sizes[SHARED]);
    }
    join_child(pid);
    about(SHARED, 3);
    // What was not attached is there all the same.
    unsigned char *p = attach(PARTIAL, NULL, SHM_RDONLY);
    content(PARTIAL, p, 0, sizes[PARTIAL]);
    MUST(shmdt(p));
    p = attach(IDLE, NULL, SHM_RDONLY);
    content(IDLE, p, 0, sizes[IDLE]);
    MUST(shmdt(p));
    // shmdt finds every attachment.
    MUST(shmdt(readonly));
    MUST(shmdt(again));
    MUST(shmdt(shared));
    about(SHARED, 0);
    MUST(shmdt(removed));
    CHECK(shmctl(ids[REMOVED], IPC_STAT, &ds) == -1, "the removed segment outlives its last attachment");
    for (int k = 0; k < KINDS; k++)
        if (k != REMOVED) MUST(shmctl(ids[k], IPC_RMID, NULL));
    return pass();
}
