//! An address space: which mappings there are, and which of their pages can't be had again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::image::Run;
use crate::model::memory::{Backing, Memory, Span, Vdso, Vma};
use crate::model::process::MmFields;
use crate::model::uring::OFFSETS;
use crate::model::{Addr, Hex, Name};
use crate::proc::{self, smaps::Mapping};
use crate::sys::mem::{PageQuery, Ranges, has_pagemap_scan, page, pagemap_scan};
use crate::tracer::HeldProcess;

use super::Error;
use super::entries;
use super::forked;
use super::mapped::Mapped;
use super::refusals::Refusals;
use super::sysvshm;
use super::uring;
use super::view::View;

/// First address that is not the program's.
const TOP: u64 = 1 << 47;

/// What was seen of an address space.
#[derive(Debug)]
pub(super) struct Seen {
    /// Lacks the current brk.
    pub memory: Memory,
    /// Private pages to be saved.
    pub runs: Vec<Run>,
    /// Those of them that others may have mapped too.
    pub shared: Vec<Run>,
    /// Those of them that are in huge pages: they are not looked at for being shared.
    pub huge: Vec<Run>,
}

/// Where a piece of shared anonymous memory is mapped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sharer {
    /// Index of the process among the held ones.
    pub process: usize,
    pub addr: u64,
    pub offset: u64,
    pub len: u64,
    /// The mapping that this is a part of: its first byte, and one past the last.
    pub mapping: (u64, u64),
    /// Some of it is in swap.
    pub swapped: bool,
    /// There are guard pages in this mapping, through which nothing can be read.
    pub guarded: bool,
}

impl SharedAnon {
    /// Notes that there are guard pages in a mapping of a process.
    fn guarded(&mut self, process: usize, start: Addr) {
        let mut all = self.objects.iter_mut().flatten();
        if let Some(sharer) = all.find(|s| s.process == process && s.addr == start.0) {
            sharer.guarded = true;
        }
    }
}

impl Sharer {
    fn new(process: usize, m: &Mapping) -> Sharer {
        let (mapping, swapped) = ((m.start, m.end), m.swap > 0);
        Sharer { process, addr: m.start, offset: m.offset, len: m.len(), mapping, swapped, guarded: false }
    }
}

/// Shared anonymous memory of the whole tree, by inode; a segment's inode is its id, which may be that of another object too.
#[derive(Debug, Default)]
pub(super) struct SharedAnon {
    index: HashMap<((u32, u32), u64, bool), u32>,
    /// For each object, who maps it.
    pub objects: Vec<Vec<Sharer>>,
    /// System V segments among them: object, id and key.
    pub segments: Vec<(u32, i32, i32)>,
}

impl SharedAnon {
    fn add(&mut self, m: &Mapping, process: usize, segment: Option<(i32, i32)>) -> u32 {
        let next = self.objects.len() as u32;
        let index = *self.index.entry((m.dev, m.inode, segment.is_some())).or_insert(next);
        if index == next {
            self.objects.push(Vec::new());
            self.segments.extend(segment.map(|(id, key)| (next, id, key)));
        }
        if let Some(sharers) = self.objects.get_mut(index as usize) {
            sharers.push(Sharer::new(process, m));
        }
        index
    }
}

/// Where the mappings of files that are gone can be read: by file index.
pub(super) type GoneMaps = Vec<(u32, Sharer, bool)>;

/// What is collected for the tree as a whole.
#[derive(Debug)]
pub(super) struct Whole<'a> {
    pub view: &'a View,
    pub mapped: &'a mut Mapped,
    pub shared: &'a mut SharedAnon,
    pub gone: &'a mut GoneMaps,
    /// Inodes of rings of io_setup(2) that are mapped.
    pub aio: &'a mut Vec<u64>,
    /// Inodes of rings of io_uring that are mapped.
    pub rings: &'a mut Vec<u64>,
    pub refusals: &'a mut Refusals,
}

/// What /proc says of an address space but for the mappings themselves, which the process keeps.
#[derive(Debug)]
pub(super) struct Read {
    fields: MmFields,
    vdso: Option<Vdso>,
    runs: Vec<Run>,
    shared: Vec<Run>,
    huge: Vec<Run>,
    guards: Ranges,
}

/// Reads all there is to read of the memory of a process.
pub(super) fn read(p: &HeldProcess) -> Result<Read, Error> {
    let maps = proc::smaps(p.live()).map_err(Error::proc(p.host))?;
    let maps = p.maps.get_or_init(|| maps);
    let failed = |e| Error::of(p.host, "reading the page map")(e);
    let pagemap = File::open(format!("/proc/{}/pagemap", p.live())).map_err(failed)?;
    let (pages, guards) = pages(p, &pagemap, maps).map_err(failed)?;
    // Pages that may be dropped at any time are not worth keeping (MAP_DROPPABLE: random state of the vDSO).
    let wanted = maps.iter().filter(|m| !is_kernels(&m.name) && !m.shared && !m.flags.has(*b"dp"));
    let runs = clip(&pages, &wanted.map(|m| (m.start, m.end)).collect::<Vec<_>>());
    let shared = forked::shared(&pagemap, maps, &runs).map_err(failed)?;
    let huge = maps.iter().filter(|m| !m.shared && m.huge().is_some());
    let huge = clip(&pages, &huge.map(|m| (m.start, m.end)).collect::<Vec<_>>());
    Ok(Read { fields: fields(p)?, vdso: vdso(p, maps)?, runs, shared, huge, guards })
}

/// The way out where a mapping can't be saved.
const UNMAP: &str = "have it unmapped before the save, or run the program without what uses it";

/// Looks at the memory of process `index` of the held ones.
pub(super) fn look(p: &HeldProcess, index: usize, read: Read, whole: &mut Whole<'_>) -> Seen {
    let maps = p.maps.get().map_or(&[][..], Vec::as_slice);
    let mut vmas = Vec::with_capacity(maps.len());
    for m in maps {
        if is_kernels(&m.name) {
            continue;
        }
        if let Some(reason) = unsupported(m) {
            whole.refusals.add(p.pid, describe(m), reason, UNMAP);
            continue;
        }
        let backing = match backing(m, index, whole) {
            Ok(backing) => backing,
            Err(reason) => {
                whole.refusals.add(p.pid, describe(m), reason, UNMAP);
                continue;
            }
        };
        vmas.push(vma(m, backing));
    }
    let Read { fields, vdso, runs, shared, huge, guards } = read;
    let saved: Vec<(u64, u64)> = vmas.iter().map(|v| (v.start.0, v.end.0)).collect();
    let guards = clip(&guards, &saved);
    for v in vmas.iter().filter(|v| matches!(v.backing, Backing::SharedAnon { .. })) {
        if guards.iter().any(|g| (v.start.0..v.end.0).contains(&g.start)) {
            whole.shared.guarded(index, v.start);
        }
    }
    let span = |r: Run| Span { start: Addr(r.start), end: Addr(r.start + r.len) };
    let guards = guards.into_iter().map(span).collect();
    let memory = Memory { fields, vmas, vdso, guards, ..Memory::default() };
    Seen { memory, runs, shared, huge }
}

/// Of a process whose memory is another's: only what the kernel says of it.
pub(super) fn elsewhere(p: &HeldProcess) -> Result<Seen, Error> {
    let memory = Memory { fields: fields(p)?, ..Memory::default() };
    Ok(Seen { memory, runs: Vec::new(), shared: Vec::new(), huge: Vec::new() })
}

fn is_kernels(name: &[u8]) -> bool {
    name.starts_with(b"[vvar") || name == b"[vdso]" || name == b"[vsyscall]"
}

fn describe(m: &Mapping) -> String {
    let name = if m.name.is_empty() { "anonymous".into() } else { String::from_utf8_lossy(&m.name) };
    format!("mapping {:#x} ({name})", m.start)
}

/// What can't be saved whatever is behind it.
fn unsupported(m: &Mapping) -> Option<&'static str> {
    const FLAGS: [([u8; 2], &str); 8] = [
        (*b"ss", "shadow stacks are not supported"),
        (*b"um", "userfaultfd is not supported"),
        (*b"uw", "userfaultfd is not supported"),
        (*b"ui", "userfaultfd is not supported"),
        (*b"io", "memory of a device is not supported"),
        (*b"pf", "memory of a device is not supported"),
        (*b"mm", "memory of a device is not supported"),
        (*b"mt", "memory tags are not supported"),
    ];
    if m.end > TOP {
        return Some("addresses beyond 47 bits are not supported");
    }
    // Marked like memory of a device (`mm`).
    if m.name == uring::NAME {
        return None;
    }
    FLAGS.iter().find(|(flag, _)| m.flags.has(*flag)).map(|(_, reason)| *reason)
}

fn backing(m: &Mapping, process: usize, whole: &mut Whole<'_>) -> Result<Backing, &'static str> {
    // The segment with id 0 has inode 0.
    if let Some(segment) = sysvshm::of_mapping(&m.name, m.inode).filter(|_| m.shared) {
        if m.huge().is_some() {
            return Err("a System V segment of huge pages (SHM_HUGETLB) is not supported");
        }
        let object = whole.shared.add(m, process, Some(segment));
        return Ok(Backing::SharedAnon { object, offset: m.offset, read_only: !m.flags.has(*b"mw") });
    }
    if m.inode == 0 {
        return match m.name.as_slice() {
            b"" | b"[heap]" | b"[stack]" => Ok(Backing::Anon),
            _ if m.anon_name().is_some() => Ok(Backing::Anon),
            _ => Err("a mapping of the kernel's own is not supported"),
        };
    }
    let anonymous_shared = m.name == b"/dev/zero (deleted)" || m.name.starts_with(b"[anon_shmem:");
    if m.shared && anonymous_shared {
        let object = whole.shared.add(m, process, None);
        return Ok(Backing::SharedAnon { object, offset: m.offset, read_only: false });
    }
    if !m.shared && m.huge().is_some() && m.name == b"/anon_hugepage (deleted)" {
        return Ok(Backing::Anon);
    }
    if m.name == uring::NAME {
        return ring(m, whole);
    }
    let starts = |prefix: &[u8]| m.name.starts_with(prefix);
    if starts(b"/secretmem") {
        return Err("secret memory (memfd_secret) is not supported");
    }
    if starts(b"/[aio]") {
        if whole.aio.contains(&m.inode) {
            return Err("it is a child's copy of another process's asynchronous I/O (io_setup): not supported");
        }
        whole.aio.push(m.inode);
        return Ok(Backing::Aio);
    }
    if starts(b"anon_inode:") || starts(b"socket:") || !starts(b"/") {
        return Err("memory of a kernel object is not supported");
    }
    let dev = libc::makedev(m.dev.0, m.dev.1);
    let file = whole.mapped.add(whole.view, &m.name, dev, m.inode, m.prot & 4 != 0);
    whole.mapped.set_huge(file, m.huge());
    match whole.mapped.device(file) {
        // A private mapping of /dev/zero is anonymous memory.
        Some((1, 5)) if !m.shared => return Ok(Backing::Anon),
        Some(_) => return Err("memory of a device is not supported"),
        None => {}
    }
    whole.gone.push((file, Sharer::new(process, m), m.shared));
    Ok(Backing::File { file, offset: m.offset, shared: m.shared, may_write: m.flags.has(*b"mw") })
}

/// Until descriptors have been looked at, a ring is known by its inode.
fn ring(m: &Mapping, whole: &mut Whole<'_>) -> Result<Backing, &'static str> {
    if !m.shared || !OFFSETS.contains(&m.offset) {
        return Err("a part of a ring of io_uring, or buffers in it, are not supported");
    }
    let known = whole.rings.iter().position(|inode| *inode == m.inode);
    let index = known.unwrap_or_else(|| {
        whole.rings.push(m.inode);
        whole.rings.len() - 1
    });
    Ok(Backing::Ring { file: index as u32, offset: m.offset })
}

fn vma(m: &Mapping, backing: Backing) -> Vma {
    const ADVICE: [([u8; 2], i32); 8] = [
        (*b"rr", libc::MADV_RANDOM),
        (*b"sr", libc::MADV_SEQUENTIAL),
        (*b"dc", libc::MADV_DONTFORK),
        (*b"mg", libc::MADV_MERGEABLE),
        (*b"hg", libc::MADV_HUGEPAGE),
        (*b"nh", libc::MADV_NOHUGEPAGE),
        (*b"dd", libc::MADV_DONTDUMP),
        (*b"wf", libc::MADV_WIPEONFORK),
    ];
    let has = |flag| m.flags.has(flag);
    Vma {
        start: Addr(m.start),
        end: Addr(m.end),
        prot: m.prot,
        backing,
        grows_down: has(*b"gd"),
        no_reserve: has(*b"nr"),
        locked: has(*b"lo").then(|| has(*b"lf")),
        sealed: has(*b"sl"),
        advice: ADVICE.iter().filter(|(flag, _)| has(*flag)).map(|(_, advice)| *advice).collect(),
        huge: m.huge(),
        pkey: m.pkey,
        anon_name: m.anon_name().map(|name| Name(name.to_vec())),
    }
}

fn fields(p: &HeldProcess) -> Result<MmFields, Error> {
    let stat = &p.stat;
    let auxv = proc::read(&format!("{}/auxv", p.live())).map_err(Error::proc(p.host))?;
    Ok(MmFields {
        start_code: Addr(stat.start_code),
        end_code: Addr(stat.end_code),
        start_data: Addr(stat.start_data),
        end_data: Addr(stat.end_data),
        start_brk: Addr(stat.start_brk),
        brk: Addr(stat.start_brk),
        start_stack: Addr(stat.start_stack),
        arg_start: Addr(stat.arg_start),
        arg_end: Addr(stat.arg_end),
        env_start: Addr(stat.env_start),
        env_end: Addr(stat.env_end),
        auxv: Hex(auxv),
    })
}

/// The kernel's own code page and the data pages right before it.
fn vdso(p: &HeldProcess, maps: &[Mapping]) -> Result<Option<Vdso>, Error> {
    const LARGEST: u64 = 1 << 20;
    let Some(at) = maps.iter().position(|m| m.name == b"[vdso]" && m.len() <= LARGEST) else { return Ok(None) };
    let Some(code) = maps.get(at) else { return Ok(None) };
    let mut vvar_start = code.start;
    for m in maps.iter().take(at).rev() {
        if !m.name.starts_with(b"[vvar") || m.end != vvar_start {
            break;
        }
        vvar_start = m.start;
    }
    let mut bytes = vec![0u8; code.len() as usize];
    p.read(Addr(code.start), &mut bytes).map_err(Error::of(p.host, "reading the vDSO"))?;
    Ok(Some(Vdso { vvar_start: Addr(vvar_start), start: Addr(code.start), end: Addr(code.end), code: Hex(bytes) }))
}

/// Every page of the process that is neither a file's nor the zero page; and the guard pages.
fn pages(p: &HeldProcess, pagemap: &File, maps: &[Mapping]) -> io::Result<(Ranges, Ranges)> {
    if !has_pagemap_scan() {
        return Ok((entries::pages(p, pagemap, maps)?, Vec::new()));
    }
    let (Some(first), Some(last)) = (maps.first(), maps.iter().rfind(|m| m.end <= TOP)) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let (start, end) = (Addr(first.start), Addr(last.end));
    let guards = PageQuery { any: page::GUARD, ..PageQuery::default() };
    let (guards, guard) = match pagemap_scan(pagemap.as_fd(), start, end, guards) {
        Ok(found) => (found, page::GUARD),
        // Linux before 6.15 does not know them in this interface.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => (Vec::new(), 0),
        Err(e) => return Err(e),
    };
    let other = page::PFNZERO | page::FILE | guard;
    let query = PageQuery { inverted: other, all: other, any: page::PRESENT | page::SWAPPED };
    Ok((pagemap_scan(pagemap.as_fd(), start, end, query)?, guards))
}

/// Whether mlockall(MCL_FUTURE) is in force, and if so whether only on fault. Nothing says so but memory that is mapped
/// later: our `scratch` pages, mapped between `before` and `now` (KiB locked).
pub(super) fn lock_future(host: i32, before: u64, now: u64, scratch: Addr) -> Result<Option<bool>, Error> {
    if now <= before {
        return Ok(None);
    }
    let maps = proc::smaps(host).map_err(Error::proc(host))?;
    let ours = maps.iter().find(|m| m.start <= scratch.0 && scratch.0 < m.end);
    Ok(ours.filter(|m| m.flags.has(*b"lo")).map(|m| m.flags.has(*b"lf")))
}

/// The parts of `pages` within each of `wanted`; both ascending. A run never reaches over two mappings.
fn clip(pages: &[(Addr, Addr)], wanted: &[(u64, u64)]) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::new();
    let mut wanted = wanted.iter().peekable();
    for &(Addr(from), Addr(to)) in pages {
        let mut from = from;
        while let Some(&&(start, end)) = wanted.peek() {
            if end <= from {
                wanted.next();
                continue;
            }
            if start >= to {
                break;
            }
            let (s, e) = (from.max(start), to.min(end));
            out.push(Run { start: s, len: e - s });
            from = e;
            if from >= to {
                break;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn runs(runs: &[Run]) -> Vec<(u64, u64)> {
        runs.iter().map(|r| (r.start, r.start + r.len)).collect()
    }

    #[test]
    fn pages_are_clipped_to_mappings() {
        let pages = [(Addr(0), Addr(10)), (Addr(20), Addr(40)), (Addr(50), Addr(60))];
        let got = runs(&clip(&pages, &[(5, 8), (8, 30), (35, 55), (70, 80)]));
        assert_eq!(got, [(5, 8), (8, 10), (20, 30), (35, 40), (50, 55)]);
        assert_eq!(runs(&clip(&pages, &[])), []);
        assert_eq!(runs(&clip(&[], &[(0, 9)])), []);
    }

    proptest! {
        #[test]
        fn clipping_keeps_exactly_the_common_part(a in "[.#]{0,40}", b in "[.#]{0,40}") {
            let spans = |text: &str| {
                let mut out: Vec<(u64, u64)> = Vec::new();
                for (i, c) in text.bytes().enumerate().filter(|(_, c)| *c == b'#') {
                    let _ = c;
                    match out.last_mut() {
                        Some(last) if last.1 == i as u64 => last.1 += 1,
                        _ => out.push((i as u64, i as u64 + 1)),
                    }
                }
                out
            };
            let both: String = a.bytes().zip(b.bytes()).map(|(x, y)| if x == b'#' && y == b'#' { '#' } else { '.' }).collect();
            let pages: Vec<(Addr, Addr)> = spans(&a).into_iter().map(|(s, e)| (Addr(s), Addr(e))).collect();
            prop_assert_eq!(runs(&clip(&pages, &spans(&b))), spans(&both));
        }
    }

    fn mapping(text: &str) -> Mapping {
        proc::smaps::parse(text.as_bytes()).unwrap().remove(0)
    }

    #[test]
    fn flags_become_advice_and_refusals() {
        let m = mapping("1000-2000 rw-p 00000000 00:00 0 [anon:x]\nVmFlags: rd wr gd nr lo lf dc hg dd sl\n");
        assert_eq!(unsupported(&m), None);
        let v = vma(&m, Backing::Anon);
        assert!(v.grows_down && v.no_reserve && v.sealed);
        assert_eq!((v.locked, v.advice), (Some(true), vec![10, 14, 16]));
        assert_eq!(v.anon_name, Some(Name::from("x")));
        assert!(unsupported(&mapping("1000-2000 rw-p 00000000 00:00 0\nVmFlags: rd io\n")).is_some());
    }

    fn with_whole<T>(f: impl FnOnce(&mut Whole<'_>) -> T) -> T {
        f(&mut Whole {
            view: &View::ours(),
            mapped: &mut Mapped::default(),
            shared: &mut SharedAnon::default(),
            gone: &mut Vec::new(),
            aio: &mut Vec::new(),
            rings: &mut Vec::new(),
            refusals: &mut Refusals::default(),
        })
    }

    #[test]
    fn what_is_behind_a_mapping() {
        with_whole(|whole| {
            let mut of = |text: &str| backing(&mapping(text), 0, whole);
            assert_eq!(of("1000-2000 rw-p 00000000 00:00 0 [heap]\n"), Ok(Backing::Anon));
            assert_eq!(
                of("1000-2000 rw-s 00001000 00:01 55 /dev/zero (deleted)\n"),
                Ok(Backing::SharedAnon { object: 0, offset: 4096, read_only: false })
            );
            assert_eq!(
                of("1000-2000 rw-s 00000000 00:01 56 [anon_shmem:n]\n"),
                Ok(Backing::SharedAnon { object: 1, offset: 0, read_only: false })
            );
            assert_eq!(
                of("8000-9000 rw-s 00000000 00:01 55 /dev/zero (deleted)\n"),
                Ok(Backing::SharedAnon { object: 0, offset: 0, read_only: false })
            );
            let huge = "KernelPageSize: 2048 kB\nVmFlags: rd ht\n";
            assert_eq!(
                of(&format!("0-200000 rw-p 00000000 00:11 58 /anon_hugepage (deleted)\n{huge}")),
                Ok(Backing::Anon)
            );
            assert!(of(&format!("0-200000 rw-s 00000000 00:11 59 /SYSV00000000 (deleted)\n{huge}")).is_err());
            assert_eq!(
                of("1000-2000 rw-s 10000000 00:10 57 anon_inode:[io_uring]\n"),
                Ok(Backing::Ring { file: 0, offset: 0x1000_0000 })
            );
            assert_eq!(of("1000-2000 rw-s 00000000 00:13 58 /[aio] (deleted)\n"), Ok(Backing::Aio));
            for refused in [
                "1000-2000 rw-s 00000000 00:13 58 /[aio] (deleted)\n",
                "1000-2000 rw-s 80000000 00:01 57 anon_inode:[io_uring]\n",
                "1000-2000 r-xp 00000000 00:00 0 [uprobes]\n",
            ] {
                assert!(of(refused).is_err(), "{refused}");
            }
        });
    }
}
