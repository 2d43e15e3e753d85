// Mutexes between processes that lend their owner priority (PTHREAD_PRIO_INHERIT): the kernel knows owner and waiters;
// with a waiter, with an owner who has died, with one who will. A condition whose waiters are moved to such a mutex
// (FUTEX_WAIT_REQUEUE_PI). A named semaphore that is removed.
#include <linux/futex.h>
#include <semaphore.h>

#include "guest.h"

struct box {
    pthread_mutex_t kept, dead, dying;
    int owned, stop, got;
};
static struct box *box;
static sem_t *removed;

static void spoil(void) { box->got = 1; }

static void make(pthread_mutex_t *mutex) {
    pthread_mutexattr_t attr;
    PTHREAD(pthread_mutexattr_init(&attr));
    PTHREAD(pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED));
    PTHREAD(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT));
    PTHREAD(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST));
    PTHREAD(pthread_mutex_init(mutex, &attr));
}

static void own(pthread_mutex_t *mutex, int at_once) {
    PTHREAD(pthread_mutex_lock(mutex));
    __atomic_store_n(&box->owned, 1, __ATOMIC_SEQ_CST);
    while (!at_once && !__atomic_load_n(&box->stop, __ATOMIC_SEQ_CST)) nap(1000);
    _exit(0);
}

static uint32_t condition, lent; // lent: 0, or the owner's tid and FUTEX_WAITERS
static volatile int moved;

static void *wait_and_be_moved(void *unused) {
    (void)unused;
    long result = syscall(SYS_futex, &condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, NULL, &lent, 0);
    CHECK(result == 0 && moved, "waiting for the condition gave %ld", result);
    CHECK((lent & FUTEX_TID_MASK) == (uint32_t)gettid(), "the mutex is of %u", lent & FUTEX_TID_MASK);
    MUST(syscall(SYS_futex, &lent, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    return NULL;
}

int main(void) {
    pthread_t waiters[2];
    for (int i = 0; i < 2; i++) PTHREAD(pthread_create(&waiters[i], NULL, wait_and_be_moved, NULL));
    box = mmap(NULL, sizeof *box, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(box != MAP_FAILED, "mmap");
    make(&box->kept), make(&box->dead), make(&box->dying);
    char name[64];
    snprintf(name, sizeof name, "/ckpt-guest-%d-%lx", getpid(), (long)now_ns(CLOCK_REALTIME));
    removed = sem_open(name, O_CREAT | O_EXCL, 0600, 0);
    CHECK(removed != SEM_FAILED, "sem_open");
    MUST(sem_unlink(name));
    PTHREAD(pthread_mutex_lock(&box->kept));
    pid_t child = MUST(fork());
    if (child == 0) own(&box->dead, 1);
    join_child(child);
    box->owned = 0;
    pid_t children[2];
    if ((children[0] = MUST(fork())) == 0) own(&box->dying, 0);
    if ((children[1] = MUST(fork())) == 0) {
        PTHREAD(pthread_mutex_lock(&box->kept));
        box->got = 1;
        MUST(sem_post(removed));
        PTHREAD(pthread_mutex_unlock(&box->kept));
        _exit(0);
    }
    while (!__atomic_load_n(&box->owned, __ATOMIC_SEQ_CST)) nap(100);
    ready();
    while (go_on()) {
        CHECK(__atomic_load_n(&box->got, __ATOMIC_SEQ_CST) == 0, "somebody has got a mutex that is kept");
        CHECK(sem_trywait(removed) == -1 && errno == EAGAIN, "the semaphore");
        CHECK(pthread_mutex_trylock(&box->dying) == EBUSY, "the mutex of a living owner is free");
    }
    MUST(syscall(SYS_futex, &lent, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    moved = 1;
    int both = 0;
    while (both < 2) both += MUST(syscall(SYS_futex, &condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, 1, &lent, 0));
    condition = 1;
    MUST(syscall(SYS_futex, &lent, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
    for (int i = 0; i < 2; i++) PTHREAD(pthread_join(waiters[i], NULL));
    PTHREAD(pthread_mutex_unlock(&box->kept));
    MUST(sem_wait(removed));
    join_child(children[1]);
    CHECK(pthread_mutex_lock(&box->dead) == EOWNERDEAD, "the dead owner is forgotten");
    __atomic_store_n(&box->stop, 1, __ATOMIC_SEQ_CST);
    join_child(children[0]);
    CHECK(pthread_mutex_lock(&box->dying) == EOWNERDEAD, "the death of the owner is not noticed");
    return pass();
}
