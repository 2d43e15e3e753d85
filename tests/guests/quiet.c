// A process with much memory and children that do not touch it: `quiet MIB CHILDREN`.
#include "guest.h"

static unsigned char *area;
static size_t size;
static void spoil(void) { area[size / 2] ^= 1; }

static void check(void) {
    for (size_t i = 0; i < size / 8; i += 512) CHECK(((uint64_t *)area)[i] == mix(i), "word %zu", i);
}

int main(int argc, char **argv) {
    CHECK(argc == 3, "usage: quiet MIB CHILDREN");
    size = strtoul(argv[1], NULL, 10) << 20;
    int children = atoi(argv[2]);
    area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED, "mmap");
    for (size_t i = 0; i < size / 8; i++) ((uint64_t *)area)[i] = mix(i);
    pid_t child[children];
    for (int c = 0; c < children; c++) {
        child[c] = MUST(fork());
        if (!child[c]) {
            while (wait_on()) {}
            check();
            _exit(0);
        }
    }
    ready();
    while (go_on()) check();
    for (int c = 0; c < children; c++) join_child(child[c]);
    return pass();
}
