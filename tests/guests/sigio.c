// Signals of descriptors (O_ASYNC): to a process, a thread, a group of processes, by F_SETOWN and F_SETOWN_EX, as SIGIO or as
// another signal, which says which descriptor it is of; and the same settings where nothing is signalled.
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/socket.h>

#include "guest.h"

enum { TO_PROCESS = 40, TO_THREAD, TO_GROUP, OF_UDP, OF_INOTIFY, UNUSED };
static int pipes[2][2], unused;
static int thread_pipe[2], asked[2], answered[2];

static void spoil(void) { MUST(fcntl(pipes[0][0], F_SETFL, 0)); }

static void owned(int fd, int kind, pid_t pid, int signal) {
    struct f_owner_ex owner = {kind, pid};
    if (pid) MUST(fcntl(fd, F_SETOWN_EX, &owner));
    if (signal) MUST(fcntl(fd, F_SETSIG, signal));
}
static void is_owned(int fd, int kind, pid_t pid, int signal) {
    struct f_owner_ex owner;
    MUST(fcntl(fd, F_GETOWN_EX, &owner));
    CHECK(owner.pid == pid && (!pid || (int)owner.type == kind), "fd %d is owned by %d (%d), not by %d (%d)", fd, owner.pid, owner.type, pid, kind);
    CHECK(fcntl(fd, F_GETSIG) == signal, "fd %d sends signal %d", fd, fcntl(fd, F_GETSIG));
}
// The signal comes, and only once.
static void comes(int signal, int fd) {
    sigset_t set;
    siginfo_t info;
    struct timespec long_enough = {20, 0}, none = {0, 0};
    sigemptyset(&set), sigaddset(&set, signal);
    CHECK(sigtimedwait(&set, &info, &long_enough) == signal, "signal %d does not come", signal);
    CHECK(info.si_fd == fd && info.si_code == POLL_IN && info.si_band & POLLIN, "signal %d is of fd %d (code %d, band %ld), not of %d", signal, info.si_fd, info.si_code, (long)info.si_band, fd);
    CHECK(sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN, "signal %d comes twice", signal);
}
static void put(int fd) { CHECK(write(fd, "x", 1) == 1, "write"); }
static void take(int fd) {
    char byte;
    CHECK(read(fd, &byte, 1) == 1, "read");
}

static void *run(void *arg) {
    (void)arg;
    pid_t tid = gettid();
    CHECK(write(answered[1], &tid, sizeof tid) == sizeof tid, "write");
    char byte;
    while (read(thread_pipe[0], &byte, 1) == 1 && byte == 'x') {
        comes(TO_THREAD, pipes[1][0]);
        put(answered[1]);
    }
    return NULL;
}

int main(void) {
    sigset_t all, set;
    sigfillset(&all);
    sigdelset(&all, SIGTERM);
    MUST(sigprocmask(SIG_SETMASK, &all, NULL));
    for (int i = 0; i < 2; i++) MUST(pipe(pipes[i]));
    int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0)), watch = MUST(inotify_init1(IN_NONBLOCK)), plain = MUST(open("plain", O_CREAT | O_RDWR, 0600));
    MUST(pipe(answered));
    MUST(pipe(thread_pipe));
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, run, NULL));
    pid_t tid, me = getpid();
    CHECK(read(answered[0], &tid, sizeof tid) == sizeof tid, "read");
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, asked));
    int group_pipe[2];
    MUST(pipe(group_pipe));
    pid_t child = MUST(fork());
    if (!child) {
        MUST(setpgid(0, 0));
        MUST(close(asked[0]));
        put(asked[1]);
        char byte;
        while (read(asked[1], &byte, 1) == 1) {
            // SIGIO itself says as much as another signal only if it was asked for.
            sigemptyset(&set), sigaddset(&set, SIGIO);
            siginfo_t info;
            struct timespec long_enough = {20, 0};
            CHECK(sigtimedwait(&set, &info, &long_enough) == SIGIO, "SIGIO does not come");
            put(asked[1]);
        }
        _exit(0);
    }
    MUST(close(asked[1]));
    take(asked[0]); // it has its group
    owned(pipes[0][0], F_OWNER_PID, me, TO_PROCESS);
    owned(pipes[1][0], F_OWNER_TID, tid, TO_THREAD);
    MUST(fcntl(group_pipe[0], F_SETOWN, -child));
    owned(udp, F_OWNER_PID, me, OF_UDP);
    owned(watch, F_OWNER_PID, me, OF_INOTIFY);
    owned(plain, F_OWNER_PID, 0, UNUSED); // a signal and nobody to send it to
    unused = MUST(dup(plain));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    MUST(bind(udp, (void *)&address, len));
    MUST(getsockname(udp, (void *)&address, &len));
    MUST(mkdir("watched", 0700));
    MUST(inotify_add_watch(watch, "watched", IN_ATTRIB));
    int sender = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    int async[] = {pipes[0][0], pipes[1][0], group_pipe[0], udp, watch};
    for (int i = 0; i < 5; i++) MUST(fcntl(async[i], F_SETFL, MUST(fcntl(async[i], F_GETFL)) | O_ASYNC));
    ready();
    while (go_on()) {
        is_owned(pipes[0][0], F_OWNER_PID, me, TO_PROCESS), is_owned(pipes[1][0], F_OWNER_TID, tid, TO_THREAD);
        is_owned(group_pipe[0], F_OWNER_PGRP, child, 0), is_owned(udp, F_OWNER_PID, me, OF_UDP);
        is_owned(watch, F_OWNER_PID, me, OF_INOTIFY), is_owned(unused, F_OWNER_PID, 0, UNUSED);
        for (int i = 0; i < 5; i++) CHECK(fcntl(async[i], F_GETFL) & O_ASYNC, "fd %d sends no signals", async[i]);
        put(pipes[0][1]);
        comes(TO_PROCESS, pipes[0][0]);
        take(pipes[0][0]);
        put(pipes[1][1]);
        put(thread_pipe[1]);
        take(answered[0]);
        take(pipes[1][0]);
        put(group_pipe[1]);
        put(asked[0]);
        take(asked[0]);
        take(group_pipe[0]);
        CHECK(sendto(sender, "x", 1, 0, (void *)&address, len) == 1, "sendto");
        comes(OF_UDP, udp);
        take(udp);
        char buffer[512];
        MUST(chmod("watched", 0700));
        MUST(read(watch, buffer, sizeof buffer));
        comes(OF_INOTIFY, watch);
        siginfo_t info;
        sigemptyset(&set);
        for (int signal = TO_PROCESS; signal <= UNUSED; signal++) sigaddset(&set, signal);
        sigaddset(&set, SIGIO);
        struct timespec none = {0, 0};
        int stray = sigtimedwait(&set, &info, &none);
        CHECK(stray == -1 && errno == EAGAIN, "a stray signal %d of fd %d", stray, info.si_fd);
    }
    CHECK(write(thread_pipe[1], "q", 1) == 1, "write");
    PTHREAD(pthread_join(thread, NULL));
    MUST(close(asked[0]));
    join_child(child);
    return pass();
}
