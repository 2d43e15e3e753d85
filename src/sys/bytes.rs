//! Bytes of which there may be many: these have pages of their own.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::Deref;

/// From so many on, the pages are made at once: one by one, as the kernel writes to them, they take as long as the bytes.
pub const MANY: usize = 256 << 10;
const HUGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// A vector of bytes, or its like.
#[derive(Debug)]
pub enum Bytes {
    /// On the heap.
    Few(Vec<u8>),
    /// In pages of their own.
    Many(Pages),
}

impl Bytes {
    /// None yet, and room for `room`.
    pub fn with_room(room: usize) -> Bytes {
        let pages = if room >= MANY { Pages::new(room).ok() } else { None };
        pages.map_or_else(|| Bytes::Few(Vec::with_capacity(room)), Bytes::Many)
    }

    /// How many they may be.
    pub fn room(&self) -> usize {
        match self {
            Bytes::Few(bytes) => bytes.capacity(),
            Bytes::Many(pages) => pages.room,
        }
    }

    /// Appends what `write` does: it is given a place and how many bytes may be written there, at most `most`, and
    /// returns how many it has written.
    ///
    /// # Errors
    /// That of `write`.
    ///
    /// # Safety
    /// `write` has written as many bytes as it returns, and no more than it may.
    pub(super) unsafe fn append(
        &mut self,
        most: usize,
        write: impl FnOnce(*mut u8, usize) -> io::Result<usize>,
    ) -> io::Result<usize> {
        // SAFETY: behind what is there is room, of which so many bytes are initialised then.
        unsafe {
            match self {
                Bytes::Few(bytes) => {
                    let room = bytes.spare_capacity_mut();
                    let got = write(room.as_mut_ptr().cast(), most.min(room.len()))?;
                    bytes.set_len(bytes.len() + got);
                    Ok(got)
                }
                Bytes::Many(pages) => {
                    let got = write(pages.at.add(pages.len), most.min(pages.room - pages.len))?;
                    pages.len += got;
                    Ok(got)
                }
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Few(bytes) => bytes,
            // SAFETY: so many bytes have been written there.
            Bytes::Many(pages) => unsafe { std::slice::from_raw_parts(pages.at, pages.len) },
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::Few(bytes)
    }
}

/// A mapping that is there already, in huge pages as far as these fit. Children of ours don't get it: each page that is
/// shared with one costs a page fault, and a copy, when it is written to.
pub struct Pages {
    at: *mut u8,
    room: usize,
    len: usize,
}

// SAFETY: the memory belongs to whoever has this, and to no thread.
unsafe impl Send for Pages {}
// SAFETY: `&self` only reads.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(room: usize) -> io::Result<Pages> {
        let room = room.next_multiple_of(PAGE);
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at a place of the kernel's choice; what is advised concerns it alone. That any of that
        // fails is no matter.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), room, prot, flags, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            libc::madvise(at, room, libc::MADV_DONTFORK);
            if room >= HUGE {
                libc::madvise(at, room, libc::MADV_HUGEPAGE);
            }
            libc::madvise(at, room, libc::MADV_POPULATE_WRITE);
            Ok(Pages { at: at.cast(), room, len: 0 })
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nobody refers any more.
        unsafe { libc::munmap(self.at.cast(), self.room) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_and_many_are_alike() {
        for room in [10, MANY + 10] {
            let mut bytes = Bytes::with_room(room);
            assert_eq!(matches!(bytes, Bytes::Many(_)), room >= MANY);
            assert!(bytes.is_empty() && bytes.room() >= room);
            let room = bytes.room();
            for _ in 0..3 {
                // SAFETY: as many are written as may be, and no more.
                let got = unsafe {
                    bytes.append(room / 2, |at, most| {
                        at.write_bytes(7, most);
                        Ok(most)
                    })
                };
                assert!(got.unwrap() <= room / 2);
            }
            assert_eq!(bytes.len(), room);
            assert!(bytes.iter().all(|&b| b == 7));
        }
    }
}
