// The address space as /proc/self/maps shows it: ranges, protections, offsets, files, [heap], [stack], [vdso], [vvar],
// and names that the program has given (PR_SET_VMA_ANON_NAME, where the kernel has them).
#include "guest.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#define MAX 512
struct range {
    unsigned long start, end, offset;
    char perms[8], name[256];
};
struct layout {
    size_t count;
    struct range ranges[MAX];
};
static struct layout before, after;
static char text[1 << 17];
static void *victim;

// Neighbours that differ in nothing count as one: whether the kernel merged them is not part of the state.
static void read_layout(struct layout *to) {
    slurp("/proc/self/maps", text, sizeof text);
    to->count = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        struct range r = {0};
        int at = 0;
        CHECK(sscanf(line, "%lx-%lx %7s %lx %*s %*s %n", &r.start, &r.end, r.perms, &r.offset, &at) == 4, "%s", line);
        snprintf(r.name, sizeof r.name, "%s", line + at);
        if (!strncmp(r.name, "/dev/zero", 9)) r.name[9] = 0;
        struct range *last = to->count ? &to->ranges[to->count - 1] : NULL;
        int file = r.name[0] == '/';
        if (last && last->end == r.start && !strcmp(last->perms, r.perms) && !strcmp(last->name, r.name) &&
            (!file || last->offset + (last->end - last->start) == r.offset)) {
            last->end = r.end;
            continue;
        }
        CHECK(to->count < MAX, "too many ranges");
        to->ranges[to->count++] = r;
    }
}

static void spoil(void) { MUST(munmap(victim, 4096)); }

// Has the stack grow beyond what anything here needs. In a frame of its own: what comes below main's is then within it.
__attribute__((noinline)) static void deepen(void) {
    char deep[256 * 1024];
    memset(deep, 1, sizeof deep);
    __asm__ volatile("" ::"r"(deep) : "memory");
}

int main(void) {
    deepen();
    victim = mmap(NULL, 5 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(victim != MAP_FAILED, "mmap");
    int fd = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    CHECK(mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, fd, 4096) != MAP_FAILED, "map of the executable");
    CHECK(mmap(NULL, 8192, PROT_NONE, MAP_SHARED, fd, 0) != MAP_FAILED, "shared map of the executable");
    MUST(close(fd));
    char *shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED, "shared map");
    (void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, (char *)victim + 8192, 4096, "a (name)");
    (void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, shared, 8192, "shared");
    CHECK(sbrk(40960) != (void *)-1, "sbrk");
    read_layout(&before);
    ready();
    while (go_on()) {}
    read_layout(&after);
    for (size_t i = 0; i < before.count && i < after.count; i++) {
        struct range *a = &before.ranges[i], *b = &after.ranges[i];
        CHECK(a->start == b->start && a->end == b->end && !strcmp(a->perms, b->perms) && !strcmp(a->name, b->name) &&
                  (a->name[0] != '/' || a->offset == b->offset),
              "%lx-%lx %s %lx %s is now %lx-%lx %s %lx %s", a->start, a->end, a->perms, a->offset, a->name, b->start,
              b->end, b->perms, b->offset, b->name);
    }
    CHECK(before.count == after.count, "%zu ranges are now %zu", before.count, after.count);
    return pass();
}
