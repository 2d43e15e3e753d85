// What was asked of pieces of memory, also of files' and of what is shared: madvise(2), mlock(2), growing down, sealing; as
// smaps shows it and as fork obeys it.
#include "guest.h"

#define PAGE 4096
#define PIECES 18
static char *piece[PIECES];
static char text[1 << 18];
static void spoil(void) { MUST(madvise(piece[1], 4 * PAGE, MADV_DODUMP)); }

static char *map(int flags, int fd) {
    char *p = mmap(NULL, 6 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); // a page of nothing on either side
    CHECK(p != MAP_FAILED, "mmap");
    CHECK(mmap(p + PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_FIXED | flags, fd, 0) == p + PAGE, "mmap");
    memset(p + PAGE, 'm', 4 * PAGE);
    return p + PAGE;
}

// The VmFlags of a piece, in the kernel's order, without those that tell of the past or of the kernel's choices.
static void flags_of(char *p, char *out) {
    char key[32];
    snprintf(key, sizeof key, "%lx-", (unsigned long)p);
    slurp("/proc/self/smaps", text, sizeof text);
    char *at = strstr(text, key);
    CHECK(at, "no map at %p", (void *)p);
    at = strstr(at, "VmFlags:") + 8;
    char *end = strchr(at, '\n');
    *end = 0;
    *out = 0;
    for (char *word = strtok(at, " "); word; word = strtok(NULL, " "))
        if (strcmp(word, "sd") && strcmp(word, "me") && strcmp(word, "ac")) strcat(strcat(out, word), " ");
}

int main(void) {
    static const int advice[] = {MADV_DONTFORK, MADV_DONTDUMP, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_MERGEABLE, MADV_WIPEONFORK, MADV_SEQUENTIAL, MADV_RANDOM};
    char before[PIECES][128], after[128];
    int used[PIECES] = {0};
    // The last six: shared memory and a file's, private and shared.
    int file = MUST(open("mapped.bin", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    MUST(ftruncate(file, 4 * PAGE));
    for (int i = 0; i < 12; i++) piece[i] = map(MAP_PRIVATE | MAP_ANONYMOUS | (i == 9 ? MAP_NORESERVE : i == 10 ? MAP_GROWSDOWN : 0), -1);
    for (int i = 12; i < PIECES; i++) piece[i] = map(i < 14 ? MAP_SHARED | MAP_ANONYMOUS : i < 16 ? MAP_PRIVATE : MAP_SHARED, i < 14 ? -1 : file);
    for (int i = 12; i < PIECES; i++) MUST(madvise(piece[i], 4 * PAGE, i % 2 ? MADV_DONTDUMP : MADV_DONTFORK));
    for (int i = 12; i < PIECES; i++) MUST(madvise(piece[i], 4 * PAGE, i % 2 ? MADV_RANDOM : MADV_SEQUENTIAL));
    MUST(mlock(piece[15], PAGE)), MUST(mlock(piece[16], PAGE));
    for (int i = 0; i < 8; i++) used[i] = madvise(piece[i], 4 * PAGE, advice[i]) == 0; // some need a kernel option
    CHECK(used[0] && used[1] && used[5], "madvise");
    MUST(mlock(piece[8], 4 * PAGE));
#ifdef SYS_mseal
    int sealed = syscall(SYS_mseal, piece[11], 4ul * PAGE, 0) == 0;
#else
    int sealed = syscall(462, piece[11], 4ul * PAGE, 0) == 0;
#endif
    for (int i = 0; i < PIECES; i++) flags_of(piece[i], before[i]);
    ready();
    while (go_on()) {
        pid_t child = MUST(fork());
        if (!child) {
            unsigned char in_core[4];
            for (int i = 0; i < PIECES; i += i ? 2 : 12) CHECK(mincore(piece[i], PAGE, in_core) == -1 && errno == ENOMEM, "MADV_DONTFORK of piece %d is lost", i);
            CHECK(piece[5][0] == 0 && piece[5][4 * PAGE - 1] == 0, "MADV_WIPEONFORK is lost");
            CHECK(piece[1][0] == 'm', "plain memory in the child");
            _exit(0);
        }
        join_child(child);
        for (int i = 0; i < PIECES; i++) CHECK(piece[i][PAGE] == 'm' && piece[i][3 * PAGE] == 'm', "content of piece %d", i);
    }
    for (int i = 0; i < PIECES; i++) {
        flags_of(piece[i], after);
        CHECK(!strcmp(before[i], after), "piece %d had the flags %sand has %s", i, before[i], after);
    }
    if (sealed) CHECK(munmap(piece[11], 4 * PAGE) == -1 && errno == EPERM, "the seal is broken");
    return pass();
}
