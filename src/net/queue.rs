//! What waits in a socket to be read: looked at, and left there.
//!
//! SO_PEEK_OFF and SO_PASSCRED belong to the socket, not to our descriptor of it: they are put back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::socket::{self, Received};

use super::options::SO_PEEK_OFF;
use super::urgent::{self, Stop, Urgent};

const SO_PASSCRED: i32 = 16;
const UDP_GRO: (i32, i32) = (libc::IPPROTO_UDP, 104);

/// What sockets there are messages in, and what is to be seen beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// AF_UNIX: who sent them.
    Unix,
    /// Not in datagrams, but in the bytes of AF_UNIX: who sent them, urgent ones, too.
    UnixStream,
    /// Not in datagrams, but in the bytes of TCP: urgent ones, too.
    Stream,
    /// AF_INET: where they were sent to.
    Ipv4,
    /// AF_INET6: likewise.
    Ipv6,
}

impl Of {
    /// The options for that.
    fn options(self) -> &'static [(i32, i32)] {
        const IP_RECVORIGDSTADDR: (i32, i32) = (libc::IPPROTO_IP, 20);
        const IPV6_RECVORIGDSTADDR: (i32, i32) = (libc::IPPROTO_IPV6, 74);
        match self {
            Of::Unix => &[(libc::SOL_SOCKET, SO_PASSCRED)],
            Of::UnixStream => &[(libc::SOL_SOCKET, SO_PASSCRED), (libc::SOL_SOCKET, libc::SO_OOBINLINE)],
            Of::Stream => &[(libc::SOL_SOCKET, libc::SO_OOBINLINE)],
            Of::Ipv4 => &[IP_RECVORIGDSTADDR],
            Of::Ipv6 => &[IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR],
        }
    }
}

/// One message; of a stream, bytes that came with the same descriptors and credentials.
#[derive(Debug, Default)]
pub struct Message {
    /// What it says.
    pub bytes: Vec<u8>,
    /// The address of its sender, as `sockaddr`; empty where there is none.
    pub from: Vec<u8>,
    /// Of the internet families, where it was sent to; empty where the kernel does not tell.
    pub to: Vec<u8>,
    /// Several datagrams in one, of this length each (UDP_GRO).
    pub segment: Option<u16>,
    /// Pid (as we see it), user and group of its sender, if they were sent.
    pub credentials: Option<[u32; 3]>,
    /// Copies of the descriptors it carries.
    pub fds: Vec<OwnedFd>,
}

/// What waits in a socket.
#[derive(Debug, Default)]
pub struct Queue {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// An error that the next call on the socket will report (ECONNRESET, of a UNIX socket).
    pub error: bool,
    /// Of a UNIX stream: where urgent data is. The urgent byte is a message of its own, and one begins where another was.
    pub urgent: Urgent,
}

/// A socket made ready to be peeked at; dropping it puts its options back.
#[derive(Debug)]
pub struct Looking<'a> {
    fd: BorrowedFd<'a>,
    old: Vec<(i32, i32, i32)>,
}

impl<'a> Looking<'a> {
    /// Peeks start where they are told to, and show more of a message.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn begin(fd: BorrowedFd<'a>, of: Of) -> io::Result<Looking<'a>> {
        let mut looking = Looking { fd, old: Vec::new() };
        looking.set(libc::SOL_SOCKET, SO_PEEK_OFF, 0)?;
        for &(level, name) in of.options() {
            looking.set(level, name, 1)?;
        }
        Ok(looking)
    }

    /// Changes an option for as long as this lasts.
    ///
    /// # Errors
    /// What getsockopt(2) and setsockopt(2) say.
    pub fn set(&mut self, level: i32, name: i32, value: i32) -> io::Result<()> {
        let old = socket::number(self.fd, level, name)?;
        self.old.push((level, name, old));
        socket::set_option(self.fd, level, name, &value.to_ne_bytes())
    }

    /// The next peek starts this many bytes into the queue.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn at(&mut self, offset: usize) -> io::Result<()> {
        let offset = i32::try_from(offset).map_err(|_| io::ErrorKind::InvalidData)?;
        socket::set_option(self.fd, libc::SOL_SOCKET, SO_PEEK_OFF, &offset.to_ne_bytes())
    }
}

impl AsFd for Looking<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        // Some have been changed twice.
        for (level, name, old) in self.old.iter().rev() {
            let _ = socket::set_option(self.fd, *level, *name, &old.to_ne_bytes());
        }
    }
}

/// Whether an error waits to be reported; to ask for it (SO_ERROR) would take it.
///
/// # Errors
/// What poll(2) says.
pub fn has_error(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO)?;
    Ok(polled[0].revents().is_some_and(|r| r.contains(PollFlags::POLLERR)))
}

/// Whether urgent data waits.
///
/// # Errors
/// What poll(2) says.
pub fn has_urgent(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(fd, PollFlags::POLLPRI)];
    poll(&mut polled, PollTimeout::ZERO)?;
    Ok(polled[0].revents().is_some_and(|r| r.contains(PollFlags::POLLPRI)))
}

/// Looks at a UNIX stream.
///
/// # Errors
/// What recvmsg(2) and setsockopt(2) say; `Unsupported` if it can't be told which byte is urgent.
pub fn unix_stream(fd: BorrowedFd<'_>) -> io::Result<Queue> {
    let error = has_error(fd)?;
    // Never beyond what is there: that would take an error that waits behind it.
    let total = crate::sys::fds::readable(fd)?;
    let mut messages: Vec<Message> = Vec::new();
    if total == 0 {
        let read = if urgent::at_mark(fd)? { vec![0] } else { Vec::new() };
        return Ok(Queue { messages, error, urgent: Urgent { at: None, read } });
    }
    let waiting = has_urgent(fd)?;
    let mut looking = Looking::begin(fd, Of::UnixStream)?;
    let mut at = 0;
    let mut stops = Vec::new();
    // Room for all: a message with descriptors that is cut would show them again with its rest.
    let mut buf = vec![0u8; total];
    while at < total {
        looking.at(at)?;
        let room = buf.get_mut(at..).unwrap_or_default();
        let mut got = match socket::receive(fd, room, libc::MSG_PEEK) {
            // An urgent byte that a read has passed over is counted for ever (net/unix/af_unix.c, manage_oob).
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            other => whole(other?)?,
        };
        if got.len == 0 {
            break;
        }
        let mut stop = (at + got.len < total).then(|| Stop { at: at + got.len, rights: !got.fds.is_empty() });
        if !got.fds.is_empty() {
            // What came before without descriptors is shown together with them; whoever reads less does not get them.
            let before = without_descriptors(&mut looking, at, got.len)?;
            if before > 0 {
                (got.len, got.fds, stop) = (before, Vec::new(), None);
            }
        }
        stops.extend(stop);
        let bytes = buf.get(at..at + got.len).unwrap_or_default();
        at += got.len;
        match messages.last_mut() {
            Some(last) if got.fds.is_empty() && last.fds.is_empty() && last.credentials == got.credentials => {
                last.bytes.extend_from_slice(bytes);
            }
            _ => messages.push(Message {
                bytes: bytes.to_vec(),
                from: got.from,
                credentials: got.credentials,
                fds: got.fds,
                ..Message::default()
            }),
        }
    }
    // Where all ends is no place in it.
    stops.retain(|stop| stop.at < at);
    let urgent = urgent::find(&mut looking, waiting, &stops, |at| buf.get(at).copied())?;
    for place in urgent.at.iter().flat_map(|at| [*at, at + 1]).chain(urgent.read.iter().copied()) {
        cut(&mut messages, place);
    }
    Ok(Queue { messages, error, urgent })
}

/// Makes two messages of one with these many bytes before its middle.
fn cut(messages: &mut Vec<Message>, mut at: usize) {
    for index in 0..messages.len() {
        let Some(message) = messages.get_mut(index) else { return };
        if at > 0 && at < message.bytes.len() {
            let bytes = message.bytes.split_off(at);
            let rest =
                Message { bytes, from: message.from.clone(), credentials: message.credentials, ..Message::default() };
            return messages.insert(index + 1, rest);
        }
        let Some(left) = at.checked_sub(message.bytes.len()) else { return };
        at = left;
    }
}

/// An error (EMFILE) if descriptors are missing for want of room in our table.
fn whole(got: Received) -> io::Result<Received> {
    let missing = got.flags & libc::MSG_CTRUNC != 0;
    if missing { Err(io::Error::from_raw_os_error(libc::EMFILE)) } else { Ok(got) }
}

/// How many of the `len` bytes at `at` come before the message with which descriptors come, the last. A peek of fewer
/// bytes shows the descriptors all the same (it walks on without room), so no search would tell; but the kernel gives
/// a message whole or not at all where its copy fails (net/unix/af_unix.c, unix_stream_read_generic).
fn without_descriptors(looking: &mut Looking<'_>, at: usize, len: usize) -> io::Result<usize> {
    looking.at(at)?;
    match socket::peek_but_one(looking.fd, len) {
        Err(e) if e.raw_os_error() == Some(libc::EFAULT) => Ok(0),
        other => other,
    }
}

/// Looks at datagrams or packets of any family; `None` if an error waits in front of them, which looking would take.
///
/// # Errors
/// What recvmsg(2) and setsockopt(2) say.
pub fn datagrams(fd: BorrowedFd<'_>, of: Of) -> io::Result<Option<Queue>> {
    let error = has_error(fd)?;
    if error {
        let empty = crate::sys::fds::readable(fd)? == 0;
        return Ok(empty.then(|| Queue { error, ..Queue::default() }));
    }
    let mut messages = Vec::new();
    // Credentials also tell an empty packet from the end of what a closed peer has sent.
    let mut looking = Looking::begin(fd, of)?;
    let mut at = 0;
    let mut buf = vec![0u8; 64 * 1024];
    loop {
        looking.at(at)?;
        let got = match socket::receive(fd, &mut buf, libc::MSG_PEEK | libc::MSG_TRUNC) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            other => whole(other?)?,
        };
        if got.len > buf.len() {
            buf.resize(got.len, 0);
            continue;
        }
        if of == Of::Unix && got.len == 0 && got.credentials.is_none() {
            break;
        }
        at += got.len;
        let bytes = buf.get(..got.len).unwrap_or_default().to_vec();
        let beside = |what: (i32, i32)| got.control.iter().find(|c| (c.0, c.1) == what).map(|c| &c.2);
        let to = of.options().iter().find_map(|&option| beside(option)).cloned().unwrap_or_default();
        let segment = beside(UDP_GRO).and_then(|v| v.first_chunk().map(|b| i32::from_ne_bytes(*b) as u16));
        messages.push(Message { bytes, from: got.from, to, segment, credentials: got.credentials, fds: got.fds });
    }
    Ok(Some(Queue { messages, error, ..Queue::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn texts(queue: &Queue) -> Vec<String> {
        queue.messages.iter().map(|m| String::from_utf8_lossy(&m.bytes).into_owned()).collect()
    }

    #[test]
    fn a_stream_is_looked_at_and_stays() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let sent: Vec<u8> = (0..150_000u32).map(|i| (i / 7) as u8).collect();
        a.write_all(&sent).unwrap();
        socket::send(a.as_fd(), b"with", None, &[a.as_fd()]).unwrap();
        a.write_all(b"out").unwrap();
        for _ in 0..2 {
            let queue = unix_stream(b.as_fd()).unwrap();
            assert!(queue.messages[0].bytes == sent && queue.messages.len() == 3);
            assert_eq!((&queue.messages[1].bytes[..], queue.messages[1].fds.len()), (&b"with"[..], 1));
            assert_eq!((&queue.messages[2].bytes[..], queue.messages[2].fds.len()), (&b"out"[..], 0));
            assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, SO_PEEK_OFF).unwrap(), -1);
            assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, SO_PASSCRED).unwrap(), 0);
        }
        drop(a);
        assert_eq!(unix_stream(b.as_fd()).unwrap().messages.len(), 3);
        let mut left = Vec::new();
        b.read_to_end(&mut left).unwrap();
        assert_eq!(left.len(), 150_007);
        assert!(unix_stream(b.as_fd()).unwrap().messages.is_empty());
    }

    #[test]
    fn an_error_is_left_where_it_is() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        a.write_all(b"data").unwrap();
        b.write_all(b"unread").unwrap();
        drop(a);
        for _ in 0..2 {
            let queue = unix_stream(b.as_fd()).unwrap();
            assert!(queue.error && texts(&queue) == ["data"]);
        }
        let mut buf = [0; 8];
        assert_eq!(b.read(&mut buf).unwrap(), 4);
        assert_eq!(b.read(&mut buf).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn borders_of_datagrams() {
        let (a, b) = UnixDatagram::pair().unwrap();
        let large = vec![b'x'; 100_000];
        for message in [&b"one"[..], b"", b"three", &large] {
            a.send(message).unwrap();
        }
        let queue = datagrams(b.as_fd(), Of::Unix).unwrap().unwrap();
        assert_eq!(queue.messages.iter().map(|m| m.bytes.len()).collect::<Vec<_>>(), [3, 0, 5, 100_000]);
        let mut buf = vec![0; 200_000];
        for len in [3, 0, 5, 100_000] {
            assert_eq!(b.recv(&mut buf).unwrap(), len);
        }
    }
}
