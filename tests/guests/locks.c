// Traffic over mutexes, conditions, semaphores, rwlocks and barriers; threads that come and go; a robust mutex whose owner dies
// after the save; an error-checking mutex that knows its owner by tid.
#include <semaphore.h>

#include "guest.h"

#define RING 16
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, robust, checked, pi;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER, less = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static sem_t ping, pong;
static pthread_barrier_t barrier;
static uint64_t ring[RING], head, tail, sum_in, sum_out, pair_a, pair_b, meets[2], owned;
static int stop, die, damaged;

static void spoil(void) { damaged = 1; }

static void *producer(void *unused) {
    (void)unused;
    for (uint64_t n = 1;; n++) {
        PTHREAD(pthread_mutex_lock(&lock));
        while (head - tail == RING && !stop) PTHREAD(pthread_cond_wait(&less, &lock));
        if (stop) break;
        ring[head++ % RING] = n;
        sum_in += n;
        PTHREAD(pthread_cond_signal(&more));
        PTHREAD(pthread_mutex_unlock(&lock));
        if (n % 256 == 0) nap(50);
    }
    PTHREAD(pthread_cond_broadcast(&more));
    PTHREAD(pthread_mutex_unlock(&lock));
    return NULL;
}

static void *consumer(void *unused) {
    (void)unused;
    uint64_t last = 0;
    for (;;) {
        PTHREAD(pthread_mutex_lock(&lock));
        while (head == tail && !stop) PTHREAD(pthread_cond_wait(&more, &lock));
        if (head == tail) break;
        uint64_t n = ring[tail++ % RING];
        CHECK(n == last + 1, "got %lu after %lu", n, last);
        last = n;
        sum_out += n;
        PTHREAD(pthread_cond_signal(&less));
        PTHREAD(pthread_mutex_unlock(&lock));
    }
    PTHREAD(pthread_mutex_unlock(&lock));
    return NULL;
}

static void *ponger(void *unused) {
    (void)unused;
    for (;;) {
        CHECK(sem_wait(&ping) == 0, "sem_wait");
        if (__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) return NULL;
        MUST(sem_post(&pong));
    }
}

static void *reader(void *unused) {
    (void)unused;
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        PTHREAD(pthread_rwlock_rdlock(&rw));
        CHECK(pair_a == pair_b, "a torn pair");
        PTHREAD(pthread_rwlock_unlock(&rw));
        nap(50);
    }
    return NULL;
}

static void *meeter(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    for (int last = 0; !last;) {
        meets[me]++;
        int serial = pthread_barrier_wait(&barrier);
        CHECK(serial == 0 || serial == PTHREAD_BARRIER_SERIAL_THREAD, "barrier");
        CHECK(meets[0] == meets[1], "the barrier let one through");
        last = __atomic_load_n(&stop, __ATOMIC_SEQ_CST);
        // Both must see the same value of `stop`.
        static int verdict[2];
        verdict[me] = last;
        pthread_barrier_wait(&barrier);
        last = verdict[0] && verdict[1];
        nap(200);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

// Dies holding the robust mutex, long after it took it.
static void *owner(void *unused) {
    (void)unused;
    PTHREAD(pthread_mutex_lock(&robust));
    __atomic_store_n(&owned, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&die, __ATOMIC_SEQ_CST)) nap(1000);
    return NULL;
}

static void *brief(void *arg) { return (void *)((uintptr_t)arg * 3); }

int main(void) {
    pthread_t threads[7], robust_owner;
    pthread_mutexattr_t attr;
    PTHREAD(pthread_mutexattr_init(&attr));
    PTHREAD(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST));
    PTHREAD(pthread_mutex_init(&robust, &attr));
    PTHREAD(pthread_mutexattr_init(&attr));
    PTHREAD(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK));
    PTHREAD(pthread_mutex_init(&checked, &attr));
    PTHREAD(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT));
    PTHREAD(pthread_mutex_init(&pi, &attr));
    PTHREAD(pthread_barrier_init(&barrier, NULL, 2));
    MUST(sem_init(&ping, 0, 0));
    MUST(sem_init(&pong, 0, 0));
    PTHREAD(pthread_mutex_lock(&checked));
    PTHREAD(pthread_create(&robust_owner, NULL, owner, NULL));
    PTHREAD(pthread_create(&threads[0], NULL, producer, NULL));
    PTHREAD(pthread_create(&threads[1], NULL, consumer, NULL));
    PTHREAD(pthread_create(&threads[2], NULL, ponger, NULL));
    PTHREAD(pthread_create(&threads[3], NULL, reader, NULL));
    PTHREAD(pthread_create(&threads[4], NULL, reader, NULL));
    PTHREAD(pthread_create(&threads[5], NULL, meeter, (void *)0));
    PTHREAD(pthread_create(&threads[6], NULL, meeter, (void *)1));
    while (!__atomic_load_n(&owned, __ATOMIC_SEQ_CST)) nap(100);
    ready();
    uint64_t before = 0, stuck = 0;
    for (uintptr_t turn = 1; go_on(); turn++) {
        MUST(sem_post(&ping));
        CHECK(sem_wait(&pong) == 0, "sem_wait");
        PTHREAD(pthread_rwlock_wrlock(&rw));
        pair_a++;
        pair_b++;
        PTHREAD(pthread_rwlock_unlock(&rw));
        CHECK(pthread_mutex_lock(&checked) == EDEADLK, "the mutex forgot who owns it");
        PTHREAD(pthread_mutex_lock(&pi));
        CHECK(pthread_mutex_lock(&pi) == EDEADLK, "the priority-inheriting mutex forgot who owns it");
        PTHREAD(pthread_mutex_unlock(&pi));
        CHECK(pthread_mutex_trylock(&robust) == EBUSY, "the robust mutex is free");
        pthread_t thread;
        void *result;
        PTHREAD(pthread_create(&thread, NULL, brief, (void *)turn));
        PTHREAD(pthread_join(thread, &result));
        CHECK(result == (void *)(turn * 3), "result of a brief thread");
        PTHREAD(pthread_mutex_lock(&lock));
        stuck = sum_out == before ? stuck + 1 : 0;
        before = sum_out;
        if (damaged) sum_in++;
        PTHREAD(pthread_mutex_unlock(&lock));
        CHECK(stuck < 3000, "the ring is stuck");
    }
    __atomic_store_n(&die, 1, __ATOMIC_SEQ_CST);
    PTHREAD(pthread_join(robust_owner, NULL));
    CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD, "the robust list was lost");
    PTHREAD(pthread_mutex_consistent(&robust));
    PTHREAD(pthread_mutex_unlock(&robust));
    PTHREAD(pthread_mutex_unlock(&checked));
    PTHREAD(pthread_mutex_lock(&lock));
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    PTHREAD(pthread_cond_broadcast(&more));
    PTHREAD(pthread_cond_broadcast(&less));
    PTHREAD(pthread_mutex_unlock(&lock));
    MUST(sem_post(&ping));
    for (int i = 0; i < 7; i++) PTHREAD(pthread_join(threads[i], NULL));
    CHECK(sum_in == sum_out, "sums %lu and %lu", sum_in, sum_out);
    return pass();
}
