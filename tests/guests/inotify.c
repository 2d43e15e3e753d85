// inotify(7): watches with their numbers, masks and inodes; a gap in the numbers; one-shot; a blocked reader; empty ones.
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "guest.h"

static int fd, lost;
static void spoil(void) {
    char buffer[4096];
    MUST(inotify_rm_watch(fd, lost));
    (void)!read(fd, buffer, sizeof buffer); // IN_IGNORED
}

// Takes one event, which must be the only one that waits.
static void expect(int from, int wd, uint32_t mask, const char *name) {
    union { struct inotify_event e; char room[4096]; } u;
    ssize_t n = read(from, &u, sizeof u);
    CHECK(n >= (ssize_t)sizeof u.e, "event %#x of %s did not come", mask, name);
    CHECK(n == (ssize_t)(sizeof u.e + u.e.len), "more than one event, of %#x first", u.e.mask);
    CHECK(u.e.wd == wd && u.e.mask == mask && !strcmp(u.e.len ? u.e.name : "", name), "event %#x of watch %d \"%s\", not %#x of %d \"%s\"",
          u.e.mask, u.e.wd, u.e.len ? u.e.name : "", mask, wd, name);
}

static int sleeping;
static void *blocked(void *unused) {
    (void)unused;
    expect(sleeping, 1, IN_CREATE, "late");
    CHECK(told("go"), "the sleeper woke up early");
    return NULL;
}

int main(void) {
    if (mkdir("w", 0755) && errno != EEXIST) CHECK(0, "mkdir");
    if (mkdir("w/deep", 0755) && errno != EEXIST) CHECK(0, "mkdir");
    if (mkdir("late", 0755) && errno != EEXIST) CHECK(0, "mkdir");
    int file = MUST(open("w/deep/f", O_RDWR | O_CREAT, 0644)), once_file = MUST(open("w/once", O_RDWR | O_CREAT, 0644));
    if (symlink("deep/f", "w/link") && errno != EEXIST) CHECK(0, "symlink");
    fd = MUST(inotify_init1(IN_NONBLOCK));
    sleeping = MUST(inotify_init1(IN_CLOEXEC));
    int empty = MUST(inotify_init());
    int dir = MUST(inotify_add_watch(fd, "w", IN_CREATE | IN_DELETE | IN_ATTRIB | IN_ONLYDIR | IN_EXCL_UNLINK));
    int gap = MUST(inotify_add_watch(fd, "/", IN_DELETE_SELF));
    int f = MUST(inotify_add_watch(fd, "w/deep/f", IN_MODIFY));
    int link = MUST(inotify_add_watch(fd, "w/link", IN_DELETE_SELF | IN_DONT_FOLLOW));
    lost = MUST(inotify_add_watch(fd, "w/deep", IN_DELETE_SELF));
    int far = MUST(inotify_add_watch(fd, "/usr/share", IN_DELETE_SELF | IN_MOVE_SELF));
    int once = MUST(inotify_add_watch(fd, "w/once", IN_MODIFY | IN_ONESHOT));
    int mounted = MUST(inotify_add_watch(fd, "/dev/shm", IN_DELETE_SELF)); // below another file system
    MUST(inotify_rm_watch(fd, gap));
    expect(fd, gap, IN_IGNORED, "");
    MUST(inotify_add_watch(sleeping, "late", IN_CREATE));
    MUST(close(file)), MUST(close(once_file)); // by name alone from here on
    int set = MUST(epoll_create1(0));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.u64 = 77}));
    static char before[4096], after[4096];
    fdinfo_from("inotify ", fd, before, sizeof before);
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, blocked, NULL));
    ready();
    while (go_on()) {
        int n;
        MUST(ioctl(fd, FIONREAD, &n));
        CHECK(n == 0, "%d bytes of events from nowhere", n);
        struct epoll_event e;
        CHECK(epoll_wait(set, &e, 1, 0) == 0, "the epoll reports something");
        MUST(chmod("w/deep", 0755));
        CHECK(epoll_wait(set, &e, 1, 0) == 1 && e.data.u64 == 77, "the epoll reports nothing");
        expect(fd, dir, IN_ATTRIB | IN_ISDIR, "deep");
        file = MUST(open("w/deep/f", O_WRONLY | O_CLOEXEC));
        CHECK(write(file, "x", 1) == 1, "write");
        MUST(close(file));
        expect(fd, f, IN_MODIFY, "");
        CHECK(fcntl(fd, F_GETFL) == O_NONBLOCK && fcntl(sleeping, F_GETFD) == FD_CLOEXEC && fcntl(empty, F_GETFL) == 0, "flags");
    }
    MUST(close(MUST(open("w/new", O_WRONLY | O_CREAT | O_EXCL, 0644))));
    expect(fd, dir, IN_CREATE, "new");
    MUST(unlink("w/new"));
    expect(fd, dir, IN_DELETE, "new");
    fdinfo_from("inotify ", fd, after, sizeof after);
    CHECK(!strcmp(before, after), "the watches were\n%s and are\n%s", before, after);
    CHECK(link == 4 && lost == 5 && far == 6 && once == 7 && mounted == 8, "numbers");
    for (int i = 0; i < 2; i++) { // one-shot: the second is not reported
        once_file = MUST(open("w/once", O_WRONLY));
        CHECK(write(once_file, "x", 1) == 1, "write");
        MUST(close(once_file));
    }
    char buffer[4096];
    struct inotify_event first, second;
    ssize_t n = MUST(read(fd, buffer, sizeof buffer));
    memcpy(&first, buffer, sizeof first), memcpy(&second, buffer + sizeof first, sizeof second);
    CHECK(n == 2 * sizeof first && first.wd == once && first.mask == IN_MODIFY && second.mask == IN_IGNORED, "one-shot");
    int next = MUST(inotify_add_watch(fd, "w/once", IN_MODIFY));
    CHECK(next > mounted, "the number %d comes again", next);
    fdinfo_from("inotify ", empty, after, sizeof after);
    CHECK(!*after && inotify_add_watch(empty, "w", IN_CREATE) == 1, "the empty one");
    unlink("late/late");
    MUST(close(MUST(open("late/late", O_WRONLY | O_CREAT, 0644))));
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
