//! Connections that wait to be accepted, taken out of their queue and put back, with what was sent over them.
//!
//! Nobody can look at such a connection but by accepting it, and an accepted one can't go back. But its client's socket
//! can: connect(2) to AF_UNSPEC dissolves the connection (net/ipv4/tcp.c, `tcp_disconnect`), the socket keeps its
//! options, and connects once more from the same address and port.
//!
//! # Safety
//! The work is done by a child (a fork, so that also our death does not interrupt it), which shares a piece of memory
//! with us: it makes system calls with its own copies of descriptors and buffers, and uses none of libc's functions
//! that take locks.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::{check, socket};

/// As connections have them, of either family: an address of 16 bytes, and a port.
type Name = ([u8; 16], [u8; 2]);

/// A `sockaddr_in6`, or a `sockaddr_in` and zeros.
type Sockaddr = [u8; 28];

/// From which port connect(2) may go out (ip(7)), from Linux 6.3 on.
pub const IP_LOCAL_PORT_RANGE: i32 = 51;
const SO_BUF_LOCK: i32 = 72;
const SO_PEEK_OFF: i32 = 42;
/// What the end of a connection sets anew of what may have been set: TCP_WINDOW_CLAMP, TCP_RTO_MIN_US,
/// TCP_DELACK_MAX_US and SO_PEEK_OFF (net/ipv4/tcp.c, `tcp_disconnect`).
const FORGOTTEN: [(i32, i32); 4] =
    [(libc::IPPROTO_TCP, 10), (libc::IPPROTO_TCP, 45), (libc::IPPROTO_TCP, 46), (libc::SOL_SOCKET, SO_PEEK_OFF)];
const SIOCATMARK: libc::Ioctl = 0x8905;
/// How long each step of a connection may take; all of it happens at once, as a rule.
const MILLISECONDS: i64 = 10_000;

/// A client of a connection that waits.
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    /// Its socket.
    pub fd: BorrowedFd<'a>,
    /// It has said that it sends nothing more.
    pub shut: bool,
}

/// What one has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// How many connections wait in front of it.
    pub place: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Which of them is urgent.
    pub urgent: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Client {
    fd: i32,
    shut: bool,
    local: Sockaddr,
    peer: Sockaddr,
    len: libc::socklen_t,
}

/// What the child finds, in memory that it shares with us.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Record {
    /// -1: it was not met.
    place: i32,
    accepted: i32,
    from: u32,
    len: u32,
    /// -1: none.
    urgent: i32,
}

const NONE: Record = Record { place: -1, accepted: -1, from: 0, len: 0, urgent: -1 };

/// What all connections in the queue of `listener` have sent, in the order of the clients. They are in its queue again
/// afterwards, in their order. There must be no others, and nobody else may use any of the sockets meanwhile; `room`:
/// more bytes than all of them have sent.
///
/// # Errors
/// If a connection could not be put back, or not all of them were met.
pub fn look(listener: BorrowedFd<'_>, clients: &[Waiting<'_>], room: usize) -> io::Result<Vec<Taken>> {
    let clients = clients.iter().map(client).collect::<io::Result<Vec<Client>>>()?;
    let head = 8 + clients.len() * size_of::<Record>();
    let (all, flags) = (head + room, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: new memory, unmapped below.
    let shared = unsafe { libc::mmap(std::ptr::null_mut(), all, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if shared == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the memory is as long and page-aligned; an i32 and the records behind it are aligned, and any bytes are
    // valid ones. We touch it while the child is not there, and through these alone.
    let (failure, records, bytes) = unsafe {
        let records = shared.cast::<u8>().add(8).cast::<Record>();
        (
            &mut *shared.cast::<i32>(),
            std::slice::from_raw_parts_mut(records, clients.len()),
            std::slice::from_raw_parts_mut(shared.cast::<u8>().add(head), room),
        )
    };
    records.fill(NONE);
    *failure = libc::ECHILD;
    // SAFETY: a plain fork without an exit signal: whoever waits for the program does not hear of it. It never returns.
    let forked = check(unsafe { libc::syscall(libc::SYS_clone, 0usize, 0usize, 0usize, 0usize, 0usize) });
    if let Ok(0) = forked {
        // SAFETY: the child's own mask.
        unsafe {
            let mut every = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&mut every);
            libc::sigprocmask(libc::SIG_SETMASK, &every, std::ptr::null_mut());
        }
        *failure = take(listener.as_raw_fd(), &clients, records, bytes);
        let back = put_back(&clients, records, bytes);
        if *failure == 0 {
            *failure = back;
        }
        // SAFETY: it ends here.
        unsafe { libc::_exit(0) }
    }
    let result = forked.and_then(|pid| {
        // SAFETY: a child of ours.
        while unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), libc::__WALL) } < 0
            && Errno::last_raw() == libc::EINTR
        {}
        match *failure {
            0 => Ok(records.iter().map(|record| taken(record, bytes)).collect()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    });
    // SAFETY: nothing refers to it any more.
    unsafe { libc::munmap(shared, all) };
    result
}

fn client(of: &Waiting<'_>) -> io::Result<Client> {
    let whole = |name: Vec<u8>| -> io::Result<(Sockaddr, libc::socklen_t)> {
        let mut all = [0; 28];
        all.get_mut(..name.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(&name);
        Ok((all, name.len() as libc::socklen_t))
    };
    // Before Linux 6.3 there is no way back to its port.
    socket::number(of.fd, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE)?;
    let ((local, _), (peer, len)) = (whole(socket::name(of.fd)?)?, whole(socket::peer_name(of.fd)?)?);
    Ok(Client { fd: of.fd.as_raw_fd(), shut: of.shut, local, peer, len })
}

fn taken(record: &Record, bytes: &[u8]) -> Taken {
    let text = bytes.get(record.from as usize..(record.from + record.len) as usize).unwrap_or_default();
    Taken { place: record.place as u32, bytes: text.to_vec(), urgent: u32::try_from(record.urgent).ok() }
}

/// An IPv4 address as IPv6 has it.
fn name(sockaddr: &Sockaddr) -> Name {
    let mut ip = [0; 16];
    if i32::from(u16::from_ne_bytes([sockaddr[0], sockaddr[1]])) == libc::AF_INET {
        (ip[10], ip[11]) = (0xff, 0xff);
        ip[12..].copy_from_slice(&sockaddr[4..8]);
    } else {
        ip.copy_from_slice(&sockaddr[8..24]);
    }
    (ip, [sockaddr[2], sockaddr[3]])
}

/// Accepts all connections and reads what has been sent over them: 0 or an errno.
fn take(listener: i32, clients: &[Client], records: &mut [Record], bytes: &mut [u8]) -> i32 {
    for place in 0..clients.len() {
        if !ready(listener, libc::POLLIN, 0) {
            return libc::EAGAIN;
        }
        let (mut from, mut len): (Sockaddr, _) = ([0; 28], 28);
        // SAFETY: both are live and fit each other.
        let accepted = unsafe { libc::accept4(listener, from.as_mut_ptr().cast(), &raw mut len, libc::SOCK_NONBLOCK) };
        if accepted < 0 {
            return Errno::last_raw();
        }
        let met = clients.iter().position(|client| name(&client.local) == name(&from));
        match met.and_then(|met| records.get_mut(met)) {
            Some(record) => (record.place, record.accepted) = (place as i32, accepted),
            None => {
                close(accepted);
                return libc::ESTALE;
            }
        }
    }
    let mut end = 0;
    for (client, record) in clients.iter().zip(records) {
        record.from = end as u32;
        let failure = read(client, record, bytes.get_mut(end..).unwrap_or_default());
        if failure != 0 {
            return failure;
        }
        end += record.len as usize;
    }
    0
}

/// Reads all that a client has sent: 0 or an errno.
fn read(client: &Client, record: &mut Record, room: &mut [u8]) -> i32 {
    // Urgent data in line: the socket is nobody else's, and soon gone.
    set(record.accepted, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1);
    let until = now() + MILLISECONDS;
    loop {
        // Nothing more can come once all is acknowledged; so that is asked first.
        let all_here = number(client.fd, libc::TIOCOUTQ) == 0;
        if record.urgent < 0 && ready(record.accepted, libc::POLLPRI, 0) && number(record.accepted, SIOCATMARK) == 1 {
            record.urgent = record.len as i32;
        }
        let Some(left) = room.get_mut(record.len as usize..).filter(|left| !left.is_empty()) else {
            return libc::EMSGSIZE;
        };
        // SAFETY: `left` is that long.
        let n = unsafe { libc::recv(record.accepted, left.as_mut_ptr().cast(), left.len(), libc::MSG_DONTWAIT) };
        match n {
            1.. => record.len += n as u32,
            0 => return 0,
            _ if Errno::last_raw() != libc::EAGAIN => return Errno::last_raw(),
            _ if all_here && !client.shut => return 0,
            _ if now() > until => return libc::ETIMEDOUT,
            _ => drop(ready(record.accepted, libc::POLLIN, 10)),
        }
    }
}

/// Has the clients of all that were accepted connect again, in their order: 0 or an errno.
fn put_back(clients: &[Client], records: &[Record], bytes: &[u8]) -> i32 {
    let mut failure = 0;
    for place in 0..clients.len() as i32 {
        let mut all = clients.iter().zip(records);
        let Some((client, record)) = all.find(|(_, record)| record.place == place) else { continue };
        let text = bytes.get(record.from as usize..(record.from + record.len) as usize).unwrap_or_default();
        let failed = connect_again(client, record, text);
        if failure == 0 {
            failure = failed;
        }
    }
    failure
}

fn connect_again(client: &Client, record: &Record, text: &[u8]) -> i32 {
    let fd = client.fd;
    // SAFETY: no pointers.
    let flags = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK);
        flags
    };
    let values = FORGOTTEN.map(|(level, name)| option(fd, level, name));
    // The other end, which is ours, has not ended.
    let deaf = ready(fd, libc::POLLRDHUP, 0);
    let range = option(fd, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE);
    // A port that the program has bound stays anyway.
    let port = i32::from(u16::from_be_bytes([client.local[2], client.local[3]]));
    set(fd, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, port << 16 | port);
    connect(fd, &[0; 28], 16);
    close(record.accepted);
    // That the connection is gone.
    option(fd, libc::SOL_SOCKET, libc::SO_ERROR);
    let mut failure = connect(fd, &client.peer, client.len);
    if failure == libc::EINPROGRESS {
        let ready = ready(fd, libc::POLLOUT, MILLISECONDS as i32);
        failure = if ready { option(fd, libc::SOL_SOCKET, libc::SO_ERROR) } else { libc::ETIMEDOUT };
    }
    set(fd, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range);
    for ((level, name), value) in FORGOTTEN.into_iter().zip(values) {
        if option(fd, level, name) != value {
            set(fd, level, name, value);
        }
    }
    let (mut own, mut len): (Sockaddr, _) = ([0; 28], 28);
    // SAFETY: both are live and fit each other.
    unsafe { libc::getsockname(fd, own.as_mut_ptr().cast(), &raw mut len) };
    if failure == 0 && own != client.local {
        failure = libc::EADDRNOTAVAIL;
    }
    if failure == 0 {
        failure = send_again(fd, text, usize::try_from(record.urgent).ok());
    }
    // SAFETY: no pointers.
    unsafe {
        if client.shut {
            libc::shutdown(fd, libc::SHUT_WR);
        }
        if deaf {
            libc::shutdown(fd, libc::SHUT_RD);
        }
        libc::fcntl(fd, libc::F_SETFL, flags);
    }
    failure
}

/// Sends what fits into the buffer of any socket, if that is made large enough for it: 0 or an errno.
fn send_again(fd: i32, text: &[u8], urgent: Option<usize>) -> i32 {
    let (size, locks) = (option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF), option(fd, libc::SOL_SOCKET, SO_BUF_LOCK));
    let wanted = (4 * text.len()).min(i32::MAX as usize / 2) as i32;
    let enlarge = size < wanted;
    if enlarge {
        // The kernel doubles it (socket(7)).
        set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, wanted);
    }
    let (before, rest) = text.split_at(urgent.unwrap_or(0).min(text.len()));
    let (byte, after) = rest.split_at(usize::from(urgent.is_some()).min(rest.len()));
    let mut failure = 0;
    for (mut part, flag) in [(before, 0), (byte, libc::MSG_OOB), (after, 0)] {
        let until = now() + MILLISECONDS;
        while !part.is_empty() && failure == 0 {
            // SAFETY: `part` is that long.
            let n = unsafe {
                libc::send(fd, part.as_ptr().cast(), part.len(), flag | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            };
            match n {
                0.. => part = part.get(n as usize..).unwrap_or_default(),
                _ if Errno::last_raw() != libc::EAGAIN => failure = Errno::last_raw(),
                _ if now() > until => failure = libc::ENOBUFS,
                _ => drop(ready(fd, libc::POLLOUT, 10)),
            }
        }
    }
    if enlarge {
        set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, size / 2);
        set(fd, libc::SOL_SOCKET, SO_BUF_LOCK, locks);
    }
    failure
}

fn connect(fd: i32, to: &Sockaddr, len: libc::socklen_t) -> i32 {
    // SAFETY: `to` is at least that long. All zeros are AF_UNSPEC.
    if unsafe { libc::connect(fd, to.as_ptr().cast(), len) } == 0 { 0 } else { Errno::last_raw() }
}

fn ready(fd: i32, events: i16, milliseconds: i32) -> bool {
    let mut polled = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one entry.
    unsafe { libc::poll(&raw mut polled, 1, milliseconds) == 1 && polled.revents & events != 0 }
}

/// An option that is a number; 0 where there is none.
fn option(fd: i32, level: i32, name: i32) -> i32 {
    let (mut value, mut len) = (0i32, 4);
    // SAFETY: both are live and fit each other.
    unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) };
    value
}

fn set(fd: i32, level: i32, name: i32, value: i32) {
    // SAFETY: `value` is live.
    unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), 4) };
}

/// What an ioctl(2) stores; -1 if it fails.
fn number(fd: i32, request: libc::Ioctl) -> i32 {
    let mut n = -1i32;
    // SAFETY: both requests store an int.
    unsafe { libc::ioctl(fd, request, &raw mut n) };
    n
}

fn close(fd: i32) {
    // SAFETY: a descriptor that accept(2) has made here.
    unsafe { libc::close(fd) };
}

/// Milliseconds of a clock that never goes back.
fn now() -> i64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is live.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    t.tv_sec * 1000 + t.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn what_waits_is_seen_and_stays() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let to = listener.local_addr().unwrap();
            let mut all: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(to).unwrap()).collect();
            all[1].write_all(b"early").unwrap();
            all[2].write_all(&[7; 60_000]).unwrap();
            all[3].write_all(b"over").unwrap();
            all[3].shutdown(Shutdown::Write).unwrap();
            let names: Vec<_> = all.iter().map(|s| s.local_addr().unwrap()).collect();
            // Not in their order.
            let order = [2, 0, 3, 1];
            let clients: Vec<Waiting<'_>> =
                order.iter().map(|&i| Waiting { fd: all[i].as_fd(), shut: i == 3 }).collect();
            for _ in 0..2 {
                let taken = look(listener.as_fd(), &clients, 100_000).unwrap();
                let of = |i: usize, bytes: &[u8]| Taken { place: i as u32, bytes: bytes.to_vec(), urgent: None };
                assert_eq!(taken, [of(2, &[7; 60_000]), of(0, b""), of(3, b"over"), of(1, b"early")]);
            }
            drop(clients);
            for (i, name) in names.iter().enumerate() {
                let (mut near, peer) = listener.accept().unwrap();
                assert_eq!((peer, all[i].local_addr().unwrap()), (*name, *name));
                assert!(all[i].take_error().unwrap().is_none());
                all[i].shutdown(Shutdown::Write).unwrap();
                let mut got = Vec::new();
                near.read_to_end(&mut got).unwrap();
                assert_eq!(got, [&b""[..], b"early", &[7; 60_000], b"over"][i]);
            }
        }
    }

    #[test]
    fn urgent_data_stays_where_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"ab").unwrap();
        socket::send_urgent(client.as_fd(), b'!', &[]).unwrap();
        client.write_all(b"cd").unwrap();
        let waiting = [Waiting { fd: client.as_fd(), shut: false }];
        for _ in 0..2 {
            let taken = look(listener.as_fd(), &waiting, 100).unwrap();
            assert_eq!(taken, [Taken { place: 0, bytes: b"ab!cd".to_vec(), urgent: Some(2) }]);
        }
    }

    #[test]
    fn fewer_than_there_should_be_are_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        let error = look(listener.as_fd(), &[Waiting { fd: client.as_fd(), shut: false }], 100).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    }
}
