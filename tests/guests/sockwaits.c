// Calls that wait on a socket for its SO_RCVTIMEO or SO_SNDTIMEO, saved on the way: each ends when it should. A thread of the
// first process and one of a child wait in each call, on the same socket, one half a wait behind the other. Nobody ever sees
// another time-out than the one that was set, and who is served in time is served.
#include <netinet/in.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "guest.h"

#define MS 1000000ll
#define WAIT (4000 * MS)
#define EARLY (20 * MS)
#define LATE (1500 * MS)
static volatile int *damaged;
static void spoil(void) { *damaged = 1; }

static int silent[2], full[2], served[2], listener, busy, caller[2], tcp_listener, tcp[2], udp;
static int into[2][2], out_of[2][2], file; // pipes, a pair for each process
static volatile uint64_t *ends;

static const struct timeval wait_time = {WAIT / (1000 * MS), 0};
// Sockets with a time-out, and which.
static struct {
    int *socket, option;
} timed[] = {{&silent[0], SO_RCVTIMEO}, {&full[0], SO_SNDTIMEO}, {&served[0], SO_RCVTIMEO},
             {&listener, SO_RCVTIMEO}, {&caller[0], SO_SNDTIMEO}, {&caller[1], SO_SNDTIMEO}, {&tcp_listener, SO_RCVTIMEO},
             {&tcp[0], SO_RCVTIMEO}, {&udp, SO_RCVTIMEO}};
enum { TIMED = sizeof timed / sizeof *timed };

static char byte;
static struct sockaddr_un busy_name;
static struct iovec one = {&byte, 1};

static long by_recv(int who) { return (void)who, recv(silent[0], &byte, 1, 0); }
static long by_read(int who) { return (void)who, read(tcp[0], &byte, 1); }
static long by_readv(int who) { return (void)who, readv(tcp[0], &one, 1); }
static long by_recvmsg(int who) {
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};
    return (void)who, recvmsg(udp, &message, 0);
}
static long by_recvmmsg(int who) {
    struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &one, .msg_iovlen = 1}}};
    return (void)who, recvmmsg(udp, messages, 2, 0, NULL);
}
static long by_accept(int who) { return (void)who, accept(listener, NULL, NULL); }
static long by_accept4(int who) { return (void)who, accept4(tcp_listener, NULL, NULL, SOCK_CLOEXEC); }
static long by_send(int who) { return (void)who, send(full[0], &byte, 1, 0); }
static long by_write(int who) { return (void)who, write(full[0], &byte, 1); }
static long by_writev(int who) { return (void)who, writev(full[0], &one, 1); }
static long by_sendmsg(int who) {
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};
    return (void)who, sendmsg(full[0], &message, 0);
}
static long by_sendmmsg(int who) {
    struct mmsghdr messages[2] = {{.msg_hdr = {.msg_iov = &one, .msg_iovlen = 1}}};
    messages[1] = messages[0];
    return (void)who, sendmmsg(full[0], messages, 2, 0);
}
static long by_connect(int who) { return connect(caller[who], (void *)&busy_name, sizeof busy_name); }
static long by_splice(int who) { return splice(silent[0], NULL, into[who][1], NULL, 1, 0); }
static long by_splice_from_a_pipe(int who) { return splice(out_of[who][0], NULL, full[0], NULL, 1, 0); }
static long by_sendfile(int who) { return (void)who, sendfile(full[0], file, &(off_t){0}, 1); }
static long by_preadv2(int who) { return (void)who, preadv2(tcp[0], &one, 1, -1, 0); }

static const struct call {
    const char *name;
    long (*run)(int);
} calls[] = {
    {"recv", by_recv}, {"read", by_read}, {"readv", by_readv}, {"recvmsg", by_recvmsg}, {"recvmmsg", by_recvmmsg},
    {"accept", by_accept}, {"accept4", by_accept4}, {"send", by_send}, {"write", by_write}, {"writev", by_writev},
    {"sendmsg", by_sendmsg}, {"sendmmsg", by_sendmmsg}, {"connect", by_connect},
    {"splice", by_splice}, {"splice from a pipe", by_splice_from_a_pipe}, {"sendfile", by_sendfile}, {"preadv2", by_preadv2},
};
enum { CALLS = sizeof calls / sizeof *calls };

static volatile int working = CALLS; // in this process

static void *worker(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    const struct call *call = &calls[me % CALLS];
    int who = me / CALLS;
    int64_t start = now_ns(CLOCK_MONOTONIC) + who * WAIT / 2;
    while (now_ns(CLOCK_MONOTONIC) < start) nap(10000);
    while (!told("go") || *damaged) {
        int64_t from = now_ns(CLOCK_MONOTONIC), stood = guest_stood_still();
        long result = call->run(who);
        int error = errno;
        int64_t took = now_ns(CLOCK_MONOTONIC) - from;
        if (*damaged && me == 4) took += 2 * LATE;
        errno = error;
        CHECK(result == -1 && errno == EAGAIN, "%s returned %ld after %lld ms", call->name, result, took / MS);
        CHECK(took >= WAIT - EARLY, "%s took only %lld ms", call->name, took / MS);
        CHECK(took < WAIT + LATE + (*damaged ? 0 : guest_stood_still() - stood), "%s took %lld ms", call->name, took / MS);
        __atomic_fetch_add(ends, 1, __ATOMIC_RELAXED);
    }
    __atomic_fetch_sub(&working, 1, __ATOMIC_RELAXED);
    return NULL;
}

static void look(void) {
    for (int i = 0; i < TIMED; i++) {
        struct timeval now = {-1, -1};
        socklen_t len = sizeof now;
        MUST(getsockopt(*timed[i].socket, SOL_SOCKET, timed[i].option, &now, &len));
        CHECK(now.tv_sec == wait_time.tv_sec && now.tv_usec == 0, "socket %d has %ld.%06ld s", i, (long)now.tv_sec, (long)now.tv_usec);
    }
}

static void *looker(void *arg) {
    while (!told("go")) {
        for (int i = 0; i < 100; i++) look();
        sched_yield();
    }
    return arg;
}

// Gets a byte now and then, always in time.
static void *reader(void *arg) {
    unsigned char next = 0, got;
    while (!told("go")) {
        CHECK(recv(served[0], &got, 1, 0) == 1 && got == next, "%d instead of %d", got, next);
        next++;
    }
    return arg;
}

static void *writer(void *arg) {
    for (unsigned char next = 0;; next++) {
        int last = told("go");
        CHECK(send(served[1], &next, 1, MSG_NOSIGNAL) == 1 || (last && errno == EPIPE), "a byte to be read");
        if (last) return arg;
        nap(next % 8 ? 100 : 20000);
    }
}

static void threads_of(int who) {
    pthread_t threads[CALLS];
    for (uintptr_t i = 0; i < CALLS; i++) PTHREAD(pthread_create(&threads[i], NULL, worker, (void *)(who * CALLS + i)));
    if (who == 1) {
        while (working) mind_the_gap(), nap(10000);
        for (int i = 0; i < CALLS; i++) PTHREAD(pthread_join(threads[i], NULL));
        exit(0);
    }
}

int main(void) {
    for (int who = 0; who < 2; who++) {
        MUST(pipe2(into[who], O_CLOEXEC));
        MUST(pipe2(out_of[who], O_CLOEXEC));
        CHECK(write(out_of[who][1], "many bytes", 10) == 10, "write");
    }
    file = MUST(open("sent", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    CHECK(write(file, "x", 1) == 1, "write");
    ends = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    damaged = (int *)(ends + 1);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, silent));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, full));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, served));
    // Of messages only so many may wait; how many bytes of a stream may, depends on how they came.
    while (send(full[0], &byte, 1, MSG_DONTWAIT) > 0) {}
    CHECK(errno == EAGAIN, "filling");
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, (void *)&name, sizeof(sa_family_t)));
    MUST(listen(listener, 5));
    // A backlog of 0 takes one connection.
    busy_name.sun_family = AF_UNIX;
    strcpy(busy_name.sun_path, "busy");
    busy = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(busy, (void *)&busy_name, sizeof busy_name));
    MUST(listen(busy, 0));
    MUST(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (void *)&busy_name, sizeof busy_name));
    for (int i = 0; i < 2; i++) caller[i] = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof any;
    tcp_listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(tcp_listener, (void *)&any, len));
    MUST(listen(tcp_listener, 5));
    MUST(getsockname(tcp_listener, (void *)&any, &len));
    tcp[0] = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(tcp[0], (void *)&any, len));
    tcp[1] = MUST(accept(tcp_listener, NULL, NULL));
    udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    any.sin_port = 0;
    MUST(bind(udp, (void *)&any, len));
    for (int i = 0; i < TIMED; i++)
        MUST(setsockopt(*timed[i].socket, SOL_SOCKET, timed[i].option, &wait_time, sizeof wait_time));
    pid_t child = MUST(fork());
    if (child == 0) threads_of(1);
    threads_of(0);
    pthread_t thread;
    for (int i = 0; i < 3; i++) PTHREAD(pthread_create(&thread, NULL, (void *(*[])(void *)){looker, reader, writer}[i], NULL));
    // A save lets everybody go on and tries again, some times, where a file of /proc has been read in part.
    char part[10];
    CHECK(read(MUST(open("/proc/self/maps", O_RDONLY | O_CLOEXEC)), part, sizeof part) == sizeof part, "maps");
    ready();
    while (go_on()) {
        char text[32];
        look();
        int fd = MUST(open(guest_path("ends"), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        int n = snprintf(text, sizeof text, "%020lu\n", *ends);
        CHECK(pwrite(fd, text, n, 0) == n, "ends");
        MUST(close(fd));
    }
    join_child(child);
    return pass();
}
