// Pseudo-terminals: settings, sizes, modes, what waits in both directions; a session with its controlling terminal,
// foreground and background groups, typing and ^C; slaves that were closed, a master that was closed.
#include "guest.h"
#include <sys/sysmacros.h>
#include <termios.h>

#define OUTPUT 5000
#define WAIT_NS 20000000000ll

struct shared {
    volatile int interrupts, background_interrupts, settled, stop;
};
static struct shared *shared;
static struct pair {
    int master, slave;
} lines, raw, packets, session;
static int left_master, orphan_slave;
// Of one description, which has O_CLOEXEC as a flag of its own: closed on exec, not closed on exec.
static int peer, peer_kept, lines_kept;
static struct termios lines_settings, raw_settings;

static struct pair open_pair(void) {
    struct pair p;
    p.master = MUST(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    MUST(unlockpt(p.master));
    p.slave = MUST(open(ptsname(p.master), O_RDWR | O_NOCTTY | O_CLOEXEC));
    return p;
}
static void put(int fd, const void *bytes, size_t n) { CHECK(write(fd, bytes, n) == (ssize_t)n, "write"); }
static void get(int fd, void *to, size_t n) {
    size_t have = 0;
    while (have < n) {
        struct pollfd p = {fd, POLLIN, 0};
        CHECK(poll(&p, 1, 5000) == 1, "nothing to read after %zu of %zu bytes", have, n);
        have += MUST(read(fd, (char *)to + have, n - have));
    }
}
static void nothing(int fd) {
    struct pollfd p = {fd, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 0, "there is more to read");
}
static void spoil(void) {
    char c;
    get(lines.master, &c, 1);
}
static unsigned char output_byte(int i) { return mix(i) % 251; }
static void number_fits(struct pair p) {
    struct stat st;
    unsigned n = ~0u;
    MUST(ioctl(p.master, TIOCGPTN, &n));
    MUST(fstat(p.slave, &st));
    CHECK(major(st.st_rdev) == 136 && minor(st.st_rdev) == n, "master is %u, slave %u", n, minor(st.st_rdev));
}
static void same_settings(int fd, const struct termios *want) {
    struct termios now;
    MUST(tcgetattr(fd, &now));
    CHECK(now.c_iflag == want->c_iflag && now.c_oflag == want->c_oflag && now.c_cflag == want->c_cflag && now.c_lflag == want->c_lflag,
          "flags of the terminal changed");
    CHECK(!memcmp(now.c_cc, want->c_cc, NCCS) && cfgetospeed(&now) == cfgetospeed(want), "characters or speed changed");
}
static void check(void) {
    number_fits(lines), number_fits(raw), number_fits(session);
    same_settings(lines.slave, &lines_settings), same_settings(lines.master, &lines_settings);
    same_settings(raw.slave, &raw_settings);
    CHECK(fcntl(lines.slave, F_GETFD) == FD_CLOEXEC, "close-on-exec");
    CHECK(fcntl(lines_kept, F_GETFD) == 0, "close-on-exec of a copy");
    CHECK(fcntl(peer, F_GETFD) == FD_CLOEXEC && fcntl(peer_kept, F_GETFD) == 0, "close-on-exec of what was opened by its master");
    struct winsize w;
    MUST(ioctl(lines.slave, TIOCGWINSZ, &w));
    CHECK(w.ws_row == 33 && w.ws_col == 77 && w.ws_xpixel == 5 && w.ws_ypixel == 6, "size %d x %d", w.ws_row, w.ws_col);
    int n = 0;
    MUST(ioctl(packets.master, TIOCGPKT, &n));
    CHECK(n == 1, "packets");
    n = 0;
    MUST(ioctl(raw.slave, TIOCGEXCL, &n));
    CHECK(n == 1, "exclusive");
    // By lines only whole ones count: "one\n", "two" and its end of file, one more end of file.
    MUST(ioctl(lines.slave, FIONREAD, &n));
    CHECK(n == 7, "%d bytes of whole lines", n);
    MUST(ioctl(raw.slave, FIONREAD, &n));
    CHECK(n == 256, "%d bytes", n);
    struct pollfd p = {left_master, POLLIN, 0};
    MUST(poll(&p, 1, 0));
    CHECK(p.revents & POLLHUP, "the slave that was closed is open");
    char c;
    CHECK(read(orphan_slave, &c, 1) == 0, "the master that was closed is open");
    CHECK(write(orphan_slave, "x", 1) == -1 && errno == EIO, "the master that was closed takes bytes");
}
static void last_checks(void) {
    char buf[OUTPUT];
    CHECK(MUST(read(lines.slave, buf, sizeof buf)) == 4 && !memcmp(buf, "one\n", 4), "first line");
    CHECK(MUST(read(lines.slave, buf, sizeof buf)) == 3 && !memcmp(buf, "two", 3), "second line");
    CHECK(MUST(read(lines.slave, buf, sizeof buf)) == 0, "end of file");
    nothing(lines.slave);
    put(lines.master, "ee\n", 3);
    CHECK(MUST(read(lines.slave, buf, sizeof buf)) == 6 && !memcmp(buf, "three\n", 6), "a line in two parts");
    get(lines.master, buf, OUTPUT);
    for (int i = 0; i < OUTPUT; i++) CHECK((unsigned char)buf[i] == output_byte(i), "byte %d for the master", i);
    nothing(lines.master);
    get(raw.slave, buf, 256);
    for (int i = 0; i < 256; i++) CHECK((unsigned char)buf[i] == i, "raw byte %d", i);
    nothing(raw.slave), nothing(raw.master);
    CHECK(MUST(read(packets.master, buf, sizeof buf)) == 6 && !memcmp(buf, "\0data!", 6), "a packet");
    nothing(packets.master);
}

static void on_interrupt(int s) { (void)s, shared->interrupts++; }
static void on_background(int s) { (void)s, shared->background_interrupts++; }

// A process of the session: checks where it is until it is over.
static void member(pid_t leader, int foreground) {
    CHECK(setpgid(0, 0) == 0, "setpgid");
    struct sigaction act = {.sa_handler = foreground ? on_interrupt : on_background, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGINT, &act, NULL));
    signal(SIGTTOU, SIG_IGN);
    if (foreground) MUST(tcsetpgrp(session.slave, getpgrp()));
    int kept = MUST(open("/dev/tty", O_RDWR | O_NONBLOCK));
    __sync_fetch_and_add(&shared->settled, 1);
    while (!shared->stop) {
        struct stat st;
        MUST(fstat(kept, &st));
        CHECK(st.st_rdev == makedev(5, 0), "/dev/tty is device %lx", (long)st.st_rdev);
        CHECK((MUST(fcntl(kept, F_GETFL)) & (O_ACCMODE | O_NONBLOCK)) == (O_RDWR | O_NONBLOCK), "flags of /dev/tty");
        CHECK(tcgetsid(kept) == leader, "/dev/tty that was open is another terminal");
        CHECK(tcgetsid(session.slave) == leader && getsid(0) == leader, "session");
        pid_t group = MUST(tcgetpgrp(session.slave));
        CHECK(group == 0 || foreground == (group == getpgrp()) || !foreground, "foreground group %d", group);
        int tty = MUST(open("/dev/tty", O_RDWR | O_CLOEXEC));
        pid_t sid = 0;
        MUST(ioctl(tty, TIOCGSID, &sid));
        CHECK(sid == leader, "/dev/tty is another terminal");
        MUST(close(tty));
        usleep(1000);
    }
    exit(0);
}

static void lead(void) {
    pid_t me = MUST(setsid());
    MUST(ioctl(session.slave, TIOCSCTTY, 0));
    signal(SIGINT, SIG_IGN), signal(SIGTTOU, SIG_IGN), signal(SIGHUP, SIG_IGN);
    pid_t children[2];
    for (int i = 0; i < 2; i++) {
        children[i] = MUST(fork());
        if (children[i] == 0) member(me, i == 0);
        // Whoever comes first.
        setpgid(children[i], children[i]);
    }
    while (shared->settled != 2) sched_yield();
    put(session.slave, "led\n", 4);
    while (!shared->stop) {
        pid_t group = MUST(tcgetpgrp(session.slave));
        CHECK(group == children[0], "the foreground group is %d, not %d", group, children[0]);
        usleep(1000);
    }
    for (int i = 0; i < 2; i++) join_child(children[i]);
    exit(0);
}

int main(void) {
    shared = MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    lines = open_pair(), raw = open_pair(), packets = open_pair(), session = open_pair();
    MUST(tcgetattr(lines.slave, &lines_settings));
    lines_settings.c_lflag &= ~ECHO;
    lines_settings.c_oflag &= ~OPOST;
    lines_settings.c_cc[VKILL] = 'K', lines_settings.c_cc[VEOL] = '#';
    cfsetospeed(&lines_settings, B9600), cfsetispeed(&lines_settings, B9600);
    MUST(tcsetattr(lines.slave, TCSANOW, &lines_settings));
    MUST(tcgetattr(lines.slave, &lines_settings));
    struct winsize w = {33, 77, 5, 6};
    MUST(ioctl(lines.master, TIOCSWINSZ, &w));
    put(lines.master, "one\ntwo\x04\x04thr", 12);
    unsigned char bytes[OUTPUT];
    for (int i = 0; i < OUTPUT; i++) bytes[i] = output_byte(i);
    put(lines.slave, bytes, OUTPUT);

    MUST(tcgetattr(raw.slave, &raw_settings));
    cfmakeraw(&raw_settings);
    raw_settings.c_cc[VMIN] = 3, raw_settings.c_cc[VTIME] = 4;
    MUST(tcsetattr(raw.slave, TCSANOW, &raw_settings));
    MUST(tcgetattr(raw.slave, &raw_settings));
    for (int i = 0; i < 256; i++) bytes[i] = i;
    put(raw.master, bytes, 256);
    MUST(ioctl(raw.slave, TIOCEXCL));

    int on = 1;
    lines_kept = MUST(dup(lines.slave));
    peer = MUST(ioctl(packets.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    peer_kept = MUST(dup(peer));
    MUST(ioctl(packets.master, TIOCPKT, &on));
    put(packets.slave, "data!", 5);

    struct pair p = open_pair();
    left_master = p.master;
    MUST(close(p.slave));
    p = open_pair();
    orphan_slave = p.slave;
    MUST(close(p.master));

    struct termios quiet;
    MUST(tcgetattr(session.slave, &quiet));
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    quiet.c_oflag &= ~(tcflag_t)OPOST;
    MUST(tcsetattr(session.slave, TCSANOW, &quiet));
    pid_t leader = MUST(fork());
    if (leader == 0) lead();
    char led[4];
    get(session.master, led, 4);
    // What was typed has gone the kernel's way, which takes a moment.
    int n = 0;
    for (int64_t from = now_ns(CLOCK_MONOTONIC); n != 256;) {
        CHECK(now_ns(CLOCK_MONOTONIC) - from < WAIT_NS, "what was typed does not arrive");
        struct pollfd both[] = {{lines.slave, POLLIN, 0}, {raw.slave, POLLIN, 0}};
        MUST(poll(both, 2, 0));
        MUST(ioctl(raw.slave, FIONREAD, &n));
    }
    ready();
    while (go_on()) {
        check();
        int before = shared->interrupts;
        put(session.master, "\x03", 1);
        for (int64_t from = now_ns(CLOCK_MONOTONIC); shared->interrupts == before;) {
            CHECK(now_ns(CLOCK_MONOTONIC) - from < WAIT_NS, "^C does not come");
            usleep(200);
        }
        CHECK(shared->background_interrupts == 0, "^C came to the background");
    }
    check();
    last_checks();
    shared->stop = 1;
    join_child(leader);
    return pass();
}
