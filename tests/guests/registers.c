// Every register: general ones, flags, x87, SSE, AVX and AVX-512 as far as the processor has them, held for milliseconds
// in a loop without a system call that compares them, in several threads with different values.
#include <cpuid.h>
#include <stddef.h>

#include "guest.h"

struct hold {
    uint64_t turns;      // 0
    uint64_t level;      // 8: 0 SSE, 1 AVX, 2 AVX-512
    uint64_t bad;        // 16
    uint64_t flags_out;  // 24
    uint32_t mxcsr;      // 32
    uint32_t mxcsr_out;  // 36
    uint16_t control;    // 40
    uint16_t control_out;
    uint32_t pad;
    uint64_t masks[8];      // 48
    uint64_t masks_out[8];  // 112
    unsigned char x87[8][16] __attribute__((aligned(64)));      // 192
    unsigned char x87_out[8][16];                               // 320
    unsigned char vec[32][64] __attribute__((aligned(64)));     // 448
    unsigned char vec_out[32][64];                              // 2496
};
_Static_assert(offsetof(struct hold, vec_out) == 2496, "offsets are used below");

void hold_registers(struct hold *h);
__asm__(
    ".text\n.globl hold_registers\n.type hold_registers,@function\nhold_registers:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "sub $40,%rsp\n mov %rdi,(%rsp)\n mov (%rdi),%rax\n mov %rax,8(%rsp)\n"
    "fnstcw 16(%rsp)\n stmxcsr 20(%rsp)\n"
    "fninit\n fldcw 40(%rdi)\n ldmxcsr 32(%rdi)\n"
    ".irp i,0,1,2,3,4,5,6,7\n fldt 192+16*\\i(%rdi)\n .endr\n"
    "cmpq $1,8(%rdi)\n je 2f\n ja 3f\n"
    ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movdqa 448+64*\\i(%rdi),%xmm\\i\n .endr\n jmp 4f\n"
    "2: .irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqa 448+64*\\i(%rdi),%ymm\\i\n .endr\n jmp 4f\n"
    "3: .irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "vmovdqa64 448+64*\\i(%rdi),%zmm\\i\n .endr\n"
    ".irp i,0,1,2,3,4,5,6,7\n kmovq 48+8*\\i(%rdi),%k\\i\n .endr\n"
    "4: mov $0x11111101,%rax\n mov $-0x22222202,%rbx\n mov $0x33333303,%rcx\n mov $-0x44444404,%rdx\n"
    "mov $0x55555505,%rsi\n mov $-0x66666606,%rdi\n mov $0x77777707,%rbp\n mov $-0x18181808,%r8\n"
    "mov $0x19191909,%r9\n mov $-0x1a1a1a0a,%r10\n mov $0x1b1b1b0b,%r11\n mov $-0x1c1c1c0c,%r12\n"
    "mov $0x1d1d1d0d,%r13\n mov $-0x1e1e1e0e,%r14\n mov $0x1f1f1f0f,%r15\n std\n"
    "5: cmp $0x11111101,%rax\n jne 6f\n cmp $-0x22222202,%rbx\n jne 6f\n cmp $0x33333303,%rcx\n jne 6f\n"
    "cmp $-0x44444404,%rdx\n jne 6f\n cmp $0x55555505,%rsi\n jne 6f\n cmp $-0x66666606,%rdi\n jne 6f\n"
    "cmp $0x77777707,%rbp\n jne 6f\n cmp $-0x18181808,%r8\n jne 6f\n cmp $0x19191909,%r9\n jne 6f\n"
    "cmp $-0x1a1a1a0a,%r10\n jne 6f\n cmp $0x1b1b1b0b,%r11\n jne 6f\n cmp $-0x1c1c1c0c,%r12\n jne 6f\n"
    "cmp $0x1d1d1d0d,%r13\n jne 6f\n cmp $-0x1e1e1e0e,%r14\n jne 6f\n cmp $0x1f1f1f0f,%r15\n jne 6f\n"
    "decq 8(%rsp)\n jnz 5b\n"
    "mov (%rsp),%rdi\n jmp 7f\n"
    "6: mov (%rsp),%rdi\n movq $1,16(%rdi)\n"
    "7: pushf\n pop %rax\n mov %rax,24(%rdi)\n cld\n"
    "fnstcw 42(%rdi)\n stmxcsr 36(%rdi)\n"
    ".irp i,7,6,5,4,3,2,1,0\n fstpt 320+16*\\i(%rdi)\n .endr\n"
    "cmpq $1,8(%rdi)\n je 2f\n ja 3f\n"
    ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movdqa %xmm\\i,2496+64*\\i(%rdi)\n .endr\n jmp 4f\n"
    "2: .irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqa %ymm\\i,2496+64*\\i(%rdi)\n .endr\n vzeroupper\n jmp 4f\n"
    "3: .irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
    "vmovdqa64 %zmm\\i,2496+64*\\i(%rdi)\n .endr\n"
    ".irp i,0,1,2,3,4,5,6,7\n kmovq %k\\i,112+8*\\i(%rdi)\n .endr\n vzeroupper\n"
    "4: fninit\n fldcw 16(%rsp)\n ldmxcsr 20(%rsp)\n"
    "add $40,%rsp\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
    ".size hold_registers,.-hold_registers\n");

static int damaged;
static void spoil(void) { damaged = 1; }

static int avx512(void) {
    unsigned a, b = 0, c, d;
    __cpuid_count(7, 0, a, b, c, d);
    return __builtin_cpu_supports("avx512f") && (b >> 30 & 1); // AVX512BW, for 64-bit masks
}

static void round_trip(uint64_t seed, uint64_t level) {
    struct hold h;
    memset(&h, 0, sizeof h);
    h.turns = 300000; // about a millisecond
    h.level = level;
    h.mxcsr = 0x1f80 | (seed & 3) << 13;        // a rounding mode of its own
    h.control = 0x037f & ~0x0c00u;              // x87: another rounding mode
    h.control |= (seed & 3) << 10;
    size_t width = level == 2 ? 64 : level == 1 ? 32 : 16, count = level == 2 ? 32 : 16;
    for (size_t i = 0; i < 32; i++)
        for (size_t k = 0; k < 64; k++) h.vec[i][k] = mix(seed * 4096 + i * 64 + k);
    for (size_t i = 0; i < 8; i++) {
        long double v = (long double)(int64_t)mix(seed + i) / 3;
        memcpy(h.x87[i], &v, 10);
        h.masks[i] = mix(seed * 8 + i);
    }
    hold_registers(&h);
    if (__atomic_exchange_n(&damaged, 0, __ATOMIC_RELAXED)) h.vec_out[count - 1][width - 1] ^= 1;
    CHECK(!h.bad, "a general register changed");
    CHECK(h.flags_out & 0x400, "flags are %#lx: direction is lost", h.flags_out);
    CHECK(h.mxcsr_out == h.mxcsr, "mxcsr %#x is now %#x", h.mxcsr, h.mxcsr_out);
    CHECK(h.control_out == h.control, "x87 control %#x is now %#x", h.control, h.control_out);
    for (size_t i = 0; i < 8; i++) {
        CHECK(!memcmp(h.x87[i], h.x87_out[i], 10), "x87 register %zu", i);
        if (level == 2) CHECK(h.masks[i] == h.masks_out[i], "mask register %zu", i);
    }
    for (size_t i = 0; i < count; i++) CHECK(!memcmp(h.vec[i], h.vec_out[i], width), "vector register %zu", i);
}

static void *worker(void *arg) {
    uint64_t id = (uintptr_t)arg, gs_value = mix(id), seen;
    MUST(syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, &gs_value));
    for (uint64_t turn = 0; wait_on(); turn++) {
        round_trip(id + turn * 16, id % 3 < 2 ? id % 3 : avx512() ? 2 : 1);
        __asm__ volatile("mov %%gs:0,%0" : "=r"(seen)::"memory");
        CHECK(seen == gs_value, "gs base");
    }
    return NULL;
}

int main(void) {
    pthread_t threads[3];
    uint64_t top = avx512() ? 2 : __builtin_cpu_supports("avx") ? 1 : 0;
    if (top == 0) printf("no AVX here\n");
    for (uintptr_t i = 0; i < 3; i++) PTHREAD(pthread_create(&threads[i], NULL, worker, (void *)(top ? i : 3 * i)));
    ready();
    for (uint64_t turn = 0; go_on() || damaged; turn++) round_trip(1000 + turn, top);
    for (int i = 0; i < 3; i++) PTHREAD(pthread_join(threads[i], NULL));
    return pass();
}
