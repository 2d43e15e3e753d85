//! Memory of other processes: copying it, and asking which of it is there.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::model::Addr;

use super::check;

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

/// PAGEMAP_SCAN on an open /proc/PID/pagemap: the ranges of `start..end` that match, in order, neighbours joined.
pub fn pagemap_scan(
    pagemap: BorrowedFd<'_>,
    start: Addr,
    end: Addr,
    query: PageQuery,
) -> io::Result<Vec<(Addr, Addr)>> {
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610; // _IOWR('f', 16, struct pm_scan_arg)
    let mut regions = [PageRegion::default(); 512];
    let mut out: Vec<(Addr, Addr)> = Vec::new();
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
            match out.last_mut() {
                Some((_, last)) if last.0 == r.start => last.0 = r.end,
                _ => out.push((Addr(r.start), Addr(r.end))),
            }
        }
        if arg.walk_end <= from {
            break;
        }
        from = arg.walk_end;
    }
    Ok(out)
}
