//! fanotify(7).
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

const CAP_SYS_ADMIN: u32 = 21;

/// fanotify_init(2): a group with these FAN_* flags, and O_* flags of the descriptors in its events. `privileged`: with
/// CAP_SYS_ADMIN, if we have it; else as for somebody without. Close-on-exec is as the flags say.
///
/// # Errors
/// As fanotify_init(2), capget(2) and capset(2).
pub fn new(flags: u32, event_flags: u32, privileged: bool) -> io::Result<OwnedFd> {
    if privileged { init(flags, event_flags) } else { without_admin(|| init(flags, event_flags)) }
}

fn init(flags: u32, event_flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { check(libc::fanotify_init(flags, event_flags).into()).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// Whether we have CAP_SYS_ADMIN in the initial user namespace: nobody else gets a group that hands out descriptors.
pub fn is_privileged() -> bool {
    match init(libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC, 0) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() != Some(libc::EPERM),
    }
}

/// fanotify_mark(2) of what is at `path`.
///
/// # Errors
/// As fanotify_mark(2).
pub fn mark(fd: BorrowedFd<'_>, flags: u32, mask: u32, path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` outlives the call and ends in NUL.
    let done = unsafe { libc::fanotify_mark(fd.as_raw_fd(), flags, mask.into(), libc::AT_FDCWD, path.as_ptr()) };
    check(done.into()).map(drop)
}

/// Does something while this thread has no CAP_SYS_ADMIN in effect.
fn without_admin<T>(act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (header, mut own) = ([0x2008_0522u32, 0], [0u32; 6]);
    // SAFETY: header (version 3) and sets are as capget(2) and capset(2) have them, and outlive the calls.
    let get = |sets: &mut [u32; 6]| unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    // SAFETY: likewise.
    let set = |sets: &[u32; 6]| unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    check(get(&mut own))?;
    let [effective, rest @ ..] = own;
    if effective >> CAP_SYS_ADMIN & 1 == 0 {
        return act();
    }
    let [a, b, c, d, e] = rest;
    check(set(&[effective & !(1 << CAP_SYS_ADMIN), a, b, c, d, e]))?;
    let out = act();
    check(set(&own))?;
    out
}
