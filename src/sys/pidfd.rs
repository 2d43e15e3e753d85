//! Process descriptors as a program may have them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// pidfd_open(2). Flags: O_NONBLOCK; O_EXCL, which is PIDFD_THREAD.
pub fn open(pid: i32, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe { check(libc::syscall(libc::SYS_pidfd_open, pid, flags)).map(|fd| OwnedFd::from_raw_fd(fd as i32)) }
}

/// PIDFD_GET_INFO: the wait(2) status of a process that has ended and was waited for; `None` where the kernel does not
/// tell (before 6.15).
pub fn status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    const INFO_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, struct pidfd_info), 64 bytes at first: the mask comes first, the exit code last.
    const GET_INFO: libc::Ioctl = (3u32 << 30 | 64 << 16 | 0xff << 8 | 11) as libc::Ioctl;
    let mut info = [INFO_EXIT, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: the number says how long `info` is, and it outlives the call.
    match check(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, info.as_mut_ptr()) }.into()) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL | libc::ESRCH)) => return Ok(None),
        done => done?,
    };
    Ok((info[0] & INFO_EXIT != 0).then_some((info[7] >> 32) as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn ended_as_told() {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        let fd = open(child.id() as i32, 0).unwrap();
        child.wait().unwrap();
        let told = status(fd.as_fd()).unwrap();
        assert!(told.is_none_or(|told| told == 7 << 8), "{told:?}");
        let alive = open(std::process::id() as i32, 0).unwrap();
        assert_eq!(status(alive.as_fd()).unwrap(), None);
    }
}
