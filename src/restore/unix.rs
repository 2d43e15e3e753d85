//! UNIX sockets.
//!
//! Connected ones are made by socketpair(2) or, where names are to be seen, by way of a listening socket of ours whose name
//! has no file that anybody could find. Then the program's own get their names, datagram sockets their messages and
//! connections, and those that listen listen again, with the connections that were waiting there.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use crate::model::sockets::{Credentials, Family, Message, Socket};
use crate::model::unix::{Bound, Link, Listening, SocketFile, UnixSocket};
use crate::model::{Checkpoint, Name};
use crate::net::options;
use crate::net::unix::{display, sockaddr};
use crate::sys::{fds, socket};

use super::Error;
use super::socketfiles::{self, too_long};
use super::sockets::{Which, Work, unix};
use super::stub::{Batch, Expect, Puppet};

/// A UNIX socket of the image.
#[derive(Debug, Clone, Copy)]
struct Own<'a> {
    index: u32,
    socket: &'a Socket,
    unix: &'a UnixSocket,
}

impl<'a> Own<'a> {
    fn which(&self) -> Which {
        Which::File(self.index)
    }

    fn datagrams(&self) -> bool {
        self.socket.kind == libc::SOCK_DGRAM
    }

    fn name(&self) -> Option<&'a Name> {
        self.unix.bound.as_ref().map(|b| &b.name)
    }

    /// Whether its peer is needed no longer once it is made: a connection whose other end is gone, with nothing on its way
    /// that may have to be made first.
    fn is_alone(&self) -> bool {
        let peer = matches!(self.unix.link, Link::Closed | Link::Outside);
        peer && !self.datagrams() && self.socket.queue.iter().all(|message| message.rights.is_empty())
    }

    /// Whether it has messages and no name: only its twin can have sent them, whatever the two are connected to now.
    fn is_fed_by_twin(&self) -> bool {
        self.datagrams() && self.name().is_none() && !self.socket.queue.is_empty()
    }

    /// Who has the other end.
    fn peer(&self) -> Option<Which> {
        match self.unix.link {
            Link::None | Link::Waiting(_) => None,
            Link::To(other) => Some(Which::File(other)),
            Link::Closed | Link::Outside => Some(Which::PeerOf(self.index)),
        }
    }
}

/// Whom SO_PEERCRED is to show.
pub fn maker(socket: &Socket) -> Option<Credentials> {
    let Family::Unix(unix) = &socket.family else { return None };
    unix.peer
}

/// Whether others find a socket by its name: it did not get it from the one that accepted it.
pub fn has_its_name(socket: &Socket, unix: &UnixSocket) -> bool {
    socket.kind == libc::SOCK_DGRAM || matches!(unix.link, Link::None | Link::Waiting(_))
}

/// How many there are for a while beside those of the image.
pub fn passing(checkpoint: &Checkpoint) -> usize {
    let own = || unix(checkpoint).map(|(index, socket, unix)| Own { index, socket, unix });
    let has_peer = |own: &Own<'_>| matches!(own.peer(), Some(Which::PeerOf(_))) && !own.is_alone();
    let peers = own().filter(|own| has_peer(own) || own.is_fed_by_twin()).count();
    let names: HashSet<Option<&Name>> =
        own().filter(Own::datagrams).map(|own| own.name()).filter(Option::is_some).collect();
    let queues = own().filter(Own::datagrams).flat_map(|own| &own.socket.queue);
    let strangers: HashSet<Option<&Name>> =
        queues.map(|m| m.from.as_ref()).filter(|from| !names.contains(from)).collect();
    peers + strangers.len()
}

/// Makes all UNIX sockets of the image.
pub fn make(work: &mut Work<'_>) -> Result<(), Error> {
    let list: HashMap<u32, Own<'_>> =
        unix(work.checkpoint).map(|(index, socket, unix)| (index, Own { index, socket, unix })).collect();
    let mut all: Vec<u32> = list.keys().copied().collect();
    all.sort_unstable();
    let mut making =
        Making { work, list, named: HashSet::new(), connected: HashMap::new(), lent: HashMap::new(), door: None };
    for first in [true, false] {
        making.each(&all, |m, own| if first { m.twins(own) } else { m.create(own) })?;
    }
    making.close_door()?;
    making.each(&all, Making::give_name)?;
    making.each(&all, Making::fill_from_lent)?;
    making.each(&all, |m, own| if own.is_alone() || m.lent.contains_key(&own.index) { Ok(()) } else { m.fill(own) })?;
    making.reach_peers(&all)?;
    making.each(&all, |m, own| m.work.close(Which::PeerOf(own.index)))?;
    making.each(&all, Making::listen)
}

/// What is made so far.
struct Making<'w, 'a> {
    work: &'w mut Work<'a>,
    list: HashMap<u32, Own<'a>>,
    named: HashSet<Which>,
    /// What datagram sockets are connected to.
    connected: HashMap<Which, Which>,
    /// What is connected to a socket without a name, by index, only until that has its messages.
    lent: HashMap<u32, Which>,
    /// What is particular to the listening socket through which connections are made.
    door: Option<(Name, i32, Option<Credentials>)>,
}

impl<'a> Making<'_, 'a> {
    fn each(&mut self, all: &[u32], step: impl Fn(&mut Self, Own<'a>) -> Result<(), Error>) -> Result<(), Error> {
        for index in all {
            let Some(own) = self.list.get(index).copied() else { continue };
            step(self, own)?;
        }
        Ok(())
    }

    /// Datagram sockets of one socketpair, and a socket without a name together with the one that is connected to it.
    fn twins(&mut self, own: Own<'a>) -> Result<(), Error> {
        let Link::To(index) = own.unix.link else { return Ok(()) };
        let Some(other) = self.list.get(&index).copied() else { return Ok(()) };
        let both = own.unix.peer.is_some() && other.unix.peer.is_some() && other.unix.link == Link::To(own.index);
        let new = !self.work.has(own.which()) && !self.work.has(other.which());
        let by_name = !both && other.unix.bound.is_some() && !own.is_fed_by_twin();
        if !own.datagrams() || !new || by_name || own.index == index {
            return Ok(());
        }
        self.pair(own, other.which())?;
        if other.unix.link == Link::To(own.index) {
            return Ok(());
        }
        if own.is_fed_by_twin() {
            self.lent.insert(own.index, other.which());
            return Ok(());
        }
        self.disconnect(other.which())
    }

    fn create(&mut self, own: Own<'a>) -> Result<(), Error> {
        if self.work.has(own.which()) {
            return Ok(());
        }
        match own.peer() {
            Some(peer) if !own.datagrams() => {
                self.connect(own, peer)?;
                // There may be as many as descriptors: their peers are open one at a time.
                if own.is_alone() {
                    self.fill(own)?;
                    self.work.close(peer)?;
                }
                Ok(())
            }
            Some(Which::PeerOf(_)) if own.unix.peer.is_some() || own.unix.peer_name.is_none() => {
                self.pair(own, Which::PeerOf(own.index))
            }
            Some(peer @ Which::PeerOf(_)) => {
                self.fresh(peer, own.socket.kind)?;
                self.fresh(own.which(), own.socket.kind)
            }
            // SO_PEERCRED shows that it was one of a pair.
            _ if own.datagrams() && own.unix.peer.is_some() => {
                let twin = Which::PeerOf(own.index);
                self.pair(own, twin)?;
                if own.is_fed_by_twin() {
                    self.lent.insert(own.index, twin);
                } else {
                    self.work.close(twin)?;
                }
                self.disconnect(own.which())
            }
            _ => self.fresh(own.which(), own.socket.kind),
        }
    }

    /// socket(2).
    fn fresh(&mut self, which: Which, kind: i32) -> Result<(), Error> {
        let puppet = self.work.anybody()?;
        let mut batch = puppet.batch();
        batch.call("socket", libc::SYS_socket, &[libc::AF_UNIX as u64, kind as u64, 0]);
        let fd = puppet.run(batch)?.last().copied().unwrap_or(0);
        self.work.settle(which, fd as i32)
    }

    fn pair(&mut self, own: Own<'a>, other: Which) -> Result<(), Error> {
        let [one, two] = pair(self.work.helper(own.unix.peer)?, own.socket.kind)?;
        self.work.settle(own.which(), one)?;
        self.work.settle(other, two)?;
        if own.datagrams() {
            self.connected.insert(own.which(), other);
            self.connected.insert(other, own.which());
        }
        Ok(())
    }

    fn disconnect(&mut self, which: Which) -> Result<(), Error> {
        // AF_UNSPEC
        socket::connect(self.work.copy(which)?, &[0, 0]).map_err(failed("disconnecting a socket"))?;
        self.connected.remove(&which);
        Ok(())
    }

    /// A connected stream or one of packets.
    fn connect(&mut self, own: Own<'a>, peer: Which) -> Result<(), Error> {
        let other = if let Which::File(index) = peer { self.list.get(&index).copied() } else { None };
        let their_name = other.map_or(own.unix.peer_name.as_ref(), |o| o.name());
        let (near, far) =
            ((own.which(), own.name(), own.unix.peer), (peer, their_name, other.and_then(|o| o.unix.peer)));
        // One that was accepted has the name of one that listens.
        let ((server, name, client_is), (client, own_name, server_is)) = match (own.name(), their_name) {
            (None, None) => return self.pair(own, peer),
            (Some(name), Some(_)) if self.listens(name) => (near, far),
            (Some(_), None) => (near, far),
            _ => (far, near),
        };
        let Some(name) = name else { return self.pair(own, peer) };
        if !self.open_door(name, own.socket.kind, server_is)? {
            return self.pair(own, peer);
        }
        let door = self.work.number(Which::Door)?;
        self.fresh(client, own.socket.kind)?;
        if let Some(name) = own_name {
            self.name_elsewhere(client, name)?;
        }
        self.connect_as(client_is, client, Which::Door)?;
        let accepted =
            call(self.work.anybody()?, "accept4", libc::SYS_accept4, &[door as u64, 0, 0, libc::SOCK_CLOEXEC as u64])?;
        self.work.settle(server, accepted as i32)?;
        self.named.insert(server);
        Ok(())
    }

    /// Has a socket of this name listen, called so by `who`; whether it could have the name.
    fn open_door(&mut self, name: &Name, kind: i32, who: Option<Credentials>) -> Result<bool, Error> {
        let wanted = (name.clone(), kind, who);
        if self.door.as_ref() == Some(&wanted) {
            return Ok(true);
        }
        self.close_door()?;
        self.fresh(Which::Door, kind)?;
        if !self.name_elsewhere(Which::Door, name)? {
            self.work.close(Which::Door)?;
            return Ok(false);
        }
        let number = self.work.number(Which::Door)?;
        call(self.work.helper(who)?, "listen", libc::SYS_listen, &[number as u64, 1])?;
        self.door = Some(wanted);
        Ok(true)
    }

    fn close_door(&mut self) -> Result<(), Error> {
        self.door = None;
        self.work.close(Which::Door)
    }

    fn listens(&self, name: &Name) -> bool {
        self.list.values().any(|o| o.unix.listening.is_some() && o.name() == Some(name))
    }

    /// connect(2), by a process that is `who`.
    fn connect_as(&mut self, who: Option<Credentials>, from: Which, to: Which) -> Result<(), Error> {
        let number = self.work.number(from)?;
        let address = self.address(to)?;
        // It is not to wait, whatever an image says of backlogs.
        fds::fcntl(self.work.copy(from)?, libc::F_SETFL, libc::O_NONBLOCK.into())
            .map_err(failed("setting file flags"))?;
        let puppet = self.work.helper(who)?;
        let mut batch = puppet.batch();
        let at = batch.data(&address);
        batch.call("connect", libc::SYS_connect, &[number as u64, at.0, address.len() as u64]);
        puppet.run(batch)?;
        fds::fcntl(self.work.copy(from)?, libc::F_SETFL, 0).map(drop).map_err(failed("setting file flags"))
    }

    fn address(&self, of: Which) -> Result<Vec<u8>, Error> {
        let none = || failed("connecting to a socket")(io::Error::other("it has no name"));
        self.work.addresses.get(&of).cloned().ok_or_else(none)
    }

    fn give_name(&mut self, own: Own<'a>) -> Result<(), Error> {
        if let (Some(name), Some(peer @ Which::PeerOf(_)), true) = (&own.unix.peer_name, own.peer(), own.datagrams()) {
            self.name_elsewhere(peer, name)?;
        }
        if let Some(twin @ Which::PeerOf(_)) = self.lent.get(&own.index).copied() {
            if let Some(name) = own.socket.queue.first().and_then(|message| message.from.as_ref()) {
                self.name_elsewhere(twin, name)?;
            }
        }
        match &own.unix.bound {
            Some(bound) if !self.named.contains(&own.which()) => match &bound.file {
                Some(_) => self.bind(own.which(), bound),
                None => self.name_elsewhere(own.which(), &bound.name).map(drop),
            },
            _ => Ok(()),
        }
    }

    /// Binds a socket to its file.
    fn bind(&mut self, which: Which, bound: &Bound) -> Result<(), Error> {
        let Some(file) = &bound.file else { return Ok(()) };
        let path = file.path.as_path();
        let failed = |e| Error::file("making the socket", &file.path, e);
        socketfiles::clear(path).map_err(failed)?;
        let number = self.work.number(which)?;
        let dir = Name::from(socketfiles::directory(bound, file));
        let made = match bound.by_descriptor() {
            Some((fd, _)) => self.work.with_directory(&dir, fd, number, |puppet, number| {
                let batch = puppet.batch();
                bind_to_file(puppet, batch, number, bound, file)
            })?,
            None => {
                let puppet = self.work.helper(None)?;
                let mut batch = puppet.batch();
                if bound.name.0.first() != Some(&b'/') {
                    let dir = batch.path(&dir);
                    batch.call("chdir", libc::SYS_chdir, &[dir.0]);
                }
                bind_to_file(puppet, batch, number, bound, file)?
            }
        };
        made.map_err(failed)?;
        let now = file.place();
        if now != &file.path {
            fs::rename(path, now.as_path()).inspect_err(|_| drop(fs::remove_file(path))).map_err(failed)?;
        }
        self.work.files.made(now.as_path());
        let address = if too_long(now.as_path()) {
            self.work.elsewhere().and_then(|e| e.address_of(now.as_path())).map_err(failed)?
        } else {
            sockaddr(now)
        };
        self.work.addresses.insert(which, address);
        Ok(())
    }

    /// Gives a socket a name whose file nobody finds; whether it could be had.
    fn name_elsewhere(&mut self, which: Which, name: &Name) -> Result<bool, Error> {
        self.named.insert(which);
        let named = if name.0.first() == Some(&0) {
            let address = sockaddr(name);
            socket::bind(self.work.copy(which)?, &address).map(|()| address)
        } else {
            self.bind_elsewhere(which, name)?
        };
        match named {
            Ok(address) => {
                self.work.addresses.insert(which, address);
                Ok(true)
            }
            Err(e) => {
                self.work.note(format!("a socket comes back without its name {}: {e}", display(name)));
                Ok(false)
            }
        }
    }

    fn bind_elsewhere(&mut self, which: Which, name: &Name) -> Result<io::Result<Vec<u8>>, Error> {
        let number = self.work.number(which)?;
        if let Err(e) = self.work.elsewhere().and_then(|e| e.prepare(name)) {
            return Ok(Err(e));
        }
        let address = sockaddr(name);
        let puppet = match self.work.rooted_elsewhere()? {
            Ok(puppet) => puppet,
            Err(e) => return Ok(Err(e)),
        };
        let mut batch = puppet.batch();
        let at = batch.data(&address);
        batch.call_expecting(Expect::Anything, "bind", libc::SYS_bind, &[number as u64, at.0, address.len() as u64]);
        let bound = result(puppet.run(batch)?.last());
        Ok(bound.and_then(|()| self.work.elsewhere()?.put_aside(name)))
    }

    /// Puts back what waited to be read.
    fn fill(&mut self, own: Own<'a>) -> Result<(), Error> {
        if own.datagrams() {
            return self.fill_datagrams(own);
        }
        let Some(from) = own.peer() else { return Ok(()) };
        self.work.refill(own.socket, own.which(), |_| Ok((from, None)))?;
        if own.socket.queue.is_empty() && !own.unix.marks.is_empty() {
            self.work.mark(from, own.which())?;
        }
        if from == Which::PeerOf(own.index) && own.unix.reset {
            socket::send(self.work.copy(own.which())?, b"x", None, &[]).map_err(failed("filling a socket"))?;
        }
        Ok(())
    }

    /// Before others are filled: what is disconnected loses what it has.
    fn fill_from_lent(&mut self, own: Own<'a>) -> Result<(), Error> {
        let Some(from) = self.lent.get(&own.index).copied() else { return Ok(()) };
        self.fill_datagrams(own)?;
        self.disconnect(from)
    }

    /// Datagrams come from whom they came from; a sender that is gone has one of ours in its place.
    fn fill_datagrams(&mut self, own: Own<'a>) -> Result<(), Error> {
        if own.socket.queue.is_empty() {
            return Ok(());
        }
        let senders: Vec<Which> = own.socket.queue.iter().map(|m| self.sender(own, m)).collect::<Result<_, Error>>()?;
        // One that is connected takes messages of nobody else.
        if self.connected.get(&own.which()).is_some_and(|peer| senders.iter().any(|s| s != peer)) {
            self.disconnect(own.which())?;
        }
        let address = self.work.addresses.get(&own.which()).cloned();
        let mut senders = senders.into_iter();
        self.work.refill(own.socket, own.which(), |_| {
            let next = senders.next().ok_or_else(|| failed("filling a socket")(io::ErrorKind::NotFound.into()));
            Ok((next?, address.clone()))
        })
    }

    fn sender(&mut self, own: Own<'a>, message: &Message) -> Result<Which, Error> {
        if let Some(from) = self.lent.get(&own.index) {
            return Ok(*from);
        }
        let name = message.from.as_ref();
        let name_of = |m: &Self, which: Which| match which {
            Which::File(index) => m.list.get(&index).and_then(|o| o.name()).cloned(),
            _ => own.unix.peer_name.clone(),
        };
        let twin = self.connected.iter().find(|(_, to)| **to == own.which()).map(|(from, _)| *from);
        for candidate in [own.peer(), twin].into_iter().flatten() {
            if self.work.has(candidate) && name_of(self, candidate).as_ref() == name {
                return Ok(candidate);
            }
        }
        if let Some(name) = name {
            if let Some(other) = self.list.values().find(|o| o.datagrams() && o.name() == Some(name)) {
                return Ok(other.which());
            }
        }
        let stranger = Which::Stranger(self.work.strangers(name));
        if !self.work.has(stranger) {
            self.fresh(stranger, libc::SOCK_DGRAM)?;
            if let Some(name) = name {
                self.name_elsewhere(stranger, name)?;
            }
        }
        Ok(stranger)
    }

    /// Connects datagram sockets. One that is connected takes no connection of another: so whoever others want to be
    /// connected to is connected after them.
    fn reach_peers(&mut self, all: &[u32]) -> Result<(), Error> {
        self.work.dismiss_strangers()?;
        let mut left: Vec<(Which, Which)> = Vec::new();
        for own in all.iter().filter_map(|index| self.list.get(index)).filter(|o| o.datagrams()) {
            if let Some(peer) = own.peer().filter(|peer| self.connected.get(&own.which()) != Some(peer)) {
                left.push((own.which(), peer));
            }
        }
        while !left.is_empty() {
            let free = |(from, to): &(Which, Which)| {
                !left.iter().any(|(other, wants)| wants == from && other != to && other != from)
            };
            let (from, to) = left.remove(left.iter().position(free).unwrap_or(0));
            let address = self.address(to)?;
            socket::connect(self.work.copy(from)?, &address).map_err(failed("connecting a socket"))?;
        }
        Ok(())
    }

    fn listen(&mut self, own: Own<'a>) -> Result<(), Error> {
        let Some(Listening { backlog, waiting, gone }) = &own.unix.listening else { return Ok(()) };
        let number = self.work.number(own.which())?;
        // There may be no room now for as many as wait already.
        let room = u64::from(*backlog).max(waiting.len() as u64);
        call(self.work.helper(own.unix.peer)?, "listen", libc::SYS_listen, &[number as u64, room])?;
        if !waiting.is_empty() {
            options::set_taken_over(self.work.copy(own.which())?, &own.socket.options)
                .map_err(failed("setting a socket's options"))?;
        }
        for (place, client) in (0u32..).zip(waiting) {
            match client {
                Some(index) => {
                    let who = self.work.holder_as(*index);
                    self.connect_as(who, Which::File(*index), own.which())?;
                    if let Some(early) = self.list.get(index).and_then(|client| client.unix.early.as_ref()) {
                        self.work.send_early(Which::File(*index), own.socket.kind, early)?;
                    }
                }
                None if let Some(gone) = gone.iter().find(|gone| gone.place == place) => {
                    self.fresh(Which::Door, own.socket.kind)?;
                    if let Some(name) = &gone.name {
                        self.name_elsewhere(Which::Door, name)?;
                    }
                    self.connect_as(gone.peer, Which::Door, own.which())?;
                    self.work.send_early(Which::Door, own.socket.kind, &gone.early)?;
                    self.close_door()?;
                }
                None => {
                    let address = self.address(own.which())?;
                    let made = socket::socket(libc::AF_UNIX, own.socket.kind | libc::SOCK_NONBLOCK, 0);
                    made.and_then(|fd| socket::connect(std::os::fd::AsFd::as_fd(&fd), &address))
                        .map_err(failed("connecting to a socket"))?;
                }
            }
        }
        if room > u64::from(*backlog) {
            call(self.work.helper(own.unix.peer)?, "listen", libc::SYS_listen, &[number as u64, u64::from(*backlog)])?;
        }
        Ok(())
    }
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> Error {
    move |e| Error::step(step, 0, e)
}

fn bind_to_file(
    puppet: &mut Puppet,
    mut batch: Batch,
    number: i32,
    bound: &Bound,
    file: &SocketFile,
) -> Result<io::Result<()>, Error> {
    let address = sockaddr(&bound.name);
    let at = batch.data(&address);
    batch.call_expecting(Expect::Anything, "umask", libc::SYS_umask, &[u64::from(!file.mode & 0o777)]);
    batch.call_expecting(Expect::Anything, "bind", libc::SYS_bind, &[number as u64, at.0, address.len() as u64]);
    Ok(result(puppet.run(batch)?.last()))
}

fn call(puppet: &mut Puppet, name: &'static str, nr: i64, args: &[u64]) -> Result<u64, Error> {
    let mut batch = puppet.batch();
    batch.call(name, nr, args);
    Ok(puppet.run(batch)?.last().copied().unwrap_or(0))
}

/// What a call that may fail has returned.
pub fn result(returned: Option<&u64>) -> io::Result<()> {
    match returned.map_or(-i64::from(libc::EIO), |&r| r as i64) {
        error @ -4095..0 => Err(io::Error::from_raw_os_error(-error as i32)),
        _ => Ok(()),
    }
}

/// socketpair(2).
fn pair(puppet: &mut Puppet, kind: i32) -> Result<[i32; 2], Error> {
    let mut batch = puppet.batch();
    let at = batch.data(&[0; 8]);
    batch.call("socketpair", libc::SYS_socketpair, &[libc::AF_UNIX as u64, kind as u64, 0, at.0]);
    puppet.run(batch)?;
    let mut fds = [0; 8];
    puppet.read(at, &mut fds)?;
    let [a, b, c, d, e, f, g, h] = fds;
    Ok([i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h])])
}
