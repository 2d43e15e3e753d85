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
    // INOTIFY_IOC_SETNEXTWD (CONFIG_CHECKPOINT_RESTORE, as PR_SET_MM_MAP).
    const SET_NEXT: u64 = 0x4004_4900;
    let path = CString::new(path.0.clone())?;
    // SAFETY: the argument of this ioctl is a number; `path` outlives the call and ends in NUL.
    let got = unsafe {
        check(libc::ioctl(fd.as_raw_fd(), SET_NEXT, i64::from(wd)).into())?;
        check(libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), mask | libc::IN_DONT_FOLLOW).into())?
    };
    if got == wd as u64 { Ok(()) } else { Err(io::Error::other(format!("watch {got} instead of {wd}"))) }
}
