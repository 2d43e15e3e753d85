//! Descriptors: what nix has no wrapper for.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::check;

/// The bits of a description's flags that say whether it may be read and written. musl's `O_ACCMODE` has `O_PATH` among them.
pub const ACCESS: i32 = libc::O_RDONLY | libc::O_WRONLY | libc::O_RDWR;

/// open(2) for reading. As short as can be: musl's makes a second system call for each descriptor, and /proc has many files.
pub fn open_to_read(path: &str) -> io::Result<File> {
    let path = CString::new(path)?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: `path` outlives the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the descriptor is new, and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

/// open(2) with O_PATH and more flags: only the place. The standard library takes what `O_ACCMODE` has out of a caller's flags,
/// and what would then be opened is the file itself.
pub fn place(path: &Path, flags: i32) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(libc::O_PATH | libc::O_CLOEXEC | flags);
    Ok(nix::fcntl::open(path, flags, Mode::empty())?.into())
}

/// tee(2): copies up to `len` bytes from one pipe to another without taking them. Never blocks.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    // SAFETY: no pointers.
    let n = unsafe { libc::tee(from.as_raw_fd(), to.as_raw_fd(), len, libc::SPLICE_F_NONBLOCK) };
    check(n as libc::c_long).map(|n| n as usize)
}

/// FIONREAD: bytes that can be read.
pub fn readable(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut n: libc::c_int = 0;
    // SAFETY: `n` outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut n) } as libc::c_long)?;
    Ok(n as usize)
}

/// fcntl(2) with a number as its argument.
pub fn fcntl(fd: BorrowedFd<'_>, command: i32, arg: i64) -> io::Result<i64> {
    // SAFETY: callers use commands whose argument is a number.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), command, arg) } as libc::c_long).map(|n| n as i64)
}

/// F_GETOWN_EX: kind (F_OWNER_TID 0, PID 1, PGRP 2) and id (0: none).
pub fn owner(fd: BorrowedFd<'_>) -> io::Result<(i32, i32)> {
    let mut owner = [0i32; 2];
    // SAFETY: `struct f_owner_ex` is two ints, and outlives the call.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), 16, owner.as_mut_ptr()) } as libc::c_long)?;
    Ok((owner[0], owner[1]))
}

/// Sets who gets signals of a description (F_SETOWN_EX): kind and id, 0 for nobody.
pub fn set_owner(fd: BorrowedFd<'_>, kind: i32, id: i32) -> io::Result<()> {
    const F_SETOWN_EX: i32 = 15;
    let owner = [kind, id];
    // SAFETY: the argument is a struct f_owner_ex that outlives the call.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, owner.as_ptr()) }.into()).map(drop)
}

/// eventfd(2).
pub fn eventfd(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { check(libc::syscall(libc::SYS_eventfd2, 0, flags)).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// signalfd4(2).
pub fn signalfd(mask: u64, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: `mask` outlives the call; a fresh descriptor that nobody else owns.
    unsafe {
        check(libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8, flags))
            .map(|fd| OwnedFd::from_raw_fd(fd as i32))
    }
}

/// timerfd_create(2).
pub fn timerfd(clock: i32, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { check(libc::timerfd_create(clock, flags) as libc::c_long).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// timerfd_settime(2): first expiry and period, each as seconds and nanoseconds.
pub fn timerfd_set(fd: BorrowedFd<'_>, flags: i32, first: (i64, i64), period: (i64, i64)) -> io::Result<()> {
    let spec = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: period.0, tv_nsec: period.1 },
        it_value: libc::timespec { tv_sec: first.0, tv_nsec: first.1 },
    };
    // SAFETY: `spec` outlives the call.
    check(unsafe { libc::timerfd_settime(fd.as_raw_fd(), flags, &raw const spec, std::ptr::null_mut()) }.into())
        .map(drop)
}

/// timerfd_gettime(2): the time left, as seconds and nanoseconds.
pub fn timerfd_left(fd: BorrowedFd<'_>) -> io::Result<(i64, i64)> {
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let mut spec = libc::itimerspec { it_interval: zero, it_value: zero };
    // SAFETY: `spec` outlives the call.
    check(unsafe { libc::timerfd_gettime(fd.as_raw_fd(), &raw mut spec) }.into())?;
    Ok((spec.it_value.tv_sec, spec.it_value.tv_nsec))
}

/// TFD_IOC_SET_TICKS: the number of unread expirations.
pub fn timerfd_set_ticks(fd: BorrowedFd<'_>, ticks: u64) -> io::Result<()> {
    // SAFETY: `ticks` outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), 0x4008_5400, &raw const ticks) }.into()).map(drop)
}

/// epoll_create1(2).
pub fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { check(libc::epoll_create1(libc::EPOLL_CLOEXEC).into()).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// fcntl F_DUPFD: a copy with a number of at least `lowest`, open across exec and fork.
pub fn dup_above(fd: BorrowedFd<'_>, lowest: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe {
        check(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, lowest).into()).map(|fd| OwnedFd::from_raw_fd(fd as i32))
    }
}

/// mq_getattr(3): O_NONBLOCK, most messages, bytes of the longest, messages.
pub fn mq_attributes(fd: BorrowedFd<'_>) -> io::Result<[u64; 4]> {
    let mut attr = [0u64; 8];
    // SAFETY: `struct mq_attr` is eight longs, and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_mq_getsetattr, fd.as_raw_fd(), 0usize, attr.as_mut_ptr()) })?;
    let [flags, most, longest, now, ..] = attr;
    Ok([flags, most, longest, now])
}

/// isatty(3) of one of our own standard streams.
pub fn is_terminal(fd: i32) -> bool {
    // SAFETY: no pointers; a number that is not open gives 0.
    unsafe { libc::isatty(fd) == 1 }
}
