//! The only unsafe code: one wrapper per system call that nix lacks, a file for each corner of the kernel.
//!
//! # Safety
//! Every `unsafe` block here passes the kernel pointers to live, correctly sized buffers of ours; memory of *other*
//! processes is only ever named by [`crate::model::Addr`], never dereferenced. Functions return `io::Error` with the
//! kernel's errno.

pub mod agent;
pub mod backlog;
pub mod bytes;
pub mod child;
mod copies;
pub mod cpu;
pub mod fanotify;
pub mod fds;
pub mod heap;
pub mod helpers;
pub mod inotify;
pub mod mem;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod notices;
pub mod pidfd;
pub mod probe;
pub mod ptrace;
pub mod sched;
pub mod sigmask;
pub mod socket;
pub mod spawn;
pub mod stub;
pub mod tasks;
pub mod tty;
pub mod unixfd;
pub mod uring;
pub mod wait;
pub mod window;

use std::io;

/// Turns the return value of `libc::syscall` and friends into a result.
fn check(ret: libc::c_long) -> io::Result<u64> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret as u64) }
}
