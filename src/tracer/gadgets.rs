//! Byte sequences in the program's own text that remote calls stand on.

use std::collections::HashMap;

use crate::model::Addr;
use crate::proc::smaps::Mapping;
use crate::{proc, sys};

/// Where a program has the two sequences that remote calls need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gadgets {
    /// `syscall; ret`.
    pub syscall_ret: Addr,
    /// `mov $15,%eax; syscall` (rt_sigreturn).
    pub sigreturn: Addr,
}

/// Offsets into a file's text, found once for each file: processes of one tree mostly share their C library.
#[derive(Debug, Default)]
pub(super) struct Finder {
    known: HashMap<((u32, u32), u64, u64), Found>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Found {
    syscall_ret: Option<u64>,
    sigreturn: Option<u64>,
}

const SYSCALL_RET: &[u8] = &[0x0f, 0x05, 0xc3];
/// By `mov $15,%eax` and `mov $15,%rax`.
const SIGRETURN: [&[u8]; 2] = [&[0xb8, 15, 0, 0, 0, 0x0f, 0x05], &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05]];

impl Found {
    /// Whether this process, too, has them there: it may have written to its text.
    fn is_in(&self, pid: i32, m: &Mapping) -> bool {
        let has = |offset: Option<u64>, all: &[&[u8]]| {
            let Some(offset) = offset else { return true };
            let mut bytes = [0u8; 9];
            let got = sys::mem::read(pid, Addr(m.start + offset), &mut bytes).unwrap_or(0);
            bytes.get(..got).is_some_and(|bytes| all.iter().any(|sequence| bytes.starts_with(sequence)))
        };
        has(self.syscall_ret, &[SYSCALL_RET]) && has(self.sigreturn, &SIGRETURN)
    }
}

impl Finder {
    /// One that has looked through a process that need not stand still: what it finds there is looked at again when it is
    /// used.
    pub fn ahead(pid: i32) -> Finder {
        let mut finder = Finder::default();
        if let Ok(maps) = proc::maps(pid) {
            finder.find(pid, &maps);
        }
        finder
    }

    /// Looks through the executable file mappings of `pid`; `None` where one of the sequences is nowhere.
    pub fn find(&mut self, pid: i32, maps: &[Mapping]) -> Option<Gadgets> {
        let (mut syscall_ret, mut sigreturn) = (None, None);
        // The C library is likelier to have both than what stands before it: a program's own text comes first in
        // the address space, is often the largest, and in a static program has them all the same.
        let text = || maps.iter().filter(|m| m.prot & 5 == 5 && m.inode != 0);
        let is_libc = |m: &&Mapping| basename(&m.name).starts_with(b"libc") || basename(&m.name).starts_with(b"ld-");
        for m in text().filter(is_libc).chain(text().filter(|m| !is_libc(m))) {
            let mut found = *self.known.entry((m.dev, m.inode, m.offset)).or_insert_with(|| scan(pid, m));
            if !found.is_in(pid, m) {
                found = scan(pid, m);
            }
            syscall_ret = syscall_ret.or(found.syscall_ret.map(|o| Addr(m.start + o)));
            sigreturn = sigreturn.or(found.sigreturn.map(|o| Addr(m.start + o)));
            if let (Some(syscall_ret), Some(sigreturn)) = (syscall_ret, sigreturn) {
                return Some(Gadgets { syscall_ret, sigreturn });
            }
        }
        None
    }
}

fn basename(name: &[u8]) -> &[u8] {
    name.rsplit(|&b| b == b'/').next().unwrap_or_default()
}

/// Reads a mapping in pieces until both sequences are found.
fn scan(pid: i32, m: &Mapping) -> Found {
    const PIECE: u64 = 64 * 1024;
    /// Overlap of the pieces: one less than the longest sequence.
    const TAIL: u64 = 8;
    let mut found = Found::default();
    let mut buf = vec![0u8; (PIECE + TAIL) as usize];
    let mut at = m.start;
    while at < m.end && (found.syscall_ret.is_none() || found.sigreturn.is_none()) {
        let want = (PIECE + TAIL).min(m.end - at) as usize;
        let Ok(got) = sys::mem::read(pid, Addr(at), &mut buf[..want]) else { break };
        let text = &buf[..got];
        for i in memchr::memmem::find_iter(text, &[0x0f, 0x05]) {
            let offset = |at_text: usize| at - m.start + at_text as u64;
            if found.syscall_ret.is_none() && text[i..].starts_with(SYSCALL_RET) {
                found.syscall_ret = Some(offset(i));
            }
            if found.sigreturn.is_none() {
                let through = &text[..i + 2];
                let sequence = SIGRETURN.into_iter().find(|sequence| through.ends_with(sequence));
                found.sigreturn = sequence.map(|sequence| offset(i + 2 - sequence.len()));
            }
        }
        at += PIECE;
    }
    found
}

/// Any `syscall` instruction, for programs without the two sequences: the vDSO has one.
pub(super) fn any_syscall(pid: i32, maps: &[Mapping]) -> Option<Addr> {
    let vdso = maps.iter().find(|m| m.name == b"[vdso]")?;
    let mut text = vec![0u8; usize::try_from(vdso.end - vdso.start).ok()?.min(64 * 1024)];
    let got = sys::mem::read(pid, Addr(vdso.start), &mut text).ok()?;
    let at = memchr::memmem::find(&text[..got], &[0x0f, 0x05])?;
    Some(Addr(vdso.start + at as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(at: Addr, len: usize) -> Vec<u8> {
        let mut bytes = vec![0u8; len];
        assert_eq!(sys::mem::read(std::process::id() as i32, at, &mut bytes).unwrap(), len);
        bytes
    }

    #[test]
    fn what_was_found_before_is_looked_at_again() {
        let me = std::process::id() as i32;
        let maps = proc::maps(me).unwrap();
        let mut finder = Finder::ahead(me);
        let found = finder.find(me, &maps).unwrap();
        assert_eq!(bytes(found.syscall_ret, 3), SYSCALL_RET);
        assert!(SIGRETURN.iter().any(|sequence| bytes(found.sigreturn, sequence.len()) == *sequence));
        // As if another process had them elsewhere.
        for known in finder.known.values_mut() {
            *known = Found { syscall_ret: Some(8), sigreturn: Some(8) };
        }
        assert_eq!(finder.find(me, &maps), Some(found));
    }
}
