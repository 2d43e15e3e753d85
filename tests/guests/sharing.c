// Processes that share memory, descriptors, directories or signal actions without being threads, in several mixtures; a
// sibling that shares with a sibling; and a thread with directories of its own. Each is asked to change something, and
// whether the first process sees it tells whether it is shared.
#include "guest.h"

enum { OPEN = 1, CLOSE, CHDIR, UMASK, ACTION, POKE, HAS };

static struct box {
    volatile int ask, arg, result, flags, finish;
    volatile pid_t pid;
} *boxes;

static volatile int private_word;
static char stacks[8][65536] __attribute__((aligned(16)));

static void spoil(void) { MUST(unshare(CLONE_FILES)); }
static void one(int s) { (void)s; }
static void two(int s) { (void)s; }

// Nothing here may need thread-local storage: a process that shares memory shares that, too.
static int serve(void *arg) {
    struct box *box = arg;
    struct timespec t = {0, 500000};
    while (!box->finish) {
        if (!box->ask) {
            nanosleep(&t, NULL);
            continue;
        }
        struct sigaction act = {.sa_handler = box->arg ? two : one};
        switch (box->ask) {
        case OPEN: box->result = open("/dev/null", O_RDONLY); break;
        case CLOSE: box->result = close(box->arg); break;
        case CHDIR: box->result = chdir(box->arg ? "sub" : ".."); break;
        case UMASK: box->result = umask(box->arg); break;
        case ACTION: box->result = sigaction(SIGUSR1, &act, NULL); break;
        case POKE: private_word = box->arg; box->result = 0; break;
        case HAS: box->result = fcntl(box->arg, F_GETFD); break;
        }
        __atomic_store_n(&box->ask, 0, __ATOMIC_SEQ_CST);
    }
    return 0;
}

static int ask(struct box *box, int what, int arg) {
    box->arg = arg;
    __atomic_store_n(&box->ask, what, __ATOMIC_SEQ_CST);
    for (int i = 0; box->ask; i++) {
        CHECK(i < 100000, "no answer to %d from pid %d", what, box->pid);
        nap(100);
    }
    return box->result;
}

static int in_sub(void) {
    char cwd[PATH_MAX];
    CHECK(getcwd(cwd, sizeof cwd), "getcwd");
    return !strcmp(strrchr(cwd, '/'), "/sub");
}

// Whether what `box` does is seen here, by the flags it was made with.
static void check(struct box *box, int index) {
    int flags = box->flags;
    struct sigaction act;
    private_word = 1;
    ask(box, POKE, 2 + index);
    CHECK(private_word == (flags & CLONE_VM ? 2 + index : 1), "memory of %d: %d", index, private_word);
    int fd = ask(box, OPEN, 0);
    CHECK(fd > 2 && (fcntl(fd, F_GETFD) >= 0) == !!(flags & CLONE_FILES), "descriptor %d of %d", fd, index);
    CHECK(ask(box, CLOSE, fd) == 0 && fcntl(fd, F_GETFD) == -1, "closing of %d", index);
    CHECK(ask(box, CHDIR, 1) == 0 && in_sub() == !!(flags & CLONE_FS), "directory of %d", index);
    CHECK(ask(box, CHDIR, 0) == 0 && !in_sub(), "directory of %d, back", index);
    CHECK(ask(box, UMASK, 070 + index) == 022, "umask of %d: %o", index, box->result);
    CHECK(umask(022) == (mode_t)(flags & CLONE_FS ? 070 + index : 022), "umask seen from %d", index);
    CHECK(ask(box, UMASK, 022) == (flags & CLONE_FS ? 022 : 070 + index), "umask of %d, back", index);
    CHECK(ask(box, ACTION, 1) == 0 && sigaction(SIGUSR1, NULL, &act) == 0, "action");
    CHECK(act.sa_handler == (flags & CLONE_SIGHAND ? two : one), "action of %d", index);
    CHECK(ask(box, ACTION, 0) == 0, "action");
}

static void *own_directories(void *unused) {
    (void)unused;
    MUST(unshare(CLONE_FS));
    MUST(chdir("sub"));
    MUST(umask(0111) == 022 ? 0 : -1);
    boxes[7].pid = 1;
    while (!boxes[7].finish) {
        nap(1000);
        CHECK(in_sub(), "the thread's directory");
        CHECK(umask(0111) == 0111, "the thread's umask");
    }
    return NULL;
}

int main(void) {
    static const int mixtures[] = {
        CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND, CLONE_FILES, CLONE_FS, CLONE_VM, CLONE_VM | CLONE_SIGHAND | CLONE_FS, CLONE_FILES | CLONE_FS,
    };
    enum { COUNT = sizeof mixtures / sizeof *mixtures };
    boxes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(boxes != MAP_FAILED, "mmap");
    MUST(mkdir("sub", 0755));
    umask(022);
    struct sigaction act = {.sa_handler = one};
    MUST(sigaction(SIGUSR1, &act, NULL));
    for (int i = 0; i < COUNT; i++) {
        struct box *box = &boxes[i];
        box->flags = mixtures[i];
        if (box->flags & CLONE_VM) {
            box->pid = MUST(clone(serve, stacks[i] + sizeof stacks[i], box->flags | SIGCHLD, box));
            continue;
        }
        pid_t pid = MUST(syscall(SYS_clone, box->flags | SIGCHLD, 0, 0, 0, 0));
        if (!pid) _exit(serve(box));
        box->pid = pid;
    }
    // Two siblings with one table that is not their parent's.
    pid_t first = MUST(fork());
    if (!first) {
        pid_t pid = MUST(syscall(SYS_clone, CLONE_PARENT | CLONE_FILES, 0, 0, 0, 0));
        if (!pid) {
            boxes[8].pid = getpid();
            _exit(serve(&boxes[8]));
        }
        _exit(serve(&boxes[6]));
    }
    boxes[6].pid = first;
    while (!boxes[8].pid) sched_yield();
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, own_directories, NULL));
    while (!boxes[7].pid) sched_yield();
    ready();
    while (go_on()) {
        for (int i = 0; i < COUNT; i++) check(&boxes[i], i);
        int fd = ask(&boxes[6], OPEN, 0);
        CHECK(ask(&boxes[8], HAS, fd) >= 0 && fcntl(fd, F_GETFD) == -1, "the siblings' descriptor");
        CHECK(ask(&boxes[8], CLOSE, fd) == 0 && ask(&boxes[6], HAS, fd) == -1, "the siblings' descriptor, closed");
    }
    for (int i = 0; i < 9; i++) boxes[i].finish = 1;
    PTHREAD(pthread_join(thread, NULL));
    for (int i = 0; i < 9; i++) {
        if (i != 7) join_child(boxes[i].pid);
    }
    return pass();
}
