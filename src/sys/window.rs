//! The beginning of a file of ours, in memory before there is anything to write: its pages are made and mapped, so that
//! several threads can write to it at once without a lock, and to write is no more than to copy.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

const PAGE: usize = 4096;

/// A mapping of the first bytes of a file.
#[derive(Debug)]
pub struct Window {
    at: *mut u8,
    len: usize,
    /// A bit for each page that has been taken.
    taken: Vec<AtomicU64>,
}

// SAFETY: the memory belongs to whoever has this, and to no thread.
unsafe impl Send for Window {}
// SAFETY: `&self` gives out each page once.
unsafe impl Sync for Window {}

impl Window {
    /// Maps the first `len` bytes of a file that is open for reading and writing and has as many. Nobody else may write
    /// to it or make it shorter as long as this lives.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn open(file: &File, len: usize) -> io::Result<Window> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let taken = (0..len.div_ceil(PAGE * 64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Window { at: at.cast(), len, taken })
    }

    /// Makes the pages of `len` bytes from `from` on.
    ///
    /// # Errors
    /// As madvise(2), of MADV_POPULATE_WRITE: `EFAULT` where the file system has no room for them.
    pub fn populate(&self, from: usize, len: usize) -> io::Result<()> {
        let len = len.min(self.len.saturating_sub(from));
        if len == 0 {
            return Ok(());
        }
        // SAFETY: inside our own mapping, and no byte of it is changed.
        let done = unsafe { libc::madvise(self.at.add(from).cast(), len, libc::MADV_POPULATE_WRITE) };
        super::check(done.into()).map(drop)
    }

    /// `len` bytes at `offset`, to be written to, if these are whole pages, lie inside and have not been given out before.
    pub fn take(&self, offset: u64, len: usize) -> Option<Piece<'_>> {
        let from = usize::try_from(offset).ok()?;
        let end = from.checked_add(len).filter(|end| *end <= self.len)?;
        if from % PAGE != 0 || len % PAGE != 0 {
            return None;
        }
        let mut fresh = true;
        for page in from / PAGE..end / PAGE {
            let bit = 1 << (page % 64);
            fresh &= self.taken.get(page / 64)?.fetch_or(bit, Ordering::Relaxed) & bit == 0;
        }
        // SAFETY: inside our mapping, and given out this once.
        fresh.then(|| Piece(unsafe { std::slice::from_raw_parts_mut(self.at.add(from), len) }))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: our own mapping; its pieces are gone.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Some pages of a window.
#[derive(Debug)]
pub struct Piece<'a>(&'a mut [u8]);

impl Deref for Piece<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl DerefMut for Piece<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_written_to_it_is_in_the_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(300 * PAGE as u64).unwrap();
        let window = Window::open(&file, 300 * PAGE).unwrap();
        window.populate(0, 100 * PAGE).unwrap();
        window.populate(100 * PAGE, 1 << 30).unwrap();
        window.take(65 * PAGE as u64, 2 * PAGE).unwrap().fill(7);
        let mut page = [0; PAGE];
        file.read_exact_at(&mut page, 66 * PAGE as u64).unwrap();
        assert_eq!(page, [7; PAGE]);
        file.read_exact_at(&mut page, 67 * PAGE as u64).unwrap();
        assert_eq!(page, [0; PAGE]);
    }

    #[test]
    fn each_page_is_given_out_once() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(300 * PAGE as u64).unwrap();
        let window = Window::open(&file, 300 * PAGE).unwrap();
        let page = PAGE as u64;
        assert!(window.take(62 * page, 4 * PAGE).is_some());
        for (at, len) in
            [(65 * page, PAGE), (60 * page, 3 * PAGE), (299 * page, 2 * PAGE), (1, PAGE), (0, 1), (u64::MAX, PAGE)]
        {
            assert!(window.take(at, len).is_none(), "{at} {len}");
        }
        assert!(window.take(66 * page, 234 * PAGE).is_some());
    }
}
