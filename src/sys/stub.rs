//! The restore stub: some fifty bytes of position-independent code that run a table of system calls in one go.
//!
//! A table entry is eight words: number, six arguments, result. The stub stops (int3) at a negative number, and after
//! a call that failed; continued, it goes on with the next entry. A second loop is what stand-ins do for life.
#![allow(unsafe_code)]

use crate::model::Addr;

std::arch::global_asm!(
    ".pushsection .text.ckpt_stub,\"ax\",@progbits",
    ".balign 64",
    ".globl ckpt_stub_start",
    ".globl ckpt_stub_syscall",
    ".globl ckpt_stub_standin",
    ".globl ckpt_stub_end",
    "ckpt_stub_start:",
    "2: mov rax, [rbx]",
    "test rax, rax",
    "js 3f",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "ckpt_stub_syscall:",
    "syscall",
    "mov [rbx + 56], rax",
    "add rbx, 64",
    "cmp rax, -4095",
    "jb 2b",
    "3: int3",
    "jmp 2b",
    // A stand-in. r12: the child of whose stops and end descriptor r13 is told (or 0); r14: not 0 for one that only has to be
    // there; rsp: room for a status.
    "ckpt_stub_standin:",
    "test r14, r14",
    "jnz 6f",
    "4: mov edi, -1",
    "mov rsi, rsp",
    "mov edx, 2", // WUNTRACED; no __WALL: idle stand-ins, which have no exit signal, don't count as children
    "xor r10d, r10d",
    "mov eax, 61",
    "syscall",
    "test rax, rax",
    "js 5f",
    "cmp rax, r12",
    "jne 4b",
    "mov rdi, r13",
    "mov rsi, rsp",
    "mov edx, 4",
    "mov eax, 1",
    "syscall",
    "cmp byte ptr [rsp], 0x7f", // stopped, not ended
    "je 4b",
    "mov rdi, r13",
    "mov eax, 3",
    "syscall",
    "xor r12d, r12d",
    "jmp 4b",
    "5: cmp rax, -10", // ECHILD: nobody is left
    "jne 4b",
    "xor edi, edi",
    "mov eax, 231",
    "syscall",
    "6: mov eax, 34",
    "syscall",
    "jmp 6b",
    "ckpt_stub_end:",
    // A table of calls in a program that is being saved; then rt_sigreturn, with the stack pointer on the frame.
    ".globl ckpt_calls_start",
    ".globl ckpt_calls_return",
    ".globl ckpt_calls_end",
    "ckpt_calls_start:",
    "7: mov rax, [rbx]",
    "test rax, rax",
    "js 8f",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "ckpt_calls_return:",
    "mov [rbx + 56], rax",
    "add rbx, 64",
    "jmp 7b",
    "8: mov eax, 15",
    "syscall",
    "ckpt_calls_end:",
    ".popsection",
);

unsafe extern "C" {
    static ckpt_stub_start: u8;
    static ckpt_stub_syscall: u8;
    static ckpt_stub_standin: u8;
    static ckpt_stub_end: u8;
    static ckpt_calls_start: u8;
    static ckpt_calls_return: u8;
    static ckpt_calls_end: u8;
}

/// Code that runs a table of calls in a program that is being saved, and then the signal frame it stands on.
pub fn calls() -> &'static [u8] {
    let start = &raw const ckpt_calls_start;
    let len = &raw const ckpt_calls_end as usize - start as usize;
    // SAFETY: as in `code`.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Offset in [`calls`] of the instruction behind its system call.
pub fn calls_return_offset() -> u64 {
    &raw const ckpt_calls_return as u64 - &raw const ckpt_calls_start as u64
}

/// Where the stub is in this very program (and in a fork of it).
pub fn here() -> Addr {
    Addr(&raw const ckpt_stub_start as u64)
}

/// Offset of its `syscall` instruction.
pub fn syscall_offset() -> u64 {
    &raw const ckpt_stub_syscall as u64 - here().0
}

/// Offset of the stand-ins' loop.
pub fn standin_offset() -> u64 {
    &raw const ckpt_stub_standin as u64 - here().0
}

/// Its bytes.
pub fn code() -> &'static [u8] {
    let len = &raw const ckpt_stub_end as usize - &raw const ckpt_stub_start as usize;
    // SAFETY: the symbols delimit the code above, which is mapped and never written.
    unsafe { std::slice::from_raw_parts(&raw const ckpt_stub_start, len) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_stub_fits_a_page_and_its_parts_are_in_order() {
        let len = super::code().len() as u64;
        assert!(0 < super::syscall_offset() && super::syscall_offset() < super::standin_offset());
        assert!(super::standin_offset() < len && len < 256);
        assert_eq!(super::code()[super::syscall_offset() as usize..][..2], [0x0f, 0x05]);
        let after = super::calls_return_offset() as usize;
        assert_eq!(super::calls()[after - 2..after], [0x0f, 0x05]);
        assert!(super::calls().len() < 128 && super::calls().ends_with(&[0x0f, 0x05]));
    }
}
