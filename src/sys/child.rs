//! A child that makes a descriptor where we can't: in namespaces or a session of its own.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;

use super::check;

/// The descriptor whose number `make` returns, which it does in a child that shares our table of descriptors.
/// `flags` are those of clone(2): namespaces, or none.
///
/// # Errors
/// What `make` returns, or that of clone(2) or pipe2(2).
pub fn opens(flags: i32, make: impl FnOnce() -> io::Result<i32>) -> io::Result<OwnedFd> {
    let (told, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let flags = flags | libc::CLONE_FILES;
    // No exit signal: whoever waits for the program does not hear of it.
    // SAFETY: a fork that shares descriptors only; the child never returns.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags as usize, 0usize, 0usize, 0usize, 0usize) })?;
    if pid == 0 {
        let answer = match make() {
            Ok(number) => i64::from(number),
            Err(error) => -i64::from(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        let bytes = answer.to_ne_bytes();
        // SAFETY: `bytes` outlives the call; _exit never returns.
        unsafe {
            libc::write(tell.as_raw_fd(), bytes.as_ptr().cast(), bytes.len());
            libc::_exit(0)
        }
    }
    // Both ends of the pipe are in the table we share: not its end of file but the child's tells that there is no more.
    let child = nix::unistd::Pid::from_raw(pid as i32);
    let _ = nix::sys::wait::waitpid(child, Some(nix::sys::wait::WaitPidFlag::__WALL));
    let mut answer = [0; 8];
    File::from(told).read_exact(&mut answer)?;
    match i64::from_ne_bytes(answer) {
        error @ ..0 => Err(io::Error::from_raw_os_error(-error as i32)),
        // SAFETY: a new descriptor, which nobody else knows of.
        number => Ok(unsafe { OwnedFd::from_raw_fd(number as i32) }),
    }
}
