// Holds one thing that can't be saved (yet), named by the argument, and goes on undisturbed while saves are refused.
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>

#include "guest.h"

static volatile int damaged;
static void spoil(void) { damaged = 1; }
static char *shm;

// A child, or its child, in a namespace of its own; -1 where that is not permitted.
static int own_namespace(const char *kind) {
    static const struct {
        const char *name;
        int flag;
    } kinds[] = {{"user", CLONE_NEWUSER}, {"net", CLONE_NEWNET}, {"uts", CLONE_NEWUTS}, {"ipc", CLONE_NEWIPC}, {"mnt", CLONE_NEWNS}, {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80}, {"pid", CLONE_NEWPID}};
    int flags = geteuid() ? CLONE_NEWUSER : 0, pipes[2], done = -1;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, kind)) flags |= kinds[i].flag;
    MUST(pipe(pipes));
    if (!MUST(fork())) {
        done = unshare(flags);
        // Pids and times are those of children.
        if (!done && (flags & (CLONE_NEWPID | 0x80)) && MUST(fork())) done = 1;
        if (done < 1) CHECK(write(pipes[1], &done, sizeof done) == sizeof done, "write");
        MUST(close(pipes[0]) | close(pipes[1]));
        while (wait_on()) {}
        _exit(0);
    }
    CHECK(read(pipes[0], &done, sizeof done) == sizeof done, "read");
    MUST(close(pipes[0]) | close(pipes[1]));
    return done;
}

// A ring of a child's whose requests a thread of the kernel takes; `ended`: that is gone with the child.
static int polled_elsewhere(int ended) {
    int pipes[2], fd = -1;
    MUST(pipe(pipes));
    pid_t child = MUST(fork());
    if (!child) {
        struct io_uring_params params = {.flags = IORING_SETUP_SQPOLL};
        fd = syscall(SYS_io_uring_setup, 4, &params);
        CHECK(write(pipes[1], &fd, sizeof fd) == sizeof fd, "write");
        MUST(close(pipes[0]) | close(pipes[1]));
        while (wait_on()) {}
        _exit(0);
    }
    CHECK(read(pipes[0], &fd, sizeof fd) == sizeof fd, "read");
    MUST(close(pipes[0]) | close(pipes[1]));
    if (fd >= 0) fd = MUST(syscall(SYS_pidfd_getfd, MUST(syscall(SYS_pidfd_open, child, 0)), fd, 0));
    if (!ended) return fd;
    MUST(kill(child, SIGKILL));
    MUST(waitpid(child, NULL, 0));
    return fd;
}

int main(int argc, char **argv) {
    const char *kind = argc > 1 ? argv[1] : "";
    int fd = -1, pair[2];
    char name[64];
    if (!strcmp(kind, "socket")) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
        // The urgent byte is one of two that are behind descriptors and are the same.
        for (int i = 0; i < 2; i++) {
            char control[CMSG_SPACE(sizeof(int))] = {0};
            struct msghdr message = {.msg_iov = &(struct iovec){"!", 1}, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
            *CMSG_FIRSTHDR(&message) = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
            memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), pair, sizeof(int));
            CHECK(sendmsg(pair[1], &message, 0) == 1, "sendmsg");
        }
        CHECK(send(pair[1], "!", 1, MSG_OOB) == 1, "send");
        fd = pair[0];
    }
    else if (!strcmp(kind, "early-tcp") || !strcmp(kind, "early-mixed") || !strcmp(kind, "early-unix") || !strncmp(kind, "lost", 4)) {
        // What is sent before anybody has taken the connection.
        int family = strcmp(kind, "early-unix") ? AF_INET : AF_UNIX;
        struct sockaddr_storage at = {.ss_family = family};
        socklen_t len = family == AF_UNIX ? sizeof(sa_family_t) : sizeof(struct sockaddr_in);
        if (family == AF_INET) ((struct sockaddr_in *)&at)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = MUST(socket(family, SOCK_STREAM, 0));
        MUST(bind(fd, (void *)&at, len));
        MUST(listen(fd, 5));
        len = sizeof at;
        MUST(getsockname(fd, (void *)&at, &len));
        int client = MUST(socket(family, SOCK_STREAM, 0));
        MUST(connect(client, (void *)&at, len));
        CHECK(send(client, "early", 5, 0) == 5, "send");
        if (!strcmp(kind, "lost-reset")) MUST(setsockopt(client, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger)));
        if (!strncmp(kind, "lost", 4)) MUST(close(client));
        else if (strcmp(kind, "early-mixed")) MUST(fcntl(client, F_SETFL, O_RDWR | O_ASYNC));
        // Others may come.
        FILE *note = fopen("port", "w");
        CHECK(note && fprintf(note, "%d", ntohs(((struct sockaddr_in *)&at)->sin_port)) > 0 && fclose(note) == 0, "port");
    } else if (!strcmp(kind, "pidfd")) fd = MUST(syscall(SYS_pidfd_open, getppid(), 0));
    else if (!strcmp(kind, "cork")) {
        fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
        MUST(setsockopt(fd, IPPROTO_UDP, UDP_CORK, &(int){1}, sizeof(int)));
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        MUST(connect(fd, (void *)&to, sizeof to));
        CHECK(send(fd, "held back", 9, 0) == 9, "send");
    } else if (!strcmp(kind, "icmp")) {
        // Nobody is at this port; the error waits with what caused it.
        fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof to;
        int gone = MUST(socket(AF_INET, SOCK_DGRAM, 0));
        MUST(bind(gone, (void *)&to, sizeof to));
        MUST(getsockname(gone, (void *)&to, &len));
        MUST(close(gone));
        MUST(setsockopt(fd, IPPROTO_IP, IP_RECVERR, &(int){1}, sizeof(int)));
        CHECK(sendto(fd, "x", 1, 0, (void *)&to, sizeof to) == 1, "sendto");
        CHECK(poll(&(struct pollfd){fd, 0, 0}, 1, 10000) == 1, "no error came");
    } else if (!strcmp(kind, "netlink")) {
        fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
        struct { struct nlmsghdr head; struct rtgenmsg body; } request = {
            {sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
        CHECK(send(fd, &request, sizeof request, 0) == sizeof request, "send");
    } else if (!strcmp(kind, "packet")) {
        fd = socket(AF_PACKET, SOCK_RAW, 0);
        struct tpacket_req ring = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
        if (fd >= 0) MUST(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring));
        // What the kernel or an administrator does not permit here is told by "fd -1".
    } else if (!strncmp(kind, "io_uring", 8)) {
        const char *more = kind + 8;
        struct io_uring_params params = {0};
        fd = !strncmp(more, "-thread", 7) ? polled_elsewhere(!strcmp(more, "-thread-ended")) : syscall(SYS_io_uring_setup, 4, &params);
        struct io_uring_rsrc_update update = {.offset = -1, .data = fd};
        if (!strcmp(more, "-number")) syscall(SYS_io_uring_setup, 4, &params); // a second one: which has the number?
        if (fd >= 0 && !strcmp(more, "-number")) CHECK(syscall(SYS_io_uring_register, fd, 20, &update, 1) == 1, "RING_FDS");
        if (fd >= 0 && !strcmp(more, "-eventfd")) {
            int event = MUST(eventfd(0, 0));
            MUST(eventfd(0, 0)); // which of the two?
            MUST(syscall(SYS_io_uring_register, fd, 4, &event, 1));
        }
        if (fd >= 0 && !strcmp(more, "-busy")) { // a read that never ends
            char *ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
            struct io_uring_sqe *sqe = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
            MUST(pipe(pair));
            *sqe = (struct io_uring_sqe){.opcode = IORING_OP_READ, .fd = pair[0], .addr = (uintptr_t)name, .len = 1};
            ++*(uint32_t *)(ring + params.sq_off.tail);
            CHECK(syscall(SYS_io_uring_enter, fd, 1, 0, 0, NULL, 0) == 1, "a request");
        }
    } else if (!strcmp(kind, "userfaultfd")) fd = syscall(SYS_userfaultfd, 1); // UFFD_USER_MODE_ONLY
    else if (!strcmp(kind, "perf")) {
        struct perf_event_attr clock = {.type = PERF_TYPE_SOFTWARE, .size = sizeof clock, .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1};
        fd = syscall(SYS_perf_event_open, &clock, 0, -1, -1, 0);
    } else if (!strcmp(kind, "bpf")) {
        union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
        fd = syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map);
    } else if (!strcmp(kind, "fanotify")) {
        fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY);
        MUST(mkdir("marked", 0755));
        if (fd >= 0) MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_CREATE, AT_FDCWD, "marked"));
        MUST(close(MUST(open("marked/new", O_WRONLY | O_CREAT, 0600))));
    } else if (!strcmp(kind, "fanotify-mask")) {
        fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY);
        MUST(close(MUST(open("marked", O_WRONLY | O_CREAT, 0600))));
        if (fd >= 0) MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK, FAN_OPEN, AT_FDCWD, "marked"));
        MUST(open("marked", O_WRONLY));
    } else if (!strcmp(kind, "fanotify-namespace")) {
        fd = fanotify_init(0x4000, 0); // FAN_REPORT_MNT; FAN_MARK_MNTNS, FAN_MNT_ATTACH
        if (fd >= 0 && fanotify_mark(fd, FAN_MARK_ADD | 0x110, 0x1000000, AT_FDCWD, "/proc/self/ns/mnt")) fd = -1;
    } else if (!strcmp(kind, "fanotify-decides")) {
        fd = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY);
        if (fd >= 0) {
            MUST(mkdir("marked", 0755));
            MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN_PERM | FAN_ONDIR, AT_FDCWD, "marked"));
        }
    }
    else if (!strcmp(kind, "secret")) fd = syscall(447, 0); // memfd_secret
    else if (!strcmp(kind, "aio")) {
        aio_context_t context = 0;
        fd = syscall(SYS_io_setup, 8, &context) == 0 ? 0 : -1;
        // One that has polled may poll.
        static struct iocb request = {.aio_lio_opcode = IOCB_CMD_POLL, .aio_buf = POLLOUT};
        struct iocb *list[] = {&request};
        struct io_event event;
        MUST(pipe(pair));
        request.aio_fildes = pair[1];
        CHECK(fd < 0 || syscall(SYS_io_submit, context, 1, list) == 1, "io_submit");
        CHECK(fd < 0 || syscall(SYS_io_getevents, context, 1, 1, &event, NULL) == 1, "io_getevents");
    }
    else if (!strcmp(kind, "lease")) {
        fd = MUST(open("leased", O_RDWR | O_CREAT, 0600));
        MUST(ftruncate(fd, 4096));
        MUST(fcntl(fd, F_SETLEASE, F_WRLCK));
        CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED, "mmap");
    } else if (!strcmp(kind, "proc")) fd = MUST(open("/proc/1/status", O_RDONLY));
    else if (!strcmp(kind, "proc-net")) fd = MUST(open("/proc/1/net/dev", O_RDONLY));
    else if (!strcmp(kind, "proc-net-task")) fd = MUST(open("/proc/1/task/1/net/dev", O_RDONLY));
    else if (!strcmp(kind, "notify")) {
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGURG};
        snprintf(name, sizeof name, "/ckpt-guest-%d", getpid());
        fd = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, NULL));
        MUST(mq_unlink(name));
        MUST(mq_notify(fd, &event));
    } else if (!strcmp(kind, "shm")) {
        // Attached by somebody who is not of the tree as well.
        int id = MUST(shmget(IPC_PRIVATE, 4096, 0600));
        shm = shmat(id, NULL, 0);
        MUST(shmctl(id, IPC_RMID, NULL));
        CHECK(shm != (char *)-1, "shmat");
        shm[0] = 's';
        pid_t pid = MUST(fork());
        if (pid == 0) {
            if (MUST(fork()) > 0) _exit(0);
            while (wait_on()) {}
            _exit(0);
        }
        join_child(pid);
        fd = id;
    } else if (!strncmp(kind, "gift-", 5)) {
        // Of somebody else by now, who lets us use it. Root could make it anew.
        FILE *note = fopen("ipcs", "w");
        CHECK(note, "ipcs");
        if (!strcmp(kind, "gift-shm")) {
            struct shmid_ds ds = {.shm_perm = {.uid = 0, .gid = getgid(), .mode = 0666}};
            fd = MUST(shmget(IPC_PRIVATE, 4096, 0600));
            fprintf(note, "ipcrm -m %d\n", fd);
            shm = shmat(fd, NULL, 0);
            CHECK(shm != (char *)-1, "shmat");
            shm[0] = 's';
            MUST(shmctl(fd, IPC_SET, &ds));
        } else if (!strcmp(kind, "gift-sem")) {
            struct semid_ds ds = {.sem_perm = {.uid = getuid(), .gid = 0, .mode = 0666}};
            fd = MUST(semget(IPC_PRIVATE, 1, 0600));
            fprintf(note, "ipcrm -s %d\n", fd);
            MUST(semctl(fd, 0, SETVAL, 1));
            MUST(semop(fd, &(struct sembuf){0, 1, 0}, 1));
            MUST(semctl(fd, 0, IPC_SET, &ds));
        } else if (!strcmp(kind, "gift-mqueue")) {
            snprintf(name, sizeof name, "/ckpt-guest-%d", getpid());
            fd = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, NULL));
            // One of its own groups, if there is another.
            gid_t groups[64];
            int count = MUST(getgroups(64, groups)), given = 0;
            for (int i = 0; i < count && !given; i++) given = groups[i] != getegid() && fchown(fd, -1, groups[i]) == 0;
            MUST(mq_unlink(name));
            if (!given) fd = -1;
        } else {
            struct msqid_ds ds = {.msg_perm = {.uid = 0, .gid = getgid(), .mode = 0666}, .msg_qbytes = 1000};
            fd = MUST(msgget(IPC_PRIVATE, 0600));
            fprintf(note, "ipcrm -q %d\n", fd);
            MUST(msgsnd(fd, &(struct { long kind; char text; }){1, 'm'}, 1, 0));
            MUST(msgctl(fd, IPC_SET, &ds));
        }
        CHECK(fclose(note) == 0, "ipcs");
        if (!geteuid()) fd = -1;
    } else if (!strcmp(kind, "seccomp")) {
        struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        struct sock_fprog program = {1, &allow};
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    } else if (!strcmp(kind, "dispatch")) {
        static char selector; // 0: allow
        MUST(prctl(59, 1, 0, 0, &selector)); // PR_SET_SYSCALL_USER_DISPATCH
    } else if (!strncmp(kind, "ns-", 3)) fd = own_namespace(kind + 3);
    else if (!strcmp(kind, "undumpable")) MUST(prctl(PR_SET_DUMPABLE, 0));
    else if (!strcmp(kind, "vfork")) {
        // A child that neither ends nor runs another program keeps its parent from standing still. Ended by the harness.
        ready();
        if (vfork() == 0)
            for (;;) pause();
        return pass();
    } else CHECK(0, "what is \"%s\"?", kind);
    char text[64];
    snprintf(text, sizeof text, "fd %d\n", fd);
    say(text);
    ready();
    while (go_on()) CHECK(!damaged && (!shm || shm[0] == 's'), "state");
    return pass();
}
