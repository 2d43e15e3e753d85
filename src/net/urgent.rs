//! Where urgent data (MSG_OOB) of a UNIX stream is, and where some has been.
//!
//! A read, and a peek, end in front of the urgent byte, unless they begin there. One that has been read out of band leaves an
//! empty place, where they end likewise as long as no other urgent byte waits (net/unix/af_unix.c, manage_oob). An urgent
//! byte that another has followed is one like all others.

use std::io;
use std::os::fd::AsFd;

use crate::sys::socket;

use super::queue::Looking;

const SIOCATMARK: libc::Ioctl = 0x8905;
const SO_PASSCRED: i32 = 16;
const SO_PASSPIDFD: i32 = 76;

/// How many bytes are in front of what is urgent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Urgent {
    /// Of the byte that waits to be read out of band.
    pub at: Option<usize>,
    /// Of each place where one has been, in ascending order.
    pub read: Vec<usize>,
}

/// A place at which a peek has ended before it had all.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// How many bytes are in front of it.
    pub at: usize,
    /// It is behind a message with descriptors, where all peeks end.
    pub rights: bool,
}

/// Whether the next byte to be read is, or was, urgent. `ENOTTY`: a kernel without urgent data of UNIX sockets.
///
/// # Errors
/// What ioctl(2) says.
pub fn at_mark(fd: impl AsFd) -> io::Result<bool> {
    match socket::ioctl_number(fd.as_fd(), SIOCATMARK) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTTY) => Ok(false),
        other => other.map(|at| at != 0),
    }
}

/// Looks for urgent bytes among those that wait, given where peeks have ended and, if one waits (`waiting`), what the byte
/// at a place is.
///
/// # Errors
/// What ioctl(2), setsockopt(2) and recvmsg(2) say; `Unsupported` if it can't be told where the one that waits is.
pub fn find(
    looking: &mut Looking<'_>,
    waiting: bool,
    stops: &[Stop],
    byte: impl Fn(usize) -> Option<u8>,
) -> io::Result<Urgent> {
    let first = at_mark(&*looking)?;
    if waiting && first {
        return Ok(Urgent { at: Some(0), read: Vec::new() });
    }
    let mut sure = if first { vec![0] } else { Vec::new() };
    if stops.iter().any(|stop| !stop.rights) {
        // Who has sent what is no reason to end, either.
        looking.set(libc::SOL_SOCKET, SO_PASSCRED, 0)?;
        // Kernels before 6.5 don't know of it.
        let _ = looking.set(libc::SOL_SOCKET, SO_PASSPIDFD, 0);
    }
    for stop in stops.iter().filter(|stop| !stop.rights) {
        looking.at(stop.at.saturating_sub(1))?;
        if socket::receive(looking.as_fd(), &mut [0; 2], libc::MSG_PEEK)?.len == 1 {
            sure.push(stop.at);
        }
    }
    if !waiting {
        return Ok(Urgent { at: None, read: sure });
    }
    if let Some(at) = sure.first() {
        return Ok(Urgent { at: Some(*at), read: Vec::new() });
    }
    looking.set(libc::SOL_SOCKET, libc::SO_OOBINLINE, 0)?;
    let urgent = socket::peek_urgent(looking.as_fd())?;
    let mut possible = stops.iter().filter(|stop| byte(stop.at) == Some(urgent));
    match (possible.next(), possible.next()) {
        (Some(one), None) => Ok(Urgent { at: Some(one.at), read: Vec::new() }),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::{Queue, unix_stream};
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// What was sent, in order.
    enum Sent {
        Plain(&'static [u8]),
        Urgent(u8),
        /// Urgent, and read out of band.
        Taken,
        /// With a descriptor.
        Rights(&'static [u8]),
    }
    use Sent::{Plain, Rights, Taken};

    fn looked(sent: &[Sent]) -> (UnixStream, UnixStream, io::Result<Queue>) {
        let (mut a, b) = UnixStream::pair().unwrap();
        for sent in sent {
            match sent {
                Plain(bytes) => a.write_all(bytes).unwrap(),
                Sent::Urgent(byte) => socket::send_urgent(a.as_fd(), *byte, &[]).unwrap(),
                Taken => {
                    socket::send_urgent(a.as_fd(), b'!', &[]).unwrap();
                    socket::receive_urgent(b.as_fd()).unwrap();
                }
                Rights(bytes) => drop(socket::send(a.as_fd(), bytes, None, &[a.as_fd()]).unwrap()),
            }
        }
        let queue = unix_stream(b.as_fd());
        (a, b, queue)
    }

    #[test]
    fn urgent_bytes_are_found_and_stay() {
        let urgent = Sent::Urgent;
        // What is sent; where the urgent byte is, and where some have been; and what is left.
        type Case<'a> = (&'a [Sent], Option<usize>, &'a [usize], &'a [u8]);
        let cases: [Case<'_>; 14] = [
            (&[Plain(b"abc")], None, &[], b"abc"),
            (&[urgent(b'X'), Plain(b"de")], Some(0), &[], b"Xde"),
            (&[Plain(b"abc"), urgent(b'X'), Plain(b"de")], Some(3), &[], b"abcXde"),
            (&[Plain(b"abc"), urgent(b'X')], Some(3), &[], b"abcX"),
            (&[urgent(b'X')], Some(0), &[], b"X"),
            (&[Taken], None, &[0], b""),
            (&[Taken, Plain(b"de")], None, &[0], b"de"),
            (&[Plain(b"abc"), Taken, Plain(b"de")], None, &[3], b"abcde"),
            (&[Taken, Plain(b"abc"), Taken, Plain(b"de"), Taken, Taken, Plain(b"f")], None, &[0, 3, 5], b"abcdef"),
            (&[Plain(b"a"), urgent(b'X'), Plain(b"b"), urgent(b'Y'), Plain(b"c")], Some(3), &[], b"aXbYc"),
            (&[Taken, urgent(b'X'), Plain(b"de")], Some(0), &[], b"Xde"),
            (&[Rights(b"ab"), urgent(b'X'), Plain(b"de")], Some(2), &[], b"abXde"),
            (&[Rights(b"ab"), Plain(b"c"), urgent(b'X'), Rights(b"de")], Some(3), &[], b"abcXde"),
            (&[Rights(b"ab"), Plain(b"c"), Taken, Rights(b"de"), Plain(b"f")], None, &[3], b"abcdef"),
        ];
        for (index, (sent, at, read, bytes)) in cases.into_iter().enumerate() {
            let (_a, mut b, first) = looked(sent);
            for queue in [first, unix_stream(b.as_fd())].map(Result::unwrap) {
                assert_eq!(queue.urgent, Urgent { at, read: read.to_vec() }, "{index}");
                assert_eq!(queue.messages.iter().flat_map(|m| m.bytes.clone()).collect::<Vec<_>>(), bytes, "{index}");
                // Each is at the beginning of a message, the urgent one alone.
                let mut end = 0;
                let mut begins = |len| {
                    end += len;
                    end - len
                };
                let lens = queue.messages.iter().map(|m| m.bytes.len());
                let all: Vec<_> = lens.map(|len| (begins(len), len)).collect();
                assert!(at.is_none_or(|at| all.contains(&(at, 1))), "{index}: {all:?}");
                assert!(bytes.is_empty() || read.iter().all(|at| all.iter().any(|m| m.0 == *at)), "{index}: {all:?}");
            }
            let fds: Vec<_> = unix_stream(b.as_fd()).unwrap().messages.iter().map(|m| m.fds.len()).collect();
            assert_eq!(fds.iter().sum::<usize>(), sent.iter().filter(|s| matches!(s, Rights(_))).count(), "{index}");
            assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, libc::SO_OOBINLINE).unwrap(), 0);
            assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, SO_PASSCRED).unwrap(), 0);
            b.set_nonblocking(true).unwrap();
            if let Some(at) = at {
                assert_eq!(socket::receive_urgent(b.as_fd()).unwrap(), bytes[at]);
            }
            let mut left = Vec::new();
            let _ = b.read_to_end(&mut left);
            assert_eq!(left.len(), bytes.len() - usize::from(at.is_some()), "{index}");
        }
    }

    #[test]
    fn one_that_was_passed_over_is_no_more() {
        let (a, mut b, _) = looked(&[Plain(b"abc"), Sent::Urgent(b'X'), Plain(b"de")]);
        b.read_exact(&mut [0; 4]).unwrap();
        for _ in 0..2 {
            let queue = unix_stream(b.as_fd()).unwrap();
            assert_eq!((queue.messages.len(), &queue.messages[0].bytes[..]), (1, &b"e"[..]));
            assert_eq!(queue.urgent, Urgent::default());
        }
        b.read_exact(&mut [0; 1]).unwrap();
        drop(a);
        let queue = unix_stream(b.as_fd()).unwrap();
        assert!(queue.messages.is_empty() && queue.urgent == Urgent::default());
    }

    #[test]
    fn behind_descriptors_the_byte_itself_tells() {
        let urgent = Sent::Urgent;
        let (.., queue) = looked(&[Rights(b"ab"), Rights(b"X"), urgent(b'Y')]);
        assert_eq!(queue.unwrap().urgent.at, Some(3));
        let (.., queue) = looked(&[Rights(b"ab"), Rights(b"X"), urgent(b'X')]);
        assert_eq!(queue.unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn senders_are_no_urgent_data() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let pass = |on: i32| socket::set_option(b.as_fd(), libc::SOL_SOCKET, SO_PASSCRED, &on.to_ne_bytes()).unwrap();
        a.write_all(b"by nobody").unwrap();
        pass(1);
        a.write_all(b"by us").unwrap();
        for on in [1, 0] {
            pass(on);
            let queue = unix_stream(b.as_fd()).unwrap();
            assert_eq!((queue.messages.len(), queue.urgent), (2, Urgent::default()));
            assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, SO_PASSCRED).unwrap(), on);
        }
        socket::send_urgent(a.as_fd(), b'!', &[]).unwrap();
        assert_eq!(unix_stream(b.as_fd()).unwrap().urgent.at, Some(14));
    }
}
