//! Reading from a UNIX socket, with a descriptor that may come along.
//!
//! # Safety
//! A descriptor received by SCM_RIGHTS is a new one that the kernel made for us: nobody else owns it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Reads once; the length is 0 at the end of the stream. Descriptors beyond the first are closed.
///
/// # Errors
/// What recvmsg(2) says, `WouldBlock` included.
pub fn receive(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    // Room for one header and one descriptor, padding included: two may fit. Plain libc, because nix hides those
    // that were installed if there were more (MSG_CTRUNC), and they would leak.
    let mut control = [0_u64; 3];
    let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: an all-zero msghdr is valid; the pointers set below are to live buffers of the given lengths.
    let (len, message) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        (libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC), message)
    };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let mut first = None;
    // SAFETY: the kernel has filled `control` with well-formed headers and set msg_controllen; the macros stay in it.
    // Each descriptor in it was made for us just now, so that we own it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let fds = libc::CMSG_DATA(header).cast::<RawFd>();
                for at in 0..bytes / size_of::<RawFd>() {
                    let fd = OwnedFd::from_raw_fd(fds.add(at).read_unaligned());
                    first.get_or_insert(fd);
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((len, first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{IoSlice, Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    #[test]
    fn a_descriptor_comes_along() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let fds = [write.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(theirs.as_raw_fd(), &[IoSlice::new(b"hi")], &control, MsgFlags::empty(), None).unwrap();
        drop(write);
        let mut buf = [0; 16];
        let (len, fd) = receive(ours.as_fd(), &mut buf).unwrap();
        assert_eq!(&buf[..len], b"hi");
        std::fs::File::from(fd.unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    /// Numbers of this process that refer to the pipe of `end`.
    fn holders(end: &OwnedFd) -> usize {
        let wanted = std::fs::read_link(format!("/proc/self/fd/{}", end.as_raw_fd())).unwrap();
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        fds.filter(|fd| std::fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|at| at == wanted)).count()
    }

    #[test]
    fn a_flood_of_descriptors_leaks_none() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let fds = [write.as_raw_fd(); 100];
        let control = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(theirs.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None).unwrap();
        let (_, fd) = receive(ours.as_fd(), &mut [0; 16]).unwrap();
        drop(fd);
        assert_eq!(holders(&read), 2, "the two ends and nothing else");
    }
}
