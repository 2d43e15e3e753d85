// System V semaphores: ids, keys, modes, values, who operated last, who waits; undo values of several processes, one of them
// with threads; traffic, threads that wait for ever or with a long timeout, and waiting for zero.
#include <sys/ipc.h>
#include <sys/sem.h>

#include "guest.h"

// In the first set: traffic there and back, what three processes will undo, one that is left alone, and one nobody gets.
enum { WORK, DONE, FIRST, SECOND, THIRD, QUIET, NEVER, COUNT };
static int set, idle, other;
static key_t key;
static pid_t worker;
static uid_t owner; // of one: root gives it away
static volatile int *stop;

static void op(int id, int n, int by, int flags) {
    struct sembuf one = {n, by, flags};
    MUST(semop(id, &one, 1));
}

static void spoil(void) { op(idle, 1, 1, 0); }

static void leave_note(void) {
    FILE *note = fopen(guest_path("ipcs"), "w");
    CHECK(note, "ipcs");
    fprintf(note, "ipcrm -s %d\nipcrm -s %d\nipcrm -s %d\n", set, idle, other);
    CHECK(fclose(note) == 0, "ipcs");
}

// Waits until the set is removed.
static void *waits_for_ever(void *unused) {
    (void)unused;
    struct sembuf one = {NEVER, -1, 0};
    CHECK(semop(set, &one, 1) == -1 && errno == EIDRM, "the wait for what never comes ended");
    return NULL;
}

static void *waits_long(void *unused) {
    (void)unused;
    struct sembuf two[2] = {{QUIET, 0, 0}, {NEVER, 1, 0}};
    struct timespec hour = {3600, 0};
    CHECK(semtimedop(set, two, 2, &hour) == -1 && errno == EIDRM, "the wait for zero ended");
    return NULL;
}

static void *undoes_in_a_thread(void *unused) {
    (void)unused;
    op(set, FIRST, -3, SEM_UNDO);
    return NULL;
}

// Echoes; at its end FIRST rises by 3 and SECOND falls by 4.
static int work(void) {
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, undoes_in_a_thread, NULL));
    PTHREAD(pthread_join(thread, NULL));
    op(set, SECOND, 4, SEM_UNDO);
    while (!*stop) {
        op(set, WORK, -1, 0);
        op(set, DONE, 1, 0);
    }
    return 0;
}

static int value(int id, int n) { return MUST(semctl(id, n, GETVAL)); }

static void about(int id, int mode, unsigned long count) {
    struct semid_ds ds;
    MUST(semctl(id, 0, IPC_STAT, &ds));
    CHECK(ds.sem_perm.mode == (unsigned)mode, "mode %o", ds.sem_perm.mode);
    CHECK(ds.sem_nsems == count, "%lu semaphores", (unsigned long)ds.sem_nsems);
    CHECK(ds.sem_perm.uid == (id == idle ? owner : getuid()) && ds.sem_perm.cuid == getuid(), "owner");
}

int main(void) {
    stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    key = mix(now_ns(CLOCK_REALTIME) * 31 + getpid()) | 0x80000001;
    set = MUST(semget(key, COUNT, IPC_CREAT | IPC_EXCL | 0600));
    idle = MUST(semget(IPC_PRIVATE, 3, 0640));
    // Never operated on: nothing but its making says whose it is.
    other = MUST(semget(IPC_PRIVATE, 100, 0600));
    leave_note();
    struct semid_ds given = {.sem_perm = {.uid = owner = getuid() ? getuid() : 4711, .gid = getgid(), .mode = 0640}};
    MUST(semctl(idle, 0, IPC_SET, &given));
    unsigned short values[COUNT] = {[FIRST] = 10, [THIRD] = 32767, [QUIET] = 5};
    MUST(semctl(set, 0, SETALL, values));
    MUST(semctl(idle, 1, SETVAL, 77));
    MUST(semctl(idle, 2, SETVAL, 32767));
    worker = MUST(fork());
    if (worker == 0) _exit(work());
    pid_t third = MUST(fork());
    if (third == 0) {
        op(set, THIRD, -32767, SEM_UNDO);
        op(set, QUIET, 1, 0);
        while (!*stop) nap(1000);
        _exit(0);
    }
    while (value(set, FIRST) != 7 || value(set, SECOND) != 4 || value(set, QUIET) != 6) nap(100);
    pthread_t threads[2];
    PTHREAD(pthread_create(&threads[0], NULL, waits_for_ever, NULL));
    PTHREAD(pthread_create(&threads[1], NULL, waits_long, NULL));
    while (semctl(set, NEVER, GETNCNT) != 1 || semctl(set, QUIET, GETZCNT) != 1) nap(100);
    ready();
    int late = 0;
    while (go_on()) {
        CHECK(MUST(semget(key, 0, 0)) == set, "id");
        about(set, 0600, COUNT);
        about(idle, 0640, 3);
        about(other, 0600, 100);
        CHECK(value(set, FIRST) == 7 && value(set, SECOND) == 4 && value(set, THIRD) == 0, "values to be undone");
        CHECK(value(set, QUIET) == 6 && value(set, NEVER) == 0, "quiet values");
        CHECK(value(idle, 0) == 0 && value(idle, 1) == 77 && value(idle, 2) == 32767, "idle values");
        CHECK(value(other, 99) == 0, "another value");
        CHECK(semctl(set, FIRST, GETPID) == worker && semctl(set, SECOND, GETPID) == worker, "last user");
        CHECK(semctl(set, THIRD, GETPID) == third && semctl(set, QUIET, GETPID) == third, "last user");
        CHECK(semctl(idle, 1, GETPID) == getpid(), "last user");
        // Threads that were let go come to wait again in their own time.
        int waiting = semctl(set, NEVER, GETNCNT) == 1 && semctl(set, QUIET, GETZCNT) == 1;
        late = waiting ? 0 : late + 1;
        CHECK(late < 5000, "nobody waits any more");
        op(set, WORK, 1, 0);
        op(set, DONE, -1, 0);
    }
    *stop = 1;
    op(set, WORK, 1, 0);
    join_child(worker);
    CHECK(value(set, FIRST) == 10, "FIRST is %d after its undoing", value(set, FIRST));
    CHECK(value(set, SECOND) == 0, "SECOND is %d after its undoing", value(set, SECOND));
    join_child(third);
    CHECK(value(set, THIRD) == 32767, "THIRD is %d after its undoing", value(set, THIRD));
    MUST(semctl(set, 0, IPC_RMID));
    MUST(semctl(idle, 0, IPC_RMID));
    MUST(semctl(other, 0, IPC_RMID));
    PTHREAD(pthread_join(threads[0], NULL));
    PTHREAD(pthread_join(threads[1], NULL));
    return pass();
}
