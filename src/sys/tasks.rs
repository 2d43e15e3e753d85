//! Other processes by pidfd and kcmp, and what the kernel tells of threads by tid.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::model::process::Limit;
use crate::model::{Addr, Nanos};

use super::check;

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { check(libc::syscall(libc::SYS_pidfd_open, pid, 0)).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// pidfd_open(2) with PIDFD_THREAD: any thread, from Linux 6.9 on; `InvalidInput` before.
pub fn pidfd_open_thread(tid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { check(libc::syscall(libc::SYS_pidfd_open, tid, libc::O_EXCL)).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// pidfd_getfd(2): our own descriptor (close-on-exec) of the file that `fd` is in the other process. It shares offset
/// and status flags with the program's.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe {
        check(libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0)).map(|fd| OwnedFd::from_raw_fd(fd as i32))
    }
}

/// pidfd_send_signal(2).
pub fn pidfd_kill(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers but a null siginfo.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) }).map(drop)
}

/// kill(2).
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) } as libc::c_long).map(drop)
}

/// What [`kcmp`] compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's names
pub enum Kcmp {
    File = 0,
    Vm = 1,
    Files = 2,
    Fs = 3,
    Sighand = 4,
    Sysvsem = 6,
}

/// kcmp(2): how two tasks' objects order; `Equal` is "the same object". `fd1` and `fd2` count for [`Kcmp::File`] only.
pub fn kcmp(pid1: i32, pid2: i32, what: Kcmp, fd1: i32, fd2: i32) -> io::Result<std::cmp::Ordering> {
    // SAFETY: no pointers for these types.
    let n = check(unsafe { libc::syscall(libc::SYS_kcmp, pid1, pid2, what as i32, fd1 as i64, fd2 as i64) })?;
    Ok(match n {
        0 => std::cmp::Ordering::Equal,
        1 => std::cmp::Ordering::Less,
        _ => std::cmp::Ordering::Greater,
    })
}

/// kcmp(2) KCMP_EPOLL_TFD: whether `fd` of `pid` is the file that the epoll descriptor `epfd` of `ep_pid` watches
/// under number `tfd` (the `nth` of them, where several files were added under one number).
pub fn kcmp_epoll(pid: i32, fd: i32, ep_pid: i32, epfd: i32, tfd: i32, nth: u32) -> io::Result<bool> {
    #[repr(C)]
    struct Slot {
        efd: u32,
        tfd: u32,
        toff: u32,
    }
    let slot = Slot { efd: epfd as u32, tfd: tfd as u32, toff: nth };
    // SAFETY: `slot` outlives the call.
    check(unsafe { libc::syscall(libc::SYS_kcmp, pid, ep_pid, 7, fd as i64, &raw const slot) }).map(|n| n == 0)
}

/// prlimit64(2), reading: resource `which` (0..16) of `pid`.
pub fn limit(pid: i32, which: u32) -> io::Result<Limit> {
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `old` outlives the call.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, which, 0usize, &raw mut old) })?;
    Ok(Limit { soft: old.rlim_cur, hard: old.rlim_max })
}

/// prlimit64(2), writing.
pub fn set_limit(pid: i32, which: u32, limit: Limit) -> io::Result<()> {
    let new = libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: `new` outlives the call.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, which, &raw const new, 0usize) }).map(drop)
}

/// Our own limit of open files.
pub const RLIMIT_NOFILE: u32 = 7;

/// Raises a soft limit of ours as far as it can be raised.
pub fn raise_limit(which: u32) -> io::Result<()> {
    let limit = limit(0, which)?;
    set_limit(0, which, Limit { soft: limit.hard, ..limit })
}

/// get_robust_list(2): head and length; head 0 where there is none.
pub fn robust_list(tid: i32) -> io::Result<(Addr, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((Addr(head), len))
}

/// prctl(2) PR_GET_SECUREBITS: our own.
pub fn securebits() -> u32 {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_GET_SECUREBITS) as u32 }
}

/// clock_gettime(2).
pub fn clock(clock: i32) -> io::Result<Nanos> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` outlives the call.
    check(unsafe { libc::clock_gettime(clock, &raw mut t) } as libc::c_long)?;
    Ok(Nanos::from_parts(t.tv_sec, t.tv_nsec))
}

/// Length of the kernel's tick: the resolution of the coarse clocks (clock_getres(2)).
pub fn tick() -> io::Result<Nanos> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` outlives the call.
    check(unsafe { libc::clock_getres(libc::CLOCK_REALTIME_COARSE, &raw mut t) } as libc::c_long)?;
    Ok(Nanos::from_parts(t.tv_sec, t.tv_nsec))
}

/// Waits a moment in a polling loop: yields at first, then sleeps 50 µs, later 1 ms.
pub fn back_off(round: u32) {
    match round {
        0..50 => std::thread::yield_now(),
        50..250 => std::thread::sleep(std::time::Duration::from_micros(50)),
        _ => std::thread::sleep(std::time::Duration::from_millis(1)),
    }
}
