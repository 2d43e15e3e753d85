// Memory mapped from files: private maps with some pages changed, shared maps whose writes reach the file.
#include "guest.h"

#define PAGE 4096
#define PAGES 64
static unsigned char *private_map, *shared_map, *tail, *readonly;
static int fd;

static unsigned char byte(int page, int i) { return mix(page * PAGE + i); }

static void spoil(void) { private_map[9 * PAGE + 1] ^= 1; }

int main(void) {
    unsigned char page[PAGE];
    fd = MUST(open("mapped.bin", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    for (int p = 0; p < PAGES; p++) {
        for (int i = 0; i < PAGE; i++) page[i] = byte(p, i);
        CHECK(pwrite(fd, page, PAGE, (off_t)p * PAGE) == PAGE, "write");
    }
    int other = MUST(open("shared.bin", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    MUST(ftruncate(other, PAGES * PAGE + 100));
    private_map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    tail = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 60 * PAGE);
    shared_map = mmap(NULL, PAGES * PAGE + 100, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
    int read_fd = MUST(open("mapped.bin", O_RDONLY | O_CLOEXEC));
    readonly = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, read_fd, 0);
    MUST(close(read_fd));
    CHECK(private_map != MAP_FAILED && tail != MAP_FAILED && shared_map != MAP_FAILED && readonly != MAP_FAILED, "mmap");
    MUST(close(fd));
    for (int p = 0; p < PAGES; p += 3) memset(private_map + p * PAGE, 'p', PAGE);
    ready();
    uint64_t turn = 0;
    uint64_t *words = (uint64_t *)shared_map;
    while (go_on()) {
        turn++;
        for (int p = 0; p < PAGES; p++) {
            if (turn > 1) CHECK(words[p * 512] == turn - 1, "shared page %d before turn %lu", p, turn);
            words[p * 512] = turn;
            uint64_t in_file;
            CHECK(pread(other, &in_file, 8, (off_t)p * PAGE) == 8 && in_file == turn, "the write to page %d is not in the file", p);
        }
        memcpy(shared_map + PAGES * PAGE, &turn, 8);
        private_map[6 * PAGE + turn % PAGE] = 'q';
    }
    for (int p = 0; p < PAGES; p++) {
        for (int i = 0; i < PAGE; i++) {
            unsigned char have = private_map[p * PAGE + i];
            if (p == 6) CHECK(have == 'p' || have == 'q', "page 6 byte %d", i);
            else CHECK(have == (p % 3 == 0 ? 'p' : byte(p, i)), "private page %d byte %d is %d", p, i, have);
            CHECK(readonly[p * PAGE + i] == byte(p, i), "read-only page %d", p);
        }
    }
    for (int i = 0; i < 4 * PAGE; i++) CHECK(tail[i] == byte(60 + i / PAGE, i % PAGE), "tail byte %d", i);
    uint64_t in_file;
    CHECK(pread(other, &in_file, 8, PAGES * PAGE) == 8 && in_file == turn, "the tail of the shared map");
    fd = MUST(open("mapped.bin", O_RDONLY | O_CLOEXEC));
    CHECK(pread(fd, page, PAGE, 0) == PAGE && page[0] == byte(0, 0), "a private change reached the file");
    return pass();
}
