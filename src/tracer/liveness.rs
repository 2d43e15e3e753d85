//! Whether the code behind a system call still looks at rdx, r10 or r8, the registers of its third to fifth arguments.
//!
//! The kernel leaves them alone, so code may rely on them, though C libraries don't: their wrappers return soon, and to
//! whoever called them they are lost (the x86-64 psABI: all belong to the callee; a function that is called may take rdx and
//! r8 as arguments, but not r10). A few instructions are read for that, those that compilers put there; whatever is not known
//! counts as a look.

/// A register whose value may be of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Register {
    R10,
    R8,
    Rdx,
}

impl Register {
    fn number(self) -> u8 {
        match self {
            Register::R10 => 10,
            Register::R8 => 8,
            Register::Rdx => 2,
        }
    }

    /// Whether a byte operand with this number is a part of it: dl, dh without a REX prefix.
    fn has_byte(self, number: u8, rex: u8) -> bool {
        number == self.number() || self == Register::Rdx && rex == 0 && number == 6
    }
}

/// Instructions read at most, over all paths.
const BUDGET: u32 = 64;
/// Bytes of code read at a time, and how often.
const WINDOW: usize = 1024;
const WINDOWS: usize = 4;
/// No instruction is longer.
const LONGEST: usize = 15;

/// Whether the register is lost on every way from `at` before anything looks at it. `read` copies from the program.
pub(super) fn is_dead(register: Register, at: u64, read: impl Fn(u64, &mut [u8]) -> bool) -> bool {
    let mut code = Code { windows: Vec::new(), read };
    let mut budget = BUDGET;
    let mut ways = vec![at];
    let mut seen = Vec::new();
    while let Some(at) = ways.pop() {
        if seen.contains(&at) {
            continue;
        }
        seen.push(at);
        budget -= 1;
        let Some((len, next)) = decode(code.at(at), register) else { return false };
        let behind = at.wrapping_add(len as u64);
        let target = |by: i32| behind.wrapping_add_signed(i64::from(by));
        match next {
            Next::Gone => {}
            Next::On => ways.push(behind),
            Next::Jump(by) => ways.push(target(by)),
            Next::Branch(by) => ways.extend([behind, target(by)]),
        }
        if budget == 0 && !ways.is_empty() {
            return false;
        }
    }
    true
}

/// The program's code, read as it is needed.
struct Code<F> {
    windows: Vec<(u64, Vec<u8>)>,
    read: F,
}

impl<F: Fn(u64, &mut [u8]) -> bool> Code<F> {
    /// The bytes at an address, none where there is no code: that will not decode.
    fn at(&mut self, at: u64) -> &[u8] {
        let within = |(start, bytes): &(u64, Vec<u8>)| {
            let offset = at.checked_sub(*start).filter(|&offset| offset < bytes.len() as u64)?;
            let last = bytes.len() < WINDOW;
            (last || offset as usize + LONGEST <= bytes.len()).then_some(offset as usize)
        };
        if self.windows.iter().find_map(within).is_none() && self.windows.len() < WINDOWS {
            // The code may end with its page.
            let rest = 4096 - at % 4096;
            for len in [WINDOW as u64, rest.min(WINDOW as u64 - 1)] {
                let mut bytes = vec![0; len as usize];
                if (self.read)(at, &mut bytes) {
                    self.windows.push((at, bytes));
                    break;
                }
            }
        }
        let found = self.windows.iter().find_map(|w| Some((within(w)?, &w.1)));
        found.and_then(|(offset, bytes)| bytes.get(offset..)).unwrap_or_default()
    }
}

/// Where it goes on behind an instruction.
#[derive(Debug, PartialEq)]
enum Next {
    On,
    /// A return, a call, or another value: the register's is lost.
    Gone,
    Jump(i32),
    Branch(i32),
}

/// Length of the instruction, and what comes next; `None` if it is not known or looks at the register.
fn decode(code: &[u8], register: Register) -> Option<(usize, Next)> {
    let mut at = 0;
    // Operand size, fs and gs, repetitions (endbr64 has one).
    while matches!(code.get(at)?, 0x64..=0x66 | 0xf2 | 0xf3) {
        at += 1;
    }
    let mut rex = 0;
    if let byte @ 0x40..=0x4f = *code.get(at)? {
        rex = byte;
        at += 1;
    }
    let short = code.get(..at)?.contains(&0x66);
    let imm: usize = if short { 2 } else { 4 };
    let op = *code.get(at)?;
    at += 1;
    let rest = code.get(at..)?;
    let operands = Operands { register, rex };
    // Even numbers are those of bytes, of all that are known here.
    let byte = op & 1 == 0;
    let modrm = |immediate: usize| Some((at + operands.len(rest, byte)? + immediate, Next::On));
    // Another value for the whole register, or a look at it.
    let replaces = |code: &[u8], before: usize| {
        let len = operands.overwritten(code).filter(|_| !short)?;
        Some((before + len, Next::Gone))
    };
    let offset8 = || Some(i32::from(*rest.first()? as i8));
    let offset32 = |rest: &[u8]| Some(i32::from_le_bytes(*rest.first_chunk()?));
    let names = op & 7 | (rex & 1) << 3 == register.number();
    match op {
        0xc3 => Some((at, Next::Gone)),
        0xe8 if register == Register::R10 => Some((at, Next::Gone)),
        // Behind the call it is lost; what is called may look at it.
        0xe8 => Some((at + 4, Next::Jump(offset32(rest)?))),
        0xeb => Some((at + 1, Next::Jump(offset8()?))),
        0xe9 => Some((at + 4, Next::Jump(offset32(rest)?))),
        0x70..=0x7f => Some((at + 1, Next::Branch(offset8()?))),
        0x0f => {
            let second = *rest.first()?;
            let rest = rest.get(1..)?;
            match second {
                0x80..=0x8f => Some((at + 5, Next::Branch(offset32(rest)?))),
                0x1e | 0x1f | 0x40..=0x4f | 0xaf => Some((at + 1 + operands.len(rest, false)?, Next::On)),
                0x90..=0x9f | 0xb6 | 0xb7 | 0xbe | 0xbf => Some((at + 1 + operands.len(rest, true)?, Next::On)),
                _ => None,
            }
        }
        0x00..=0x3f => match op & 7 {
            0..=3 => modrm(0),
            4 => Some((at + 1, Next::On)),
            5 => Some((at + imm, Next::On)),
            _ => None,
        },
        0x50..=0x5f => (!names).then_some((at, Next::On)),
        // mov from and to registers, lea.
        0x89 | 0x8b | 0x8d => modrm(0).or_else(|| replaces(code.get(at - 1..)?, at - 1)),
        0x63 | 0x84..=0x88 | 0x8a | 0xd1 | 0xd3 => modrm(0),
        0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => modrm(1),
        0x81 | 0xc7 => modrm(imm),
        // test has an immediate, not and neg have none; multiplications and divisions have rdx.
        0xf7 => match rest.first()? >> 3 & 7 {
            0 | 1 => modrm(imm),
            2 | 3 => modrm(0),
            _ if register != Register::Rdx => modrm(0),
            _ => None,
        },
        0x90 if rex == 0 => Some((at, Next::On)),
        0x98 | 0xc9 => Some((at, Next::On)),
        // rdx gets the sign of rax.
        0x99 => Some((at, if register == Register::Rdx && !short { Next::Gone } else { Next::On })),
        0xa8 => Some((at + 1, Next::On)),
        0xa9 => Some((at + imm, Next::On)),
        0xb8..=0xbf => {
            let len = at + if rex & 8 != 0 { 8 } else { imm };
            match names {
                true => (!short).then_some((len, Next::Gone)),
                false => Some((len, Next::On)),
            }
        }
        _ => None,
    }
}

/// A ModRM byte and what belongs to it.
#[derive(Clone, Copy)]
struct Operands {
    register: Register,
    rex: u8,
}

impl Operands {
    fn numbers(self, modrm: u8) -> (u8, u8) {
        (modrm >> 3 & 7 | (self.rex & 4) << 1, modrm & 7 | (self.rex & 1) << 3)
    }

    /// Its bytes; `None` if it names the register. `byte`: registers may be bytes.
    fn len(self, code: &[u8], byte: bool) -> Option<usize> {
        let modrm = *code.first()?;
        let (reg, rm) = self.numbers(modrm);
        let same = |number| number == self.register.number() || byte && self.register.has_byte(number, self.rex);
        if same(reg) {
            return None;
        }
        if modrm >> 6 == 3 {
            return (!same(rm)).then_some(1);
        }
        self.memory(code)
    }

    /// The same for an operand in memory; `None` if its address needs the register.
    fn memory(self, code: &[u8]) -> Option<usize> {
        let modrm = *code.first()?;
        let (mode, rm, number) = (modrm >> 6, modrm & 7, self.register.number());
        let displacement = [0, 1, 4].get(usize::from(mode))?;
        if rm == 4 {
            let sib = *code.get(1)?;
            let (index, base) = (sib >> 3 & 7 | (self.rex & 2) << 2, sib & 7);
            if index == number || base | (self.rex & 1) << 3 == number {
                return None;
            }
            return Some(2 + if mode == 0 && base == 5 { 4 } else { *displacement });
        }
        if mode == 0 && rm == 5 {
            return Some(5); // relative to rip
        }
        (self.numbers(modrm).1 != number).then_some(1 + displacement)
    }

    /// Bytes of a mov or lea whose only use of the register is to give it another value.
    fn overwritten(self, code: &[u8]) -> Option<usize> {
        let (op, code) = (*code.first()?, code.get(1..)?);
        let modrm = *code.first()?;
        let (reg, rm) = self.numbers(modrm);
        let (to, from) = if op == 0x89 { (rm, reg) } else { (reg, rm) };
        if to != self.register.number() {
            return None;
        }
        match modrm >> 6 {
            3 => (from != to).then_some(2),
            _ if op == 0x89 => None,
            _ => self.memory(code).map(|len| len + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The end of glibc's epoll_wait with threads: cmp, ja to the error path, mov %r8d,%edi, mov, call; there mov, neg,
    /// mov to errno, mov $-1, jmp back.
    const GLIBC: &[u8] = &[
        0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x0c, 0x44, 0x89, 0xc7, 0x89, 0x44, 0x24, 0x0c, 0xe8, 0, 0, 0, 0,
        0x48, 0x8b, 0x15, 0xb1, 0x6a, 0x0d, 0x00, 0xf7, 0xd8, 0x44, 0x89, 0xc7, 0x64, 0x89, 0x02, 0xb8, 0xff, 0xff,
        0xff, 0xff, 0xeb, 0xdc,
    ];

    /// The end of glibc's sigtimedwait with threads: mov %rax,%rbp, cmp, ja to the error path, mov %r8d,%edi, call, ret;
    /// there mov to rdx, ret; what is called: and, je to a mov of another value, ret.
    const CALLS: &[u8] = &[
        0x48, 0x89, 0xc5, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77, 0x09, 0x44, 0x89, 0xc7, 0xe8, 0x09, 0, 0, 0, 0xc3,
        0x48, 0x8b, 0x15, 0xb1, 0x6a, 0x0d, 0x00, 0xc3, 0x83, 0xe7, 0x02, 0x74, 0x01, 0xc3, 0x8b, 0x90, 8, 3, 0, 0,
        0x00,
    ];

    fn dead(register: Register, code: &[u8], at: usize) -> bool {
        const BASE: u64 = 0x40_0000;
        is_dead(register, BASE + at as u64, |from, out| {
            let from = from.wrapping_sub(BASE) as usize;
            let end = (code.len() + 64).min(from.saturating_add(out.len()));
            let Some(source) = code.get(from..end.min(code.len())) else { return false };
            out.fill(0x06);
            out[..source.len()].copy_from_slice(source);
            true
        })
    }

    fn r10_is_dead(code: &[u8], at: usize) -> bool {
        dead(Register::R10, code, at)
    }

    #[test]
    fn wrappers_forget_it() {
        assert!(r10_is_dead(GLIBC, 0));
        assert!(r10_is_dead(&[0x90, 0xc3], 0));
        assert!(dead(Register::Rdx, CALLS, 0));
        assert!(dead(Register::Rdx, &[0x90, 0xc3], 0));
    }

    #[test]
    fn rdx_may_be_an_argument() {
        // call of what follows.
        let calls = |code: &[u8]| dead(Register::Rdx, &[&[0xe8, 0, 0, 0, 0][..], code].concat(), 0);
        for gone in [
            &[0xc3][..],               // ret
            &[0xba, 1, 0, 0, 0],       // mov $1,%edx
            &[0x89, 0xca],             // mov %ecx,%edx
            &[0x48, 0x8d, 0x55, 8],    // lea 8(%rbp),%rdx
            &[0x48, 0x99],             // cqo
            &[0x41, 0x89, 0xc2, 0xc3], // mov %eax,%r10d; ret
        ] {
            assert!(calls(gone), "{gone:x?}");
        }
        for uses in [
            &[0x48, 0x89, 0xd0, 0xc3][..], // mov %rdx,%rax
            &[0x48, 0x8b, 0x12, 0xc3],     // mov (%rdx),%rdx
            &[0x66, 0xba, 1, 0, 0xc3],     // mov $1,%dx
            &[0x66, 0x89, 0xca, 0xc3],     // mov %cx,%dx
            &[0x88, 0xf0, 0xc3],           // mov %dh,%al
            &[0x84, 0xd2, 0xc3],           // test %dl,%dl
            &[0x0f, 0xb6, 0xc6, 0xc3],     // movzbl %dh,%eax
            &[0x48, 0xf7, 0xf1, 0xc3],     // div %rcx
            &[0x52, 0xc3],                 // push %rdx
            &[0x48, 0x89, 0x11, 0xc3],     // mov %rdx,(%rcx)
            &[0x8b, 0x04, 0x12, 0xc3],     // mov (%rdx,%rdx),%eax
        ] {
            assert!(!calls(uses), "{uses:x?}");
        }
    }

    #[test]
    fn r8_may_be_kept_by_a_wrapper() {
        // glibc's syscall(): cmp, jae to the error path, ret; there mov to rcx, neg, mov to errno, or $-1, ret.
        const SYSCALL: &[u8] = &[
            0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x73, 0x01, 0xc3, 0x48, 0x8b, 0x0d, 1, 2, 3, 0, 0xf7, 0xd8, 0x64, 0x89,
            0x01, 0x48, 0x83, 0xc8, 0xff, 0xc3,
        ];
        assert!(dead(Register::R8, SYSCALL, 0));
        // mov %r8d,%edi, as in wrappers that can be cancelled.
        assert!(!dead(Register::R8, GLIBC, 0));
        assert!(!dead(Register::R8, &[0x4d, 0x01, 0xc0, 0xc3], 0)); // add %r8,%r8
        assert!(dead(Register::R8, &[0x48, 0x01, 0xc0, 0xc3], 0)); // add %rax,%rax
    }

    #[test]
    fn loops_that_use_it_again_are_seen() {
        // syscall; test %eax,%eax; jz back to a mov $232,%eax that leads to the syscall again.
        let again = [0xb8, 0xe8, 0, 0, 0, 0x0f, 0x05, 0x85, 0xc0, 0x74, 0xf5, 0xc3];
        assert!(!r10_is_dead(&again, 7));
        for uses in [
            &[0x4c, 0x89, 0xd0, 0xc3][..],   // mov %r10,%rax
            &[0x41, 0x52, 0xc3],             // push %r10
            &[0x49, 0x8b, 0x02, 0xc3],       // mov (%r10),%rax
            &[0x4a, 0x8b, 0x04, 0x10, 0xc3], // mov (%rax,%r10),%rax
            &[0xc5, 0xf8, 0x77, 0xc3],       // vzeroupper: not known
            &[0x48, 0x3d],                   // the end of what is known
            &[0xeb, 0x80],                   // out of reach
        ] {
            assert!(!r10_is_dead(uses, 0), "{uses:x?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(code: Vec<u8>, at: usize) {
            for register in [Register::R10, Register::R8, Register::Rdx] {
                let _ = dead(register, &code, at % 4096);
                let _ = dead(register, &code, 0);
            }
        }
    }
}
