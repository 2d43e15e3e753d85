// Code made at run time: executed from anonymous memory, rewritten and switched between writable and executable all the time.
#include "guest.h"

typedef uint64_t function(uint64_t);
static unsigned char *code, *open_code;
static int damaged;
static void spoil(void) { damaged = 1; }

// mov $k,%rax; add %rdi,%rax; ret
static void emit(unsigned char *at, uint64_t k) {
    unsigned char body[] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0x01, 0xf8, 0xc3};
    memcpy(body + 2, &k, 8);
    memcpy(at, body, sizeof body);
}

int main(void) {
    code = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    open_code = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(code != MAP_FAILED && open_code != MAP_FAILED, "mmap");
    ready();
    for (uint64_t turn = 1; go_on() || damaged; turn++) {
        for (int i = 0; i < 200; i++) {
            uint64_t k = mix(turn * 1000 + i);
            MUST(mprotect(code, 4096, PROT_READ | PROT_WRITE));
            emit(code + i * 16, k);
            emit(open_code + i * 16, k + 1);
            MUST(mprotect(code, 4096, PROT_READ | PROT_EXEC));
            uint64_t got = ((function *)(void *)(code + i * 16))(turn) + damaged;
            damaged = 0;
            CHECK(got == k + turn, "made code returned %lu", got);
            CHECK(((function *)(void *)(open_code + i * 16))(turn) == k + 1 + turn, "code in writable memory");
        }
    }
    return pass();
}
