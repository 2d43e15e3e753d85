// The library of embedded.c: code, read-only data and a counter.
#include <stdint.h>

#define B(i) (unsigned char)((i) * 7 + (i) / 256)
#define B4(i) B(i), B((i) + 1), B((i) + 2), B((i) + 3)
#define B16(i) B4(i), B4((i) + 4), B4((i) + 8), B4((i) + 12)
#define B64(i) B16(i), B16((i) + 16), B16((i) + 32), B16((i) + 48)
#define B256(i) B64(i), B64((i) + 64), B64((i) + 128), B64((i) + 192)
#define B1K(i) B256(i), B256((i) + 256), B256((i) + 512), B256((i) + 768)
#define B4K(i) B1K(i), B1K((i) + 1024), B1K((i) + 2048), B1K((i) + 3072)
#define B16K(i) B4K(i), B4K((i) + 4096), B4K((i) + 8192), B4K((i) + 12288)

const unsigned char library_table[65536] = {B16K(0), B16K(16384), B16K(32768), B16K(49152)};
uint64_t library_steps;

uint64_t library_step(uint64_t x) {
    library_steps++;
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
