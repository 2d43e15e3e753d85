// brk(2) and malloc: the heap keeps its contents and its end, and goes on growing where it stood.
#include "guest.h"

#define BLOCKS 512
static unsigned char *block[BLOCKS];
static size_t length[BLOCKS];
static unsigned char stamp[BLOCKS];

static void check(int i) {
    for (size_t k = 0; k < length[i]; k++) CHECK(block[i][k] == (unsigned char)(stamp[i] + k), "block %d byte %zu", i, k);
}

static char *own; // a piece of the heap that malloc knows nothing of
static void spoil(void) {
    own[4321] ^= 8;
    for (int i = 0; i < BLOCKS; i++)
        if (block[i]) block[i][length[i] / 2] ^= 8;
}

int main(void) {
    CHECK(sbrk(100000) != (void *)-1, "sbrk");
    own = sbrk(8192);
    CHECK(own != (void *)-1, "sbrk");
    memset(own, 'h', 8192);
    ready();
    uint64_t step = 0;
    char *end = sbrk(0);
    while (go_on()) {
        CHECK((char *)sbrk(0) == end, "the break moved from %p to %p", end, sbrk(0));
        for (int n = 0; n < 64; n++, step++) {
            uint64_t r = mix(step);
            int i = r % BLOCKS;
            if (block[i]) check(i);
            free(block[i]);
            length[i] = 1 + (r >> 20) % 3000;
            stamp[i] = r >> 50;
            block[i] = malloc(length[i]);
            CHECK(block[i], "malloc");
            for (size_t k = 0; k < length[i]; k++) block[i][k] = stamp[i] + k;
        }
        if (step % 640 == 0) {
            char *at = sbrk(4096);
            CHECK(at == sbrk(0) - 4096, "the heap grew elsewhere");
            for (int k = 0; k < 4096; k++) CHECK(at[k] == 0, "fresh heap is not empty");
            memset(at, 'x', 4096);
        }
        end = sbrk(0);
    }
    for (int i = 0; i < BLOCKS; i++)
        if (block[i]) check(i);
    for (int k = 0; k < 8192; k++) CHECK(own[k] == 'h', "own piece of the heap");
    return pass();
}
