//! Whether the code behind a system call still looks at r10, the register of its fourth argument.
//!
//! The kernel leaves it alone, so code may rely on it, though C libraries don't: their wrappers return soon, and to
//! whoever called them it is lost (the x86-64 psABI: r10 belongs to the callee). A few instructions are read for that,
//! those that compilers put there; whatever is not known counts as a look.

const R10: u8 = 10;
/// Instructions read at most, over all paths.
const BUDGET: u32 = 64;

/// Whether r10 is lost on every way from `at`, an offset into `code`, before anything reads it.
pub(super) fn r10_is_dead(code: &[u8], at: usize) -> bool {
    let mut budget = BUDGET;
    let mut ways = vec![at];
    let mut seen = Vec::new();
    while let Some(at) = ways.pop() {
        if seen.contains(&at) {
            continue;
        }
        seen.push(at);
        budget -= 1;
        match decode(code.get(at..).unwrap_or_default()) {
            Some((_, Next::Gone)) => {}
            Some((len, Next::On)) => ways.push(at + len),
            Some((len, Next::Jump(by))) => ways.extend(target(at + len, by)),
            Some((len, Next::Branch(by))) => {
                ways.push(at + len);
                ways.extend(target(at + len, by));
            }
            None => return false,
        }
        if budget == 0 && !ways.is_empty() {
            return false;
        }
    }
    true
}

/// A place out of reach is no code: it will not decode.
fn target(from: usize, by: i32) -> Option<usize> {
    Some(from.checked_add_signed(by as isize).unwrap_or(usize::MAX))
}

/// Where it goes on behind an instruction.
#[derive(Debug, PartialEq)]
enum Next {
    On,
    /// A return or a call: r10 is lost.
    Gone,
    Jump(i32),
    Branch(i32),
}

/// Length of the instruction, and what comes next; `None` if it is not known or names r10.
fn decode(code: &[u8]) -> Option<(usize, Next)> {
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
    let modrm = |immediate: usize| Some((at + operands(rest, rex)? + immediate, Next::On));
    let offset8 = || Some(i32::from(*rest.first()? as i8));
    let offset32 = |rest: &[u8]| Some(i32::from_le_bytes(*rest.first_chunk()?));
    match op {
        0xc3 | 0xe8 => Some((at, Next::Gone)),
        0xeb => Some((at + 1, Next::Jump(offset8()?))),
        0xe9 => Some((at + 4, Next::Jump(offset32(rest)?))),
        0x70..=0x7f => Some((at + 1, Next::Branch(offset8()?))),
        0x0f => {
            let second = *rest.first()?;
            let rest = rest.get(1..)?;
            match second {
                0x80..=0x8f => Some((at + 5, Next::Branch(offset32(rest)?))),
                0x1e | 0x1f | 0x40..=0x4f | 0x90..=0x9f | 0xaf | 0xb6 | 0xb7 | 0xbe | 0xbf => {
                    Some((at + 1 + operands(rest, rex)?, Next::On))
                }
                _ => None,
            }
        }
        0x00..=0x3f => match op & 7 {
            0..=3 => modrm(0),
            4 => Some((at + 1, Next::On)),
            5 => Some((at + imm, Next::On)),
            _ => None,
        },
        0x50..=0x5f => (op & 7 | (rex & 1) << 3 != R10).then_some((at, Next::On)),
        0x63 | 0x84..=0x8b | 0x8d | 0xd1 | 0xd3 => modrm(0),
        0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => modrm(1),
        0x81 | 0xc7 => modrm(imm),
        // test has an immediate, not and neg have none.
        0xf7 => modrm(if rest.first()? >> 3 & 7 < 2 { imm } else { 0 }),
        0x90 if rex == 0 => Some((at, Next::On)),
        0x98 | 0x99 | 0xc9 => Some((at, Next::On)),
        0xa8 => Some((at + 1, Next::On)),
        0xa9 => Some((at + imm, Next::On)),
        0xb8..=0xbf if op & 7 | (rex & 1) << 3 != R10 => Some((at + if rex & 8 != 0 { 8 } else { imm }, Next::On)),
        _ => None,
    }
}

/// Bytes of a ModRM with what belongs to it; `None` if it names r10.
fn operands(code: &[u8], rex: u8) -> Option<usize> {
    let modrm = *code.first()?;
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7 | (rex & 4) << 1, modrm & 7);
    if reg == R10 {
        return None;
    }
    if mode == 3 {
        return (rm | (rex & 1) << 3 != R10).then_some(1);
    }
    let displacement = [0, 1, 4].get(usize::from(mode))?;
    if rm == 4 {
        let sib = *code.get(1)?;
        let (index, base) = (sib >> 3 & 7 | (rex & 2) << 2, sib & 7);
        if index == R10 || base | (rex & 1) << 3 == R10 {
            return None;
        }
        return Some(2 + if mode == 0 && base == 5 { 4 } else { *displacement });
    }
    if mode == 0 && rm == 5 {
        return Some(5); // relative to rip
    }
    (rm | (rex & 1) << 3 != R10).then_some(1 + displacement)
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

    #[test]
    fn wrappers_forget_it() {
        assert!(r10_is_dead(GLIBC, 0));
        assert!(r10_is_dead(&[0x90, 0xc3], 0));
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
            let _ = r10_is_dead(&code, at);
            let _ = r10_is_dead(&code, 0);
        }
    }
}
