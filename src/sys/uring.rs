//! io_uring(7): making rings, and looking into them through a descriptor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::model::Addr;

use super::{check, mem};

/// What io_uring_setup(2) is asked and answers: struct io_uring_params.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Params {
    /// Places for requests.
    pub sq_entries: u32,
    /// Places for completions.
    pub cq_entries: u32,
    /// IORING_SETUP_* bits.
    pub flags: u32,
    /// The processor of a thread that takes requests.
    pub sq_thread_cpu: u32,
    /// Milliseconds until it sleeps; 0: the kernel's choice.
    pub sq_thread_idle: u32,
    /// What the kernel can do, the ring whose thread is to be taken, and nothing.
    pub others: [u32; 5],
    /// Byte offsets in the ring: head, tail, mask, entries, flags, dropped, array.
    pub sq: [u32; 10],
    /// Byte offsets in the ring: head, tail, mask, entries, overflow, completions, flags.
    pub cq: [u32; 10],
}

/// io_uring_setup(2); the descriptor is closed by exec. `cq_entries` of 0: twice as many as requests.
pub fn setup(sq_entries: u32, cq_entries: u32, flags: u32) -> io::Result<(OwnedFd, Params)> {
    const CQSIZE: u32 = 1 << 3;
    let flags = if cq_entries > 0 { flags | CQSIZE } else { flags };
    setup_by(sq_entries, Params { cq_entries, flags, ..Params::default() })
}

/// As [`setup`], with all that may be asked.
pub fn setup_by(sq_entries: u32, mut params: Params) -> io::Result<(OwnedFd, Params)> {
    // SAFETY: `params` has the size of the kernel's structure and outlives the call; a fresh descriptor that nobody
    // else owns.
    let fd = unsafe {
        check(libc::syscall(libc::SYS_io_uring_setup, sq_entries, &raw mut params))
            .map(|fd| OwnedFd::from_raw_fd(fd as i32))
    }?;
    Ok((fd, params))
}

/// io_uring_enter(2) that waits for nothing: how many requests were taken.
pub fn enter(fd: BorrowedFd<'_>, requests: u32) -> io::Result<u32> {
    call_enter(fd, requests, 0)
}

/// io_uring_enter(2) that wakes the thread of the kernel that takes requests (IORING_ENTER_SQ_WAKEUP); fails with EOWNERDEAD
/// if there is none any more.
pub fn wake(fd: BorrowedFd<'_>) -> io::Result<()> {
    const SQ_WAKEUP: u32 = 2;
    call_enter(fd, 0, SQ_WAKEUP).map(drop)
}

/// The errno of asking for completions without waiting for any; 0: it may be asked.
pub fn get_events(fd: BorrowedFd<'_>) -> i32 {
    const GETEVENTS: u32 = 1;
    call_enter(fd, 0, GETEVENTS).err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

fn call_enter(fd: BorrowedFd<'_>, requests: u32, flags: u32) -> io::Result<u32> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_io_uring_enter, fd.as_raw_fd(), requests, 0, flags, 0usize, 0usize) })
        .map(|n| n as u32)
}

/// io_uring_register(2) of one thing at an address that can't be read, and so does nothing: the errno is EFAULT where
/// all that comes before is well.
pub fn try_register(fd: BorrowedFd<'_>, what: u32) -> i32 {
    // SAFETY: the kernel finds that there is no memory of a process at the end of the address space.
    let done = check(unsafe { libc::syscall(libc::SYS_io_uring_register, fd.as_raw_fd(), what, !7usize, 1) });
    done.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

/// The errno of asking for a group of buffers by its number (IORING_REGISTER_PBUF_STATUS, Linux ≥ 6.8); 0: it is there.
pub fn buffers(fd: BorrowedFd<'_>, group: u32) -> i32 {
    const STATUS: u32 = 26;
    let mut status = [0u32; 10];
    status[0] = group;
    // SAFETY: struct io_uring_buf_status is ten words, and outlives the call.
    let done =
        check(unsafe { libc::syscall(libc::SYS_io_uring_register, fd.as_raw_fd(), STATUS, status.as_mut_ptr(), 1) });
    done.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

/// Memory of a ring, mapped for us too.
#[derive(Debug)]
pub struct Map {
    at: NonNull<AtomicU32>,
    len: usize,
}

impl Map {
    /// Maps `len` bytes at one of the offsets that a ring has.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<Map> {
        let len = len.next_multiple_of(4096) as usize;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd.as_raw_fd(), offset as i64) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Map { at, len })
    }

    /// Whether there is memory behind the last byte: the kernel maps less than it is asked for.
    pub fn is_whole(&self) -> bool {
        let last = self.at.as_ptr() as u64 + self.len as u64 - 1;
        mem::read(std::process::id() as i32, Addr(last), &mut [0]).is_ok_and(|n| n == 1)
    }

    fn cell(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.len / 4, "word {index} of a ring of {} bytes", self.len);
        // SAFETY: inside the mapping, which lives as long as this; whoever shares it writes whole words as well.
        unsafe { self.at.add(index).as_ref() }
    }

    /// A 32-bit word.
    pub fn word(&self, index: usize) -> u32 {
        self.cell(index).load(Ordering::Acquire)
    }

    /// Changes a word.
    pub fn set(&self, index: usize, value: u32) {
        self.cell(index).store(value, Ordering::Release);
    }

    /// The first `len` bytes, a multiple of 4.
    pub fn bytes(&self, len: u64) -> Vec<u8> {
        (0..len as usize / 4).flat_map(|i| self.word(i).to_ne_bytes()).collect()
    }

    /// Puts whole words from word `first` on.
    pub fn put(&self, first: usize, bytes: &[u8]) {
        for (i, word) in bytes.chunks_exact(4).enumerate() {
            self.set(first + i, u32::from_ne_bytes(word.try_into().unwrap_or_default()));
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}
