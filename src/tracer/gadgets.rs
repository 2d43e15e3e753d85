//! Byte sequences in the program's own text that remote calls stand on.

use std::collections::HashMap;

use crate::model::Addr;
use crate::proc::smaps::Mapping;
use crate::sys;

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

impl Finder {
    /// Looks through the executable file mappings of `pid`; `None` where one of the sequences is nowhere.
    pub fn find(&mut self, pid: i32, maps: &[Mapping]) -> Option<Gadgets> {
        let (mut syscall_ret, mut sigreturn) = (None, None);
        // The C library is likelier to have both than what stands before it: a program's own text comes first in
        // the address space, is often the largest, and in a static program has them all the same.
        let text = || maps.iter().filter(|m| m.prot & 5 == 5 && m.inode != 0);
        let is_libc = |m: &&Mapping| basename(&m.name).starts_with(b"libc") || basename(&m.name).starts_with(b"ld-");
        for m in text().filter(is_libc).chain(text().filter(|m| !is_libc(m))) {
            let found = *self.known.entry((m.dev, m.inode, m.offset)).or_insert_with(|| scan(pid, m));
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
            let offset = at - m.start + i as u64;
            if found.syscall_ret.is_none() && text.get(i + 2) == Some(&0xc3) {
                found.syscall_ret = Some(offset);
            }
            if found.sigreturn.is_none() {
                let before = &text[..i];
                if before.ends_with(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0]) {
                    found.sigreturn = Some(offset - 7);
                } else if before.ends_with(&[0xb8, 15, 0, 0, 0]) {
                    found.sigreturn = Some(offset - 5);
                }
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
