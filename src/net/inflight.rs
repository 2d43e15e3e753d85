//! Bytes of a TCP connection that have been sent and not been received, because the receiver's window was full: made to
//! arrive, without anybody reading a byte.
//!
//! A receive buffer grows when SO_RCVLOWAT asks for more than it has room for, up to the largest size autotuning may give
//! it (net/ipv4/tcp.c, tcp_set_rcvlowat), and the next look at the queue announces the new window to the sender (there,
//! __tcp_cleanup_rbuf). Everything then is in the receive queue, where it can be peeked at. The program sees the bytes it
//! would have seen; its low-water mark and a buffer size that it has chosen are put back.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::model::tcp::Urgent;
use crate::sys::socket;

const SO_BUF_LOCK: i32 = 72;
const RCVBUF_LOCK: i32 = 2;
const SO_MEMINFO: i32 = 55;
const TCP_NODELAY: i32 = 1;
const TCP_CORK: i32 = 3;
const TCP_INFO: i32 = 11;
/// How long bytes may be under way on this host. One that was thrown away for want of room comes again after a time-out,
/// which is 200 ms at first and doubles each time (net/ipv4/tcp_timer.c, tcp_retransmit_timer).
const PATIENCE: Duration = Duration::from_secs(5);

/// What TCP_INFO says (include/uapi/linux/tcp.h, `struct tcp_info`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// One of [`super::inet::state`].
    pub state: u8,
    /// Bytes written and not sent.
    pub unsent: u32,
    /// Bytes sent, without those that were sent again.
    pub sent: u64,
    /// Bytes received in order.
    pub received: u64,
}

/// SO_MEMINFO: bytes of memory that what waits in a socket to be read takes, errors (IP_RECVERR) included.
///
/// # Errors
/// What getsockopt(2) says.
pub fn taken(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let bytes = socket::option(fd, libc::SOL_SOCKET, SO_MEMINFO, 64)?;
    Ok(bytes.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b)))
}

/// Whether nothing that was written to a datagram socket is still there: neither held back by the program (UDP_CORK) nor,
/// for longer than a moment, by the network.
///
/// # Errors
/// What ioctl(2) says.
pub fn nothing_held_back(fd: BorrowedFd<'_>) -> io::Result<bool> {
    const ROUNDS: u32 = 250;
    for round in 0..ROUNDS {
        match socket::ioctl_number(fd, libc::TIOCOUTQ) {
            Ok(0) => return Ok(true),
            // Raw and ICMP sockets of old kernels hold nothing back.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => return Ok(true),
            other => other?,
        };
        crate::sys::tasks::back_off(round);
    }
    Ok(false)
}

/// Waits until the host has handed to sockets what was sent to it over the loopback interface: as a rule that is done
/// by the call that sends, on a busy host a moment later. Others' traffic does not keep us longer than that.
pub fn drain_backlog() {
    const ROUNDS: u32 = 100;
    for round in 0..ROUNDS {
        // Column 11: packets in the backlog of a processor, since Linux 5.10 (net/core/net-procfs.c).
        let text = crate::proc::read("net/softnet_stat").unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let waiting = |line: &str| line.split(' ').nth(11).is_some_and(|n| n.bytes().any(|b| b != b'0'));
        if !text.lines().any(waiting) {
            return;
        }
        crate::sys::tasks::back_off(round);
    }
}

/// Asks a TCP socket how it is.
///
/// # Errors
/// What getsockopt(2) says.
pub fn info(fd: BorrowedFd<'_>) -> io::Result<Info> {
    let bytes = socket::option(fd, libc::IPPROTO_TCP, TCP_INFO, 256)?;
    let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b));
    let long = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_ne_bytes(*b));
    Ok(Info {
        state: bytes.first().copied().unwrap_or(0),
        unsent: word(144),
        sent: long(200).saturating_sub(long(208)),
        received: long(128),
    })
}

/// Sees to it that everything written to `from` is in the receive queue of `to`. `false` if it is more than that may
/// hold.
///
/// # Errors
/// What getsockopt(2), setsockopt(2) and recvmsg(2) say.
pub fn settle(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<bool> {
    let arrived = || -> io::Result<bool> {
        // Acknowledged: the quick answer. Acknowledgements may be late, though, and then the counts tell.
        if socket::ioctl_number(from, libc::TIOCOUTQ)? == 0 {
            return Ok(true);
        }
        let (from, to) = (info(from)?, info(to)?);
        // The end of a stream counts as a byte received.
        Ok(from.unsent == 0 && to.received >= from.sent)
    };
    if arrived()? {
        return Ok(true);
    }
    let _grown = Grown::begin(to)?;
    let _pushed = Pushed::begin(from)?;
    wait(to, arrived)
}

/// The same where nobody has a descriptor of the sender any more: waits for the end of the stream.
///
/// # Errors
/// As for [`settle`].
pub fn settle_end(to: BorrowedFd<'_>) -> io::Result<bool> {
    use super::inet::state::{ESTABLISHED, FIN_WAIT1, FIN_WAIT2};
    let arrived = || Ok(!matches!(info(to)?.state, ESTABLISHED | FIN_WAIT1 | FIN_WAIT2));
    if arrived()? {
        return Ok(true);
    }
    let _grown = Grown::begin(to)?;
    wait(to, arrived)
}

/// Sends `size` bytes, which `read` copies from an offset, so that they wait in the receive queue of `to`; one of them
/// may be urgent. `all`: nothing may be left with `from`, which is going to be reset.
///
/// # Errors
/// What `read`, send(2) and setsockopt(2) say; `TimedOut` if the two sockets together, or `to` alone, do not take them.
pub fn fill(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    (urgent, all): (Option<Urgent>, bool),
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    const PIECE: u64 = 256 * 1024;
    let grown = Grown::begin(to)?;
    let mut buf = vec![0; size.min(PIECE) as usize];
    let mut at = 0;
    while at < size {
        let alone = urgent.is_some_and(|urgent| urgent.at == at);
        let end = urgent.map_or(size, |urgent| if urgent.at > at { urgent.at } else { size });
        let len = if alone { 1 } else { (end - at).min(PIECE) };
        let piece = buf.get_mut(..len as usize).unwrap_or_default();
        read(at, piece)?;
        let mut rest = &*piece;
        while let Some(first) = rest.first() {
            let sent = if alone {
                socket::send_urgent(from, *first, &[]).map(|()| 1)
            } else {
                socket::send(from, rest, None, &[])
            };
            match sent {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let room = || socket::events(from, libc::POLLOUT).map(|e| e & libc::POLLOUT != 0);
                    if !wait(to, room)? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(e) => return Err(e),
            }
        }
        at += piece.len() as u64;
    }
    let out_of_band = urgent.is_some_and(|urgent| urgent.read);
    let settled = !(all || out_of_band) || settle(from, to)?;
    drop(grown);
    if !settled {
        return Err(io::ErrorKind::TimedOut.into());
    }
    if out_of_band {
        socket::receive_urgent(to)?;
    }
    Ok(())
}

fn wait(to: BorrowedFd<'_>, arrived: impl Fn() -> io::Result<bool>) -> io::Result<bool> {
    let until = Instant::now() + PATIENCE;
    for round in 0u32.. {
        match socket::receive(to, &mut [0], libc::MSG_PEEK) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
            _ => {}
        }
        if arrived()? {
            return Ok(true);
        }
        if Instant::now() > until {
            break;
        }
        crate::sys::tasks::back_off(round);
    }
    Ok(false)
}

/// A receive buffer that may hold as much as any.
struct Grown<'a> {
    fd: BorrowedFd<'a>,
    mark: i32,
    /// A size that the program has chosen.
    chosen: Option<i32>,
}

impl<'a> Grown<'a> {
    fn begin(fd: BorrowedFd<'a>) -> io::Result<Grown<'a>> {
        let number = |name| socket::number(fd, libc::SOL_SOCKET, name);
        let lock = number(SO_BUF_LOCK).unwrap_or(0);
        let chosen = if lock & RCVBUF_LOCK == 0 { None } else { Some(number(libc::SO_RCVBUF)?) };
        let grown = Grown { fd, mark: number(libc::SO_RCVLOWAT)?, chosen };
        if chosen.is_some() {
            socket::set_option(fd, libc::SOL_SOCKET, SO_BUF_LOCK, &(lock & !RCVBUF_LOCK).to_ne_bytes())?;
        }
        socket::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &(i32::MAX / 2).to_ne_bytes())?;
        Ok(grown)
    }
}

impl Drop for Grown<'_> {
    fn drop(&mut self) {
        let set = |name, value: i32| socket::set_option(self.fd, libc::SOL_SOCKET, name, &value.to_ne_bytes());
        let _ = set(libc::SO_RCVLOWAT, self.mark);
        if let Some(bytes) = self.chosen {
            // Locks it again. setsockopt(2) doubles what it is given.
            let _ = set(libc::SO_RCVBUF, bytes / 2);
        }
    }
}

/// A sender that holds nothing back.
struct Pushed<'a> {
    fd: BorrowedFd<'a>,
    old: [(i32, i32); 2],
}

impl<'a> Pushed<'a> {
    fn begin(fd: BorrowedFd<'a>) -> io::Result<Pushed<'a>> {
        let number = |name| socket::number(fd, libc::IPPROTO_TCP, name);
        let pushed = Pushed { fd, old: [(TCP_NODELAY, number(TCP_NODELAY)?), (TCP_CORK, number(TCP_CORK)?)] };
        for (name, value) in [(TCP_CORK, 0i32), (TCP_NODELAY, 1)] {
            socket::set_option(fd, libc::IPPROTO_TCP, name, &value.to_ne_bytes())?;
        }
        Ok(pushed)
    }
}

impl Drop for Pushed<'_> {
    fn drop(&mut self) {
        for (name, value) in self.old {
            let _ = socket::set_option(self.fd, libc::IPPROTO_TCP, name, &value.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn stuff(stream: &mut TcpStream) -> usize {
        stream.set_nonblocking(true).unwrap();
        let piece: Vec<u8> = (0..100_000u32).map(|i| (i / 3) as u8).collect();
        let mut sent = 0;
        while let Ok(n) = stream.write(&piece[sent % piece.len()..]) {
            sent += n;
        }
        sent
    }

    #[test]
    fn a_slow_reader_has_everything_and_has_read_nothing() {
        for locked in [false, true] {
            let (mut a, mut b) = pair();
            if locked {
                socket::set_option(b.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, &200_000i32.to_ne_bytes()).unwrap();
            }
            let buffer = socket::number(b.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap();
            let sent = stuff(&mut a);
            assert!(crate::sys::fds::readable(b.as_fd()).unwrap() < sent);
            assert!(settle(a.as_fd(), b.as_fd()).unwrap());
            assert_eq!(crate::sys::fds::readable(b.as_fd()).unwrap(), sent);
            assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT).unwrap(), 1);
            let lock = socket::number(b.as_fd(), libc::SOL_SOCKET, SO_BUF_LOCK).unwrap();
            assert_eq!(lock, if locked { RCVBUF_LOCK } else { 0 });
            if locked {
                assert_eq!(socket::number(b.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap(), buffer);
            }
            let more = stuff(&mut a);
            b.set_nonblocking(true).unwrap();
            let (mut got, mut buf) = (Vec::new(), vec![0; 1 << 20]);
            let reader = std::thread::spawn(move || {
                while got.len() < sent + more {
                    match b.read(&mut buf) {
                        Ok(n) => got.extend_from_slice(&buf[..n]),
                        Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
                    }
                }
                got
            });
            let got = reader.join().unwrap();
            let at = |i: usize| ((i % 100_000) / 3) as u8;
            assert!(got[..sent].iter().enumerate().all(|(i, b)| *b == at(i)));
            assert!(got[sent..].iter().enumerate().all(|(i, b)| *b == at(i)));
        }
    }

    #[test]
    fn what_is_corked_arrives_and_the_cork_stays() {
        let (mut a, b) = pair();
        socket::set_option(a.as_fd(), libc::IPPROTO_TCP, TCP_CORK, &1i32.to_ne_bytes()).unwrap();
        a.write_all(b"held back").unwrap();
        assert_eq!(crate::sys::fds::readable(b.as_fd()).unwrap(), 0);
        assert!(settle(a.as_fd(), b.as_fd()).unwrap());
        assert_eq!(crate::sys::fds::readable(b.as_fd()).unwrap(), 9);
        assert_eq!(socket::number(a.as_fd(), libc::IPPROTO_TCP, TCP_CORK).unwrap(), 1);
    }

    #[test]
    fn the_last_of_a_sender_that_is_gone() {
        let (mut a, b) = pair();
        let sent = stuff(&mut a);
        drop(a);
        assert!(settle_end(b.as_fd()).unwrap());
        assert_eq!(crate::sys::fds::readable(b.as_fd()).unwrap(), sent);
    }
}
