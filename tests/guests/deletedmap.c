// A mapped file that has been deleted: its content lives on, shared by everyone who maps it.
#include "guest.h"

#define SIZE (256 * 1024)
static volatile uint32_t *shared;
static unsigned char *copy;

static void spoil(void) { copy[77777] ^= 1; }

int main(void) {
    int fd = MUST(open("doomed.bin", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    MUST(ftruncate(fd, SIZE));
    unsigned char *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED, "mmap");
    for (int i = 4096; i < SIZE; i++) map[i] = mix(i);
    copy = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(copy != MAP_FAILED, "mmap");
    copy[8192] = 'c';
    // Another one that keeps its descriptor: both must be the same file still.
    int kept = MUST(open("kept.bin", O_RDWR | O_CREAT | O_EXCL, 0600));
    MUST(ftruncate(kept, 8192));
    volatile uint64_t *window = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, kept, 0);
    CHECK(window != MAP_FAILED, "mmap");
    MUST(unlink("doomed.bin"));
    MUST(unlink("kept.bin"));
    MUST(close(fd));
    shared = (uint32_t *)map;
    pid_t child = MUST(fork());
    if (child == 0) {
        // Answers every number with its successor.
        while (!told("go"))
            if (shared[0] % 2) __atomic_fetch_add(&shared[0], 1, __ATOMIC_SEQ_CST);
            else nap(100);
        _exit(0);
    }
    ready();
    uint64_t turn = 0;
    while (go_on()) {
        if (shared[0] % 2 == 0) __atomic_fetch_add(&shared[0], 1, __ATOMIC_SEQ_CST);
        uint32_t seen = shared[0];
        for (int i = 0; i < 2000 && shared[0] == seen && seen % 2 && !told("go"); i++) nap(1000);
        CHECK(told("go") || shared[0] % 2 == 0, "the other process does not see the memory");
        window[3] = ++turn;
        uint64_t in_file = 0;
        CHECK(pread(kept, &in_file, 8, 24) == 8 && in_file == turn, "descriptor and map are different files");
    }
    for (int i = 4096; i < SIZE; i++) {
        CHECK(map[i] == (unsigned char)mix(i), "byte %d", i);
        CHECK(copy[i] == (i == 8192 ? 'c' : (unsigned char)mix(i)), "private byte %d", i);
    }
    struct stat st;
    MUST(fstat(kept, &st));
    CHECK(st.st_nlink == 0 && st.st_size == 8192, "links %d size %ld", (int)st.st_nlink, (long)st.st_size);
    CHECK(!told("kept.bin") && !told("doomed.bin"), "a deleted file is back");
    join_child(child);
    return pass();
}
