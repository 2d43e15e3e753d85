//! Internet sockets that deal in datagrams: bound and connected as they were, and sent what waited in them, each datagram
//! from the address it had come from, where that can be had.
//!
//! While we are at it ports are shared (SO_REUSEADDR), and every socket turns away what is sent to it (a filter), but for
//! the one that is being filled.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::image::Image;
use crate::model::datagram::{DatagramSocket, Membership, Way};
use crate::model::sockets::{Family, Socket, SocketOption};
use crate::model::{Checkpoint, Hex, Refusal};
use crate::net::{inet, inflight, multicast, options};
use crate::sys::{fds, socket, tasks};

use super::tcp::reuse;
use super::{Error, sockets};

const IP_UNICAST_IF: (i32, i32) = (0, 50);
const IPV6_MULTICAST_IF: (i32, i32) = (41, 17);
const IPV6_UNICAST_IF: (i32, i32) = (41, 76);
const IP_RECVERR: (i32, i32) = (0, 11);
const IPV6_RECVERR: (i32, i32) = (41, 25);
/// IP_PKTINFO, IP_RECVORIGDSTADDR, IPV6_RECVPKTINFO, IPV6_RECVORIGDSTADDR: with them a program sees where a datagram was sent.
const SHOW_DESTINATION: [(i32, i32); 4] = [(0, 8), (0, 20), (41, 49), (41, 74)];
const UDP_SEGMENT: (i32, i32) = (libc::IPPROTO_UDP, 103);
const IP_TRANSPARENT: (i32, i32) = (0, 19);
const IPV6_FREEBIND: (i32, i32) = (41, 78);
const SO_DETACH_FILTER: i32 = 27;
/// BPF_RET|BPF_K, 0: keeps nothing.
const DEAF: [u8; 8] = [6, 0, 0, 0, 0, 0, 0, 0];

/// A socket of the image.
#[derive(Debug, Clone, Copy)]
struct Own<'a> {
    index: u32,
    socket: &'a Socket,
    datagram: &'a DatagramSocket,
}

fn all(checkpoint: &Checkpoint) -> impl Iterator<Item = Own<'_>> {
    sockets::all(checkpoint).filter_map(|(index, socket)| match &socket.family {
        Family::Datagram(datagram) => Some(Own { index, socket, datagram }),
        _ => None,
    })
}

impl Own<'_> {
    fn name(&self) -> String {
        let address = inet::address(&self.datagram.local.0);
        let address = address.filter(|a| a.port() != 0).map_or_else(String::new, |a| format!(" {a}"));
        match (self.socket.kind, self.datagram.protocol) {
            (libc::SOCK_RAW, protocol) => format!("raw IP socket, protocol {protocol}"),
            (_, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) => "ICMP socket".to_owned(),
            (_, 136) => format!("UDP-Lite socket{address}"),
            _ => format!("UDP socket{address}"),
        }
    }

    /// The number an interface has here; its old one if the image does not say what it was called.
    fn interface(&self, index: u32) -> io::Result<u32> {
        let Some(known) = self.datagram.interfaces.iter().find(|i| i.index == index) else { return Ok(index) };
        socket::interface(&known.name).map_err(|_| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, format!("this host has no interface {}", known.name))
        })
    }

    /// An address with its interface as it is numbered here.
    fn address(&self, sockaddr: &Hex) -> io::Result<Vec<u8>> {
        Ok(match inet::address(&sockaddr.0) {
            Some(SocketAddr::V6(mut a)) if a.scope_id() != 0 => {
                a.set_scope_id(self.interface(a.scope_id())?);
                inet::sockaddr(libc::AF_INET6, a.into())
            }
            _ => sockaddr.0.clone(),
        })
    }

    /// Its options, with interfaces as they are numbered here.
    fn options(&self) -> io::Result<Vec<SocketOption>> {
        let mut out = self.socket.options.clone();
        for option in &mut out {
            let Some(number) = option.value.0.first_chunk().map(|b| u32::from_ne_bytes(*b)) else { continue };
            let number = match (option.level, option.name) {
                IPV6_MULTICAST_IF => self.interface(number)?,
                IP_UNICAST_IF | IPV6_UNICAST_IF => self.interface(u32::from_be(number))?.to_be(),
                _ => continue,
            };
            option.value = Hex(number.to_ne_bytes().to_vec());
        }
        Ok(out)
    }

    /// A new socket with the options that must come early; nothing gets into it.
    fn fresh(&self, options: &[SocketOption]) -> io::Result<OwnedFd> {
        let fd = socket::socket(self.datagram.domain, self.socket.kind, self.datagram.protocol)?;
        socket::set_filter(fd.as_fd(), &DEAF)?;
        options::set_early(fd.as_fd(), options)?;
        Ok(fd)
    }

    /// bind(2), if it has an address. The port of a raw socket is its protocol.
    fn bind(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let bound = |a: &SocketAddr| !a.ip().is_unspecified() || (a.port() != 0 && self.socket.kind != libc::SOCK_RAW);
        match inet::address(&self.datagram.local.0).filter(bound) {
            Some(_) => socket::bind(fd, &self.address(&self.datagram.local)?),
            None => Ok(()),
        }
    }

    fn join(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let join = |m: &Membership| multicast::join(fd, m, self.interface(m.interface)?);
        self.datagram.memberships.iter().try_for_each(join)
    }

    fn connect(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let Some(peer) = &self.datagram.peer else { return Ok(()) };
        socket::connect(fd, &self.address(peer)?)
    }
}

/// Makes all of them, by their index among the image's descriptions. `notes` gets what is lost.
pub fn make(image: &Image, notes: &mut Vec<String>) -> Result<HashMap<u32, OwnedFd>, Error> {
    let checkpoint = image.checkpoint();
    let failed = |own: &Own<'_>, e| Error::file("the making", &crate::model::Name(own.name().into_bytes()), e);
    let mut made: HashMap<u32, OwnedFd> = HashMap::new();
    for own in all(checkpoint) {
        let options = own.options().map_err(|e| failed(&own, e))?;
        let fd = begin(&own, &options).map_err(|e| failed(&own, e))?;
        let shares = made.keys().any(|&other| same_port(checkpoint, other, &own));
        let lost = fill(image, &own, fd.as_fd(), shares).map_err(|e| failed(&own, e))?;
        own.connect(fd.as_fd()).map_err(|e| failed(&own, e))?;
        socket::shut(fd.as_fd(), own.socket.shutdown).map_err(|e| failed(&own, e))?;
        if lost > 0 {
            notes.push(format!("{}: {lost} of the datagrams that waited in it did not arrive", own.name()));
        }
        made.insert(own.index, fd);
    }
    for own in all(checkpoint) {
        let Some(fd) = made.get(&own.index) else { continue };
        let flags = checkpoint.files.get(own.index as usize).map_or(0, |f| f.flags);
        finish(&own, fd.as_fd(), flags).map_err(|e| failed(&own, e))?;
    }
    Ok(made)
}

fn same_port(checkpoint: &Checkpoint, other: u32, own: &Own<'_>) -> bool {
    let port = |d: &DatagramSocket| inet::address(&d.local.0).map(|a| (a.port(), d.protocol));
    all(checkpoint).any(|o| o.index == other && port(o.datagram) == port(own.datagram))
}

fn begin(own: &Own<'_>, options: &[SocketOption]) -> io::Result<OwnedFd> {
    let fd = own.fresh(options)?;
    reuse(fd.as_fd(), true)?;
    own.bind(fd.as_fd())?;
    if own.datagram.refused {
        be_refused(own, fd.as_fd(), options)?;
    }
    own.join(fd.as_fd())?;
    Ok(fd)
}

/// Makes ECONNREFUSED wait in a socket: it sends a datagram to a port of this host where nobody is.
fn be_refused(own: &Own<'_>, fd: BorrowedFd<'_>, options: &[SocketOption]) -> io::Result<()> {
    // Else there would also be a message in its queue of errors.
    let quiet = if own.datagram.domain == libc::AF_INET { IP_RECVERR } else { IPV6_RECVERR };
    socket::set_option(fd, quiet.0, quiet.1, &0i32.to_ne_bytes())?;
    let nobody = {
        let other = socket::socket(own.datagram.domain, libc::SOCK_DGRAM, own.datagram.protocol)?;
        let mut here = inet::address(&own.datagram.local.0).ok_or(io::ErrorKind::InvalidData)?;
        here.set_port(0);
        let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
        let here = inet::sockaddr(own.datagram.domain, here);
        let loopback = inet::sockaddr(own.datagram.domain, loopback);
        socket::bind(other.as_fd(), &here).or_else(|_| socket::bind(other.as_fd(), &loopback))?;
        socket::name(other.as_fd())?
    };
    socket::connect(fd, &nobody)?;
    socket::send(fd, b"", None, &[])?;
    for round in 0..WAIT {
        if socket::events(fd, 0)? & libc::POLLERR != 0 {
            break;
        }
        tasks::back_off(round);
    }
    disconnect(fd)?;
    let loud = options.iter().find(|o| (o.level, o.name) == quiet);
    loud.map_or(Ok(()), |o| socket::set_option(fd, o.level, o.name, &o.value.0))
}

fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    socket::connect(fd, &[0; 16])
}

/// How often to look for a datagram that was sent: for some 50 ms.
const WAIT: u32 = 290;

/// Sends a socket what waited in it; how many datagrams did not arrive. Those whose sender's address can't be had were
/// named beforehand ([`notes`]). `shares`: other sockets have its port.
fn fill(image: &Image, own: &Own<'_>, fd: BorrowedFd<'_>, shares: bool) -> io::Result<u64> {
    let Some((mut at, size)) = own.socket.content.as_ref().map_or(Some((0, 0)), |c| image.blob(c.id)) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    if own.socket.queue.is_empty() {
        return Ok(0);
    }
    let end = at.saturating_add(size);
    socket::set_option(fd, libc::SOL_SOCKET, SO_DETACH_FILTER, &0i32.to_ne_bytes())?;
    let before = options::receive_buffer(fd)?;
    options::widen_receive(fd)?;
    let mut senders: HashMap<&[u8], Option<Sender>> = HashMap::new();
    let mut lost = 0;
    let mut bytes = Vec::new();
    for (message, way) in own.socket.queue.iter().zip(&own.datagram.ways) {
        if message.size > end.saturating_sub(at) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.resize(message.size as usize, 0);
        image.file().read_exact_at(&mut bytes, at)?;
        at += message.size;
        let sender = senders.entry(&way.from.0).or_insert_with(|| sender(own, way).ok());
        let Some(sender) = sender else { continue };
        // Among sockets that share a port the one that is connected to the sender gets what that sends.
        if shares {
            socket::connect(fd, &own.address(&way.from)?)?;
        }
        if !sender.send(own, fd, way, &bytes)? {
            lost += 1;
        }
        if shares {
            disconnect(fd)?;
        }
    }
    if before.1.is_none_or(|lock| lock & 2 == 0) {
        options::reset_receive_buffer(fd, before)?;
    }
    socket::set_filter(fd, &DEAF)?;
    Ok(lost)
}

/// Somebody at the address from which datagrams came.
struct Sender {
    fd: OwnedFd,
    /// Where it sends to with success, and what it was to be then.
    to: Option<(Hex, Vec<u8>)>,
    /// Nothing it sends arrives.
    mute: bool,
}

/// Binds a socket to where a datagram came from, if this process may.
fn sender(own: &Own<'_>, way: &Way) -> io::Result<Sender> {
    let fd = socket::socket(own.datagram.domain, libc::SOCK_DGRAM, own.datagram.protocol)?;
    reuse(fd.as_fd(), true)?;
    let from = own.address(&way.from)?;
    if let Err(e) = socket::bind(fd.as_fd(), &from) {
        // With privilege, or where the network is our own, also addresses that are others'.
        let ipv6 = matches!(inet::matching(&from), Some(SocketAddr::V6(_)));
        let (level, name) = if ipv6 { IPV6_FREEBIND } else { IP_TRANSPARENT };
        socket::set_option(fd.as_fd(), level, name, &1i32.to_ne_bytes()).map_err(|_| e)?;
        socket::bind(fd.as_fd(), &from)?;
    }
    // What goes to a group stays on this host; what would go to all of a network (SO_BROADCAST) is not sent.
    for (level, name) in [(0, libc::IP_MULTICAST_TTL), (41, libc::IPV6_MULTICAST_HOPS)] {
        let _ = socket::set_option(fd.as_fd(), level, name, &0i32.to_ne_bytes());
    }
    if let Some(bytes) = own.socket.options.iter().find(|o| (o.level, o.name) == (136, 11)) {
        socket::set_option(fd.as_fd(), 136, 10, &bytes.value.0)?;
    }
    Ok(Sender { fd, to: None, mute: false })
}

impl Sender {
    /// Sends a datagram to a socket of ours; whether it arrived there.
    fn send(&mut self, own: &Own<'_>, to: BorrowedFd<'_>, way: &Way, bytes: &[u8]) -> io::Result<bool> {
        if self.mute {
            return Ok(false);
        }
        let segment = i32::from(way.segment.unwrap_or(0));
        if way.segment.is_some() {
            socket::set_option(self.fd.as_fd(), UDP_SEGMENT.0, UDP_SEGMENT.1, &segment.to_ne_bytes())?;
        }
        let places = match &self.to {
            Some((meant, place)) if *meant == way.to => vec![place.clone()],
            _ => destinations(own, way)?,
        };
        for place in places {
            let before = inflight::taken(to)?;
            let sent = if inet::matching(&place) == inet::matching(&way.from.0) {
                // It has spoken to itself, and does so again; connected elsewhere, its double does not listen.
                let elsewhere = SocketAddr::new(loopback(&place), 9);
                let _ = socket::connect(self.fd.as_fd(), &inet::sockaddr(own.datagram.domain, elsewhere));
                socket::send(to, bytes, Some(&place), &[])
            } else {
                self.aim(own, &place).and_then(|()| socket::send(self.fd.as_fd(), bytes, None, &[]))
            };
            if sent.is_err() {
                continue;
            }
            for round in 0..WAIT {
                if inflight::taken(to)? != before {
                    self.to = Some((way.to.clone(), place));
                    return Ok(true);
                }
                tasks::back_off(round);
            }
        }
        self.mute = true;
        Ok(false)
    }

    /// Connected, it takes nothing from others who send to its address.
    fn aim(&self, own: &Own<'_>, place: &[u8]) -> io::Result<()> {
        let group = inet::matching(place).map(|a| a.ip());
        let fits = |m: &&Membership| multicast::address(&m.group).ok() == group;
        if let Some(membership) = own.datagram.memberships.iter().find(fits) {
            let index = own.interface(membership.interface)?;
            // struct ip_mreqn: group, address, index.
            let mreqn = [[0; 4], [0; 4], index.to_ne_bytes()].concat();
            let (level, name, value) = match group {
                Some(ip) if ip.is_ipv4() => (0, libc::IP_MULTICAST_IF, mreqn),
                _ => (41, libc::IPV6_MULTICAST_IF, index.to_ne_bytes().to_vec()),
            };
            socket::set_option(self.fd.as_fd(), level, name, &value)?;
        }
        socket::connect(self.fd.as_fd(), place)
    }
}

/// Where a datagram may be sent to so that it gets into a socket, the best first. One that went to a group is sent to the
/// socket alone if that can't tell: others of this host may be in the group.
fn destinations(own: &Own<'_>, way: &Way) -> io::Result<Vec<Vec<u8>>> {
    let local = own.address(&own.datagram.local)?;
    let Some(here) = inet::address(&local) else { return Err(io::ErrorKind::InvalidData.into()) };
    if !here.ip().is_unspecified() {
        return Ok(vec![local]);
    }
    let mut out = vec![inet::sockaddr(own.datagram.domain, (loopback(&way.from.0), here.port()).into())];
    let Some(was) = inet::matching(&way.to.0) else { return Ok(out) };
    let sees = own.socket.options.iter().any(|o| SHOW_DESTINATION.contains(&(o.level, o.name)));
    out.insert(usize::from(was.ip().is_multicast() && !sees), own.address(&way.to)?);
    Ok(out)
}

/// The loopback address of the same family as an address.
fn loopback(address: &[u8]) -> IpAddr {
    let ipv4 = inet::matching(address).is_some_and(|a| a.is_ipv4());
    if ipv4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// Options that would have been in our way.
fn finish(own: &Own<'_>, fd: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    socket::set_option(fd, libc::SOL_SOCKET, SO_DETACH_FILTER, &0i32.to_ne_bytes())?;
    if !own.socket.options.iter().any(|o| (o.level, o.name) == (libc::SOL_SOCKET, libc::SO_REUSEADDR)) {
        reuse(fd, false)?;
    }
    let options = own.options()?;
    for device in options.iter().filter(|o| (o.level, o.name) == (libc::SOL_SOCKET, libc::SO_BINDTODEVICE)) {
        // To disconnect has undone it; where it was not, to do it again would need privilege (socket(7)).
        if socket::option(fd, device.level, device.name, 64)? != device.value.0 {
            socket::set_option(fd, device.level, device.name, &device.value.0)?;
        }
    }
    options::set_late(fd, &options)?;
    fds::fcntl(fd, libc::F_SETFL, flags.into()).map(drop)
}

/// What this host will not give: each socket is tried, on its own.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    for own in all(checkpoint) {
        let tried = own.options().and_then(|options| {
            let fd = own.fresh(&options)?;
            own.bind(fd.as_fd())?;
            own.join(fd.as_fd())?;
            own.connect(fd.as_fd())
        });
        let Err(error) = tried else { continue };
        let local = inet::address(&own.datagram.local.0);
        let shown = local.map_or_else(String::new, |a| a.to_string());
        let (reason, hint) = match error.kind() {
            io::ErrorKind::AddrInUse => (format!("{shown} is taken"), "end the program that uses it".to_owned()),
            io::ErrorKind::AddrNotAvailable if error.raw_os_error().is_none() => {
                (error.to_string(), "resume it on a host that has one".to_owned())
            }
            io::ErrorKind::AddrNotAvailable => {
                let hint = local.map(|a| format!("give an interface of this host the address {}", a.ip()));
                let hint = hint.unwrap_or_else(|| "resume it on a host that has it".to_owned());
                (format!("{shown} is no address of this host"), hint)
            }
            io::ErrorKind::NetworkUnreachable => {
                let peer = own.datagram.peer.as_ref().and_then(|p| inet::address(&p.0));
                let reason = peer.map_or_else(|| error.to_string(), |p| format!("this host has no route to {p}"));
                (reason, "resume it on a host that has one".to_owned())
            }
            io::ErrorKind::PermissionDenied if own.socket.kind == libc::SOCK_RAW => {
                ("raw sockets need privilege".to_owned(), "resume as root".to_owned())
            }
            io::ErrorKind::PermissionDenied if own.datagram.protocol != libc::IPPROTO_UDP => {
                let hint = "add the group to net.ipv4.ping_group_range, or resume as root";
                (format!("a {} is not permitted", own.name()), hint.to_owned())
            }
            _ => (format!("it can't be made: {error}"), "resume it where it can be, or as root".to_owned()),
        };
        let (pid, object) = sockets::object(checkpoint, own.index, &own.name());
        conflicts.push(Refusal { pid, object, reason, hint });
    }
}

/// Datagrams that can't be brought back.
pub fn notes(checkpoint: &Checkpoint) -> Vec<String> {
    let mut out = Vec::new();
    for own in all(checkpoint) {
        let (pid, object) = sockets::object(checkpoint, own.index, &own.name());
        if own.datagram.lost {
            out.push(format!("pid {pid} {object}: the packets that waited in it are gone"));
        }
        let mut counts: Vec<(&Way, u32)> = Vec::new();
        for way in &own.datagram.ways {
            match counts.iter_mut().find(|(w, _)| w.from == way.from) {
                Some((_, count)) => *count += 1,
                None => counts.push((way, 1)),
            }
        }
        for (way, count) in counts {
            let Err(error) = sender(&own, way) else { continue };
            let from = inet::address(&way.from.0).map_or_else(String::new, |a| a.to_string());
            out.push(format!("pid {pid} {object}: {count} of its unread datagrams, from {from}, are lost ({error})"));
        }
    }
    out
}
