//! TCP sockets: connected to each other anew, with their addresses, and given what was on its way to them.
//!
//! Connections come first, by way of listening sockets made for the purpose, then those of the program: with SO_REUSEADDR
//! a port takes both, in this order only.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::model::sockets::{Family, Socket, SocketOption};
use crate::model::tcp::{Early, Link, MOST_EARLY, State, TcpSocket};
use crate::model::{Checkpoint, Hex, Refusal};
use crate::net::{inet, inflight, options};
use crate::proc::many;
use crate::sys::tasks::back_off;
use crate::sys::{fds, socket};

use super::ports::{Ephemeral, connect_anyhow};
use super::{Error, Sockets, sockets};

/// How long a new connection may take to take in what is sent over it.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many sockets with something in them are worth a thread.
const FEW: usize = 8;
const V6ONLY: (i32, i32) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);

/// A TCP socket of the image.
#[derive(Debug, Clone, Copy)]
struct Own<'a> {
    index: u32,
    socket: &'a Socket,
    tcp: &'a TcpSocket,
}

impl Own<'_> {
    /// Whether it is connected to one of ours for the moment.
    fn is_alone(&self) -> bool {
        matches!(self.tcp.state, State::Connected { link: Link::Closed | Link::Outside, .. } | State::Ended { .. })
    }
}

fn all(checkpoint: &Checkpoint) -> impl Iterator<Item = Own<'_>> {
    sockets::all(checkpoint).filter_map(|(index, socket)| match &socket.family {
        Family::Tcp(tcp) => Some(Own { index, socket, tcp }),
        _ => None,
    })
}

/// Makes all TCP sockets of the image, by their index among its descriptions. `outside`: what becomes of connections to
/// somebody who is not in it.
pub fn make(image: &Image, outside: Sockets) -> Result<HashMap<u32, OwnedFd>, Error> {
    let checkpoint = image.checkpoint();
    let list: Vec<Own<'_>> = all(checkpoint).collect();
    let ports = Ephemeral::read();
    let listening = list.iter().filter(|o| matches!(o.tcp.state, State::Listening { .. }));
    let listening = listening.filter_map(|o| inet::matching(&o.tcp.local.0)).collect();
    let made = HashMap::new();
    let mut work = Work { image, outside, ports, list: &list, listening, made, stand_in: None, door: None };
    let failed = |own: &Own<'_>, e| Error::file("making the TCP socket", &name(own.tcp), e);
    for own in &list {
        work.connect(own).map_err(|e| failed(own, e))?;
        // Of their other ends, which nobody is to have, one is open at a time: there may be as many as descriptors.
        if own.is_alone() {
            work.fill(own).and_then(|()| work.end(own)).map_err(|e| failed(own, e))?;
        }
    }
    let full: Vec<&Own<'_>> = list.iter().filter(|own| own.socket.content.is_some() && !own.is_alone()).collect();
    many::each(&full, FEW, |own| work.fill(own).map_err(|e| failed(own, e)))?;
    for own in list.iter().filter(|own| !own.is_alone()) {
        work.end(own).map_err(|e| failed(own, e))?;
    }
    work.door = None;
    for own in &list {
        work.listen(own).map_err(|e| failed(own, e))?;
    }
    // Those that wait for the same listening socket in the order they came in, where that is known, though there might be no
    // room for so many now. Who is still connecting may have found no place among them.
    let mut order: Vec<&Own<'_>> = list.iter().collect();
    order.sort_by_key(|own| own.tcp.early.map(|early| early.place));
    let (connecting, others): (Vec<_>, Vec<_>) =
        order.into_iter().partition(|own| matches!(own.tcp.state, State::Connecting { .. }));
    for own in others {
        work.reach_out(own).map_err(|e| failed(own, e))?;
    }
    for own in &list {
        work.limit(own).map_err(|e| failed(own, e))?;
    }
    for own in connecting {
        work.reach_out(own).map_err(|e| failed(own, e))?;
    }
    for own in &list {
        let flags = checkpoint.files.get(own.index as usize).map_or(0, |f| f.flags);
        work.finish(own, flags).map_err(|e| failed(own, e))?;
    }
    Ok(work.made)
}

fn name(tcp: &TcpSocket) -> crate::model::Name {
    let text = inet::address(&tcp.local.0).map_or_else(String::new, |a| a.to_string());
    crate::model::Name(text.into_bytes())
}

struct Work<'a> {
    image: &'a Image,
    outside: Sockets,
    ports: Ephemeral,
    /// By their indices.
    list: &'a [Own<'a>],
    /// Where sockets of the image listen.
    listening: Vec<SocketAddr>,
    made: HashMap<u32, OwnedFd>,
    /// The other end of a connection whose other end is not in the image, until that is as it was.
    stand_in: Option<OwnedFd>,
    /// The listening socket through which connections are made, one at a time: two can't listen at one address.
    door: Option<Door>,
}

struct Door {
    local: Hex,
    options: Vec<SocketOption>,
    fd: OwnedFd,
}

impl<'a> Work<'a> {
    fn fd(&self, index: u32) -> io::Result<BorrowedFd<'_>> {
        self.made.get(&index).map(AsFd::as_fd).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether somebody of the image listens where a socket is: then that one was accepted.
    fn was_accepted(&self, own: &Own<'_>) -> bool {
        let Some(local) = inet::matching(&own.tcp.local.0) else { return false };
        let there = |l: &SocketAddr| l.port() == local.port() && (l.ip() == local.ip() || l.ip().is_unspecified());
        self.listening.iter().any(there)
    }

    fn connect(&mut self, own: &Own<'a>) -> io::Result<()> {
        if self.made.contains_key(&own.index) {
            return Ok(());
        }
        match &own.tcp.state {
            State::Connected { peer, link: Link::To(other) } if *other == own.index => {
                let fd = fresh(own)?;
                socket::bind(fd.as_fd(), &own.tcp.local.0)?;
                connect_anyhow(fd.as_fd(), &peer.0)?;
                self.made.insert(own.index, fd);
            }
            State::Connected { peer, link: Link::To(other) } => {
                let place = self.list.binary_search_by_key(other, |o| o.index).map_err(|_| io::ErrorKind::NotFound)?;
                let other = self.list.get(place).copied().ok_or(io::ErrorKind::NotFound)?;
                let State::Connected { peer: back, .. } = &other.tcp.state else {
                    return Err(io::ErrorKind::NotConnected.into());
                };
                // Where nobody listens any more, nothing tells who was accepted.
                let accepted_here = self.was_accepted(own);
                let turned = accepted_here || (!self.was_accepted(&other) && self.door(&other).is_err());
                let (client, server, to) = if turned { (&other, own, &back.0) } else { (own, &other, &peer.0) };
                self.door(server)?;
                let from = fresh(client)?;
                self.ports.connect(from.as_fd(), &client.tcp.local.0, to)?;
                let accepted = take_in(self.door(server)?, from.as_fd())?;
                adopt(accepted.as_fd(), server)?;
                self.made.insert(client.index, from);
                self.made.insert(server.index, accepted);
            }
            State::Connected { peer, link: Link::Closed } => self.stand_in(own, Some(&peer.0))?,
            State::Connected { link: Link::Outside, .. } | State::Ended { .. } => self.stand_in(own, None)?,
            _ => {}
        }
        Ok(())
    }

    /// A connection with a socket of ours, which has the other end's address if it can.
    fn stand_in(&mut self, own: &Own<'a>, peer: Option<&[u8]>) -> io::Result<()> {
        let bind = |fd: BorrowedFd<'_>| peer.is_some_and(|p| socket::bind(fd, p).is_ok());
        let domain = own.tcp.domain;
        let client = || -> io::Result<OwnedFd> {
            let fd = socket::socket(domain, libc::SOCK_STREAM, 0)?;
            reuse(fd.as_fd(), true)?;
            Ok(fd)
        };
        let mut far = client()?;
        let near = match self.door(own).map(drop) {
            Ok(()) => {
                let to = &own.tcp.local.0;
                if peer.is_none_or(|peer| self.ports.connect_once(far.as_fd(), peer, to).is_err()) {
                    far = client()?;
                    connect_anyhow(far.as_fd(), to)?;
                }
                let accepted = take_in(self.door(own)?, far.as_fd())?;
                adopt(accepted.as_fd(), own)?;
                accepted
            }
            Err(e) => {
                let shared = if e.kind() == io::ErrorKind::AddrInUse { self.share(own, peer) } else { Err(e) };
                match shared {
                    Ok((near, accepted)) => {
                        far = accepted;
                        near
                    }
                    // Its address is none of this host's.
                    Err(_) if !bind(far.as_fd()) => {
                        let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
                        let door = client()?;
                        socket::bind(door.as_fd(), &inet::sockaddr(domain, loopback))?;
                        socket::listen(door.as_fd(), 1)?;
                        connect_anyhow(far.as_fd(), &socket::name(door.as_fd())?)?;
                        take_in(door.as_fd(), far.as_fd())?
                    }
                    Err(e) => return Err(e),
                }
            }
        };
        self.made.insert(own.index, near);
        self.stand_in = Some(far);
        Ok(())
    }

    /// A connection from a port that others have, too: only whoever connects can share it. Then comes its other end, at
    /// `peer` if that can be.
    fn share(&self, own: &Own<'_>, peer: Option<&[u8]>) -> io::Result<(OwnedFd, OwnedFd)> {
        let (domain, local) = (own.tcp.domain, &own.tcp.local.0);
        let ip = inet::matching(local).ok_or(io::ErrorKind::InvalidInput)?.ip();
        let any = inet::sockaddr(domain, SocketAddr::new(ip, 0));
        let at = |address: &[u8]| {
            let door = socket::socket(domain, libc::SOCK_STREAM, 0)?;
            reuse(door.as_fd(), true)?;
            socket::bind(door.as_fd(), address)?;
            socket::listen(door.as_fd(), 128)?;
            let near = fresh(own)?;
            self.ports.connect_once(near.as_fd(), local, &socket::name(door.as_fd())?)?;
            let far = take_in(door.as_fd(), near.as_fd())?;
            Ok((near, far))
        };
        peer.map_or_else(|| at(&any), |peer| at(peer).or_else(|_: io::Error| at(&any)))
    }

    /// A listening socket where `server` is, whose connections inherit what `server` has.
    fn door(&mut self, server: &Own<'_>) -> io::Result<BorrowedFd<'_>> {
        let fits = |d: &Door| d.local == server.tcp.local && d.options == server.socket.options;
        if !self.door.as_ref().is_some_and(fits) {
            self.door = None;
            let fd = fresh(server)?;
            socket::bind(fd.as_fd(), &server.tcp.local.0)?;
            socket::listen(fd.as_fd(), 128)?;
            let (local, options) = (server.tcp.local.clone(), server.socket.options.clone());
            self.door = Some(Door { local, options, fd });
        }
        self.door.as_ref().map(|d| d.fd.as_fd()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Sends a socket what it had not read yet.
    fn fill(&self, own: &Own<'_>) -> io::Result<()> {
        let Some(content) = &own.socket.content else { return Ok(()) };
        let (from, all) = match &own.tcp.state {
            State::Connected { link: Link::To(other), .. } => (self.fd(*other)?, false),
            _ => (self.stand_in.as_ref().ok_or(io::ErrorKind::NotConnected)?.as_fd(), true),
        };
        let (at, size) = self.image.blob(content.id).ok_or(io::ErrorKind::NotFound)?;
        let file = self.image.file();
        let read = |offset, buf: &mut [u8]| file.read_exact_at(buf, at + offset);
        inflight::fill(from, self.fd(own.index)?, size, (own.tcp.urgent, all), read).map_err(|e| match e.kind() {
            io::ErrorKind::TimedOut => io::Error::other(format!(
                "there is no room for the {size} bytes that waited in it; raise the third number of net.ipv4.tcp_rmem"
            )),
            _ => e,
        })
    }

    /// Brings a connection as near to its end as it was.
    fn end(&mut self, own: &Own<'_>) -> io::Result<()> {
        let Some(near) = self.made.get(&own.index) else { return Ok(()) };
        socket::shut(near.as_fd(), own.socket.shutdown)?;
        let Some(far) = self.stand_in.take() else { return Ok(()) };
        match own.tcp.state {
            // Both sides have said that it is over, the other first: then none of its traces stay at our address.
            State::Ended { error: false } => {
                socket::shut(far.as_fd(), 2)?;
                socket::shut(near.as_fd(), 2)
            }
            State::Connected { link: Link::Closed, .. } => Ok(()),
            State::Connected { .. } if self.outside == Sockets::Close => Ok(()),
            _ => socket::set_option(far.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0]),
        }
        // The other end is closed here.
    }

    fn listen(&mut self, own: &Own<'_>) -> io::Result<()> {
        let State::Listening { backlog } = own.tcp.state else { return Ok(()) };
        let waits =
            |o: &&Own<'_>| matches!(o.tcp.state, State::Connected { link: Link::Waiting(at), .. } if at == own.index);
        let waiting = self.list.iter().filter(waits).count() as u32;
        let fd = fresh(own)?;
        socket::bind(fd.as_fd(), &own.tcp.local.0)?;
        socket::listen(fd.as_fd(), backlog.max(waiting))?;
        self.made.insert(own.index, fd);
        Ok(())
    }

    /// Has a socket listen for no more than it did.
    fn limit(&self, own: &Own<'_>) -> io::Result<()> {
        let State::Listening { backlog } = own.tcp.state else { return Ok(()) };
        socket::listen(self.fd(own.index)?, backlog)
    }

    /// Sockets that wait to be accepted or for an answer, or for nothing.
    fn reach_out(&mut self, own: &Own<'_>) -> io::Result<()> {
        let to = match &own.tcp.state {
            State::Idle => None,
            State::Connecting { to } => Some(&to.0),
            State::Connected { peer, link: Link::Waiting(_) } => Some(&peer.0),
            _ => return Ok(()),
        };
        let fd = fresh(own)?;
        if to.is_none() && inet::address(&own.tcp.local.0).is_some_and(|a| a.port() != 0) {
            socket::bind(fd.as_fd(), &own.tcp.local.0)?;
        }
        match (to, &own.tcp.state) {
            (Some(to), State::Connecting { .. }) => {
                fds::fcntl(fd.as_fd(), libc::F_SETFL, libc::O_NONBLOCK.into())?;
                match self.ports.connect(fd.as_fd(), &own.tcp.local.0, to) {
                    // Whatever comes of it, the program is to hear of it.
                    Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
                    _ => {}
                }
            }
            (Some(to), _) => {
                self.ports.connect(fd.as_fd(), &own.tcp.local.0, to)?;
                if let Some(early) = &own.tcp.early {
                    self.send_early(fd.as_fd(), early)?;
                }
                socket::shut(fd.as_fd(), own.socket.shutdown)?;
            }
            (None, _) => {}
        }
        self.made.insert(own.index, fd);
        Ok(())
    }

    /// Sends what was sent before.
    fn send_early(&self, fd: BorrowedFd<'_>, early: &Early) -> io::Result<()> {
        let Some(content) = early.content else { return Ok(()) };
        let (at, size) = self.image.blob(content.id).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; size.min(MOST_EARLY) as usize];
        self.image.file().read_exact_at(&mut bytes, at)?;
        let (before, rest) = bytes.split_at(early.urgent.unwrap_or(0).min(size) as usize);
        let (urgent, after) = rest.split_at(rest.len().min(early.urgent.is_some().into()));
        send_all(fd, before)?;
        urgent.iter().try_for_each(|&byte| socket::send_urgent(fd, byte, &[]))?;
        send_all(fd, after)
    }

    /// Options that would have been in our way.
    fn finish(&self, own: &Own<'_>, flags: u32) -> io::Result<()> {
        let fd = self.fd(own.index)?;
        if !own.socket.options.iter().any(|o| (o.level, o.name) == (libc::SOL_SOCKET, libc::SO_REUSEADDR)) {
            reuse(fd, false)?;
        }
        options::set_late(fd, &own.socket.options)?;
        let again: Vec<SocketOption> =
            own.socket.options.iter().filter(|o| (o.level, o.name) != V6ONLY).cloned().collect();
        options::set_again(fd, &again)?;
        fds::fcntl(fd, libc::F_SETFL, flags.into()).map(drop)
    }
}

/// Whether an option would be in our way: it holds bytes back, or says from where to connect.
fn hinders(option: &SocketOption) -> bool {
    const HINDERING: [(i32, i32); 3] = [
        (libc::IPPROTO_TCP, 3),  // TCP_CORK
        (libc::IPPROTO_TCP, 37), // TCP_TX_DELAY
        (libc::IPPROTO_IP, 51),  // IP_LOCAL_PORT_RANGE
    ];
    HINDERING.contains(&(option.level, option.name))
}

/// Sends what has room in the buffers of a new connection.
fn send_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut round = 0;
    while !bytes.is_empty() {
        match socket::send(fd, bytes, None, &[]) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => back_off(round),
            Err(e) => return Err(e),
        }
        round += 1;
    }
    Ok(())
}

/// SO_REUSEADDR.
pub fn reuse(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    socket::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &i32::from(on).to_ne_bytes())
}

/// A socket with the options that must come early; ports are shared for as long as we are at it.
fn fresh(own: &Own<'_>) -> io::Result<OwnedFd> {
    let fd = socket::socket(own.tcp.domain, libc::SOCK_STREAM, 0)?;
    let early: Vec<SocketOption> = own.socket.options.iter().filter(|o| !hinders(o)).cloned().collect();
    options::set_early(fd.as_fd(), &early)?;
    reuse(fd.as_fd(), true)?;
    Ok(fd)
}

/// Gives an accepted socket what it has not inherited. IPV6_V6ONLY it has inherited, and can't be given.
fn adopt(fd: BorrowedFd<'_>, own: &Own<'_>) -> io::Result<()> {
    let differs = |o: &&SocketOption| {
        !hinders(o)
            && (o.level, o.name) != V6ONLY
            && socket::option(fd, o.level, o.name, 64).is_ok_and(|now| now != o.value.0)
    };
    let lacking: Vec<SocketOption> = own.socket.options.iter().filter(differs).cloned().collect();
    options::set_early(fd, &lacking)
}

/// The other end of a connection just made by way of a door. Strangers who come in meanwhile are turned away.
fn take_in(door: BorrowedFd<'_>, client: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let own = inet::matching(&socket::name(client)?);
    loop {
        let accepted = socket::accept(door)?;
        if inet::matching(&socket::peer_name(accepted.as_fd())?) == own {
            return Ok(accepted);
        }
    }
}

/// Bytes for which two connected sockets have room for certain not: the largest sizes of their buffers.
fn too_many() -> u64 {
    let most = |name| {
        let text = crate::proc::read(&format!("sys/net/ipv4/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&text).split_whitespace().nth(2).and_then(|word| word.parse().ok()).unwrap_or(u64::MAX)
    };
    most("tcp_rmem").saturating_add(most("tcp_wmem"))
}

/// Addresses that can't be had, and buffers that are too small for what waited in them.
pub fn conflicts(checkpoint: &Checkpoint, conflicts: &mut Vec<Refusal>) {
    let most = too_many();
    for own in all(checkpoint) {
        let Some(size) = own.socket.content.map(|content| content.size).filter(|&size| size > most) else { continue };
        let (pid, object) = sockets::object(checkpoint, own.index, "TCP socket");
        conflicts.push(Refusal {
            pid,
            object,
            reason: format!("{size} bytes wait in it, and net.ipv4.tcp_rmem leaves no room for so many"),
            hint: format!("set the third number of net.ipv4.tcp_rmem to {}", size.saturating_mul(2)),
        });
    }
    let mut tried = std::collections::HashSet::new();
    let mut there = None;
    let ports = Ephemeral::read();
    for own in all(checkpoint) {
        let needed = match &own.tcp.state {
            State::Connected { link, .. } => *link != Link::Outside,
            State::Ended { .. } => false,
            _ => true,
        };
        let Some(address) = inet::address(&own.tcp.local.0).filter(|a| needed && a.port() != 0) else { continue };
        if !tried.insert(own.tcp.local.0.clone()) {
            continue;
        }
        let bound = fresh(&own).and_then(|fd| {
            socket::bind(fd.as_fd(), &own.tcp.local.0)?;
            // Two may share a port until one listens.
            if matches!(own.tcp.state, State::Listening { .. }) { socket::listen(fd.as_fd(), 1) } else { Ok(()) }
        });
        let Err(error) = bound.or_else(|e| match &own.tcp.state {
            State::Connected { peer, .. } | State::Connecting { to: peer } if e.kind() == io::ErrorKind::AddrInUse => {
                let there = there.get_or_insert_with(|| inet::all(libc::IPPROTO_TCP).unwrap_or_default());
                ports.try_connection(fresh(&own)?.as_fd(), own.tcp.domain, &own.tcp.local.0, &peer.0, there)
            }
            _ => Err(e),
        }) else {
            continue;
        };
        let (reason, hint) = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let hint = "end the program that uses it; what it leaves behind is gone after a minute".to_owned();
                (format!("{address} is taken"), hint)
            }
            io::ErrorKind::AddrNotAvailable => {
                let hint = format!("give an interface of this host the address {}", address.ip());
                (format!("{address} is no address of this host"), hint)
            }
            io::ErrorKind::PermissionDenied => {
                (format!("{address} needs privilege"), "lower net.ipv4.ip_unprivileged_port_start".to_owned())
            }
            _ => {
                (format!("{address} can't be had: {error}"), "resume in a network of its own: --net private".to_owned())
            }
        };
        let (pid, object) = sockets::object(checkpoint, own.index, "TCP socket");
        conflicts.push(Refusal { pid, object, reason, hint });
    }
}
