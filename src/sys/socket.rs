//! Sockets: addresses, options and messages as plain bytes, as the kernel has them.
//!
//! # Safety
//! A descriptor received by SCM_RIGHTS is a new one that the kernel made for us: nobody else owns it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::bytes::Bytes;
use super::check;

/// Room for every control message one message can have: 253 descriptors (SCM_MAX_FD), credentials, a label.
const CONTROL: usize = 4096;

/// The sender's pidfd, which comes along where SO_PASSPIDFD is set.
const SCM_PIDFD: i32 = 4;

/// socket(2), close-on-exec.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe {
        check(libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol).into())
            .map(|fd| OwnedFd::from_raw_fd(fd as i32))
    }
}

/// getsockopt(2): at most `room` bytes of an option's value.
pub fn option(fd: BorrowedFd<'_>, level: i32, name: i32, room: usize) -> io::Result<Vec<u8>> {
    ask_option(fd, level, name, vec![0; room])
}

/// getsockopt(2) of an option that is asked for with part of its value.
pub fn ask_option(fd: BorrowedFd<'_>, level: i32, name: i32, mut value: Vec<u8>) -> io::Result<Vec<u8>> {
    let len = option_into(fd, level, name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

/// getsockopt(2) into memory at hand, which may hold part of the value: the length of what is there then.
pub fn option_into(fd: BorrowedFd<'_>, level: i32, name: i32, value: &mut [u8]) -> io::Result<usize> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: `value` has `len` bytes and outlives the call.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) }.into())?;
    Ok(value.len().min(len as usize))
}

/// getsockopt(2) of an option that is a number.
pub fn number(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = [0; 4];
    match option_into(fd, level, name, &mut value)? {
        4 => Ok(i32::from_ne_bytes(value)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// setsockopt(2).
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: `value` outlives the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) }.into()).map(drop)
}

/// getsockname(2): the whole `sockaddr`.
pub fn name(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    address(|at, len| {
        // SAFETY: `at` and `len` are live and fit each other.
        unsafe { libc::getsockname(fd.as_raw_fd(), at, len) }
    })
}

/// getpeername(2): the whole `sockaddr`.
pub fn peer_name(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    address(|at, len| {
        // SAFETY: `at` and `len` are live and fit each other.
        unsafe { libc::getpeername(fd.as_raw_fd(), at, len) }
    })
}

fn address(ask: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; size_of::<libc::sockaddr_storage>()];
    let mut len = bytes.len() as libc::socklen_t;
    check(ask(bytes.as_mut_ptr().cast(), &raw mut len).into())?;
    bytes.truncate(len as usize);
    Ok(bytes)
}

/// if_nametoindex(3).
pub fn interface(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: `name` ends with NUL and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// An ioctl(2) that stores a number.
pub fn ioctl_number(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<i32> {
    let mut n: libc::c_int = 0;
    // SAFETY: `n` outlives the call; callers use requests that store an int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut n) }.into())?;
    Ok(n)
}

/// What one recvmsg(2) gave.
#[derive(Debug)]
pub struct Received {
    /// Bytes stored in the buffer.
    pub len: usize,
    /// Where it came from; empty where the kernel does not tell.
    pub from: Vec<u8>,
    /// MSG_* flags.
    pub flags: i32,
    /// Descriptors that came along, copied (close-on-exec).
    pub fds: Vec<OwnedFd>,
    /// SCM_CREDENTIALS: pid, uid, gid.
    pub credentials: Option<[u32; 3]>,
    /// Other control messages: level, type, content.
    pub control: Vec<(i32, i32, Vec<u8>)>,
}

/// recvmsg(2), never waiting. With `MSG_PEEK` among `flags` nothing is taken, and descriptors are copies.
pub fn receive(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> io::Result<Received> {
    let mut control = [0_u64; CONTROL / 8];
    let mut from = vec![0u8; size_of::<libc::sockaddr_storage>()];
    let mut part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: an all-zero msghdr is valid; the pointers set below are to live buffers of the given lengths.
    let (len, message) = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = from.as_mut_ptr().cast();
        message.msg_namelen = from.len() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        let flags = flags | libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        (libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags), message)
    };
    let len = check(len as libc::c_long)? as usize;
    from.truncate(message.msg_namelen as usize);
    let (mut fds, mut credentials, mut others) = (Vec::new(), None, Vec::new());
    // SAFETY: the kernel has filled `control` with well-formed headers and set msg_controllen; the macros stay in it.
    // Each descriptor in it was made for us just now, so that we own it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    for at in 0..bytes / size_of::<RawFd>() {
                        fds.push(OwnedFd::from_raw_fd(data.cast::<RawFd>().add(at).read_unaligned()));
                    }
                }
                (libc::SOL_SOCKET, SCM_PIDFD) if bytes >= size_of::<RawFd>() => {
                    drop(OwnedFd::from_raw_fd(data.cast::<RawFd>().read_unaligned()));
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if bytes >= 12 => {
                    credentials = Some(data.cast::<[u32; 3]>().read_unaligned());
                }
                (level, kind) => others.push((level, kind, std::slice::from_raw_parts(data, bytes).to_vec())),
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received { len, from, flags: message.msg_flags, fds, credentials, control: others })
}

/// recv(2) with MSG_PEEK, never waiting: at most `len` bytes, as many as there is room for, behind those that are in
/// `bytes`.
pub fn peek(fd: BorrowedFd<'_>, bytes: &mut Bytes, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes at most as many bytes as it is told, and says how many these were.
    unsafe {
        bytes.append(len, |at, most| {
            check(libc::recv(fd.as_raw_fd(), at.cast(), most, flags) as libc::c_long).map(|got| got as usize)
        })
    }
}

/// recvmsg(2) with MSG_PEEK and room for all but the last of `len` bytes, which goes to an address where nothing is:
/// the length that the kernel could give before that.
pub fn peek_but_one(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let mut buf = vec![0u8; len.saturating_sub(1)];
    let nowhere = std::ptr::without_provenance_mut::<libc::c_void>(16);
    let mut parts = [
        libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() },
        libc::iovec { iov_base: nowhere, iov_len: 1 },
    ];
    // SAFETY: an all-zero msghdr is valid; the first part is a live buffer of its length. The second lies below the
    // lowest address that can be mapped: the kernel finds it bad and writes nothing.
    let n = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = 2;
        libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_PEEK | libc::MSG_DONTWAIT)
    };
    check(n as libc::c_long).map(|n| n as usize)
}

/// sendmsg(2), never waiting, to the connected peer or to an address, with descriptors.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], to: Option<&[u8]>, fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    send_with(fd, bytes, to, fds, 0)
}

/// The same of one urgent byte (MSG_OOB), to the connected peer.
pub fn send_urgent(fd: BorrowedFd<'_>, byte: u8, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(fd, &[byte], None, fds, libc::MSG_OOB).map(drop)
}

fn send_with(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    to: Option<&[u8]>,
    fds: &[BorrowedFd<'_>],
    flags: i32,
) -> io::Result<usize> {
    let mut control = [0_u64; CONTROL / 8];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let payload = size_of_val(fds);
    if payload > CONTROL / 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero msghdr is valid; the pointers set below are to live buffers of the given lengths, which
    // sendmsg only reads. The control message fits: its payload is at most half of `control`.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        if let Some(to) = to {
            message.msg_name = to.as_ptr().cast_mut().cast();
            message.msg_namelen = to.len() as libc::socklen_t;
        }
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(payload as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload as u32) as _;
            for (at, fd) in fds.iter().enumerate() {
                libc::CMSG_DATA(header).cast::<RawFd>().add(at).write_unaligned(fd.as_raw_fd());
            }
        }
        libc::sendmsg(fd.as_raw_fd(), &raw const message, flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    check(sent as libc::c_long).map(|n| n as usize)
}

/// recv(2) of the urgent byte (MSG_OOB), never waiting.
pub fn receive_urgent(fd: BorrowedFd<'_>) -> io::Result<u8> {
    urgent(fd, 0)
}

/// The same with MSG_PEEK.
pub fn peek_urgent(fd: BorrowedFd<'_>) -> io::Result<u8> {
    urgent(fd, libc::MSG_PEEK)
}

fn urgent(fd: BorrowedFd<'_>, flags: i32) -> io::Result<u8> {
    let mut byte = 0u8;
    let flags = flags | libc::MSG_OOB | libc::MSG_DONTWAIT;
    // SAFETY: room for one byte, which outlives the call.
    check(unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, flags) } as libc::c_long).map(|_| byte)
}

/// poll(2) without waiting: the events among `events` that have come, and errors and hang-ups. nix has no POLLRDHUP.
pub fn events(fd: BorrowedFd<'_>, events: i16) -> io::Result<i16> {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    check(unsafe { libc::poll(&raw mut polled, 1, 0) }.into())?;
    Ok(polled.revents)
}

/// listen(2).
pub fn listen(fd: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }.into()).map(drop)
}

/// accept4(2), close-on-exec.
pub fn accept(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let none = std::ptr::null_mut();
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe {
        check(libc::accept4(fd.as_raw_fd(), none, none.cast(), libc::SOCK_CLOEXEC).into())
            .map(|fd| OwnedFd::from_raw_fd(fd as i32))
    }
}

/// shutdown(2) of the sides in `mask`: receiving 1, sending 2.
pub fn shut(fd: BorrowedFd<'_>, mask: u8) -> io::Result<()> {
    use nix::sys::socket::{Shutdown, shutdown};
    let how = match mask & 3 {
        0 => return Ok(()),
        1 => Shutdown::Read,
        2 => Shutdown::Write,
        _ => Shutdown::Both,
    };
    match shutdown(fd.as_raw_fd(), how) {
        // A stream that was never connected can't be shut down, and its peer, which was closed, has done it.
        Err(nix::Error::ENOTCONN) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

/// bind(2) to a whole `sockaddr`.
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: `address` outlives the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) }.into())
        .map(drop)
}

/// connect(2) to a whole `sockaddr`.
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    // SAFETY: `address` outlives the call.
    check(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) }.into())
        .map(drop)
}

/// SO_GET_FILTER: the classic BPF program attached to a socket, empty if none. Its length counts instructions.
///
/// # Errors
/// What getsockopt(2) says; `PermissionDenied` for a program of eBPF.
pub fn filter(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    let mut len: libc::socklen_t = 0;
    // SAFETY: without room for an instruction nothing is stored, and the kernel tells how many there are.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::null_mut(), &raw mut len) }.into())?;
    let mut program = vec![0u64; len as usize];
    if len > 0 {
        let at = program.as_mut_ptr().cast();
        // SAFETY: `program` has room for `len` instructions of 8 bytes, and outlives the call.
        check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, at, &raw mut len) }.into())?;
        program.truncate(len as usize);
    }
    Ok(program.iter().flat_map(|i| i.to_ne_bytes()).collect())
}

/// SO_ATTACH_FILTER: attaches a program as [`filter`] gave it.
pub fn set_filter(fd: BorrowedFd<'_>, program: &[u8]) -> io::Result<()> {
    let mut instructions: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|i| libc::sock_filter {
            code: u16::from_ne_bytes([i[0], i[1]]),
            jt: i[2],
            jf: i[3],
            k: u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
        })
        .collect();
    let len = u16::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let filter = libc::sock_fprog { len, filter: instructions.as_mut_ptr() };
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: `filter` points to `len` instructions, which the kernel copies.
    check(
        unsafe {
            let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
            libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const filter).cast(), size)
        }
        .into(),
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn messages_with_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let sent = send(a.as_fd(), b"hi", None, &[a.as_fd(), b.as_fd()]).unwrap();
        assert_eq!(sent, 2);
        let mut buf = [0; 16];
        for flags in [libc::MSG_PEEK, 0] {
            let got = receive(b.as_fd(), &mut buf, flags).unwrap();
            assert_eq!((got.len, got.fds.len(), got.credentials), (2, 2, None));
        }
        assert_eq!(receive(b.as_fd(), &mut buf, 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn options_and_names() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(number(a.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE).unwrap(), libc::SOCK_STREAM);
        set_option(a.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, &1i32.to_ne_bytes()).unwrap();
        assert_eq!(option(a.as_fd(), libc::SOL_SOCKET, libc::SO_PASSCRED, 8).unwrap(), [1, 0, 0, 0]);
        assert_eq!(name(a.as_fd()).unwrap(), [1, 0]);
        assert_eq!(peer_name(a.as_fd()).unwrap(), [1, 0]);
    }
}
