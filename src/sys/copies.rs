//! Copying and comparing bytes, for the compiler's own calls. musl's `memcpy` takes some 60 cycles for the few bytes that
//! most copies have (src/string/x86_64/memcpy.s: single bytes, then `rep movsq`), its `memcmp` goes byte by byte: 12 % of a
//! save of 64 threads. The linker takes these instead, as it meets them first. Baseline x86-64: no CPUID is asked, which
//! under a hypervisor costs more than it brings.
#![allow(unsafe_code)]
#![cfg(target_env = "musl")]

use std::arch::global_asm;

// Up to 128 bytes everything is loaded before anything is stored, so that pieces may overlap; longer ones are copied
// forwards, or backwards where the target begins inside the source.
global_asm!(
    ".pushsection .text.ckpt_copies, \"ax\", @progbits",
    ".globl memcpy",
    ".type memcpy, @function",
    ".globl memmove",
    ".type memmove, @function",
    ".p2align 6",
    "memcpy:",
    "memmove:",
    "mov rax, rdi",
    "cmp rdx, 16",
    "jb 20f",
    "cmp rdx, 32",
    "ja 30f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + rdx - 16], xmm1",
    "ret",
    // Fewer than 16.
    "20:",
    "cmp edx, 8",
    "jb 21f",
    "mov rcx, [rsi]",
    "mov rsi, [rsi + rdx - 8]",
    "mov [rdi], rcx",
    "mov [rdi + rdx - 8], rsi",
    "ret",
    "21:",
    "cmp edx, 4",
    "jb 22f",
    "mov ecx, [rsi]",
    "mov esi, [rsi + rdx - 4]",
    "mov [rdi], ecx",
    "mov [rdi + rdx - 4], esi",
    "ret",
    "22:",
    "cmp edx, 1",
    "jb 23f",
    "movzx ecx, byte ptr [rsi]",
    "je 24f",
    "movzx esi, word ptr [rsi + rdx - 2]",
    "mov [rdi + rdx - 2], si",
    "24:",
    "mov [rdi], cl",
    "23:",
    "ret",
    // 33 to 64.
    "30:",
    "cmp rdx, 64",
    "ja 40f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + rdx - 32]",
    "movups xmm3, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + rdx - 32], xmm2",
    "movups [rdi + rdx - 16], xmm3",
    "ret",
    // 65 to 128.
    "40:",
    "cmp rdx, 128",
    "ja 50f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "movups xmm4, [rsi + rdx - 64]",
    "movups xmm5, [rsi + rdx - 48]",
    "movups xmm6, [rsi + rdx - 32]",
    "movups xmm7, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + 32], xmm2",
    "movups [rdi + 48], xmm3",
    "movups [rdi + rdx - 64], xmm4",
    "movups [rdi + rdx - 48], xmm5",
    "movups [rdi + rdx - 32], xmm6",
    "movups [rdi + rdx - 16], xmm7",
    "ret",
    // More. The distance as an unsigned number is smaller than the length only where the target begins inside the source.
    "50:",
    "mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, rdx",
    "jb 70f",
    "cmp rdx, 2048",
    "jae 80f",
    // Forwards; the last 64 bytes are loaded first, as they may be overwritten, and stored last.
    "60:",
    "movups xmm4, [rsi + rdx - 64]",
    "movups xmm5, [rsi + rdx - 48]",
    "movups xmm6, [rsi + rdx - 32]",
    "movups xmm7, [rsi + rdx - 16]",
    "lea rdx, [rdi + rdx - 64]",
    "61:",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + 32], xmm2",
    "movups [rdi + 48], xmm3",
    "add rsi, 64",
    "add rdi, 64",
    "cmp rdi, rdx",
    "jb 61b",
    "movups [rdx], xmm4",
    "movups [rdx + 16], xmm5",
    "movups [rdx + 32], xmm6",
    "movups [rdx + 48], xmm7",
    "ret",
    // Backwards, likewise with the first 64.
    "70:",
    "movups xmm4, [rsi]",
    "movups xmm5, [rsi + 16]",
    "movups xmm6, [rsi + 32]",
    "movups xmm7, [rsi + 48]",
    "71:",
    "movups xmm0, [rsi + rdx - 16]",
    "movups xmm1, [rsi + rdx - 32]",
    "movups xmm2, [rsi + rdx - 48]",
    "movups xmm3, [rsi + rdx - 64]",
    "movups [rdi + rdx - 16], xmm0",
    "movups [rdi + rdx - 32], xmm1",
    "movups [rdi + rdx - 48], xmm2",
    "movups [rdi + rdx - 64], xmm3",
    "sub rdx, 64",
    "cmp rdx, 64",
    "ja 71b",
    "movups [rdi], xmm4",
    "movups [rdi + 16], xmm5",
    "movups [rdi + 32], xmm6",
    "movups [rdi + 48], xmm7",
    "ret",
    // Long and forwards: the processor does it by whole lines (Intel's optimization manual, "Fast-String Operation"), unless
    // the source lies closely above the target.
    "80:",
    "neg rcx",
    "cmp rcx, 64",
    "jb 60b",
    "movups xmm0, [rsi + rdx - 16]",
    "lea r8, [rdi + rdx - 16]",
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep movsq",
    "movups [r8], xmm0",
    "ret",
    ".size memcpy, . - memcpy",
    ".size memmove, . - memmove",
    // memcmp(3), and bcmp(3), which may tell more than it has to.
    ".globl memcmp",
    ".type memcmp, @function",
    ".globl bcmp",
    ".type bcmp, @function",
    ".p2align 6",
    "memcmp:",
    "bcmp:",
    "xor ecx, ecx",
    "cmp rdx, 16",
    "jb 93f",
    // Sixteen bytes at rcx; the last sixteen overlap with those before.
    "sub rdx, 16",
    "90:",
    "movups xmm0, [rdi + rcx]",
    "movups xmm1, [rsi + rcx]",
    "pcmpeqb xmm0, xmm1",
    "pmovmskb eax, xmm0",
    "sub eax, 0xffff",
    "jnz 91f",
    "cmp rcx, rdx",
    "je 92f",
    "add rcx, 16",
    "cmp rcx, rdx",
    "cmova rcx, rdx",
    "jmp 90b",
    // The lowest bit that is set is that of the first byte that differs: bits that were clear are taken off 0xffff.
    "91:",
    "neg eax",
    "bsf eax, eax",
    "add rcx, rax",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx ecx, byte ptr [rsi + rcx]",
    "sub eax, ecx",
    "92:",
    "ret",
    // Fewer than 16.
    "93:",
    "xor eax, eax",
    "cmp rcx, rdx",
    "je 95f",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx r8d, byte ptr [rsi + rcx]",
    "inc rcx",
    "sub eax, r8d",
    "je 93b",
    "95:",
    "ret",
    ".size memcmp, . - memcmp",
    ".size bcmp, . - bcmp",
    ".popsection",
);

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;
    use std::hint::black_box;

    const LENGTHS: [usize; 24] =
        [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 127, 128, 129, 500, 2047, 2048, 4096, 9000];

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn copies_are_whole_and_touch_nothing_else() {
        for len in LENGTHS {
            for (from, to) in [(0, 0), (1, 0), (0, 3), (9, 2)] {
                let source = pattern(len + from);
                let mut target = vec![0xa5; len + to + 40];
                target[to..to + len].copy_from_slice(black_box(&source[from..]));
                assert!((0..len).all(|i| target[to + i] == source[from + i]), "{len} from {from} to {to}");
                assert!(
                    target[..to].iter().chain(&target[to + len..]).all(|b| *b == 0xa5),
                    "{len} from {from} to {to}"
                );
            }
        }
    }

    #[test]
    fn pieces_may_overlap() {
        for len in LENGTHS {
            for distance in [1, 5, 16, 63, 64, 65, 200, 3000] {
                let before = pattern(len + distance);
                let mut up = before.clone();
                up.copy_within(black_box(0..len), distance);
                assert!((0..len).all(|i| up[distance + i] == before[i]), "{len} up by {distance}");
                assert!((0..distance.min(len)).all(|i| up[i] == before[i]), "{len} up by {distance}");
                let mut down = before.clone();
                down.copy_within(black_box(distance..distance + len), 0);
                assert!((0..len).all(|i| down[i] == before[distance + i]), "{len} down by {distance}");
                assert!((len..len + distance).all(|i| down[i] == before[i]), "{len} down by {distance}");
            }
        }
    }

    #[test]
    fn what_differs_first_counts() {
        for len in LENGTHS {
            let one = pattern(len);
            assert_eq!(black_box(&one).cmp(black_box(&one.clone())), Ordering::Equal);
            for at in (0..len).step_by(1 + len / 70).chain(len.checked_sub(1)) {
                let mut other = one.clone();
                other[at] = other[at].wrapping_add(128);
                // What follows says the opposite.
                if let Some(next) = other.get_mut(at + 1) {
                    *next = one[at + 1].wrapping_sub(1);
                }
                assert_eq!(black_box(&one).cmp(black_box(&other)), one[at].cmp(&other[at]), "{at} of {len}");
                assert!(black_box(&one) != black_box(&other), "{at} of {len}");
            }
        }
    }
}
