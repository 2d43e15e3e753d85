//! Internet sockets that deal in datagrams: UDP, UDP-Lite, ICMP and raw ones.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use crate::model::Hex;
use crate::model::datagram::{DatagramSocket, Interface, Membership, Way};
use crate::model::sockets::{Family, Socket};
use crate::net::multicast::{self, Groups};
use crate::net::options::{self, Made};
use crate::net::queue::{self, Of, Queue};
use crate::net::{inet, inflight, raw_peer};
use crate::sys::socket;

use super::fd::{SeenFd, Work};
use super::sockets::{Found, model, refuse};
use super::{Error, Inside};

/// Why a socket with data on hold is refused: nobody can look at it.
pub(super) const CORKED: &str = "bytes are held back in it (UDP_CORK or MSG_MORE)";
/// Why a socket with an error before its datagrams is refused: to look at these would take it.
pub(super) const IN_FRONT: &str = "an error waits in it, in front of its datagrams";

const UDP: i32 = libc::IPPROTO_UDP;
const UDP_LITE: i32 = 136;
const POLLRDHUP: i16 = libc::POLLRDHUP;
/// Levels and names of options that are interfaces: IP_UNICAST_IF, IPV6_MULTICAST_IF, IPV6_UNICAST_IF.
const IP_UNICAST_IF: (i32, i32) = (0, 50);
const IPV6_MULTICAST_IF: (i32, i32) = (41, 17);
const IPV6_UNICAST_IF: (i32, i32) = (41, 76);

/// Levels and names of options particular to these sockets, beside those of IPv4 and IPv6: of UDP, UDP-Lite.
const OPTIONS: [(i32, i32); 7] = [
    (17, 101), // UDP_NO_CHECK6_TX
    (17, 102), // UDP_NO_CHECK6_RX
    (17, 103), // UDP_SEGMENT
    (17, 104), // UDP_GRO
    (136, 10), // UDPLITE_SEND_CSCOV
    (136, 11), // UDPLITE_RECV_CSCOV
    (17, 1),   // UDP_CORK
];
/// ICMP_FILTER, ICMPV6_FILTER.
const RAW: [(i32, i32); 2] = [(255, 1), (58, 1)];

/// The options that say something of a socket, beside those that all sockets have.
pub(super) fn options_of(made: Made) -> Vec<(i32, i32)> {
    let raw = RAW.iter().filter(|_| made.kind == libc::SOCK_RAW);
    options::internet().chain(OPTIONS.iter().chain(raw).copied()).collect()
}

/// Whether a socket is one of these; its protocol.
pub(super) fn is(made: Made) -> Option<i32> {
    const PROTOCOLS: [i32; 4] = [UDP, UDP_LITE, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6];
    let datagrams = made.kind == libc::SOCK_DGRAM && PROTOCOLS.contains(&made.protocol);
    (made.is_internet() && (datagrams || made.kind == libc::SOCK_RAW)).then_some(made.protocol)
}

/// One of the tree; `None` if it was refused.
pub(super) fn capture(
    work: &mut Work<'_>,
    s: &SeenFd,
    copy: &OwnedFd,
    made: Made,
    found: &Found,
    inside: &Inside,
) -> Result<Option<Socket>, Error> {
    let failed = |step| Error::of(s.host, step);
    let fd = copy.as_fd();
    let Made { domain, kind, protocol } = made;
    let udp = kind == libc::SOCK_DGRAM && [UDP, UDP_LITE].contains(&protocol);
    if !inflight::nothing_held_back(fd).map_err(failed("looking into a socket"))? {
        refuse(work, s, CORKED, "save it when they have been sent");
        return Ok(None);
    }
    let waits = inflight::taken(fd).map_err(failed("looking into a socket"))? > 0;
    let error = queue::has_error(fd).map_err(failed("polling a socket"))?;
    if error && waits {
        refuse(work, s, IN_FRONT, "save it when that has been read");
        return Ok(None);
    }
    let mut queue = Queue::default();
    if udp && waits {
        let of = if domain == libc::AF_INET6 { Of::Ipv6 } else { Of::Ipv4 };
        queue = queue::datagrams(fd, of).map_err(failed("looking into a socket"))?.unwrap_or_default();
    }
    let way = |m: &queue::Message| Way { from: Hex(m.from.clone()), to: Hex(m.to.clone()), segment: m.segment };
    let local = socket::name(fd).map_err(failed("asking for a socket's address"))?;
    let nameless = || raw_peer(s.host, s.meta.ino()).map(|a| inet::sockaddr(domain, a));
    let peer = socket::peer_name(fd).ok().or_else(|| if udp { None } else { nameless() });
    let memberships =
        multicast::memberships(fd, domain, &found.groups).map_err(failed("asking for a socket's groups"))?;
    let addresses = queue.messages.iter().map(|m| &m.from).chain([&local]).chain(&peer);
    let interfaces = interfaces(&found.groups, addresses, &memberships, fd);
    let shutdown = match found.shutdown.get(&s.meta.ino()) {
        Some(&shutdown) => shutdown,
        None => shut(fd).map_err(failed("polling a socket"))?,
    };
    let family = DatagramSocket {
        domain,
        protocol,
        local: Hex(local),
        peer: peer.map(Hex),
        ways: queue.messages.iter().map(way).collect(),
        refused: error,
        lost: waits && !udp,
        memberships,
        interfaces,
    };
    let Some(options) = super::sockets::options(work, s, copy, made)? else { return Ok(None) };
    Ok(Some(model(work, made, options, queue, Family::Datagram(family), shutdown, inside)))
}

/// Those that a socket has to do with.
fn interfaces<'a>(
    groups: &Groups,
    addresses: impl Iterator<Item = &'a Vec<u8>>,
    memberships: &[Membership],
    fd: BorrowedFd<'_>,
) -> Vec<Interface> {
    let option = |(level, name), swapped: bool| {
        let number = socket::number(fd, level, name).unwrap_or(0) as u32;
        if swapped { u32::from_be(number) } else { number }
    };
    let options = [option(IP_UNICAST_IF, true), option(IPV6_MULTICAST_IF, false), option(IPV6_UNICAST_IF, true)];
    let used: Vec<u32> = addresses
        .filter_map(|a| inet::scope(a))
        .chain(memberships.iter().map(|m| m.interface))
        .chain(options)
        .collect();
    groups.interfaces.iter().filter(|i| used.contains(&i.index)).cloned().collect()
}

/// What is seen to be shut down where sock_diag(7) does not tell.
fn shut(fd: BorrowedFd<'_>) -> std::io::Result<u8> {
    let events = socket::events(fd, POLLRDHUP)?;
    Ok(match (events & libc::POLLHUP != 0, events & POLLRDHUP != 0) {
        (true, _) => 3,
        (_, true) => 1,
        _ => 0,
    })
}

/// What was shut down of all UDP and UDP-Lite sockets, by inode.
pub(super) fn shutdowns(protocol: i32) -> std::io::Result<HashMap<u64, u8>> {
    match inet::all(protocol) {
        Ok(all) => Ok(all.iter().filter_map(|s| Some((s.inode, s.shutdown?))).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(HashMap::new()),
        Err(e) => Err(e),
    }
}
