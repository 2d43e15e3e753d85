//! inotify(7) with chosen watch descriptors.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::model::Name;

use super::check;

/// inotify_init1(2).
pub fn new(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { check(libc::inotify_init1(flags).into()).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// inotify_add_watch(2) of `path` itself, also if it is a symbolic link, as watch `wd`.
///
/// # Errors
/// What the call says; `Other` if another number came out, as when the file is watched already.
pub fn watch(fd: BorrowedFd<'_>, wd: i32, mask: u32, path: &Name) -> io::Result<()> {
    set_next(fd, wd)?;
    watch_again(fd, wd, mask, path)
}

/// The same for what is watched as `wd` already, or where the next number is to be that.
///
/// # Errors
/// As [`watch`].
pub fn watch_again(fd: BorrowedFd<'_>, wd: i32, mask: u32, path: &Name) -> io::Result<()> {
    let got = watch_any(fd, mask | libc::IN_DONT_FOLLOW, path)?;
    if got == wd { Ok(()) } else { Err(io::Error::other(format!("watch {got} instead of {wd}"))) }
}

/// inotify_add_watch(2): the watch's number.
pub fn watch_any(fd: BorrowedFd<'_>, mask: u32, path: &Name) -> io::Result<i32> {
    let path = CString::new(path.0.clone())?;
    // SAFETY: `path` outlives the call and ends in NUL.
    let got = unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask) };
    check(got.into()).map(|wd| wd as i32)
}

/// Has the next watch get number `wd`, or the first that is free from there on.
pub fn set_next(fd: BorrowedFd<'_>, wd: i32) -> io::Result<()> {
    // INOTIFY_IOC_SETNEXTWD (CONFIG_CHECKPOINT_RESTORE, as PR_SET_MM_MAP).
    const SET_NEXT: libc::Ioctl = 0x4004_4900;
    // SAFETY: the argument of this ioctl is a number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), SET_NEXT, i64::from(wd)) }.into()).map(drop)
}

/// inotify_rm_watch(2), which puts IN_IGNORED into the queue.
pub fn unwatch(fd: BorrowedFd<'_>, wd: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::inotify_rm_watch(fd.as_raw_fd(), wd) }.into()).map(drop)
}
