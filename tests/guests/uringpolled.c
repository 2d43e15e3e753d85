// io_uring(7): rings whose requests a thread of the kernel takes (IORING_SETUP_SQPOLL), alone, for two rings, on one processor, niced, for a
// single issuer, for a parent and a child, asleep with requests announced, not enabled yet.
#include <dirent.h>
#include <sched.h>
#include <sys/resource.h>

#include "ring.h"

enum { SQPOLL = 1 << 1, AFF = 1 << 2, ATTACH = 1 << 5, DISABLED = 1 << 6, SINGLE = 1 << 12, IDLE = 2, THREADS = 7 };
static struct ring plain, second, shared, pinned, niced, single, asleep, off;
static volatile int set_up;
static int processor, processors, pair[2];

static void spoil(void) { ++*plain.cq_head; }

static void wake(struct ring *r) {
    if (__atomic_load_n(r->sq_flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
        CHECK(syscall(SYS_io_uring_enter, r->fd, 0, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0) == 0, "waking the thread");
}

// Announces requests, and waits until so many completions wait.
static void announce(struct ring *r, uint32_t count) {
    __atomic_store_n(r->sq_tail, r->next, __ATOMIC_SEQ_CST);
    wake(r), await(r, count);
    // What a request has come to is told before that it was taken.
    while (__atomic_load_n(r->sq_head, __ATOMIC_ACQUIRE) != r->next) sched_yield();
    CHECK(waiting(r) == count, "%u completions wait", waiting(r));
}

// A byte through the pipe into our memory.
static void read_byte(struct ring *r, char byte) {
    static char got;
    CHECK(write(pair[1], &byte, 1) == 1, "write");
    struct io_uring_sqe *sqe = make(r, IORING_OP_READ, byte);
    sqe->fd = pair[0], sqe->addr = (uintptr_t)&got, sqe->len = 1, sqe->off = -1;
    announce(r, waiting(r) + 1);
    expect(r, byte, 1);
    CHECK(got == byte, "'%c' instead of '%c'", got, byte);
}

// A line of a file of a thread's; the kernel's workers come and go.
static int line(char *out, size_t size, const char *tid, const char *file, const char *key) {
    char path[300], text[256];
    snprintf(path, sizeof path, "/proc/self/task/%s/%s", tid, file);
    FILE *from = fopen(path, "r");
    if (!from) return 0;
    while (*out = 0, fgets(text, sizeof text, from))
        if (snprintf(out, size, "%s", text), !strncmp(text, key, strlen(key))) break;
    fclose(from);
    return *out != 0;
}

// What is seen of the threads: what we may, one processor, another niceness.
// They have their names and processors once they have run.
static int look_once(void) {
    int count = 0, on_one = 0, nice = 0;
    DIR *all = opendir("/proc/self/task");
    CHECK(all, "opendir");
    for (struct dirent *entry; (entry = readdir(all));) {
        char name[64], ours[256], theirs[256], self[16];
        if (*entry->d_name == '.') continue;
        if (!line(name, sizeof name, entry->d_name, "comm", "") || strncmp(name, "iou-sqp-", 8) || !line(theirs, sizeof theirs, entry->d_name, "status", "Uid:")) continue;
        int there = 1;
        snprintf(self, sizeof self, "%d", getpid());
        for (const char **key = (const char *[]){"Uid:", "Gid:", "CapPrm:", "CapEff:", "CapBnd:", NULL}; *key; key++) {
            there &= line(ours, sizeof ours, self, "status", *key) && line(theirs, sizeof theirs, entry->d_name, "status", *key);
            CHECK(!there || !strcmp(ours, theirs), "%s instead of %s", theirs, ours);
        }
        if (!there) continue; // a worker, gone already
        count++;
        cpu_set_t set;
        if (sched_getaffinity(atoi(entry->d_name), sizeof set, &set)) continue;
        on_one += CPU_COUNT(&set) == 1 && CPU_ISSET(processor, &set);
        nice += getpriority(PRIO_PROCESS, atoi(entry->d_name)) == 7;
    }
    closedir(all);
    return count == THREADS && nice == 1 && on_one == (processors > 1 ? 1 : THREADS);
}

static void look(void) {
    for (int64_t until = now_ns(CLOCK_MONOTONIC) + 20000000000; !look_once(); nap(1000))
        CHECK(now_ns(CLOCK_MONOTONIC) < until, "the threads are not as they were");
}

static void *owner(void *unused) {
    (void)unused;
    MUST(setup_polled(&single, 4, SQPOLL | SINGLE, IDLE, 0, 0));
    for (int i = 0; i < 9; i++) read_byte(&single, 'a' + i);
    set_up = 1;
    while (wait_on()) {}
    return NULL;
}

static void *nice_one(void *unused) {
    (void)unused;
    MUST(setpriority(PRIO_PROCESS, syscall(SYS_gettid), 7));
    MUST(setup_polled(&niced, 1, SQPOLL, IDLE, 0, 0));
    return NULL;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return setup(&plain, 1, SQPOLL) < 0; // whether there are such rings here at all
    cpu_set_t set;
    MUST(sched_getaffinity(0, sizeof set, &set));
    while (!CPU_ISSET(processor, &set)) processor++;
    processors = CPU_COUNT(&set);
    MUST(pipe(pair));
    MUST(setup_polled(&plain, 8, SQPOLL, IDLE, 0, 0)), MUST(setup_polled(&second, 4, SQPOLL | ATTACH, IDLE, 0, plain.fd));
    MUST(setup_polled(&pinned, 4, SQPOLL | AFF, IDLE, processor, 0)), MUST(setup_polled(&asleep, 4, SQPOLL, IDLE, 0, 0));
    MUST(setup_polled(&shared, 4, SQPOLL, IDLE, 0, 0)), MUST(setup_polled(&off, 4, SQPOLL | DISABLED, IDLE, 0, 0));
    pthread_t thread, other;
    PTHREAD(pthread_create(&other, NULL, nice_one, NULL));
    PTHREAD(pthread_join(other, NULL));
    PTHREAD(pthread_create(&thread, NULL, owner, NULL));
    while (!set_up) nap(100);
    for (uint64_t i = 0; i < 301; i += 3) {
        for (int more = 0; more < 3; more++) make(&plain, IORING_OP_NOP, i + more);
        announce(&plain, 3);
        for (int more = 0; more < 3; more++) expect(&plain, i + more, 0);
        read_byte(&second, 'x'), read_byte(&pinned, 'y');
    }
    uint64_t taken = 500, made = taken;
    for (; made < taken + 3; made++) make(&plain, made % 2 ? IORING_OP_READ : IORING_OP_NOP, mix(made)), announce(&plain, waiting(&plain) + 1);
    // The thread sleeps when these are announced, and nobody wakes it.
    read_byte(&asleep, 's');
    while (!(__atomic_load_n(asleep.sq_flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)) nap(1000);
    make(&asleep, IORING_OP_NOP, 60), make(&asleep, IORING_OP_NOP, 61);
    __atomic_store_n(asleep.sq_tail, asleep.next, __ATOMIC_SEQ_CST);
    make(&off, IORING_OP_NOP, 70);
    __atomic_store_n(off.sq_tail, off.next, __ATOMIC_SEQ_CST);
    make(&shared, IORING_OP_NOP, 7), announce(&shared, 1);
    pid_t child = MUST(fork());
    if (child == 0) {
        while (wait_on()) CHECK(waiting(&shared) == 1, "%u completions in the child", waiting(&shared));
        expect(&shared, 7, 0);
        make(&shared, IORING_OP_NOP, 8), announce(&shared, 1);
        _exit(0);
    }
    ready();
    for (char byte = 'a'; go_on(); byte = byte == 'z' ? 'a' : byte + 1) {
        CHECK(waiting(&plain) == 3, "%u completions wait", waiting(&plain));
        expect(&plain, mix(taken), taken % 2 ? -EBADF : 0), taken++;
        make(&plain, made % 2 ? IORING_OP_READ : IORING_OP_NOP, mix(made)), made++;
        announce(&plain, 3);
        read_byte(&second, byte), read_byte(&pinned, byte), read_byte(&niced, byte);
        CHECK(*asleep.sq_head == 1 && *asleep.sq_tail == 3 && waiting(&asleep) == 0, "the thread was woken");
        CHECK(*off.sq_head == 0 && *off.sq_tail == 1, "the ring is enabled");
        look();
        // Else the kernel's threads would never leave the processors to others.
        nap(3000);
    }
    for (; taken < made; taken++) expect(&plain, mix(taken), taken % 2 ? -EBADF : 0);
    announce(&asleep, 2), expect(&asleep, 60, 0), expect(&asleep, 61, 0);
    MUST(syscall(SYS_io_uring_register, off.fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
    announce(&off, 1), expect(&off, 70, 0);
    PTHREAD(pthread_join(thread, NULL));
    read_byte(&single, 'e');
    join_child(child);
    CHECK(*shared.sq_head == 2, "the child's request");
    expect(&shared, 8, 0);
    return pass();
}
