//! TCP and UDP sockets as sock_diag(7) has them: who is connected to whom, also where nobody has a descriptor any more or
//! yet.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;

use crate::proc::many;

use super::diag::{attributes, dump};

/// States (include/net/tcp_states.h).
pub mod state {
    #![allow(missing_docs)] // the kernel's names
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
}

/// A TCP or UDP socket. IPv4 addresses mapped into IPv6 are shown as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inet {
    /// AF_INET or AF_INET6: what it was made as.
    pub family: i32,
    /// One of [`state`], or 6 (TIME_WAIT).
    pub state: u8,
    /// Its own address and port.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// Bytes that can be read; of one that listens: connections waiting.
    pub readable: u32,
    /// Bytes sent and not acknowledged; of one that listens: its backlog.
    pub sent: u32,
    /// 0 if nobody has a descriptor of it.
    pub inode: u64,
    /// What was shut down: receiving 1, sending 2; `None` where the kernel does not tell.
    pub shutdown: Option<u8>,
    /// The bits of `struct inet_diag_sockopt` (Linux ≥ 5.10).
    pub options: Option<u16>,
}

impl Inet {
    /// What an option of IPv4 is set to, as far as the kernel has told.
    pub fn option(&self, level: i32, name: i32) -> Option<i32> {
        const BITS: [(i32, u16); 9] = [
            (11, 0), // IP_RECVERR
            (15, 2), // IP_FREEBIND
            (3, 3),  // IP_HDRINCL
            (34, 4), // IP_MULTICAST_LOOP
            (19, 5), // IP_TRANSPARENT
            (49, 6), // IP_MULTICAST_ALL
            (22, 7), // IP_NODEFRAG
            (24, 8), // IP_BIND_ADDRESS_NO_PORT
            (26, 9), // IP_RECVERR_RFC4884
        ];
        let (_, bit) = BITS.iter().find(|(of, _)| (level, name) == (libc::IPPROTO_IP, *of))?;
        self.options.map(|options| (options >> bit & 1).into())
    }
}

/// All sockets of a protocol (TCP 6, UDP 17, UDP-Lite 136) in our network namespace that have an address.
///
/// # Errors
/// `NotFound` where the kernel lacks `tcp_diag` or `udp_diag`; else what socket(2), send(2) and recv(2) say.
pub fn all(protocol: i32) -> io::Result<Vec<Inet>> {
    // The kernel walks through all its tables for each family.
    let all = many::each(&[libc::AF_INET, libc::AF_INET6], 1, |&family| {
        // `struct inet_diag_req_v2`: family, protocol, extensions, padding, states, identity.
        let mut request = vec![family as u8, protocol as u8, 0, 0];
        request.extend(u32::MAX.to_ne_bytes());
        request.resize(56, 0);
        let mut out = Vec::new();
        dump(&request, |payload| out.extend(parse(payload)))?;
        Ok::<_, io::Error>(out)
    })?;
    Ok(all.concat())
}

const MESSAGE: usize = 72;
const INET_DIAG_SHUTDOWN: u16 = 8;
const INET_DIAG_SOCKOPT: u16 = 22;

/// One `inet_diag_msg` with its attributes (include/uapi/linux/inet_diag.h).
fn parse(payload: &[u8]) -> Option<Inet> {
    let [family, state] = *payload.first_chunk()?;
    let port = |at: usize| Some(u16::from_be_bytes(*payload.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_ne_bytes(*payload.get(at..)?.first_chunk()?));
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = payload.get(at..)?;
        Some(match i32::from(family) {
            libc::AF_INET => Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(),
            _ => Ipv6Addr::from(*bytes.first_chunk::<16>()?).into(),
        })
    };
    let local = canonical(SocketAddr::new(address(8)?, port(4)?));
    let remote = canonical(SocketAddr::new(address(24)?, port(6)?));
    let (mut shutdown, mut options) = (None, None);
    for (kind, value) in attributes(payload.get(MESSAGE..)?) {
        match kind {
            INET_DIAG_SHUTDOWN => shutdown = value.first().copied(),
            INET_DIAG_SOCKOPT => options = value.first_chunk().map(|b| u16::from_ne_bytes(*b)),
            _ => {}
        }
    }
    Some(Inet {
        family: family.into(),
        state,
        local,
        remote,
        readable: word(56)?,
        sent: word(60)?,
        inode: word(68)?.into(),
        shutdown,
        options,
    })
}

/// An address by which the two ends of a connection can be matched: IPv4 as IPv4, and no scope.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The ports among which connect(2) chooses in our network namespace; none, if the kernel does not tell.
pub fn ephemeral() -> RangeInclusive<u16> {
    let text = crate::proc::read("sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut bounds = text.split_whitespace().filter_map(|w| w.parse().ok());
    let (low, high) = bounds.next().zip(bounds.next()).unwrap_or((1, 0));
    low..=high
}

/// A `sockaddr_in` or `sockaddr_in6`.
pub fn address(sockaddr: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*sockaddr.first_chunk()?);
    let port = u16::from_be_bytes(*sockaddr.get(2..)?.first_chunk()?);
    Some(match i32::from(family) {
        libc::AF_INET if sockaddr.len() == 16 => {
            SocketAddr::new(Ipv4Addr::from(*sockaddr.get(4..)?.first_chunk::<4>()?).into(), port)
        }
        libc::AF_INET6 if sockaddr.len() == 28 => {
            let flow = u32::from_be_bytes(*sockaddr.get(4..)?.first_chunk()?);
            let ip = Ipv6Addr::from(*sockaddr.get(8..)?.first_chunk::<16>()?);
            let scope = u32::from_ne_bytes(*sockaddr.get(24..)?.first_chunk()?);
            SocketAddrV6::new(ip, port, flow, scope).into()
        }
        _ => return None,
    })
}

/// The `sockaddr` of an address for a socket of the given family.
pub fn sockaddr(domain: i32, address: SocketAddr) -> Vec<u8> {
    let mut out = (domain as u16).to_ne_bytes().to_vec();
    out.extend(address.port().to_be_bytes());
    match (domain, address.ip()) {
        (libc::AF_INET, IpAddr::V4(ip)) => out.extend(ip.octets()),
        (_, IpAddr::V4(ip)) => {
            out.extend([0; 4]);
            out.extend(ip.to_ipv6_mapped().octets());
        }
        (_, IpAddr::V6(ip)) => {
            out.extend([0; 4]);
            out.extend(ip.octets());
        }
    }
    out.resize(if domain == libc::AF_INET { 16 } else { 28 }, 0);
    out
}

/// The interface of a link-local IPv6 address.
pub fn scope(sockaddr: &[u8]) -> Option<u32> {
    match address(sockaddr)? {
        SocketAddr::V6(a) if a.scope_id() != 0 => Some(a.scope_id()),
        _ => None,
    }
}

/// The same as [`Inet::local`] has it.
pub fn matching(sockaddr: &[u8]) -> Option<SocketAddr> {
    address(sockaddr).map(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::fs::MetadataExt;

    fn inode(of: &impl AsRawFd) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", of.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn both_ends_are_found() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        let unaccepted = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let all = all(libc::IPPROTO_TCP).unwrap();
        let of = |inode| *all.iter().find(|t| t.inode == inode).unwrap();
        let (one, other) = (of(inode(&client)), of(inode(&server)));
        assert_eq!((one.local, one.remote), (other.remote, other.local));
        assert_eq!((one.state, of(inode(&listener)).state), (state::ESTABLISHED, state::LISTEN));
        assert_eq!(of(inode(&listener)).readable, 1);
        let waits = of(inode(&unaccepted));
        let ahead = all.iter().find(|t| (t.local, t.remote) == (waits.remote, waits.local)).unwrap();
        assert_eq!((ahead.inode, ahead.state), (0, state::ESTABLISHED));
        if one.options.is_some() {
            use crate::sys::socket::{number, set_option};
            let ask = |name| number(client.as_fd(), libc::IPPROTO_IP, name).unwrap();
            for name in 1..64 {
                assert!(one.option(0, name).is_none_or(|told| told == ask(name)), "{name}");
            }
            let told: Vec<i32> = (1..64).filter(|name| one.option(0, *name).is_some()).collect();
            assert_eq!(told.len(), 9);
            // Some can't be set on such a socket.
            let may = |name| set_option(client.as_fd(), 0, name, &(1 - ask(name)).to_ne_bytes()).is_ok();
            let changed: Vec<i32> = told.into_iter().filter(|&name| may(name)).collect();
            assert!(changed.len() > 4, "{changed:?}");
            let now = *super::all(libc::IPPROTO_TCP).unwrap().iter().find(|t| t.inode == inode(&client)).unwrap();
            for name in changed {
                assert_eq!(
                    (now.option(0, name), one.option(0, name)),
                    (Some(ask(name)), Some(1 - ask(name))),
                    "{name}"
                );
            }
        }
        let name = crate::sys::socket::name(server.as_fd()).unwrap();
        assert_eq!((name.len(), matching(&name)), (28, Some(other.local)));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
            let _ = parse(&bytes);
            let _ = address(&bytes);
        }
    }
}
