//! Memory of other processes: copying it, and asking which of it is there.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::LazyLock;

use crate::model::Addr;

use super::{check, probe};

/// process_vm_readv(2): copies from `addr` of `pid`. May be short; an error if nothing could be read.
pub fn read(pid: i32, addr: Addr, buf: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: addr.0 as *mut libc::c_void, iov_len: buf.len() };
    // SAFETY: `local` describes `buf`; `remote` is checked by the kernel against the other process.
    let n = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
    check(n as libc::c_long).map(|n| n as usize)
}

/// process_vm_writev(2): copies to `addr` of `pid`. May be short.
pub fn write(pid: i32, addr: Addr, buf: &[u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: addr.0 as *mut libc::c_void, iov_len: buf.len() };
    // SAFETY: as for `read`; the kernel only reads from `local`.
    let n = unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) };
    check(n as libc::c_long).map(|n| n as usize)
}

/// A piece of a file, mapped to be written to.
#[derive(Debug)]
pub struct Window {
    at: *mut u8,
    len: usize,
}

impl Window {
    /// Maps `len` bytes of a file from `offset` on, both whole pages of it, and within its size.
    ///
    /// # Errors
    /// `ENOMEM` where a file of hugetlbfs can't have its pages.
    pub fn new(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<Window> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let (prot, offset) = (libc::PROT_READ | libc::PROT_WRITE, offset as libc::off_t);
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Window { at: at.cast(), len }) }
    }

    /// Copies bytes to `from`; what would lie beyond the end is left out.
    pub fn write(&mut self, from: usize, bytes: &[u8]) {
        let len = bytes.len().min(self.len.saturating_sub(from));
        if len > 0 {
            // SAFETY: the range is inside the mapping, which is ours alone and cannot be `bytes`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(from), len) };
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nobody refers any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Categories of PAGEMAP_SCAN (include/uapi/linux/fs.h, Linux ≥ 6.7).
pub mod page {
    /// A file's page, or shared anonymous memory.
    pub const FILE: u64 = 1 << 2;
    /// In memory.
    pub const PRESENT: u64 = 1 << 3;
    /// In swap.
    pub const SWAPPED: u64 = 1 << 4;
    /// The zero page.
    pub const PFNZERO: u64 = 1 << 5;
    /// Guard region (Linux ≥ 6.15).
    pub const GUARD: u64 = 1 << 8;
    /// Mapped here and nowhere else. Not of PAGEMAP_SCAN, but of the entries that [`super::pagemap_read`] looks at.
    pub const EXCLUSIVE: u64 = 1 << 63;
}

/// What PAGEMAP_SCAN is asked for: pages whose categories, after flipping `inverted`, have all of `all` and one of
/// `any` (0: no such condition).
#[derive(Debug, Clone, Copy, Default)]
pub struct PageQuery {
    /// Categories to flip first.
    pub inverted: u64,
    /// All of these.
    pub all: u64,
    /// At least one of these.
    pub any: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

impl PageQuery {
    fn fits(&self, categories: u64) -> bool {
        let flipped = categories ^ self.inverted;
        flipped & self.all == self.all && (self.any == 0 || flipped & self.any != 0)
    }
}

/// Ranges of addresses.
pub type Ranges = Vec<(Addr, Addr)>;

fn join(out: &mut Ranges, from: u64, to: u64) {
    match out.last_mut() {
        Some((_, last)) if last.0 == from => last.0 = to,
        _ => out.push((Addr(from), Addr(to))),
    }
}

/// The ranges of `start..end` that match, in order, neighbours joined, from an open /proc/PID/pagemap: by PAGEMAP_SCAN, or where
/// the kernel hasn't got that by [`pagemap_read`].
pub fn pagemap_scan(pagemap: BorrowedFd<'_>, start: Addr, end: Addr, query: PageQuery) -> io::Result<Ranges> {
    match scan(pagemap, start, end, query) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTTY) => pagemap_read(pagemap, start, end, query),
        other => other,
    }
}

/// Whether the kernel has PAGEMAP_SCAN (Linux ≥ 6.7), which it is asked once.
pub fn has_pagemap_scan() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| probe::pagemap_scan().is_ok());
    *HAS
}

/// The same as [`pagemap_scan`], page by page (Documentation/admin-guide/mm/pagemap.rst): 8 bytes are read for each, whether there
/// is one or not. Pages that are in memory and no file's may be the zero page.
pub fn pagemap_read(pagemap: BorrowedFd<'_>, start: Addr, end: Addr, query: PageQuery) -> io::Result<Ranges> {
    const PAGE: u64 = 4096;
    const ENTRY: u64 = 8;
    const LONGEST: u64 = 64 * 1024;
    const KNOWN: [(u64, u64); 4] =
        [(1 << 56, page::EXCLUSIVE), (1 << 61, page::FILE), (1 << 62, page::SWAPPED), (1 << 63, page::PRESENT)];
    let mut buf = vec![0u8; (end.0.saturating_sub(start.0) / PAGE * ENTRY).min(LONGEST) as usize];
    let mut out = Vec::new();
    let mut at = start.0;
    while at < end.0 {
        let want = ((end.0 - at) / PAGE * ENTRY).min(buf.len() as u64) as usize;
        let entries = buf.get_mut(..want).filter(|entries| !entries.is_empty());
        let entries = entries.ok_or(io::ErrorKind::InvalidInput)?;
        let n = nix::sys::uio::pread(pagemap, entries, (at / PAGE * ENTRY) as libc::off_t)?;
        if n < ENTRY as usize {
            break;
        }
        for entry in entries.get(..n).unwrap_or_default().chunks_exact(ENTRY as usize).filter_map(|e| e.first_chunk()) {
            let entry = u64::from_ne_bytes(*entry);
            let categories = KNOWN.iter().filter(|(bit, _)| entry & bit != 0).fold(0, |all, (_, c)| all | c);
            if query.fits(categories) {
                join(&mut out, at, at + PAGE);
            }
            at += PAGE;
        }
    }
    Ok(out)
}

fn scan(pagemap: BorrowedFd<'_>, start: Addr, end: Addr, query: PageQuery) -> io::Result<Ranges> {
    const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610u32 as libc::Ioctl; // _IOWR('f', 16, struct pm_scan_arg)
    let mut regions = [PageRegion::default(); 512];
    let mut out = Ranges::new();
    let mut from = start.0;
    while from < end.0 {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: 0,
            start: from,
            end: end.0,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: query.inverted,
            category_mask: query.all,
            category_anyof_mask: query.any,
            return_mask: 0,
        };
        // SAFETY: `arg` and `regions` outlive the call and have the sizes they claim.
        let n = check(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) } as libc::c_long)?;
        for r in regions.iter().take(n as usize) {
            join(&mut out, r.start, r.end);
        }
        if arg.walk_end <= from {
            break;
        }
        from = arg.walk_end;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn entries_tell_what_a_scan_does() {
        const PAGE: usize = 4096;
        const PAGES: usize = 20_000;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, which is ours until the end of the test.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGES * PAGE, prot, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: huge pages would fill what is left empty here.
        unsafe { libc::madvise(at, PAGES * PAGE, libc::MADV_NOHUGEPAGE) };
        let written = [0, 1, 2, 700, 8191, 8192, 8193, 19_999];
        for page in written {
            // SAFETY: within the memory.
            unsafe { at.cast::<u8>().add(page * PAGE).write_volatile(1) };
        }
        let start = Addr(at as u64);
        let end = Addr(start.0 + (PAGES * PAGE) as u64);
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        let query = PageQuery { inverted: page::FILE, all: page::FILE, any: page::PRESENT | page::SWAPPED };
        let read = pagemap_read(pagemap.as_fd(), start, end, query).unwrap();
        let pages: Vec<usize> = read
            .iter()
            .flat_map(|(from, to)| (from.0..to.0).step_by(PAGE))
            .map(|a| (a - start.0) as usize / PAGE)
            .collect();
        assert_eq!(pages, written);
        if has_pagemap_scan() {
            assert_eq!(scan(pagemap.as_fd(), start, end, query).unwrap(), read);
        }
        // A file's pages are none.
        let code = entries_tell_what_a_scan_does as *const () as u64 / 4096 * 4096;
        assert_eq!(pagemap_read(pagemap.as_fd(), Addr(code), Addr(code + 4096), query).unwrap(), []);
        // SAFETY: nothing refers to it any more.
        unsafe { libc::munmap(at, PAGES * PAGE) };
    }
}
