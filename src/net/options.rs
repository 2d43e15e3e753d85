//! Options of sockets: read as bytes, and only those kept that a new socket of the same kind does not have.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::model::Hex;
use crate::model::sockets::SocketOption;
use crate::sys::socket;

const SOL_SOCKET: i32 = libc::SOL_SOCKET;
const SO_SNDBUFFORCE: i32 = 32;
const SO_RCVBUFFORCE: i32 = 33;
const SO_ATTACH_FILTER: i32 = 26;
const SO_LOCK_FILTER: i32 = 44;
const SO_BUF_LOCK: i32 = 72;

/// Options of any socket that can be set as they are read, but for [`SO_PEEK_OFF`] (include/uapi/asm-generic/socket.h).
const GENERIC: [i32; 38] = [
    1,  // SO_DEBUG
    2,  // SO_REUSEADDR
    5,  // SO_DONTROUTE
    6,  // SO_BROADCAST
    9,  // SO_KEEPALIVE
    10, // SO_OOBINLINE
    11, // SO_NO_CHECK
    12, // SO_PRIORITY
    13, // SO_LINGER
    15, // SO_REUSEPORT
    16, // SO_PASSCRED
    18, // SO_RCVLOWAT
    20, // SO_RCVTIMEO
    21, // SO_SNDTIMEO
    25, // SO_BINDTODEVICE
    29, // SO_TIMESTAMP
    34, // SO_PASSSEC
    35, // SO_TIMESTAMPNS
    36, // SO_MARK
    37, // SO_TIMESTAMPING
    40, // SO_RXQ_OVFL
    41, // SO_WIFI_STATUS
    43, // SO_NOFCS
    45, // SO_SELECT_ERR_QUEUE
    46, // SO_BUSY_POLL
    47, // SO_MAX_PACING_RATE
    49, // SO_INCOMING_CPU
    60, // SO_ZEROCOPY
    61, // SO_TXTIME
    63, // SO_TIMESTAMP_NEW
    64, // SO_TIMESTAMPNS_NEW
    65, // SO_TIMESTAMPING_NEW
    69, // SO_PREFER_BUSY_POLL
    74, // SO_TXREHASH
    75, // SO_RCVMARK
    76, // SO_PASSPIDFD
    82, // SO_RCVPRIORITY
    83, // SO_PASSRIGHTS
];

/// Of IPv4, and of IPv6 too (include/uapi/linux/in.h).
const IP: [i32; 27] = [
    1,  // IP_TOS
    2,  // IP_TTL
    3,  // IP_HDRINCL
    4,  // IP_OPTIONS
    6,  // IP_RECVOPTS
    7,  // IP_RETOPTS
    8,  // IP_PKTINFO
    10, // IP_MTU_DISCOVER
    11, // IP_RECVERR
    12, // IP_RECVTTL
    13, // IP_RECVTOS
    15, // IP_FREEBIND
    18, // IP_PASSSEC
    19, // IP_TRANSPARENT
    20, // IP_RECVORIGDSTADDR
    21, // IP_MINTTL
    22, // IP_NODEFRAG
    23, // IP_CHECKSUM
    24, // IP_BIND_ADDRESS_NO_PORT
    25, // IP_RECVFRAGSIZE
    26, // IP_RECVERR_RFC4884
    32, // IP_MULTICAST_IF
    33, // IP_MULTICAST_TTL
    34, // IP_MULTICAST_LOOP
    49, // IP_MULTICAST_ALL
    50, // IP_UNICAST_IF
    51, // IP_LOCAL_PORT_RANGE
];

/// Of IPv6 (include/uapi/linux/in6.h).
const IPV6: [i32; 35] = [
    2,  // IPV6_2292PKTINFO
    3,  // IPV6_2292HOPOPTS
    4,  // IPV6_2292DSTOPTS
    5,  // IPV6_2292RTHDR
    7,  // IPV6_CHECKSUM
    8,  // IPV6_2292HOPLIMIT
    11, // IPV6_FLOWINFO
    16, // IPV6_UNICAST_HOPS
    17, // IPV6_MULTICAST_IF
    18, // IPV6_MULTICAST_HOPS
    19, // IPV6_MULTICAST_LOOP
    23, // IPV6_MTU_DISCOVER
    25, // IPV6_RECVERR
    26, // IPV6_V6ONLY
    29, // IPV6_MULTICAST_ALL
    30, // IPV6_ROUTER_ALERT_ISOLATE
    31, // IPV6_RECVERR_RFC4884
    33, // IPV6_FLOWINFO_SEND
    49, // IPV6_RECVPKTINFO
    51, // IPV6_RECVHOPLIMIT
    53, // IPV6_RECVHOPOPTS
    56, // IPV6_RECVRTHDR
    58, // IPV6_RECVDSTOPTS
    60, // IPV6_RECVPATHMTU
    62, // IPV6_DONTFRAG
    66, // IPV6_RECVTCLASS
    67, // IPV6_TCLASS
    70, // IPV6_AUTOFLOWLABEL
    72, // IPV6_ADDR_PREFERENCES
    73, // IPV6_MINHOPCOUNT
    74, // IPV6_RECVORIGDSTADDR
    75, // IPV6_TRANSPARENT
    76, // IPV6_UNICAST_IF
    77, // IPV6_RECVFRAGSIZE
    78, // IPV6_FREEBIND
];

/// Levels and names of those of IPv4 and IPv6.
pub fn internet() -> impl Iterator<Item = (i32, i32)> {
    let v4 = IP.iter().map(|&name| (libc::IPPROTO_IP, name));
    v4.chain(IPV6.iter().map(|&name| (libc::IPPROTO_IPV6, name)))
}

/// Where the next peek starts; set last, because our own peeks and sends would move it.
pub const SO_PEEK_OFF: i32 = 42;

/// Room for the value of any option but a filter.
const ROOM: usize = 64;
/// The sizes of buffers, and their bits in SO_BUF_LOCK.
const BUFFERS: [(i32, i32); 2] = [(libc::SO_SNDBUF, 1), (libc::SO_RCVBUF, 2)];

/// What a socket was made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Made {
    /// SO_DOMAIN.
    pub domain: i32,
    /// SO_TYPE.
    pub kind: i32,
    /// SO_PROTOCOL; 0 of a UNIX socket.
    pub protocol: i32,
}

impl Made {
    /// What `fd` was made as.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Made> {
        let number = |name| socket::number(fd, SOL_SOCKET, name);
        let (domain, kind) = (number(libc::SO_DOMAIN)?, number(libc::SO_TYPE)?);
        let protocol = if domain == libc::AF_UNIX { 0 } else { number(libc::SO_PROTOCOL).unwrap_or(0) };
        Ok(Made { domain, kind, protocol })
    }

    /// Whether it is a socket of IPv4 or IPv6.
    pub fn is_internet(self) -> bool {
        [libc::AF_INET, libc::AF_INET6].contains(&self.domain)
    }
}

/// What a new socket says of its options, to compare others of its kind with.
#[derive(Debug)]
pub struct Fresh {
    /// Level, name and value of each that such a socket has, in the order they are to be set.
    values: Vec<(i32, i32, Vec<u8>)>,
    buffers: [Option<Vec<u8>>; 2],
}

impl Fresh {
    /// One; `more`: levels and names of options that are particular to its kind.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn new(made: Made, more: &[(i32, i32)]) -> io::Result<Fresh> {
        let fd = socket::socket(made.domain, made.kind, made.protocol)?;
        let value = |level, name| socket::option(fd.as_fd(), level, name, ROOM).ok();
        let generic = GENERIC.iter().map(|&name| (SOL_SOCKET, name));
        let all = generic.chain(more.iter().copied()).chain([(SOL_SOCKET, SO_PEEK_OFF)]);
        let values = all.filter_map(|(level, name)| Some((level, name, value(level, name)?))).collect();
        Ok(Fresh { values, buffers: BUFFERS.map(|(name, _)| value(SOL_SOCKET, name)) })
    }
}

/// The options in which `fd` differs from a new socket of the same kind, but for those of `without`. `told`: numbers that
/// some are known to be.
///
/// # Errors
/// What getsockopt(2) says, other than that there is no such option.
pub fn read(
    fd: BorrowedFd<'_>,
    fresh: &Fresh,
    without: &[(i32, i32)],
    told: impl Fn(i32, i32) -> Option<i32>,
) -> io::Result<Vec<SocketOption>> {
    let mut out = Vec::new();
    let mut room = [0; ROOM];
    for (level, name, usual) in &fresh.values {
        let as_usual = || told(*level, *name).is_some_and(|value| value.to_ne_bytes() == usual[..]);
        if without.contains(&(*level, *name)) || as_usual() {
            continue;
        }
        match value(fd, *level, *name, &mut room)? {
            Some(value) if value != usual => out.push(option(*level, *name, value)),
            _ => {}
        }
    }
    // Sizes that nobody chose are the host's affair, or the kernel changes them as it goes (tcp(7)).
    let chosen = socket::number(fd, SOL_SOCKET, SO_BUF_LOCK).ok();
    for ((name, bit), usual) in BUFFERS.into_iter().zip(&fresh.buffers) {
        if chosen.is_some_and(|chosen| chosen & bit == 0) {
            continue;
        }
        match value(fd, SOL_SOCKET, name, &mut room)? {
            Some(value) if chosen.is_some() || usual.as_deref() != Some(value) => {
                out.push(option(SOL_SOCKET, name, value));
            }
            _ => {}
        }
    }
    let filter = socket::filter(fd)?;
    if !filter.is_empty() {
        out.push(option(SOL_SOCKET, SO_ATTACH_FILTER, &filter));
    }
    match value(fd, SOL_SOCKET, SO_LOCK_FILTER, &mut room)? {
        Some(locked) if locked.iter().any(|&b| b != 0) => out.push(option(SOL_SOCKET, SO_LOCK_FILTER, locked)),
        _ => {}
    }
    Ok(out)
}

fn option(level: i32, name: i32, value: &[u8]) -> SocketOption {
    SocketOption { level, name, value: Hex(value.to_vec()) }
}

/// An option's value, if this kind of socket under this kernel has it.
fn value<'a>(fd: BorrowedFd<'_>, level: i32, name: i32, room: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    match socket::option_into(fd, level, name, room) {
        Ok(len) => Ok(room.get(..len)),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL | libc::EPERM) => Ok(None),
            _ => Err(e),
        },
    }
}

/// Whether the option is one that our own doing while a socket is made would be changed by or would change.
fn comes_last(option: &SocketOption) -> bool {
    option.level == SOL_SOCKET && !matches!(option.name, 2 | 15 | 25 | 36)
}

/// Sets what a socket must have before it is bound: SO_REUSEADDR, SO_REUSEPORT, SO_BINDTODEVICE, SO_MARK, and all that
/// is particular to its kind.
///
/// # Errors
/// The option that could not be set, and why.
pub fn set_early(fd: BorrowedFd<'_>, options: &[SocketOption]) -> io::Result<()> {
    options.iter().filter(|o| !comes_last(o)).try_for_each(|o| set(fd, o).map_err(|e| named(o, &e)))
}

/// Sets those particular to the socket's kind again that are not as they should be: to bind and to connect it may have
/// changed them.
///
/// # Errors
/// The option that could not be set, and why.
pub fn set_again(fd: BorrowedFd<'_>, options: &[SocketOption]) -> io::Result<()> {
    let mut room = [0; ROOM];
    for option in options.iter().filter(|o| o.level != SOL_SOCKET) {
        if value(fd, option.level, option.name, &mut room)?.is_none_or(|now| now != option.value.0) {
            set(fd, option).map_err(|e| named(option, &e))?;
        }
    }
    Ok(())
}

/// Sets all others, once the socket is connected and has in its queue what it had.
///
/// # Errors
/// The option that could not be set, and why.
pub fn set_late(fd: BorrowedFd<'_>, options: &[SocketOption]) -> io::Result<()> {
    options.iter().filter(|o| comes_last(o)).try_for_each(|o| set(fd, o).map_err(|e| named(o, &e)))
}

/// Sets those that a connection takes over from the UNIX socket that listens, at the moment when it is made: SO_PASSCRED,
/// SO_PASSSEC, SO_PASSPIDFD, SO_PASSRIGHTS (net/unix/af_unix.c, unix_stream_connect).
///
/// # Errors
/// The option that could not be set, and why.
pub fn set_taken_over(fd: BorrowedFd<'_>, options: &[SocketOption]) -> io::Result<()> {
    let taken = |o: &&SocketOption| o.level == SOL_SOCKET && matches!(o.name, 16 | 34 | 76 | 83);
    options.iter().filter(taken).try_for_each(|o| set(fd, o).map_err(|e| named(o, &e)))
}

fn named(option: &SocketOption, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("option {} of level {}: {error}", option.name, option.level))
}

fn set(fd: BorrowedFd<'_>, option: &SocketOption) -> io::Result<()> {
    let value = &option.value.0;
    match (option.level, option.name) {
        (SOL_SOCKET, name @ (libc::SO_SNDBUF | libc::SO_RCVBUF)) => {
            let bytes = value.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
            set_buffer(fd, name, bytes)
        }
        (SOL_SOCKET, SO_ATTACH_FILTER) => socket::set_filter(fd, value),
        (level, name) => socket::set_option(fd, level, name, value),
    }
}

/// Gives a buffer a size as getsockopt(2) shows it: twice what is asked for, and beyond `net.core.*mem_max` only with
/// CAP_NET_ADMIN.
fn set_buffer(fd: BorrowedFd<'_>, name: i32, bytes: i32) -> io::Result<()> {
    let half = (bytes / 2).to_ne_bytes();
    let force = if name == libc::SO_SNDBUF { SO_SNDBUFFORCE } else { SO_RCVBUFFORCE };
    socket::set_option(fd, SOL_SOCKET, name, &half)?;
    if socket::number(fd, SOL_SOCKET, name)? < bytes & !1 {
        socket::set_option(fd, SOL_SOCKET, force, &half)?;
    }
    Ok(())
}

/// Makes room for as much as we may have in a socket's send queue, until [`set_late`] or [`reset_send_buffer`].
///
/// # Errors
/// What setsockopt(2) says.
pub fn widen(fd: BorrowedFd<'_>) -> io::Result<()> {
    let most = (i32::MAX / 4).to_ne_bytes();
    socket::set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, &most)
        .or_else(|_| socket::set_option(fd, SOL_SOCKET, libc::SO_SNDBUF, &most))
}

/// Undoes [`widen`]: the size a new socket has, which nobody has chosen.
///
/// # Errors
/// What setsockopt(2) says.
pub fn reset_send_buffer(fd: BorrowedFd<'_>, (size, lock): (i32, Option<i32>)) -> io::Result<()> {
    set_buffer(fd, libc::SO_SNDBUF, size)?;
    lock.map_or(Ok(()), |lock| socket::set_option(fd, SOL_SOCKET, SO_BUF_LOCK, &lock.to_ne_bytes()))
}

/// Size of the send buffer as getsockopt(2) shows it, and SO_BUF_LOCK (Linux ≥ 5.15): which sizes were chosen.
///
/// # Errors
/// What getsockopt(2) says.
pub fn send_buffer(fd: BorrowedFd<'_>) -> io::Result<(i32, Option<i32>)> {
    Ok((socket::number(fd, SOL_SOCKET, libc::SO_SNDBUF)?, socket::number(fd, SOL_SOCKET, SO_BUF_LOCK).ok()))
}

/// The same as [`widen`] for what a socket receives.
///
/// # Errors
/// What setsockopt(2) says.
pub fn widen_receive(fd: BorrowedFd<'_>) -> io::Result<()> {
    let most = (i32::MAX / 4).to_ne_bytes();
    socket::set_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, &most)
        .or_else(|_| socket::set_option(fd, SOL_SOCKET, libc::SO_RCVBUF, &most))
}

/// Undoes [`widen_receive`].
///
/// # Errors
/// What setsockopt(2) says.
pub fn reset_receive_buffer(fd: BorrowedFd<'_>, (size, lock): (i32, Option<i32>)) -> io::Result<()> {
    set_buffer(fd, libc::SO_RCVBUF, size)?;
    lock.map_or(Ok(()), |lock| socket::set_option(fd, SOL_SOCKET, SO_BUF_LOCK, &lock.to_ne_bytes()))
}

/// Size of the receive buffer as getsockopt(2) shows it, and SO_BUF_LOCK.
///
/// # Errors
/// What getsockopt(2) says.
pub fn receive_buffer(fd: BorrowedFd<'_>) -> io::Result<(i32, Option<i32>)> {
    Ok((socket::number(fd, SOL_SOCKET, libc::SO_RCVBUF)?, socket::number(fd, SOL_SOCKET, SO_BUF_LOCK).ok()))
}

/// The largest sizes of buffers that this process may give.
#[derive(Debug)]
pub struct Largest {
    send: i64,
    receive: i64,
}

impl Largest {
    /// Those of this host.
    pub fn read() -> Largest {
        const CAP_NET_ADMIN: u64 = 1 << 12;
        let caps = crate::proc::status(std::process::id() as i32).map_or(0, |s| s.caps[2]);
        let max = |name| match crate::proc::number(name) {
            Ok(max) if caps & CAP_NET_ADMIN == 0 => max,
            _ => i64::MAX,
        };
        Largest { send: max("sys/net/core/wmem_max"), receive: max("sys/net/core/rmem_max") }
    }

    /// Of a size among `options` that is larger: the `sysctl` that stands in the way and what it would have to be.
    pub fn exceeded(&self, options: &[SocketOption]) -> Option<(&'static str, i64)> {
        options.iter().filter(|o| o.level == SOL_SOCKET).find_map(|o| {
            let (sysctl, max) = match o.name {
                libc::SO_SNDBUF => ("net.core.wmem_max", self.send),
                libc::SO_RCVBUF => ("net.core.rmem_max", self.receive),
                _ => return None,
            };
            let half = i64::from(o.value.0.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b))) / 2;
            (half > max).then_some((sysctl, half))
        })
    }
}
