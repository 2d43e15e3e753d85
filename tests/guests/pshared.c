// Locks between processes: a named semaphore, and in memory whose file is deleted a mutex, a condition, robust mutexes whose
// owner has died or will die, and a barrier; waiters in other processes, woken after a resume as before.
#include <semaphore.h>

#include "guest.h"

struct box {
    pthread_mutex_t lock, dead, dying;
    pthread_cond_t more, done;
    pthread_barrier_t barrier;
    sem_t plain;
    uint64_t asked, answered, meetings;
    int stop, owned;
};
static struct box *box;
static sem_t *named, *back, *mine, *beside;
static char names[3][64];

static void spoil(void) {
    PTHREAD(pthread_mutex_lock(&box->lock));
    box->answered += 7;
    PTHREAD(pthread_mutex_unlock(&box->lock));
}

static void robust(pthread_mutex_t *mutex) {
    pthread_mutexattr_t attr;
    PTHREAD(pthread_mutexattr_init(&attr));
    PTHREAD(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
    PTHREAD(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST));
    PTHREAD(pthread_mutex_init(mutex, &attr));
}

static void make(void) {
    char name[64];
    snprintf(name, sizeof name, "/ckpt-guest-%d-%lx", getpid(), (long)now_ns(CLOCK_REALTIME));
    int fd = MUST(shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
    MUST(shm_unlink(name));
    MUST(ftruncate(fd, sizeof *box));
    box = mmap(NULL, sizeof *box, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(box != MAP_FAILED, "mmap");
    MUST(close(fd));
    FILE *note = fopen(guest_path("ipcs"), "w");
    CHECK(note, "ipcs");
    for (int i = 0; i < 3; i++) {
        snprintf(names[i], sizeof names[i], "/ckpt-guest-%d-%lx-%d", getpid(), (long)now_ns(CLOCK_REALTIME), i);
        fprintf(note, "rm -f /dev/shm/sem.%s\n", names[i] + 1);
    }
    CHECK(fclose(note) == 0, "ipcs");
    named = sem_open(names[0], O_CREAT | O_EXCL, 0600, 0);
    back = sem_open(names[1], O_CREAT | O_EXCL, 0600, 0);
    mine = sem_open(names[2], O_CREAT | O_EXCL, 0600, 1);
    CHECK(named != SEM_FAILED && back != SEM_FAILED && mine != SEM_FAILED, "sem_open");
    // As another program maps it: by its name, where sem_open has used a temporary one.
    char path[128];
    snprintf(path, sizeof path, "/dev/shm/sem.%s", names[2] + 1);
    int by_name = MUST(open(path, O_RDWR));
    beside = mmap(NULL, sizeof *beside, PROT_READ | PROT_WRITE, MAP_SHARED, by_name, 0);
    CHECK(beside != MAP_FAILED, "mmap");
    MUST(close(by_name));
    MUST(sem_init(&box->plain, 1, 3));
    robust(&box->lock);
    robust(&box->dead);
    robust(&box->dying);
    pthread_condattr_t attr;
    PTHREAD(pthread_condattr_init(&attr));
    PTHREAD(pthread_condattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
    PTHREAD(pthread_cond_init(&box->more, &attr));
    PTHREAD(pthread_cond_init(&box->done, &attr));
    pthread_barrierattr_t meeting;
    PTHREAD(pthread_barrierattr_init(&meeting));
    PTHREAD(pthread_barrierattr_setpshared(&meeting, PTHREAD_PROCESS_SHARED));
    PTHREAD(pthread_barrier_init(&box->barrier, &meeting, 2));
}

// Answers by conditions.
static int answer(void) {
    PTHREAD(pthread_mutex_lock(&box->lock));
    while (!box->stop) {
        if (box->asked == box->answered) {
            PTHREAD(pthread_cond_wait(&box->more, &box->lock));
            continue;
        }
        box->answered++;
        PTHREAD(pthread_cond_signal(&box->done));
    }
    PTHREAD(pthread_mutex_unlock(&box->lock));
    return 0;
}

// Answers by named semaphores, then waits for its parent once more.
static int post(void) {
    for (;;) {
        MUST(sem_wait(named));
        if (box->stop) break;
        MUST(sem_post(back));
    }
    int met = pthread_barrier_wait(&box->barrier);
    CHECK(met == 0 || met == PTHREAD_BARRIER_SERIAL_THREAD, "barrier");
    return 0;
}

// Owns a mutex to the end of its days.
static int own(pthread_mutex_t *mutex, int at_once) {
    PTHREAD(pthread_mutex_lock(mutex));
    __atomic_store_n(&box->owned, 1, __ATOMIC_SEQ_CST);
    while (!at_once && !__atomic_load_n(&box->stop, __ATOMIC_SEQ_CST)) nap(1000);
    return 0;
}

static pid_t start(int (*work)(void)) {
    pid_t pid = MUST(fork());
    if (pid == 0) _exit(work());
    return pid;
}

static int dies_now(void) { return own(&box->dead, 1); }
static int dies_later(void) { return own(&box->dying, 0); }

int main(void) {
    make();
    join_child(start(dies_now));
    box->owned = 0;
    pid_t children[3] = {start(answer), start(post), start(dies_later)};
    while (!__atomic_load_n(&box->owned, __ATOMIC_SEQ_CST)) nap(100);
    ready();
    while (go_on()) {
        int value;
        MUST(sem_getvalue(&box->plain, &value));
        CHECK(value == 3, "the semaphore is %d", value);
        CHECK(pthread_mutex_trylock(&box->dying) == EBUSY, "the mutex of a living owner is free");
        PTHREAD(pthread_mutex_lock(&box->lock));
        CHECK(box->asked == box->answered, "%lu asked, %lu answered", box->asked, box->answered);
        box->asked++;
        PTHREAD(pthread_cond_signal(&box->more));
        while (box->asked != box->answered) PTHREAD(pthread_cond_wait(&box->done, &box->lock));
        PTHREAD(pthread_mutex_unlock(&box->lock));
        MUST(sem_post(named));
        MUST(sem_wait(back));
        MUST(sem_post(mine)), MUST(sem_getvalue(beside, &value));
        CHECK(value == 2, "one semaphore is %d as another sees it", value);
        MUST(sem_wait(beside)), MUST(sem_getvalue(mine, &value));
        CHECK(value == 1, "one semaphore is %d", value);
        sem_t *again = sem_open(names[0], 0);
        CHECK(again == named, "the named semaphore is another");
        MUST(sem_close(again));
    }
    CHECK(pthread_mutex_lock(&box->dead) == EOWNERDEAD, "the dead owner is forgotten");
    PTHREAD(pthread_mutex_consistent(&box->dead));
    PTHREAD(pthread_mutex_unlock(&box->dead));
    PTHREAD(pthread_mutex_lock(&box->lock));
    __atomic_store_n(&box->stop, 1, __ATOMIC_SEQ_CST);
    PTHREAD(pthread_cond_broadcast(&box->more));
    PTHREAD(pthread_mutex_unlock(&box->lock));
    CHECK(pthread_mutex_lock(&box->dying) == EOWNERDEAD, "the death of an owner went unnoticed");
    MUST(sem_post(named));
    pthread_barrier_wait(&box->barrier);
    for (int i = 0; i < 3; i++) join_child(children[i]);
    MUST(sem_unlink(names[0]));
    MUST(sem_unlink(names[1]));
    MUST(sem_unlink(names[2]));
    return pass();
}
