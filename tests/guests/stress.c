// Everything at once and at random, from a seed (first argument): a tree whose processes fork, exec, thread, map, allocate,
// signal each other, fill pipes and exit, each keeping books of what must be true of what it did.
#include "guest.h"
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

enum { WORKERS = 3, MAPS = 24, BLOCKS = 24, PAGE = 4096 };
extern char **environ;

// One page that all share: how far each has come, and whether to stop. Workers only, by index; the first is the root.
static struct book {
    _Atomic uint64_t done, sent, taken;
    _Atomic int pid;
} *books;
static _Atomic int *stop, *stopped;

static int me;
static uint64_t state;
static char *self;

static uint64_t any(uint64_t below) { return (state = mix(state)) % below; }

static unsigned char byte_of(uint64_t seed, size_t i) { return mix(seed + i / 64) >> i % 8; }

static void fill(unsigned char *at, size_t len, uint64_t seed) {
    for (size_t i = 0; i < len; i++) at[i] = byte_of(seed, i);
}

static void check(const unsigned char *at, size_t len, uint64_t seed, const char *what) {
    for (size_t i = 0; i < len; i++) CHECK(at[i] == byte_of(seed, i), "%s: byte %zu of %zu is %#x", what, i, len, at[i]);
}

// --- memory: what was mapped or allocated keeps its bytes, whatever becomes of its place and protection.

static struct {
    unsigned char *at;
    size_t len;
    uint64_t seed;
    int writable;
} maps[MAPS], blocks[BLOCKS];

static void mapping(void) {
    __typeof__(*maps) *m = &maps[any(MAPS)];
    if (!m->at) {
        m->len = PAGE * (1 + any(24));
        m->seed = any(1ull << 40);
        int shared = any(4) == 0 ? MAP_SHARED : MAP_PRIVATE;
        m->at = MUST(mmap(NULL, m->len, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | shared, -1, 0));
        m->writable = shared == MAP_PRIVATE;
        fill(m->at, m->len, m->seed);
        return;
    }
    check(m->at, m->len, m->seed, "mapping");
    switch (any(5)) {
    case 0:
        MUST(mprotect(m->at, PAGE * (1 + any(m->len / PAGE)), PROT_READ));
        m->writable = 0;
        break;
    case 1:
        MUST(mprotect(m->at, m->len, PROT_READ | PROT_WRITE));
        m->at = MUST(mremap(m->at, m->len, m->len + PAGE, MREMAP_MAYMOVE));
        MUST(munmap(m->at + m->len, PAGE));
        break;
    case 2:
        if (m->writable) {
            m->seed = any(1ull << 40);
            fill(m->at, m->len, m->seed);
        }
        break;
    default:
        MUST(munmap(m->at, m->len));
        m->at = NULL;
    }
}

static void allocation(void) {
    __typeof__(*blocks) *b = &blocks[any(BLOCKS)];
    if (b->at) check(b->at, b->len, b->seed, "allocation");
    free(b->at);
    b->at = NULL;
    if (any(3) == 0) return;
    b->len = 1 + any(any(8) ? 5000 : 300000);
    b->seed = any(1ull << 40);
    b->at = malloc(b->len);
    CHECK(b->at, "malloc");
    fill(b->at, b->len, b->seed);
}

// --- processes: each ends as it was told, once, and its parent hears of it once.

static void reap(pid_t pid, int want) {
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid, "waitpid %d", (int)pid);
    CHECK(status == want, "child %d ended with %#x, not %#x", (int)pid, status, want);
    CHECK(waitpid(pid, &status, WNOHANG) == -1 && errno == ECHILD, "child %d was there twice", (int)pid);
}

// In a child: what it inherited is right, and its own changes are its own.
static void inherited(void) {
    for (int i = 0; i < MAPS; i++) {
        if (maps[i].at) check(maps[i].at, maps[i].len, maps[i].seed, "inherited mapping");
    }
    for (int i = 0; i < BLOCKS; i++) {
        if (blocks[i].at) blocks[i].at[0] ^= 0xff;
    }
}

static void forking(void) {
    int count = 1 + any(4), want[4];
    pid_t pids[4];
    for (int i = 0; i < count; i++) {
        int how = any(3), code = any(256);
        want[i] = how == 0 ? SIGKILL : code << 8;
        pid_t parent = getpid();
        pids[i] = MUST(fork());
        if (pids[i] == 0) {
            CHECK(getppid() == parent, "its parent is %d", getppid());
            if (any(2)) inherited();
            if (any(4) == 0) CHECK(MUST(setsid()) == getpid() && getpgrp() == getpid(), "setsid");
            if (any(2)) nap(any(2000));
            if (how == 0) MUST(kill(getpid(), SIGKILL));
            _exit(code);
        }
    }
    if (any(2)) nap(any(1500));
    for (int i = count; i-- > 0;) reap(pids[i], want[i]);
}

// A grandchild whose parent is gone at once; the guest's first process is its adopter.
static void orphan(void) {
    int ends[2], code = any(256);
    MUST(pipe2(ends, O_CLOEXEC));
    pid_t root = getpid(), child = MUST(fork());
    if (child == 0) {
        pid_t grandchild = MUST(fork());
        if (grandchild == 0) {
            while (getppid() != root) nap(100);
            _exit(code);
        }
        CHECK(write(ends[1], &grandchild, sizeof grandchild) == sizeof grandchild, "pipe");
        _exit(0);
    }
    pid_t grandchild = 0;
    CHECK(read(ends[0], &grandchild, sizeof grandchild) == sizeof grandchild, "pipe");
    MUST(close(ends[0]));
    MUST(close(ends[1]));
    reap(child, 0);
    reap(grandchild, code << 8);
}

static void executing(void) {
    char code[16];
    int want = any(256);
    snprintf(code, sizeof code, "%d", want);
    char *argv[] = {self, "exit", code, NULL};
    pid_t pid;
    if (any(2)) {
        PTHREAD(posix_spawn(&pid, self, NULL, NULL, argv, environ));
    } else {
        pid = MUST(fork());
        if (pid == 0) {
            execv(self, argv);
            _exit(127);
        }
    }
    reap(pid, want << 8);
}

// --- threads: each does its sum under the lock, and brings its own number back.

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint64_t sum;
static __thread uint64_t own;

static void *adder(void *arg) {
    own = (uintptr_t)arg;
    for (int i = 0; i < 20; i++) {
        PTHREAD(pthread_mutex_lock(&lock));
        sum += own;
        PTHREAD(pthread_cond_broadcast(&changed));
        PTHREAD(pthread_mutex_unlock(&lock));
        if (i % 8 == 7) nap(300);
    }
    return (void *)(own + 1);
}

static void threading(void) {
    int count = 1 + any(6);
    pthread_t threads[6];
    uint64_t want = sum;
    for (int i = 0; i < count; i++) {
        uintptr_t number = any(1000000);
        want += 20 * number;
        PTHREAD(pthread_create(&threads[i], NULL, adder, (void *)number));
    }
    PTHREAD(pthread_mutex_lock(&lock));
    while (sum != want) PTHREAD(pthread_cond_wait(&changed, &lock));
    PTHREAD(pthread_mutex_unlock(&lock));
    for (int i = 0; i < count; i++) {
        void *result;
        PTHREAD(pthread_join(threads[i], &result));
    }
}

// --- signals: queued ones come in order with their values; those of others come once each.

static void queued(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    int count = 1 + any(12), first = any(1000000);
    for (int i = 0; i < count; i++) MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = first + i}));
    if (any(2)) nap(any(1500));
    for (int i = 0; i < count; i++) {
        siginfo_t info;
        CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 1, "sigwaitinfo");
        CHECK(info.si_value.sival_int == first + i && info.si_pid == getpid() && info.si_code == SI_QUEUE,
              "signal %d of %d: value %d, not %d, from %d", i, count, info.si_value.sival_int, first + i, info.si_pid);
    }
    CHECK(sigtimedwait(&set, NULL, &(struct timespec){0, 0}) == -1 && errno == EAGAIN, "a signal too many");
}

static void on_number(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    int error = errno;
    int from = info->si_value.sival_int & 3;
    uint64_t number = (unsigned)info->si_value.sival_int >> 2;
    static uint64_t last[4];
    CHECK(info->si_pid == books[from].pid, "signal from %d, not %d", info->si_pid, books[from].pid);
    CHECK(number == last[from] + 1, "signal %llu of %d after %llu", (unsigned long long)number, from, (unsigned long long)last[from]);
    last[from] = number;
    books[me].taken++;
    errno = error;
}

static void signalling(void) {
    static uint64_t numbers[WORKERS];
    int to = any(WORKERS);
    if (to == me) return;
    union sigval value = {.sival_int = (int)((numbers[to] + 1) << 2 | me)};
    if (sigqueue(books[to].pid, SIGRTMIN + 2, value) == 0) {
        numbers[to]++;
        books[to].sent++;
    } else {
        CHECK(errno == EAGAIN, "sigqueue");
    }
}

// --- descriptors: bytes come out as they went in, positions are where they were put.

static int ends[2];
static uint64_t went_in, came_out;

static void piping(void) {
    static uint64_t seed = 77;
    unsigned char bytes[3000];
    size_t n = 1 + any(sizeof bytes);
    if (went_in - came_out + n <= 20000 && any(2)) {
        for (size_t i = 0; i < n; i++) bytes[i] = byte_of(seed, went_in + i);
        CHECK(write(ends[1], bytes, n) == (ssize_t)n, "write to the pipe");
        went_in += n;
    } else if (went_in > came_out) {
        if (n > went_in - came_out) n = went_in - came_out;
        CHECK(read(ends[0], bytes, n) == (ssize_t)n, "read from the pipe");
        for (size_t i = 0; i < n; i++) CHECK(bytes[i] == byte_of(seed, came_out + i), "byte %zu of the pipe", i);
        came_out += n;
    }
}

static int file = -1;

static void filing(void) {
    static off_t position;
    CHECK(lseek(file, 0, SEEK_CUR) == position, "the file stands at %ld, not %ld", lseek(file, 0, SEEK_CUR), position);
    int twin = MUST(dup(file));
    unsigned char bytes[64];
    position = any(100000);
    CHECK(lseek(twin, position, SEEK_SET) == position, "lseek");
    CHECK(read(file, bytes, sizeof bytes) == sizeof bytes, "read");
    for (size_t i = 0; i < sizeof bytes; i++) CHECK(bytes[i] == byte_of(5, position + i), "byte %zu at %ld", i, position);
    position += sizeof bytes;
    MUST(close(twin));
}

static void ticking(void) {
    int fd = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)), count = MUST(eventfd(7, EFD_CLOEXEC));
    struct itimerspec in = {.it_value = {.tv_nsec = 1 + any(2000000)}};
    MUST(timerfd_settime(fd, 0, &in, NULL));
    uint64_t value;
    CHECK(read(fd, &value, 8) == 8 && value == 1, "timerfd");
    CHECK(read(count, &value, 8) == 8 && value == 7, "eventfd: %llu", (unsigned long long)value);
    MUST(close(fd));
    MUST(close(count));
}

static void step(void) {
    switch (any(me == 0 ? 11 : 10)) {
    case 0: mapping(); break;
    case 1: allocation(); break;
    case 2: forking(); break;
    case 3: executing(); break;
    case 4: threading(); break;
    case 5: queued(); break;
    case 6: signalling(); break;
    case 7: piping(); break;
    case 8: filing(); break;
    case 9: ticking(); break;
    default: orphan();
    }
    books[me].done++;
}

static void prepare(void) {
    state = mix(state + me);
    books[me].pid = getpid();
    MUST(pipe2(ends, O_CLOEXEC));
    char name[32];
    snprintf(name, sizeof name, "book.%d", me);
    file = MUST(open(guest_path(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    static unsigned char bytes[100064];
    fill(bytes, sizeof bytes, 5);
    CHECK(write(file, bytes, sizeof bytes) == sizeof bytes, "write");
    CHECK(lseek(file, 0, SEEK_SET) == 0, "lseek");
}

// Once all have stopped sending: waits until everything sent has come.
static void balance(void) {
    ++*stopped;
    while (*stopped < WORKERS) nap(1000);
    for (int i = 0; books[me].taken != books[me].sent; i++) {
        CHECK(i < 20000, "%llu signals sent, %llu taken", (unsigned long long)books[me].sent, (unsigned long long)books[me].taken);
        nap(1000);
    }
}

static void spoil(void) { lseek(file, 1, SEEK_CUR); }

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "exit")) return atoi(argv[2]);
    self = argv[0];
    state = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    books = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    stop = (_Atomic int *)(books + WORKERS);
    stopped = stop + 1;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    // Restarted where the kernel can; what it can't restart (nanosleep, sigwaitinfo) is done with the signal blocked.
    struct sigaction action = {.sa_sigaction = on_number, .sa_flags = SA_SIGINFO | SA_RESTART};
    MUST(sigaction(SIGRTMIN + 2, &action, NULL));
    sigset_t numbers;
    sigemptyset(&numbers);
    sigaddset(&numbers, SIGRTMIN + 2);
    MUST(sigprocmask(SIG_BLOCK, &numbers, NULL));
    pid_t workers[WORKERS];
    for (int i = 1; i < WORKERS; i++) {
        workers[i] = MUST(fork());
        if (workers[i] == 0) {
            me = i;
            break;
        }
    }
    prepare();
    for (int i = 0; i < WORKERS; i++) {
        while (!books[i].pid) nap(100);
    }
    if (me == 0) ready();
    while (me == 0 ? go_on() : !*stop) {
        step();
        // Here and nowhere else the numbers of others come in.
        MUST(sigprocmask(SIG_UNBLOCK, &numbers, NULL));
        MUST(sigprocmask(SIG_BLOCK, &numbers, NULL));
    }
    // A mistake that nobody came across while at random is found now.
    if (guest_spoilt) filing();
    for (int i = 0; i < MAPS; i++) {
        if (maps[i].at) check(maps[i].at, maps[i].len, maps[i].seed, "mapping");
    }
    for (int i = 0; i < BLOCKS; i++) {
        if (blocks[i].at) check(blocks[i].at, blocks[i].len, blocks[i].seed, "allocation");
    }
    *stop = 1;
    MUST(sigprocmask(SIG_UNBLOCK, &numbers, NULL));
    balance();
    if (me) return 0;
    for (int i = 1; i < WORKERS; i++) reap(workers[i], 0);
    CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD, "a child too many");
    for (int i = 0; i < WORKERS; i++) printf("process %d: %llu steps, %llu signals\n", i, (unsigned long long)books[i].done, (unsigned long long)books[i].taken);
    fflush(stdout);
    return pass();
}
