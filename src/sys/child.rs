//! A child that makes a descriptor where we can't: in namespaces or a session of its own.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::OFlag;

use super::check;

/// The descriptors whose numbers `make` returns, which it does in a child that shares our table of descriptors.
/// `flags` are those of clone(2): namespaces, or none. `make` only makes system calls: in the child nobody gives back a
/// lock that another thread had, as that of the allocator.
///
/// # Errors
/// What `make` returns, or that of clone(2) or pipe2(2).
pub fn opens<const N: usize>(flags: i32, make: impl FnOnce() -> io::Result<[i32; N]>) -> io::Result<[OwnedFd; N]> {
    let (told, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let flags = flags | libc::CLONE_FILES;
    // No exit signal: whoever waits for the program does not hear of it.
    // SAFETY: a fork that shares descriptors only; the child never returns.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags as usize, 0usize, 0usize, 0usize, 0usize) })?;
    if pid == 0 {
        let _end = End;
        let answer = make().unwrap_or_else(|error| [-error.raw_os_error().unwrap_or(libc::EIO); N]);
        // SAFETY: `answer` outlives the call; _exit never returns.
        unsafe {
            libc::write(tell.as_raw_fd(), answer.as_ptr().cast(), size_of_val(&answer));
            libc::_exit(0)
        }
    }
    // Both ends of the pipe are in the table we share: not its end of file but the child's tells that there is no more.
    let child = nix::unistd::Pid::from_raw(pid as i32);
    let _ = nix::sys::wait::waitpid(child, Some(nix::sys::wait::WaitPidFlag::__WALL));
    let mut told = File::from(told);
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut answer = [0; 4];
        told.read_exact(&mut answer)?;
        *number = i32::from_ne_bytes(answer);
    }
    match numbers.iter().find(|number| **number < 0) {
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        // SAFETY: new descriptors, which nobody else knows of.
        None => Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) })),
    }
}

/// The child ends here, also by a panic: nothing of ours is undone in it.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: never returns.
        unsafe { libc::_exit(1) }
    }
}
