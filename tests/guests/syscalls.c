// System calls in quick succession from several threads, each result checked, and arithmetic in between: what a save that is
// cut off in the middle would hurt first. An argument asks for that many MiB of checked memory besides.
#include "guest.h"

#define THREADS 3
static volatile int damaged;
static void spoil(void) { damaged = 1; }

static void *busy(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    pid_t pid = getpid(), tid = syscall(SYS_gettid);
    int p[2], zero = MUST(open("/dev/zero", O_RDONLY | O_CLOEXEC));
    MUST(pipe2(p, O_CLOEXEC));
    uint64_t x = me, y = me, n = 0;
    while (!told("go")) {
        for (int i = 0; i < 200; i++, n++) {
            x = mix(x), y = mix(y);
            double d = (double)(n % 1000) * 1.5 + 0.25;
            CHECK(syscall(SYS_getpid) == pid && syscall(SYS_gettid) == tid, "ids");
            uint64_t back;
            CHECK(write(p[1], &n, 8) == 8 && read(p[0], &back, 8) == 8 && back == n, "pipe");
            CHECK(read(zero, &back, 8) == 8 && back == 0, "zero");
            CHECK(syscall(SYS_lseek, p[0], 0, SEEK_CUR) == -1 && errno == ESPIPE, "an error that must be ESPIPE");
            CHECK(d == (double)(n % 1000) * 1.5 + 0.25 && x == y, "arithmetic");
        }
        nap(200);
    }
    return NULL;
}

int main(int argc, char **argv) {
    size_t words = argc > 1 ? (size_t)atoi(argv[1]) * 131072 : 0;
    uint64_t *memory = NULL;
    if (words) {
        memory = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(memory != MAP_FAILED, "mmap");
        for (size_t i = 0; i < words; i++) memory[i] = mix(i);
    }
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) PTHREAD(pthread_create(&threads[i], NULL, busy, (void *)(i + 1)));
    ready();
    pid_t pid = getpid();
    while (go_on()) CHECK(getpid() + damaged == pid, "pid");
    for (int i = 0; i < THREADS; i++) PTHREAD(pthread_join(threads[i], NULL));
    for (size_t i = 0; i < words; i++) CHECK(memory[i] == mix(i), "word %zu", i);
    return pass();
}
