// A static program: segments of a sieve shared out between threads, results printed in order.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEGMENT 400000u
#define THREADS 3

static unsigned segments, next_segment, printed;
static uint32_t *counts;
static char *done;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static uint32_t count_primes(uint64_t from, uint64_t to) {
    char *composite = calloc(1, to - from);
    uint32_t count = 0;
    if (!composite) abort();
    for (uint64_t p = 2; p * p < to; p++) {
        uint64_t at = (from + p - 1) / p * p;
        if (at < p * p) at = p * p;
        for (; at < to; at += p) composite[at - from] = 1;
    }
    for (uint64_t n = from; n < to; n++) count += n > 1 && !composite[n - from];
    free(composite);
    return count;
}

static void *worker(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&lock);
        unsigned mine = next_segment++;
        pthread_mutex_unlock(&lock);
        if (mine >= segments) return NULL;
        uint32_t count = count_primes((uint64_t)mine * SEGMENT, (uint64_t)(mine + 1) * SEGMENT);
        pthread_mutex_lock(&lock);
        counts[mine] = count;
        done[mine] = 1;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
}

int main(int argc, char **argv) {
    pthread_t threads[THREADS];
    uint64_t total = 0;
    segments = argc > 1 ? atoi(argv[1]) : 100;
    counts = calloc(segments, sizeof *counts);
    done = calloc(segments, 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, worker, NULL);
    for (; printed < segments; printed++) {
        pthread_mutex_lock(&lock);
        while (!done[printed]) pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
        total += counts[printed];
        printf("%u %u %llu\n", printed, counts[printed], (unsigned long long)total);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    puts("end");
    return 0;
}
