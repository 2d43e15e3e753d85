// At a terminal that is not of the tree, as a shell has it with a job in the foreground: controlling terminal, foreground
// group, settings, keys that send signals, size. Whoever types at the terminal is told what became of each key.
#include "guest.h"

#include <sys/sysmacros.h>
#include <termios.h>

static struct termios settings;
static pid_t session, job;
static volatile sig_atomic_t interrupted, resized;

static void spoil(void) {
    struct termios others = settings;
    others.c_lflag |= ECHOK;
    others.c_cc[VQUIT] = 'R';
    MUST(tcsetattr(0, TCSANOW, &others));
}

static void interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

static void resize(int signal) {
    (void)signal;
    resized = 1;
}

static void check(pid_t foreground) {
    struct termios now;
    struct stat by_number, by_name;
    for (int fd = 0; fd < 3; fd++) CHECK(isatty(fd), "%d is no terminal", fd);
    MUST(tcgetattr(0, &now));
    CHECK(now.c_iflag == settings.c_iflag && now.c_oflag == settings.c_oflag && now.c_cflag == settings.c_cflag &&
              now.c_lflag == settings.c_lflag && !memcmp(now.c_cc, settings.c_cc, sizeof now.c_cc),
          "the terminal has other settings");
    CHECK(getsid(0) == session, "session %d instead of %d", getsid(0), session);
    CHECK(tcgetsid(0) == session, "the terminal is that of session %d, not %d", tcgetsid(0), session);
    CHECK(tcgetpgrp(0) == foreground, "foreground group %d instead of %d", tcgetpgrp(0), foreground);
    int fd = MUST(open("/dev/tty", O_RDWR | O_CLOEXEC));
    unsigned device;
    MUST(ioctl(fd, TIOCGDEV, &device));
    MUST(fstat(0, &by_number));
    CHECK((device >> 8 & 0xfff) == major(by_number.st_rdev), "/dev/tty is another terminal");
    MUST(close(fd));
    char name[64];
    CHECK(!ttyname_r(0, name, sizeof name), "the terminal has no name");
    MUST(stat(name, &by_name));
    CHECK(by_name.st_rdev == by_number.st_rdev, "%s is another terminal", name);
}

// One key; 0 if a signal came instead, which comes at no other time.
static char key(void) {
    char c;
    sigset_t none;
    struct pollfd typed = {.fd = 0, .events = POLLIN};
    sigemptyset(&none);
    int n = ppoll(&typed, 1, NULL, &none);
    CHECK(n == 1 || (n == -1 && errno == EINTR && (interrupted || resized)), "waiting for a key gives %d", n);
    if (n == -1) return 0;
    CHECK(read(0, &c, 1) == 1, "there is no key");
    return c;
}

static void in_foreground(void) {
    struct sigaction on_interrupt = {.sa_handler = interrupt}, on_resize = {.sa_handler = resize};
    MUST(sigaction(SIGINT, &on_interrupt, NULL));
    MUST(sigaction(SIGWINCH, &on_resize, NULL));
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGINT);
    sigaddset(&both, SIGWINCH);
    MUST(sigprocmask(SIG_BLOCK, &both, NULL));
    printf("ready\n");
    for (;;) {
        char c = key();
        if (told("spoil")) spoil();
        if (interrupted) {
            interrupted = 0;
            printf("interrupted\n");
        }
        if (resized) {
            resized = 0;
            struct winsize size;
            MUST(ioctl(0, TIOCGWINSZ, &size));
            printf("size %d %d\n", size.ws_row, size.ws_col);
        }
        check(getpgrp());
        if (c) printf("key %c\n", c);
        if (c == 'q') _exit(0);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    signal(SIGTTOU, SIG_IGN);
    session = getsid(0);
    MUST(tcgetattr(0, &settings));
    settings.c_lflag &= ~(ICANON | ECHO);
    settings.c_cc[VMIN] = 1;
    settings.c_cc[VQUIT] = 'Q';
    MUST(tcsetattr(0, TCSANOW, &settings));
    job = MUST(fork());
    if (!job) {
        MUST(setpgid(0, 0));
        MUST(tcsetpgrp(0, getpid()));
        in_foreground();
    }
    for (;;) {
        int status;
        CHECK(waitpid(job, &status, WUNTRACED) == job, "the job is gone");
        if (WIFEXITED(status)) {
            CHECK(WEXITSTATUS(status) == 0, "the job failed");
            break;
        }
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP, "the job has status %x", status);
        MUST(tcsetpgrp(0, getpgrp()));
        check(getpgrp());
        printf("stopped\n");
        while (key() != 'f') check(getpgrp());
        MUST(tcsetpgrp(0, job));
        MUST(kill(-job, SIGCONT));
    }
    MUST(tcsetpgrp(0, getpgrp()));
    printf("PASS\n");
    return 0;
}
