// A save looks into directories for what has lost or changed its name there: a deleted file, one whose first name is deleted, a
// socket that was renamed. Whoever watches those directories is told nothing of it. (Only of what it reads: the file is empty.)
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "guest.h"

static int empty, one, deleted, linked, door;

static void spoil(void) { MUST(close(MUST(open("watched", O_RDONLY | O_DIRECTORY | O_CLOEXEC)))); }

static int waiting(int fd) {
    int n;
    MUST(ioctl(fd, FIONREAD, &n));
    return n;
}

static void check(void) {
    struct stat s;
    union { struct inotify_event event; char room[4096]; } got;
    int n = waiting(empty);
    if (n) MUST(read(empty, &got, sizeof got));
    CHECK(n == 0, "event %#x of %s", got.event.mask, got.event.len ? got.event.name : "the directory");
    CHECK(waiting(one) == 32, "%d bytes of events with the one", waiting(one));
    MUST(fstat(deleted, &s));
    CHECK(s.st_nlink == 0 && s.st_size == 0, "the deleted file");
    MUST(fstat(linked, &s));
    CHECK(s.st_nlink == 1, "the linked file");
}

int main(void) {
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "watched/door"};
    MUST(mkdir("watched", 0755));
    deleted = MUST(open("watched/deleted", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    MUST(unlink("watched/deleted"));
    linked = MUST(open("watched/first", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    MUST(link("watched/first", "watched/second"));
    MUST(unlink("watched/first"));
    door = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(bind(door, (void *)&name, sizeof name));
    MUST(rename("watched/door", "watched/gate"));
    MUST(listen(door, 1));
    one = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    MUST(inotify_add_watch(one, "watched", IN_ALL_EVENTS));
    MUST(mkdir("watched/new", 0755));
    empty = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    MUST(inotify_add_watch(empty, "watched", IN_ALL_EVENTS));
    check();
    ready();
    do check();
    while (go_on());
    union { struct inotify_event event; char room[4096]; } got;
    CHECK(read(one, &got, sizeof got) == 32 && got.event.mask == (IN_CREATE | IN_ISDIR) && !strcmp(got.event.name, "new"), "event %#x of %s", got.event.mask, got.event.name);
    struct sockaddr_un now = {.sun_family = AF_UNIX, .sun_path = "watched/gate"};
    int caller = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(connect(caller, (void *)&now, sizeof now));
    return pass();
}
