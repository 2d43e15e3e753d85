// epoll(7): level, edge and one-shot, 64-bit data, nested sets, a set in a set, a thread blocked in it.
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "guest.h"

static int set, spoilt_fd;
static void spoil(void) { MUST(epoll_ctl(set, EPOLL_CTL_DEL, spoilt_fd, NULL)); }

static void add(int ep, int fd, uint32_t events, uint64_t data) {
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = events, .data.u64 = data}));
}

// What the set reports now, by data.
static uint32_t report(int ep, uint64_t data) {
    struct epoll_event e[16];
    int n = MUST(epoll_wait(ep, e, 16, 0));
    for (int i = 0; i < n; i++)
        if (e[i].data.u64 == data) return e[i].events;
    return 0;
}

static int late[2];
static void *blocked(void *arg) {
    struct epoll_event e;
    int n = epoll_wait(*(int *)arg, &e, 1, -1);
    CHECK(n == 1 && e.data.u64 == 0xb10c && e.events == EPOLLIN && told("go"), "blocked epoll_wait: %d", n);
    return NULL;
}

static void lines(int fd, char *out) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    slurp(path, out, 4096);
    char *at = strstr(out, "tfd:");
    CHECK(at, "no entries in %s", out);
    memmove(out, at, strlen(at) + 1);
    // Inode numbers of anonymous objects are not state.
    for (char *p = out; (p = strstr(p, " pos:")); p++)
        for (char *q = p; *q && *q != '\n'; q++) *q = ' ';
}

static int compare_lines(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static void sorted(char *text, char *out) {
    char *line[64];
    int n = 0;
    for (char *l = strtok(text, "\n"); l; l = strtok(NULL, "\n")) line[n++] = l;
    qsort(line, n, sizeof *line, compare_lines);
    *out = 0;
    for (int i = 0; i < n; i++) strcat(strcat(out, line[i]), "\n");
}

int main(void) {
    int p[2], edge = MUST(eventfd(0, EFD_NONBLOCK)), shot = MUST(eventfd(1, EFD_NONBLOCK)), armed = MUST(eventfd(1, EFD_NONBLOCK));
    MUST(pipe(p)), MUST(pipe(late));
    set = MUST(epoll_create1(EPOLL_CLOEXEC));
    int inner = MUST(epoll_create1(0)), sleeping = MUST(epoll_create1(0));
    CHECK(write(p[1], "level", 5) == 5, "write");
    spoilt_fd = p[0];
    add(set, p[0], EPOLLIN, 0x1111222233334444);
    add(set, p[1], EPOLLOUT | EPOLLET, 5);
    add(set, edge, EPOLLIN | EPOLLET, 0xedce);
    add(set, shot, EPOLLIN | EPOLLONESHOT, 0x5407);
    add(set, armed, EPOLLIN | EPOLLONESHOT | EPOLLET, 0xa43ed);
    add(set, inner, EPOLLIN, 0x1ee4);
    int watched = MUST(dup(late[0])); // the same description under two numbers
    add(inner, watched, EPOLLIN | EPOLLRDHUP | EPOLLPRI, 0xfffffffffffffff0);
    add(sleeping, late[0], EPOLLIN, 0xb10c);
    CHECK(report(set, 0x5407) == EPOLLIN, "one-shot"); // fired: disarmed from here on
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, armed, &(struct epoll_event){.events = EPOLLIN | EPOLLONESHOT | EPOLLET, .data.u64 = 0xa43ed}));
    CHECK(report(set, 0xa43ed) == EPOLLIN && report(set, 0xa43ed) == 0, "one-shot edge, armed twice");
    static char before[4096], after[4096], text[4096];
    lines(set, text), sorted(text, before);
    pthread_t thread;
    PTHREAD(pthread_create(&thread, NULL, blocked, &sleeping));
    ready();
    // Another process of the tree shares the set; what it adds is seen by all.
    int gate[2];
    MUST(pipe(gate));
    pid_t child = MUST(fork());
    if (!child) {
        char c;
        MUST(close(gate[1]));
        CHECK(read(gate[0], &c, 1) == 0, "read");
        CHECK(report(set, 0x1111222233334444) == EPOLLIN, "the set in the child");
        _exit(0);
    }
    MUST(close(gate[0]));
    while (go_on()) {
        CHECK(report(set, 0x1111222233334444) == EPOLLIN, "level-triggered entry");
        CHECK(report(set, 0x5407) == 0, "the one-shot entry fired twice");
        CHECK(report(set, 0x1ee4) == 0, "the nested set");
        uint64_t one = 1;
        CHECK(write(edge, &one, 8) == 8, "write");
        CHECK(report(set, 0xedce) == EPOLLIN, "the edge was not reported");
    }
    lines(set, text), sorted(text, after);
    size_t same = 0;
    while (before[same] && before[same] == after[same]) same++;
    while (same && before[same - 1] != '\n') same--;
    CHECK(!strcmp(before, after), "an entry was %.80s and is %.80s", before + same, after + same);
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, shot, &(struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 0x5407}));
    CHECK(report(set, 0x5407) == EPOLLIN && report(set, 0x5407) == 0, "one-shot, armed anew");
    MUST(close(gate[1]));
    join_child(child);
    CHECK(write(late[1], "x", 1) == 1, "write");
    CHECK(report(set, 0x1ee4) == EPOLLIN && report(inner, 0xfffffffffffffff0) == EPOLLIN, "the nested set is dead");
    PTHREAD(pthread_join(thread, NULL));
    return pass();
}
