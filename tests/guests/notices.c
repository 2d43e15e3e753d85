// inotify(7): events that have not been read, of every kind; renames; the end of a watch; the number of the next one; one
// that asks for signals. One instance is left alone, another is read and looked around for again each time round.
#include <sys/inotify.h>

#include "guest.h"

enum { MOST = 64 };
struct seen { int wd; uint32_t mask, cookie; char name[256]; };
static struct seen expected[MOST], looks[MOST], ends[MOST], found[MOST];
static int alone, busy, asked;
static volatile sig_atomic_t signals;

static void count(int signal) { (void)signal, signals++; }

static int waiting(int fd) {
    int n;
    MUST(ioctl(fd, FIONREAD, &n));
    return n;
}

// Takes all events.
static int take(int fd, struct seen *out) {
    static char room[65536];
    int count = 0;
    ssize_t n = read(fd, room, sizeof room);
    for (char *at = room; at < room + (n > 0 ? n : 0);) {
        struct inotify_event *e = (void *)at;
        CHECK(count < MOST, "too many events");
        out[count] = (struct seen){.wd = e->wd, .mask = e->mask, .cookie = e->cookie};
        strcpy(out[count++].name, e->len ? e->name : "");
        at += sizeof *e + e->len;
    }
    return count;
}

static void make(const char *path) { MUST(close(MUST(open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644)))); }

// Does something of every kind in the directory n of this one, which ends as it was.
static void stir(const char *in) {
    MUST(chdir(guest_path(in)));
    make("n/a");
    int fd = MUST(open("n/a", O_RDWR | O_CLOEXEC));
    CHECK(write(fd, "x", 1) == 1 && pread(fd, &(char){0}, 1, 0) == 1, "write and read");
    MUST(close(fd));
    MUST(close(MUST(open("n/a", O_RDONLY | O_CLOEXEC))));
    MUST(chmod("n/a", 0600));
    MUST(rename("n/a", "n/a longer name than sixteen"));
    MUST(rename("n/a longer name than sixteen", "m/a"));
    MUST(rename("m/a", "n/b"));
    MUST(rename("n/b", "c"));
    MUST(rename("c", "n/b"));
    MUST(mkdir("n/d", 0755));
    MUST(close(MUST(open("n/d", O_RDONLY | O_DIRECTORY | O_CLOEXEC))));
    MUST(rmdir("n/d"));
    MUST(unlink("n/b"));
    MUST(close(MUST(open("n", O_RDONLY | O_DIRECTORY | O_CLOEXEC))));
    MUST(close(MUST(open("n/f", O_RDONLY | O_CLOEXEC))));
    MUST(chdir(guest_dir));
}

// The same without leaving anything changed at any time: whoever is resumed in the middle of it finds what there was.
static void look(const char *in) {
    MUST(chdir(guest_path(in)));
    MUST(close(MUST(open("n", O_RDONLY | O_DIRECTORY | O_CLOEXEC))));
    MUST(close(MUST(open("n/f", O_RDONLY | O_CLOEXEC))));
    MUST(close(MUST(open("n/f", O_WRONLY | O_CLOEXEC))));
    MUST(chmod("n/f", 0600));
    MUST(chdir(guest_dir));
}

// Watches n and n/f, and m for renames only.
static int begin(const char *in, int flags) {
    MUST(mkdir(in, 0755)), MUST(chdir(in)), MUST(mkdir("n", 0755)), MUST(mkdir("m", 0755));
    make("n/f");
    int fd = MUST(inotify_init1(flags | IN_NONBLOCK));
    MUST(inotify_add_watch(fd, "n", IN_ALL_EVENTS));
    MUST(inotify_add_watch(fd, "n/f", IN_OPEN | IN_CLOSE_NOWRITE));
    MUST(inotify_add_watch(fd, "m", IN_MOVE));
    MUST(chdir(guest_dir));
    return fd;
}

// Takes all events of an instance, which must be these.
static void expect(int fd, const struct seen *was, int n, const char *of) {
    int m = take(fd, found);
    const struct seen *is = found;
    for (int i = 0; i < n && i < m; i++) {
        CHECK(was[i].wd == is[i].wd && was[i].mask == is[i].mask && !strcmp(was[i].name, is[i].name), "%s: event %d is %#x of %d \"%s\", not %#x of %d \"%s\"", of, i,
              is[i].mask, is[i].wd, is[i].name, was[i].mask, was[i].wd, was[i].name);
        for (int j = 0; j < i; j++)
            CHECK((was[i].cookie == was[j].cookie) == (is[i].cookie == is[j].cookie), "%s: the cookies of %d and %d", of, j, i);
    }
    CHECK(n == m, "%s: %d events, not %d", of, m, n);
}

static void spoil(void) { take(alone, found); }

int main(void) {
    // What is expected is what the same came to once.
    int model = begin("model", IN_CLOEXEC);
    stir("model");
    int n = take(model, expected);
    CHECK(n == 29, "%d events", n);
    look("model");
    int few = take(model, looks);
    CHECK(few == 10, "%d events", few);
    MUST(close(model));
    alone = begin("alone", IN_CLOEXEC), busy = begin("busy", 0), asked = begin("asked", IN_CLOEXEC);
    stir("alone"), stir("asked"), look("busy");
    // The ends of two watches more, and the number after them.
    memcpy(ends, expected, sizeof ends);
    make("gone");
    int gone = MUST(inotify_add_watch(alone, "gone", IN_DELETE_SELF | IN_MOVE_SELF)), off = MUST(inotify_add_watch(alone, "/", IN_DELETE_SELF));
    MUST(rename("gone", "really gone"));
    MUST(unlink("really gone"));
    MUST(inotify_rm_watch(alone, off));
    ends[n] = (struct seen){gone, IN_MOVE_SELF, 0, ""}, ends[n + 1] = (struct seen){gone, IN_DELETE_SELF, 0, ""};
    ends[n + 2] = (struct seen){gone, IN_IGNORED, 0, ""}, ends[n + 3] = (struct seen){off, IN_IGNORED, 0, ""};
    int all = waiting(alone), less = waiting(asked);
    struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    MUST(sigaction(SIGRTMIN + 3, &action, NULL));
    MUST(fcntl(asked, F_SETOWN, getpid())), MUST(fcntl(asked, F_SETSIG, SIGRTMIN + 3)), MUST(fcntl(asked, F_SETFL, O_NONBLOCK | O_ASYNC));
    ready();
    while (go_on()) {
        CHECK(waiting(alone) == all && waiting(asked) == less, "%d and %d bytes of events, not %d and %d", waiting(alone), waiting(asked), all, less);
        CHECK(signals == 0, "%d signals", signals);
        CHECK(fcntl(asked, F_GETFL) == (O_NONBLOCK | O_ASYNC), "flags");
        expect(busy, looks, few, "the busy one");
        look("busy");
    }
    expect(alone, ends, n + 4, "the one left alone");
    expect(asked, expected, n, "the one with signals");
    CHECK(signals == 0, "%d signals", signals);
    stir("asked");
    CHECK(signals == n, "%d signals for %d events", signals, n);
    expect(asked, expected, n, "the one with signals");
    stir("alone");
    expect(alone, expected, n, "the one left alone");
    int next = MUST(inotify_add_watch(alone, "/", IN_DELETE_SELF));
    CHECK(next == off + 1, "the next watch has number %d, not %d", next, off + 1);
    return pass();
}
