// fanotify(7): groups with their flags, marks with masks, ignored ones and inodes, what events tell; a blocked reader; an
// empty one. For root also events with descriptors and, where $TMPDIR/marked is a mount that nobody else uses (or others'
// doings would be told of, too), marks on mounts and file systems.
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/vfs.h>

#include "guest.h"

#ifndef FAN_MARK_EVICTABLE
#define FAN_MARK_EVICTABLE 0x200
#endif
#ifndef FAN_MARK_IGNORE
#define FAN_MARK_IGNORE 0x400
#endif

static int fd;
static void spoil(void) {
    MUST(fanotify_mark(fd, FAN_MARK_REMOVE, FAN_MODIFY, AT_FDCWD, "w/f"));
}

// What events name a file by.
struct handle { struct file_handle head; unsigned char room[MAX_HANDLE_SZ]; };
static struct handle handle_of(const char *path) {
    struct handle h = {.head.handle_bytes = MAX_HANDLE_SZ};
    int mount;
    MUST(name_to_handle_at(AT_FDCWD, path, &h.head, &mount, 0));
    return h;
}

// Takes one event of a group that reports directories and names, which must be the only one that waits.
static void expect(int from, uint64_t mask, pid_t pid, const struct handle *directory, const char *name) {
    union { struct fanotify_event_metadata e; char room[4096]; } u;
    ssize_t n = read(from, &u, sizeof u);
    CHECK(n >= (ssize_t)sizeof u.e, "event %#llx of %s did not come", (long long)mask, name);
    CHECK(n == (ssize_t)u.e.event_len, "more than one event, of %#llx first", (long long)u.e.mask);
    CHECK(u.e.mask == mask && u.e.pid == pid && u.e.fd == FAN_NOFD, "event %#llx of pid %d with fd %d, not %#llx of %d for %s",
          (long long)u.e.mask, u.e.pid, u.e.fd, (long long)mask, (int)pid, name);
    struct fanotify_event_info_fid *info = (void *)(u.room + u.e.metadata_len);
    CHECK(info->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME, "information of type %d", info->hdr.info_type);
    struct file_handle *got = (void *)info->handle;
    CHECK(got->handle_bytes == directory->head.handle_bytes && got->handle_type == directory->head.handle_type &&
          !memcmp(got->f_handle, directory->head.f_handle, got->handle_bytes), "another directory, for %s", name);
    CHECK(!strcmp((char *)got->f_handle + got->handle_bytes, name), "\"%s\", not \"%s\"", (char *)got->f_handle + got->handle_bytes, name);
    struct statfs fs;
    MUST(statfs("w", &fs));
    CHECK(!memcmp(&info->fsid, &fs.f_fsid, sizeof fs.f_fsid), "another file system");
}

static int sleeping;
static struct handle late;
static void *blocked(void *unused) {
    (void)unused;
    expect(sleeping, FAN_CREATE, getpid(), &late, "late");
    CHECK(told("go"), "the sleeper woke up early");
    return NULL;
}

static void modify(const char *path) {
    int to = MUST(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    CHECK(write(to, "x", 1) == 1, "write");
    MUST(close(to));
}

static void make(const char *path) { MUST(close(MUST(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)))); }

// A child's doing: an ordinary user is not told whose it was.
static void by_another(int privileged, const struct handle *w) {
    pid_t child = MUST(fork());
    if (child == 0) {
        modify("w/f");
        _exit(0);
    }
    join_child(child);
    expect(fd, FAN_MODIFY, privileged ? child : 0, w, "f");
}

// Root's: an event with a descriptor, the only one that waits.
static int of_mount, of_files, of_content;
static char marked_file[PATH_MAX];
static void opened(int from, uint64_t mask, int flags, const char *file) {
    struct fanotify_event_metadata e[2];
    char path[64], name[PATH_MAX], byte;
    ssize_t n = read(from, e, sizeof e);
    CHECK(n == sizeof *e, "%zd bytes of events of mask %#llx", n, (long long)mask);
    snprintf(path, sizeof path, "/proc/self/fd/%d", e->fd);
    ssize_t len = MUST(readlink(path, name, sizeof name - 1));
    name[len] = 0;
    CHECK(e->pid == getpid() && !strcmp(name, file), "an event of pid %d about %s", e->pid, name);
    CHECK(e->mask == mask, "event %#llx, not %#llx", (long long)e->mask, (long long)mask);
    CHECK((fcntl(e->fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK)) == (flags & (O_ACCMODE | O_NONBLOCK)), "flags of the event's descriptor");
    CHECK(fcntl(e->fd, F_GETFD) == (flags & O_CLOEXEC ? FD_CLOEXEC : 0), "close-on-exec of the event's descriptor");
    CHECK(pread(e->fd, &byte, 1, 0) == 1 && byte == 'x', "what is in the event's file");
    MUST(close(e->fd));
}

static void mark_mounts(void) {
    of_mount = MUST(fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE, O_RDWR | O_NONBLOCK));
    of_files = MUST(fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY | O_CLOEXEC));
    of_content = MUST(fanotify_init(FAN_CLASS_CONTENT | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY));
    MUST(fanotify_mark(of_content, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, "w/content"));
    snprintf(marked_file, sizeof marked_file, "%s/marked", getenv("TMPDIR"));
    if (access(marked_file, F_OK)) {
        *marked_file = 0;
        return;
    }
    MUST(fanotify_mark(of_mount, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_CLOSE_WRITE, AT_FDCWD, marked_file));
    MUST(fanotify_mark(of_files, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_MODIFY, AT_FDCWD, marked_file));
    strcat(marked_file, "/file");
}

static void through_mounts(void) {
    modify("w/content");
    opened(of_content, FAN_MODIFY, O_RDONLY, guest_path("w/content"));
    if (!*marked_file) return;
    modify(marked_file);
    opened(of_mount, FAN_CLOSE_WRITE, O_RDWR | O_NONBLOCK, marked_file);
    opened(of_files, FAN_MODIFY, O_RDONLY | O_CLOEXEC, marked_file);
    MUST(unlink(marked_file));
}

int main(void) {
    for (const char **name = (const char *[]){"w", "w/quiet", "late", NULL}; *name; name++)
        if (mkdir(*name, 0755) && errno != EEXIST) CHECK(0, "mkdir");
    for (const char **name = (const char *[]){"w/f", "w/held", "w/once", "w/content", "w/quiet/q", NULL}; *name; name++)
        MUST(close(MUST(open(*name, O_RDWR | O_CREAT, 0644))));
    if (symlink("f", "w/link") && errno != EEXIST) CHECK(0, "symlink");
    int held = MUST(open("w/held", O_RDONLY)); // what may be evicted is not
    fd = MUST(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_NONBLOCK, O_RDONLY | O_CLOEXEC));
    sleeping = MUST(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_CLOEXEC, O_RDONLY));
    int empty = MUST(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDWR | O_APPEND));
    int of_namespaces = fanotify_init(0x4000, O_RDONLY); // FAN_REPORT_MNT, since Linux 6.14
    MUST(fcntl(empty, F_SETFL, O_NONBLOCK)); // unlike at its birth
    MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_CREATE | FAN_DELETE | FAN_ONDIR, AT_FDCWD, "w"));
    MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, "w/f"));
    MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_EVICTABLE, FAN_ATTRIB, AT_FDCWD, "w/held"));
    MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_DONT_FOLLOW, FAN_DELETE_SELF, AT_FDCWD, "w/link"));
    MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN | FAN_MODIFY, AT_FDCWD, "w/once"));
    MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK, FAN_OPEN, AT_FDCWD, "w/once"));
    MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_CREATE | FAN_MODIFY | FAN_EVENT_ON_CHILD, AT_FDCWD, "w/quiet"));
    MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY, FAN_MODIFY | FAN_EVENT_ON_CHILD, AT_FDCWD, "w/quiet"));
    // Has once ignored something.
    MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_DELETE_SELF, AT_FDCWD, "late"));
    MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_DELETE, AT_FDCWD, "late"));
    MUST(fanotify_mark(fd, FAN_MARK_REMOVE | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_DELETE, AT_FDCWD, "late"));
    MUST(fanotify_mark(sleeping, FAN_MARK_ADD, FAN_CREATE, AT_FDCWD, "late"));
    struct handle w = handle_of("w"), quiet = handle_of("w/quiet");
    late = handle_of("late");
    int set = MUST(epoll_create1(0));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.u64 = 77}));
    int root = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC, O_RDONLY), privileged = root >= 0;
    if (privileged) {
        MUST(close(root));
        mark_mounts();
    } else CHECK(errno == EPERM, "fanotify_init");
    static char before[8192], after[8192];
    fdinfo_from("fanotify ", fd, before, sizeof before);
    by_another(privileged, &w);
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, blocked, NULL));
    ready();
    while (go_on()) {
        int n;
        MUST(ioctl(fd, FIONREAD, &n));
        CHECK(n == 0, "%d bytes of events from nowhere", n);
        struct epoll_event e;
        CHECK(epoll_wait(set, &e, 1, 0) == 0, "the epoll reports something");
        unlink("w/new"), unlink("w/quiet/new"), rmdir("w/dir"); // left by one that was killed in here
        char rest[4096];
        (void)!read(fd, rest, sizeof rest);
        make("w/new");
        CHECK(epoll_wait(set, &e, 1, 0) == 1 && e.data.u64 == 77, "the epoll reports nothing");
        expect(fd, FAN_CREATE, getpid(), &w, "new");
        MUST(unlink("w/new"));
        expect(fd, FAN_DELETE, getpid(), &w, "new");
        MUST(mkdir("w/dir", 0755));
        expect(fd, FAN_CREATE | FAN_ONDIR, getpid(), &w, "dir");
        MUST(rmdir("w/dir"));
        expect(fd, FAN_DELETE | FAN_ONDIR, getpid(), &w, "dir");
        modify("w/f");
        expect(fd, FAN_MODIFY, getpid(), &w, "f");
        MUST(fchmod(held, 0644));
        expect(fd, FAN_ATTRIB, getpid(), &w, "held");
        modify("w/quiet/q"); // ignored
        make("w/quiet/new");
        expect(fd, FAN_CREATE, getpid(), &quiet, "new");
        MUST(unlink("w/quiet/new"));
        CHECK(fcntl(fd, F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(fd, F_GETFD) == 0, "flags");
        CHECK(fcntl(sleeping, F_GETFL) == O_RDWR && fcntl(sleeping, F_GETFD) == FD_CLOEXEC, "flags of the sleeper");
        CHECK(fcntl(empty, F_GETFL) == (O_RDWR | O_NONBLOCK), "flags of the empty one");
        if (privileged) through_mounts();
    }
    fdinfo_from("fanotify ", fd, after, sizeof after);
    CHECK(!strcmp(before, after), "the group was\n%s and is\n%s", before, after);
    by_another(privileged, &w);
    MUST(close(MUST(open("w/once", O_RDONLY)))); // ignored until it is modified
    int once = MUST(open("w/once", O_WRONLY));
    CHECK(write(once, "x", 1) == 1, "write");
    expect(fd, FAN_MODIFY, getpid(), &w, "once");
    MUST(close(once));
    MUST(close(MUST(open("w/once", O_RDONLY))));
    expect(fd, FAN_OPEN, getpid(), &w, "once");
    fdinfo_from("fanotify ", empty, after, sizeof after);
    unsigned flags, event_flags;
    CHECK(sscanf(after, "fanotify flags:%x event-flags:%x", &flags, &event_flags) == 2 && !strchr(strchr(after, '\n') + 1, '\n'), "the empty one");
    CHECK(flags == FAN_REPORT_FID && (event_flags & ~0x8000u) == (O_RDWR | O_APPEND), "flags of the empty one");
    if (of_namespaces >= 0) {
        fdinfo_from("fanotify ", of_namespaces, after, sizeof after);
        CHECK(sscanf(after, "fanotify flags:%x", &flags) == 1 && flags == 0x4000, "flags of the one for namespaces");
    }
    unlink("late/late");
    make("late/late");
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
