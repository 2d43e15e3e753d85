//! What waits in a TCP socket to be read, and where in it urgent data is (MSG_OOB, tcp(7)): looked at, and left there.
//!
//! A read, and a peek, end in front of the urgent byte, unless they begin there; and without SO_OOBINLINE the kernel
//! leaves that byte out and counts only what is in front of it (net/ipv4/tcp.c, tcp_recvmsg_locked, tcp_inq).

use std::io;
use std::os::fd::BorrowedFd;

use crate::model::tcp::Urgent;
use crate::sys::bytes::Bytes;
use crate::sys::{fds, socket};

use super::queue::{Looking, Of};
use super::urgent::at_mark;

/// What waits in a socket.
#[derive(Debug)]
pub struct Stream {
    /// All bytes, the urgent one among them.
    pub bytes: Bytes,
    /// Which that is.
    pub urgent: Option<Urgent>,
}

/// What is known before a look.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Urgent data waits (POLLPRI).
    pub urgent: bool,
    /// Bytes of the stream that wait, the end not counted, if that is known.
    pub waiting: Option<u64>,
    /// The program has chosen where peeks start (SO_PEEK_OFF).
    pub peeks: bool,
}

/// Looks at all of it. `room` gives none, with room for so many.
///
/// # Errors
/// What ioctl(2), setsockopt(2) and recv(2) say; `Unsupported` if there is an urgent byte, and no way to look beyond it
/// (before Linux 6.9).
pub fn look(fd: BorrowedFd<'_>, known: Known, room: impl Fn(usize) -> Bytes) -> io::Result<Stream> {
    let marked = known.urgent || at_mark(fd)?;
    let total = fds::readable(fd)?;
    // Another look would begin at the beginning again.
    let whole = |bytes: &mut Bytes, left| match socket::peek(fd, bytes, left)? {
        got if got < left => Err(io::ErrorKind::UnexpectedEof.into()),
        got => Ok(got),
    };
    if !marked && !known.peeks && known.waiting == Some(total as u64) {
        return Ok(Stream { bytes: fill(room(total), total, whole)?, urgent: None });
    }
    let mut looking = match Looking::begin(fd, Of::Stream) {
        Ok(looking) => looking,
        // More than can be read for now is behind an urgent byte that has been read out of band.
        Err(_) if !marked && known.waiting.is_none_or(|waiting| waiting <= total as u64) => {
            return Ok(Stream { bytes: fill(room(total), total, whole)?, urgent: None });
        }
        Err(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    let mut mark = at_mark(fd)?.then_some(0);
    let total = fds::readable(fd)?;
    let bytes = fill(room(total), total, |bytes, left| {
        looking.at(bytes.len())?;
        let got = socket::peek(fd, bytes, left)?;
        if got < left && mark.is_none() {
            mark = Some(bytes.len());
        }
        Ok(got)
    })?;
    let read = !super::queue::has_urgent(fd)?;
    Ok(Stream { bytes, urgent: mark.filter(|at| *at < total).map(|at| Urgent { at: at as u64, read }) })
}

/// `bytes` with `len` of them; `more` is told how many are missing, and appends some.
fn fill(
    mut bytes: Bytes,
    len: usize,
    mut more: impl FnMut(&mut Bytes, usize) -> io::Result<usize>,
) -> io::Result<Bytes> {
    while bytes.len() < len {
        let left = len - bytes.len();
        if more(&mut bytes, left)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    const SO_OOBINLINE: i32 = libc::SO_OOBINLINE;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn seen(of: &TcpStream) -> (Vec<u8>, Option<Urgent>) {
        let known = Known { urgent: super::super::queue::has_urgent(of.as_fd()).unwrap(), waiting: None, peeks: false };
        let Stream { bytes, urgent } = look(of.as_fd(), known, Bytes::with_room).unwrap();
        (bytes.to_vec(), urgent)
    }

    #[test]
    fn urgent_bytes_are_found_and_stay() {
        use std::io::{Read, Write};
        for inline in [0i32, 1] {
            let (mut a, mut b) = pair();
            socket::set_option(b.as_fd(), libc::SOL_SOCKET, SO_OOBINLINE, &inline.to_ne_bytes()).unwrap();
            assert_eq!(seen(&b), (vec![], None));
            a.write_all(b"before").unwrap();
            assert_eq!(seen(&b), (b"before".to_vec(), None));
            socket::send_urgent(a.as_fd(), b'!', &[]).unwrap();
            a.write_all(b"after").unwrap();
            let mark = |at, read| Some(Urgent { at, read });
            for _ in 0..2 {
                assert_eq!(seen(&b), (b"before!after".to_vec(), mark(6, false)));
            }
            let mut six = [0; 6];
            b.read_exact(&mut six[..4]).unwrap();
            if inline == 0 {
                assert_eq!(socket::receive_urgent(b.as_fd()).unwrap(), b'!');
            }
            let read = inline == 0;
            assert_eq!(seen(&b), (b"re!after".to_vec(), mark(2, read)));
            b.read_exact(&mut six[..2]).unwrap();
            assert_eq!(seen(&b), (b"!after".to_vec(), mark(0, read)));
            let len = b.read(&mut six).unwrap();
            assert_eq!(&six[..len], if read { &b"after"[..] } else { b"!after" });
            assert_eq!(seen(&b), (vec![], None));
            assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, SO_OOBINLINE).unwrap(), inline);
        }
    }

    #[test]
    fn where_the_program_peeks_is_left() {
        use std::io::Write;
        let (mut a, b) = pair();
        a.write_all(b"content").unwrap();
        let option = super::super::options::SO_PEEK_OFF;
        socket::set_option(b.as_fd(), libc::SOL_SOCKET, option, &3i32.to_ne_bytes()).unwrap();
        let known = Known { urgent: false, waiting: Some(7), peeks: true };
        assert_eq!(look(b.as_fd(), known, Bytes::with_room).unwrap().bytes[..], b"content"[..]);
        assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, option).unwrap(), 3);
    }
}
