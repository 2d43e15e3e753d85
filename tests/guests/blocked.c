// Threads blocked in every kind of waiting system call, without end or with an end far away. None may return before it is
// released: no EINTR that no signal caused, no error number the kernel keeps for itself.
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "guest.h"

// From linux/futex.h, which musl does not bring.
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_CMP_REQUEUE 4
#define FUTEX_LOCK_PI 6
#define FUTEX_UNLOCK_PI 7
#define FUTEX_WAIT_BITSET 9
#define FUTEX_PRIVATE_FLAG 128
#define FUTEX_BITSET_MATCH_ANY 0xffffffff

#define FAR 100000 // seconds
#define QUEUED (-1) // stands for SIGRTMIN + 9, which is no constant
static volatile int released;
static int wake[2], full[2], event, stay[2];
static uint32_t word, pi_lock, left, moved_to = 2; // moved_to: 0, or 2 while somebody has it and others wait
static int pair[2];
static sem_t semaphore;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pid_t child;
static const struct timespec far_off = {FAR, 0};

static void spoil(void) { // as a resume would that lets a call return early
    char c = 'x';
    CHECK(write(wake[1], &c, 1) == 1, "write");
    nap(100000);
}

static void on_signal(int s) { (void)s; }

static struct timespec deadline(clockid_t clock) {
    struct timespec t;
    MUST(clock_gettime(clock, &t));
    t.tv_sec += FAR;
    return t;
}

// Each does one call, and checks its result.
#define OVER(name) CHECK(released, "%s came back too early", name)
static void in_read(void) {
    char c;
    ssize_t n = read(wake[0], &c, 1);
    OVER("read");
    CHECK(n == 0, "read returned %zd", n);
}
static void in_write(void) {
    char block[8192];
    memset(block, 'w', sizeof block);
    ssize_t n = write(full[1], block, sizeof block);
    OVER("write");
    CHECK(n == sizeof block, "write returned %zd", n);
}
static void in_poll(int timeout) {
    struct pollfd p = {wake[0], POLLIN, 0};
    int n = poll(&p, 1, timeout);
    OVER("poll");
    CHECK(n == 1, "poll returned %d", n);
}
static void in_poll_endless(void) { in_poll(-1); }
static void in_poll_far(void) { in_poll(FAR * 1000); }
static void in_ppoll(void) {
    struct pollfd p = {wake[0], POLLIN, 0};
    sigset_t mask;
    sigfillset(&mask);
    int n = ppoll(&p, 1, &far_off, &mask);
    OVER("ppoll");
    CHECK(n == 1, "ppoll returned %d", n);
}
static void in_select(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(wake[0], &set);
    struct timeval t = {FAR, 0};
    int n = select(wake[0] + 1, &set, NULL, NULL, &t);
    OVER("select");
    CHECK(n == 1 && FD_ISSET(wake[0], &set), "select returned %d", n);
}
static void in_pselect(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(wake[0], &set);
    int n = pselect(wake[0] + 1, &set, NULL, NULL, NULL, NULL);
    OVER("pselect");
    CHECK(n == 1, "pselect returned %d", n);
}
// With a time-out that the kernel can't write the rest to.
static void in_ppoll_read_only(void) {
    struct pollfd p = {wake[0], POLLIN, 0};
    int n = syscall(SYS_ppoll, &p, 1, &far_off, NULL, 8);
    OVER("ppoll");
    CHECK(n == 1, "ppoll returned %d", n);
}
static void in_pselect_read_only(void) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(wake[0], &set);
    int n = syscall(SYS_pselect6, wake[0] + 1, &set, NULL, NULL, &far_off, NULL);
    OVER("pselect6");
    CHECK(n == 1, "pselect6 returned %d", n);
}
static void in_epoll(int timeout) {
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN | EPOLLHUP};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, wake[0], &e));
    int n = epoll_wait(ep, &e, 1, timeout);
    OVER("epoll_wait");
    CHECK(n == 1, "epoll_wait returned %d", n);
}
static void in_epoll_endless(void) { in_epoll(-1); }
static void in_epoll_far(void) { in_epoll(FAR * 1000); }
static void in_eventfd(void) {
    uint64_t v;
    ssize_t n = read(event, &v, 8);
    OVER("read of an eventfd");
    CHECK(n == 8, "read of an eventfd returned %zd", n);
}
static void in_futex(const struct timespec *timeout, int op) {
    long n = syscall(SYS_futex, &word, op | FUTEX_PRIVATE_FLAG, 0, timeout, NULL, FUTEX_BITSET_MATCH_ANY);
    OVER("futex");
    CHECK(n == 0 || errno == EAGAIN, "futex returned %ld", n);
}
static void in_futex_endless(void) { in_futex(NULL, FUTEX_WAIT); }
static void in_futex_far(void) { in_futex(&far_off, FUTEX_WAIT); }
static void in_futex_absolute(void) {
    struct timespec t = deadline(CLOCK_MONOTONIC);
    in_futex(&t, FUTEX_WAIT_BITSET);
}
static void in_nanosleep(void) {
    struct timespec rest;
    int n = nanosleep(&far_off, &rest); // ended by a signal
    OVER("nanosleep");
    CHECK(n == -1 && errno == EINTR && rest.tv_sec > FAR - 1000 && rest.tv_sec <= FAR, "nanosleep returned %d, %ld s left", n, (long)rest.tv_sec);
}
static void in_clock_nanosleep(void) {
    struct timespec t = deadline(CLOCK_MONOTONIC);
    int n = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    OVER("clock_nanosleep");
    CHECK(n == EINTR, "clock_nanosleep returned %d", n);
}
static void in_pause(void) {
    int n = pause();
    OVER("pause");
    CHECK(n == -1 && errno == EINTR, "pause returned %d", n);
}
static void in_sigsuspend(void) {
    sigset_t mask, now;
    sigemptyset(&mask);
    sigaddset(&mask, SIGHUP);
    int n = sigsuspend(&mask);
    OVER("sigsuspend");
    CHECK(n == -1 && errno == EINTR, "sigsuspend returned %d", n);
    PTHREAD(pthread_sigmask(SIG_SETMASK, NULL, &now));
    CHECK(sigismember(&now, SIGWINCH) && !sigismember(&now, SIGHUP), "sigsuspend did not put the mask back");
}
static void in_sigtimedwait(void) {
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 9);
    int n = sigtimedwait(&set, &info, &far_off);
    OVER("sigtimedwait");
    CHECK(n == SIGRTMIN + 9, "sigtimedwait returned %d", n);
}
static void in_sigwaitinfo(void) {
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 9);
    int n = sigwaitinfo(&set, &info);
    OVER("sigwaitinfo");
    CHECK(n == SIGRTMIN + 9, "sigwaitinfo returned %d", n);
}
static void in_sem_wait(void) {
    int n = sem_wait(&semaphore);
    OVER("sem_wait");
    CHECK(n == 0, "sem_wait returned %d", n);
}
static void in_sem_timedwait(void) {
    struct timespec t = deadline(CLOCK_REALTIME);
    int n = sem_timedwait(&semaphore, &t);
    OVER("sem_timedwait");
    CHECK(n == 0, "sem_timedwait returned %d", n);
}
static void in_cond_timedwait(void) {
    struct timespec t = deadline(CLOCK_REALTIME);
    PTHREAD(pthread_mutex_lock(&mutex));
    while (!released) PTHREAD(pthread_cond_timedwait(&condition, &mutex, &t));
    PTHREAD(pthread_mutex_unlock(&mutex));
}
static void in_wait4(void) {
    int status;
    pid_t n = wait4(child, &status, 0, NULL);
    OVER("wait4");
    CHECK(n == child && WIFEXITED(status) && WEXITSTATUS(status) == 5, "wait4 returned %d", n);
}
static void in_waitid(void) {
    siginfo_t info;
    int n = waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    // (Who waits by wait4 may have reaped it.)
    OVER("waitid");
    CHECK(n == 0 ? info.si_status == 5 : errno == ECHILD, "waitid returned %d", n);
}
// Moved from one futex to another before it waits there, as conditions do it with those whom they wake. A save brings it back
// to the first, which has another value by now.
static void in_requeued(void) {
    long n = syscall(SYS_futex, &left, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0);
    CHECK(n == 0 || errno == EAGAIN, "the futex that was left returned %ld", n);
    CHECK(left == 1, "the futex that was left returned before it was");
    while (__atomic_exchange_n(&moved_to, 2, __ATOMIC_SEQ_CST)) {
        n = syscall(SYS_futex, &moved_to, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2, NULL, NULL, 0);
        CHECK(n == 0 || errno == EAGAIN, "the other futex returned %ld", n);
    }
    OVER("a futex that was moved to");
    __atomic_store_n(&moved_to, 0, __ATOMIC_SEQ_CST);
    MUST(syscall(SYS_futex, &moved_to, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0));
}
static void in_epoll_pwait2(void) {
    int ep = MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN | EPOLLHUP};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, wake[0], &e));
    int n = syscall(441 /* epoll_pwait2 */, ep, &e, 1, &far_off, NULL, 8);
    OVER("epoll_pwait2");
    CHECK(n == 1, "epoll_pwait2 returned %d", n);
}
static void in_futex_waitv(void) {
    struct {
        uint64_t value, address;
        uint32_t flags, reserved;
    } both[2] = {{0, (uintptr_t)&word, 2 | FUTEX_PRIVATE_FLAG, 0}, {0, (uintptr_t)&both[1].reserved, 2 | FUTEX_PRIVATE_FLAG, 0}};
    struct timespec t = deadline(CLOCK_MONOTONIC);
    long n = syscall(449 /* futex_waitv */, both, 2, 0, &t, CLOCK_MONOTONIC);
    OVER("futex_waitv");
    CHECK(n == 0 || errno == EAGAIN, "futex_waitv returned %ld", n);
}
// Held by the first thread.
static void in_lock_pi(void) {
    long n = syscall(SYS_futex, &pi_lock, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0);
    OVER("FUTEX_LOCK_PI");
    CHECK(n == 0 && (pi_lock & 0x3fffffff) == (uint32_t)syscall(SYS_gettid), "FUTEX_LOCK_PI returned %ld", n);
    MUST(syscall(SYS_futex, &pi_lock, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0));
}
// With a time-out of the socket.
static void in_recv(void) {
    char c;
    ssize_t n = recv(pair[0], &c, 1, 0);
    OVER("recv");
    CHECK(n == 0, "recv returned %zd", n);
}
static void in_open(void) {
    int fd = open(guest_path("pipe-on-disk"), O_RDONLY);
    OVER("open of a FIFO");
    CHECK(fd >= 0, "open of a FIFO");
}
static void in_splice(void) {
    int p[2];
    MUST(pipe(p));
    ssize_t n = splice(wake[0], NULL, p[1], NULL, 1, 0);
    OVER("splice");
    CHECK(n == 0, "splice returned %zd", n);
}

static const struct call {
    void (*run)(void);
    int by_signal;
} calls[] = {
    {in_read, 0}, {in_write, 0}, {in_poll_endless, 0}, {in_poll_far, 0}, {in_ppoll, 0}, {in_select, 0}, {in_pselect, 0}, {in_ppoll_read_only, 0}, {in_pselect_read_only, 0},
    {in_epoll_endless, 0}, {in_epoll_far, 0}, {in_eventfd, 0}, {in_futex_endless, 0}, {in_futex_far, 0}, {in_futex_absolute, 0},
    {in_nanosleep, SIGUSR1}, {in_clock_nanosleep, SIGUSR1}, {in_pause, SIGUSR1}, {in_sigsuspend, SIGUSR1}, {in_sigtimedwait, QUEUED},
    {in_sigwaitinfo, QUEUED}, {in_sem_wait, 0}, {in_sem_timedwait, 0}, {in_cond_timedwait, 0}, {in_wait4, 0}, {in_open, 0}, {in_splice, 0},
    {in_waitid, 0}, {in_epoll_pwait2, 0}, {in_futex_waitv, 0}, {in_lock_pi, 0}, {in_recv, 0},
    {in_requeued, 0}, {in_requeued, 0},
};
enum { CALLS = sizeof calls / sizeof *calls };
static int over[CALLS];

static void *thread_main(void *arg) {
    const struct call *c = arg;
    c->run();
    __atomic_store_n(&over[c - calls], 1, __ATOMIC_SEQ_CST);
    return NULL;
}

int main(void) {
    struct sigaction act = {.sa_handler = on_signal};
    MUST(sigaction(SIGUSR1, &act, NULL));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 9);
    sigaddset(&set, SIGWINCH);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    MUST(pipe(wake)), MUST(pipe(full)), MUST(pipe(stay)), MUST(mkfifo("pipe-on-disk", 0600));
    event = MUST(eventfd(0, EFD_SEMAPHORE));
    MUST(sem_init(&semaphore, 0, 0));
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    struct timeval far = {FAR, 0};
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &far, sizeof far));
    MUST(syscall(SYS_futex, &pi_lock, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0));
    MUST(fcntl(full[1], F_SETFL, O_NONBLOCK));
    char block[4096] = {0};
    while (write(full[1], block, sizeof block) > 0) {}
    MUST(fcntl(full[1], F_SETFL, 0));
    child = MUST(fork());
    if (!child) {
        char c;
        MUST(close(stay[1])), MUST(close(wake[1])), MUST(close(pair[1]));
        CHECK(read(stay[0], &c, 1) == 0, "the child's read");
        _exit(5);
    }
    pthread_t threads[CALLS];
    for (int i = 0; i < CALLS; i++) PTHREAD(pthread_create(&threads[i], NULL, thread_main, (void *)&calls[i]));
    for (int moved = 0; moved < 2; nap(100))
        moved += MUST(syscall(SYS_futex, &left, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 0, 2ul, &moved_to, 0));
    left = 1;
    ready();
    while (go_on()) {
        for (int i = 0; i < CALLS; i++) CHECK(!over[i], "call %d is over", i);
    }
    released = 1;
    MUST(close(wake[1]));
    MUST(close(stay[1]));
    MUST(close(pair[1]));
    MUST(syscall(SYS_futex, &pi_lock, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0));
    __atomic_store_n(&moved_to, 0, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &moved_to, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
    word = 1;
    syscall(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1000, NULL, NULL, 0);
    PTHREAD(pthread_mutex_lock(&mutex));
    PTHREAD(pthread_cond_broadcast(&condition));
    PTHREAD(pthread_mutex_unlock(&mutex));
    uint64_t one = 1;
    CHECK(write(event, &one, 8) == 8, "write");
    MUST(sem_post(&semaphore)), MUST(sem_post(&semaphore));
    CHECK(read(full[0], block, sizeof block) == sizeof block, "read");
    CHECK(read(full[0], block, sizeof block) == sizeof block, "read");
    MUST(open("pipe-on-disk", O_WRONLY));
    for (int i = 0; i < CALLS; i++) {
        // A signal can find the thread before it is back in its call: until it has worked.
        while (calls[i].by_signal && !__atomic_load_n(&over[i], __ATOMIC_SEQ_CST)) {
            pthread_kill(threads[i], calls[i].by_signal == QUEUED ? SIGRTMIN + 9 : calls[i].by_signal);
            nap(1000);
        }
        PTHREAD(pthread_join(threads[i], NULL));
    }
    return pass();
}
